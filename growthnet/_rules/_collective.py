"""Sums over a mapped axis: `vmap(axis_name=...)` leaves them with numbered axes."""

from typing import Any

from .._events import Kind, Value
from .._reader import opaque, Reader, Rule
from ._contract import moved_origins


def collective(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Drops the summed axes, as a reduction does."""
    axes = eqn.params["axes"]
    if eqn.params.get("axis_index_groups") or not all(isinstance(a, int) for a in axes):
        why = f"`{eqn.primitive.name}` goes over devices"
        return opaque(reader, values, why)
    results = []
    for value in values:
        for axis in axes:
            if value.kind != Kind.CONST:
                what = f"`{eqn.primitive.name}` goes over its units"
                reader.reduce(value, axis, what)
        kept = [d for d in range(len(value.dims)) if d not in axes]
        dims = tuple(value.dims[d] for d in kept)
        origins = moved_origins(value, {d: i for i, d in enumerate(kept)}, dims)
        nonnegative = value.nonnegative or value.positive
        results.append(
            Value(
                dims,
                value.kind,
                origins,
                zeroable=value.zeroable,
                linear=value.linear and eqn.primitive.name == "psum",
                nonnegative=nonnegative,
            )
        )
    return results


COLLECTIVES: dict[str, Rule] = dict.fromkeys("psum pmax pmin".split(), collective)
