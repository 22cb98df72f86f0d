"""Where the order of the units means something: rigid along that axis, with the reason.

Sorting, cumulative sums, transforms, arg-reductions and counters use a unit's index as
a number or relate it to its neighbours, so units of that axis can't come and go.
"""

from typing import Any

import numpy as np

from ..events import combined, Kind, Value
from ..reader import Reader, Rule
from .moves import moved_origins, rearranged, through


# f(0) = 0, and linear in the leaves.
_ZERO_TO_ZERO = set("sort cumsum cumprod cummax cummin fft top_k approx_top_k".split())
_LINEAR = {"cumsum", "fft"}


def ordered(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """The ordered axes are rigid before and after; the other axes pass through."""
    name, rank = eqn.primitive.name, len(values[0].dims)
    axes = _axes(eqn, rank)
    to = {d: d for d in range(rank) if d not in axes}
    for value in values[1:]:
        for d in range(rank):
            reader.solver.unify(values[0].dims[d], value.dims[d])
    # Sorting several arrays gives as many; `top_k` of one gives values and indices.
    sources = values if len(values) == len(eqn.outvars) else values[:1] * 2
    return [
        through(
            reader,
            value,
            to,
            reader.out(i),
            f"`{name}` uses the order of its units",
            kind=combined(values),
            zeroable=name in _ZERO_TO_ZERO and (i == 0 or len(values) > 1),
            linear=name in _LINEAR,
        )
        for i, value in enumerate(sources[: len(eqn.outvars)])
    ]


def _axes(eqn: Any, rank: int) -> set[int]:
    params = eqn.params
    if "fft_lengths" in params:
        return set(range(rank - len(params["fft_lengths"]), rank))
    for key in ("axis", "dimension", "reduction_dimension"):
        if key in params:
            return {params[key] % rank}
    raise AssertionError(f"`{eqn.primitive.name}` has no axis")


def rev(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """A mirrored axis: what was first is last, so its units have places."""
    (value,) = values
    axes = eqn.params["dimensions"]
    for axis in axes:
        reader.rigid(value.dims[axis], "`rev` uses the order of its units")

    def grid(g: np.ndarray) -> np.ndarray:
        return np.flip(g, tuple(axes))

    return rearranged(value, value.dims, grid, lambda d: (d,))


def arg_reduction(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """`argmax` turns a unit's index into a number."""
    (value,) = values
    axes = eqn.params["axes"]
    for axis in axes:
        why = f"`{eqn.primitive.name}` uses the index of a unit as a number"
        reader.rigid(value.dims[axis], why)
    kept = [d for d in range(len(value.dims)) if d not in axes]
    dims = tuple(value.dims[d] for d in kept)
    origins = moved_origins(value, {d: i for i, d in enumerate(kept)}, dims)
    return Value(dims, value.kind, origins)


def iota(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """A counter: its axis is positions, not units."""
    del values
    dims = reader.dims(eqn.params["shape"])
    why = "its index is used as a number"
    reader.rigid(dims[eqn.params["dimension"]], why)
    return Value(dims, Kind.CONST)


def random(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Random numbers have axes of their own; a mask changes with the width."""
    kind = max((v.kind for v in values), default=Kind.CONST)
    return [Value(reader.dims(v.aval.shape), kind) for v in eqn.outvars]


def random_gamma(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """One draw for each entry of the second argument."""
    del eqn
    keys, alpha = values
    for d, node in enumerate(keys.dims):
        reader.solver.unify(node, alpha.dims[d])
    reader.absorb(alpha)
    return Value(alpha.dims, Kind.ACT if alpha.kind else keys.kind)


POSITIONS: dict[str, Rule] = {
    **dict.fromkeys(
        "sort top_k approx_top_k fft cumsum cumprod cummax cummin cumlogsumexp".split(),
        ordered,
    ),
    **dict.fromkeys(("argmax", "argmin"), arg_reduction),
    "rev": rev,
    "iota": iota,
    **dict.fromkeys(
        "random_bits random_seed random_split random_wrap random_unwrap "
        "random_fold_in random_clone rng_uniform rng_bit_generator "
        "iota_2x32_shape".split(),
        random,
    ),
    "random_gamma": random_gamma,
}
