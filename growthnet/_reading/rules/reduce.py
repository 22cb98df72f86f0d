"""Reductions: the axis goes, and what went over it is remembered."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..events import Kind, Number, Role, Value
from ..reader import Reader, Rule
from .contract import note_roles
from .moves import lost, moved_origins


# An empty sum aside, what is above zero stays so.
_SIGNED = set("reduce_sum reduce_max reduce_min reduce_prod psum pmax pmin".split())


def reduction(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Drops the reduced axes; what follows the arrays are initial values."""
    # Under `vmap` axes come as numpy's integers.
    axes, name = tuple(map(int, eqn.params["axes"])), eqn.primitive.name
    return [reduced(reader, v, axes, name) for v in values[: len(eqn.outvars)]]


def reduced(reader: Reader, value: Value, axes: Sequence[int], name: str) -> Value:
    """The value without `axes`.

    A sum over an elementwise product is a contraction written by hand, and is noted as
    one: `(w * h).sum(-1)` consumes `h` just as `w @ h` does.
    """
    sums = name in ("reduce_sum", "psum")
    for axis in axes:
        # Nothing of nothing is nothing, however often.
        if value.literal != 0 and not (sums and _contracts(reader, value, axis)):
            reader.reduce(value, axis, f"`{name}` goes over its units", name)
    kept = [d for d in range(len(value.dims)) if d not in axes]
    dims = tuple(value.dims[d] for d in kept)
    to = {d: i for i, d in enumerate(kept)}
    signed = name in _SIGNED and all(value.dims[a].size for a in axes)
    result = Value(
        dims,
        value.kind,
        moved_origins(value, to, dims),
        zeroable=value.zeroable and not lost(value, to),
        linear=value.linear and sums,
        positive=signed and value.positive,
        nonnegative=signed and (value.positive or value.nonnegative),
    )
    if sums and value.kind == Kind.CONST and value.literal is not None:
        # An array of ones is summed to count units: a number that no literal shows.
        count = math.prod(value.dims[a].size for a in axes)
        total = float(np.real(value.literal * count))
        reader.numbers.append(Number(result, name, total, reader.line))
    return result


def everything(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """One number out of a whole array."""
    (value,) = values
    axes = range(len(value.dims))
    return reduced(reader, value, axes, eqn.primitive.name)


def _contracts(reader: Reader, value: Value, axis: int) -> bool:
    if value.product is None:
        return False
    a, b = value.product
    size = value.dims[axis].size
    if not all(v.dims and v.dims[axis].size == size for v in (a, b)):
        return False
    reader.contract(a, axis, b, axis)
    for weight, other in ((a, b), (b, a)):
        reader.untouch(weight, axis, Role.SCALE)
        note_roles(reader, weight, other, [axis], [], [])
    return True


REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
        "reduce".split(),
        reduction,
    ),
    # Equinox's, which look across a vmap.
    **dict.fromkeys("unvmap_all unvmap_any unvmap_max".split(), everything),
}
