"""Reductions: the axis goes, and what went over it is remembered."""

from typing import Any

from .._events import Kind, Role, Value
from .._reader import Reader, Rule
from ._moves import lost, moved_origins


def reduction(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Drops the reduced axes.

    A sum over an elementwise product is a contraction written by hand, and is noted as
    one: `(w * h).sum(-1)` consumes `h` just as `w @ h` does.
    """
    axes, name = eqn.params["axes"], eqn.primitive.name
    results = []
    for value in values[: len(eqn.outvars)]:
        for axis in axes:
            if value.kind == Kind.CONST:
                continue
            if not (name == "reduce_sum" and _contracts(reader, value, axis)):
                reader.reduce(value, axis, f"`{name}` goes over its units")
        kept = [d for d in range(len(value.dims)) if d not in axes]
        dims = tuple(value.dims[d] for d in kept)
        to = {d: i for i, d in enumerate(kept)}
        results.append(
            Value(
                dims,
                value.kind,
                moved_origins(value, to, dims),
                zeroable=value.zeroable and not lost(value, to),
                linear=value.linear and name == "reduce_sum",
            )
        )
    return results


def _contracts(reader: Reader, value: Value, axis: int) -> bool:
    if value.product is None:
        return False
    a, b = value.product
    size = value.dims[axis].size
    if not all(v.dims and v.dims[axis].size == size for v in (a, b)):
        return False
    reader.contract(a, axis, b, axis)
    for weight, other in ((a, b), (b, a)):
        if weight.kind in (Kind.PARAM, Kind.ROWS) and weight.kind < other.kind:
            reader.untouch(weight, axis, Role.SCALE)
            reader.touch(weight, axis, Role.CONSUMER)
    return True


REDUCTIONS: dict[str, Rule] = dict.fromkeys(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "reduce".split(),
    reduction,
)
