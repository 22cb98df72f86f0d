"""`dot_general`: where units are produced and consumed."""

import math
from collections.abc import Sequence
from typing import Any

from .._events import Kind, Origin, Role, Value
from .._reader import Reader, Rule


def dot_general(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """Contracted axes meet, batch axes are shared, free axes go to the result."""
    lhs, rhs = values
    (contract_l, contract_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    for i, j in zip(contract_l, contract_r, strict=True):
        reader.contract(lhs, i, rhs, j)
    for i, j in zip(batch_l, batch_r, strict=True):
        reader.solver.unify(lhs.dims[i], rhs.dims[j])
    free_l = [i for i in range(len(lhs.dims)) if i not in (*contract_l, *batch_l)]
    free_r = [j for j in range(len(rhs.dims)) if j not in (*contract_r, *batch_r)]
    note_roles(reader, lhs, rhs, contract_l, free_l, batch_l)
    note_roles(reader, rhs, lhs, contract_r, free_r, batch_r)
    dims = (
        *(lhs.dims[i] for i in batch_l),
        *(lhs.dims[i] for i in free_l),
        *(rhs.dims[j] for j in free_r),
    )
    kind = max(lhs.kind, rhs.kind)
    if kind > Kind.PARAM:
        return Value(dims, kind)
    b, fl = len(batch_l), len(free_l)
    origins = (
        *moved_origins(lhs, {d: i for i, d in enumerate((*batch_l, *free_l))}, dims),
        *moved_origins(
            rhs,
            {
                **{d: i for i, d in enumerate(batch_r)},
                **{d: b + fl + i for i, d in enumerate(free_r)},
            },
            dims,
        ),
    )
    leaves = [v for v in values if v.kind == Kind.PARAM]
    return Value(
        dims,
        kind,
        origins,
        zeroable=all(v.zeroable for v in leaves),
        # A product of two leaves is linear in each, along the axes that are left.
        linear=all(v.linear for v in leaves),
    )


def note_roles(
    reader: Reader,
    value: Value,
    other: Value,
    contracted: Sequence[int],
    free: Sequence[int],
    batch: Sequence[int],
) -> None:
    """What a weight's axes do when it meets `other`."""
    if value.kind not in (Kind.PARAM, Kind.ROWS):
        return
    weight = value.kind < other.kind or other.kind == Kind.CONST
    for d in contracted:
        reader.touch(value, d, Role.CONSUMER if weight else Role.FACTOR)
    if weight and other.kind != Kind.CONST:
        for d in free:
            reader.touch(value, d, Role.PRODUCER)
        for d in batch:
            reader.touch(value, d, Role.SCALE)


def moved_origins(
    value: Value, to: dict[int, int], dims: Sequence[Any]
) -> tuple[Origin, ...]:
    """Origins of a result whose axis `to[d]` is the value's axis `d`.

    An origin that varies along an axis that is gone can't be followed and is dropped.
    """
    moved = []
    for origin in value.origins:
        if not origin.along <= to.keys():
            continue
        shape = [1] * len(dims)
        for d, new in to.items():
            shape[new] = origin.grid.shape[d]
        order = sorted(to, key=to.__getitem__)
        rest = [d for d in range(origin.grid.ndim) if d not in to]
        grid = origin.grid.transpose([*order, *rest])
        kept = math.prod(grid.shape[: len(order)])
        grid = grid.reshape(kept, -1)[:, 0].reshape(shape)
        along = frozenset(int(to[d]) for d in origin.along)
        moved.append(Origin(origin.leaf, origin.axis, grid, along))
    return tuple(moved)


CONTRACTIONS: dict[str, Rule] = {"dot_general": dot_general}
