"""`dot_general`: where units are produced and consumed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..events import combined, Kind, Role, Value
from ..reader import opaque, Reader, Rule
from ..unify import Node
from .moves import lost, moved_origins


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
    b, fl = len(batch_l), len(free_l)
    return product(
        (lhs, {d: i for i, d in enumerate((*batch_l, *free_l))}),
        (
            rhs,
            {
                **{d: i for i, d in enumerate(batch_r)},
                **{d: b + fl + i for i, d in enumerate(free_r)},
            },
        ),
        dims,
    )


def product(
    left: tuple[Value, Mapping[int, int]],
    right: tuple[Value, Mapping[int, int]],
    dims: tuple[Node, ...],
) -> Value:
    """The result of a contraction; each side with where its axes went.

    A product of two leaves is linear in each, along the axes that are left.
    """
    sides = (left, right)
    kind = combined(v for v, _ in sides)
    if kind == Kind.ACT:
        return Value(dims, kind)
    leaves = [(v, to) for v, to in sides if v.kind >= Kind.PARAM]
    return Value(
        dims,
        kind,
        tuple(o for v, to in sides for o in moved_origins(v, to, dims)),
        zeroable=all(v.zeroable and not lost(v, to) for v, to in leaves),
        linear=all(v.linear for v, _ in leaves),
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
    if value.kind == Kind.ROWS and other.kind == Kind.PARAM:
        # Rows of a table meet a weight: there they are what goes in.
        reader.absorb(value)
        return
    weight = value.kind < other.kind or other.kind == Kind.CONST
    for d in contracted:
        reader.touch(value, d, Role.CONSUMER if weight else Role.FACTOR)
    if weight and other.kind != Kind.CONST:
        for d in free:
            reader.touch(value, d, Role.PRODUCER)
        for d in batch:
            reader.touch(value, d, Role.SCALE)


def ragged_dot(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Any:
    """One weight per run of rows (a mixture of experts): what counts the runs is
    rigid, all else is as in a product without them."""
    lhs, rhs, sizes = values
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contract_l, contract_r), (batch_l, batch_r) = numbers.dot_dimension_numbers
    ragged, groups = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    if len(ragged) != 1 or len(groups) != 1 or ragged[0] in (*contract_l, *batch_l):
        return opaque(reader, values, "`ragged_dot` over ragged inner axes")
    for i, j in zip(contract_l, contract_r, strict=True):
        reader.contract(lhs, i, rhs, j)
    for i, j in zip(batch_l, batch_r, strict=True):
        reader.solver.unify(lhs.dims[i], rhs.dims[j])
    taken_r = (*contract_r, *batch_r, *groups)
    free_l = [i for i in range(len(lhs.dims)) if i not in (*contract_l, *batch_l)]
    free_r = [j for j in range(len(rhs.dims)) if j not in taken_r]
    note_roles(reader, lhs, rhs, contract_l, free_l, batch_l)
    note_roles(reader, rhs, lhs, contract_r, free_r, batch_r)
    reader.touch(rhs, groups[0], Role.LOOKUP)
    for node in (rhs.dims[groups[0]], *sizes.dims):
        reader.rigid(node, "`ragged_dot` picks its weights by position")
    reader.rigid(lhs.dims[ragged[0]], "`ragged_dot` groups it by position")
    dims = (
        *(lhs.dims[i] for i in (*batch_l, *free_l)),
        *(rhs.dims[j] for j in free_r),
    )
    if Kind.ACT not in (lhs.kind, rhs.kind):
        reader.absorb(lhs)
        reader.absorb(rhs)
    return Value(dims, Kind.ACT)


CONTRACTIONS: dict[str, Rule] = {
    "dot_general": dot_general,
    "ragged_dot_general": ragged_dot,
}
