"""Where the order of the units means something: rigid along that axis, with the reason.

Sorting, cumulative sums, arg-reductions and counters use a unit's index as a number or
relate it to its neighbours, so units of that axis can't come and go.
"""

from typing import Any

from .._events import Kind, Value
from .._reader import Reader, Rule
from ._moves import moved_origins


def ordered(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Keeps every axis; the ordered one is rigid."""
    name = eqn.primitive.name
    axes = eqn.params.get("dimensions", ())
    for key in ("axis", "dimension"):
        if key in eqn.params:
            axes = (eqn.params[key],)
    first = values[0]
    for value in values:
        for a, b in zip(first.dims, value.dims, strict=False):
            reader.solver.unify(a, b)
        for axis in axes:
            reader.rigid(value.dims[axis], f"`{name}` uses the order of its units")
        reader.absorb(value)
    kind = max(v.kind for v in values)
    return [Value(first.dims, kind) for _ in eqn.outvars]


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


POSITIONS: dict[str, Rule] = {
    **dict.fromkeys(
        "sort cumsum cumprod cummax cummin cumlogsumexp rev".split(), ordered
    ),
    **dict.fromkeys(("argmax", "argmin"), arg_reduction),
    "iota": iota,
    **dict.fromkeys(
        "random_bits random_seed random_split random_wrap random_unwrap "
        "random_fold_in random_clone rng_uniform rng_bit_generator".split(),
        random,
    ),
}
