"""Looking entries up by number, and writing them: gather, scatter, dynamic slices.

An axis that is taken whole stays what it is. An axis that is looked up is rigid: its
indices are data. Where the index is a constant of the program, it is a plain slice.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..._exactness.silence import fills
from ..events import combined, Kind, LOOKED_UP, Role, Value
from ..reader import Reader, Rule
from ..unify import Node
from .elementwise import zero_with_leaves
from .moves import lost, moved_origins
from .shape import cut, sliced, squeezed


_WRITTEN = "its entries are written by index"


def dynamic_slice(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """A slice whose start may be data."""
    operand, *starts = values
    sizes = eqn.params["slice_sizes"]
    known = [_clamped(s.literal, operand, d, sizes[d]) for d, s in enumerate(starts)]
    part, free = _window(reader, operand, known, sizes)
    dims = list(reader.dims(sizes))
    for d in set(range(len(dims))) - set(free):
        reader.rigid(dims[d], LOOKED_UP)
    return _picked(part, {d: d for d in free}, dims, starts)


def gather(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """`table[indices]` in all its forms."""
    operand, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], list(eqn.params["slice_sizes"])
    mapped = [int(d) for d in numbers.start_index_map]
    batched = [int(d) for d in numbers.operand_batching_dims]
    gone = [int(d) for d in numbers.collapsed_slice_dims]
    known: list[int | None] = [0] * len(operand.dims)
    for d in mapped:
        known[d] = _clamped(indices.literal, operand, d, sizes[d], clamp=False)
    for d in batched:
        sizes[d] = operand.dims[d].size
    part, free = _window(reader, operand, known, sizes)
    dims = list(reader.dims(reader.out()))
    offsets = [int(d) for d in numbers.offset_dims]
    rest = [d for d in range(len(dims)) if d not in offsets]
    for k, new in enumerate(rest):
        dims[new] = indices.dims[k]
        _count_entries(reader, indices, k)
    window = [d for d in range(len(sizes)) if d not in gone and d not in batched]
    to = {d: new for d, new in zip(window, offsets, strict=True) if d in free}
    for new in set(offsets) - set(to.values()):
        reader.rigid(dims[new], LOOKED_UP)
    for d, k in zip(batched, numbers.start_indices_batching_dims, strict=True):
        reader.solver.unify(part.dims[d], indices.dims[int(k)])
        to[d] = rest[int(k)]
    fixed = [d for d in gone if d in free]
    renumbered = [d for d in range(len(sizes)) if d not in fixed]
    part = squeezed(part, fixed)
    to = {renumbered.index(d): new for d, new in to.items()}
    result = _picked(part, to, dims, [indices])
    if fills(eqn.params):
        result = dataclasses.replace(result, zeroable=False)
    return result


def _clamped(
    start: Any, operand: Value, d: int, size: int, *, clamp: bool = True
) -> int | None:
    """A constant start of a slice, or `None` if it isn't known or not inside."""
    if start is None or isinstance(start, bool):
        return None
    last = operand.dims[d].size - size
    if clamp:
        return min(max(int(start), 0), last)
    return int(start) if 0 <= start <= last else None


def _window(
    reader: Reader, value: Value, starts: Sequence[int | None], sizes: Sequence[int]
) -> tuple[Value, list[int]]:
    """Cuts out what is known, and notes what is looked up.

    **Returns:** the value after the known slices, and the axes that weren't looked up.
    An axis taken whole can be no lookup, unless it is of size 1.
    """
    free, first, last = [], [], []
    for d, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        full = value.dims[d].size
        if start is None and not size == full > 1:
            reader.rigid(value.dims[d], LOOKED_UP)
            reader.touch(value, d, Role.LOOKUP)
            first.append(0)
            last.append(full)
        else:
            free.append(d)
            first.append(start or 0)
            last.append((start or 0) + size)
    return sliced(reader, value, first, last), free


def _picked(
    part: Value, to: dict[int, int], dims: list[Node], by: Sequence[Value]
) -> Value:
    """What was looked up by `by`. Rows of a leaf that data picks stay weights."""
    for d, new in to.items():
        dims[new] = part.dims[d]
    data = combined(v for v in by if v.literal is None)
    kind = part.kind
    if data > Kind.PARAM:
        kind = Kind.ROWS if kind in (Kind.PARAM, Kind.ROWS) else Kind.ACT
    kind = max(kind, min(data, Kind.PARAM))
    return Value(
        tuple(dims),
        kind,
        moved_origins(part, to, dims),
        zeroable=part.zeroable and not lost(part, to),
        linear=part.linear,
        positive=part.positive,
        nonnegative=part.nonnegative,
    )


def _count_entries(reader: Reader, indices: Value, k: int) -> None:
    if indices.kind in (Kind.PARAM, Kind.ROWS):
        reader.rigid(indices.dims[k], "it counts indices that a leaf holds")


def dynamic_update_slice(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """A slice is overwritten."""
    del eqn
    operand, update, *starts = values
    known = [
        _clamped(s.literal, operand, d, update.dims[d].size)
        for d, s in enumerate(starts)
    ]
    to = {d: d for d in range(len(operand.dims))}
    whole = _overlay(reader, operand, update, to, known)
    return _written(reader, values, whole, linear=True)


def scatter(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """`array.at[indices]`: set, add, multiply, and so on."""
    operand, indices, update = values
    numbers = eqn.params["dimension_numbers"]
    mapped = [int(d) for d in numbers.scatter_dims_to_operand_dims]
    batched = [int(d) for d in numbers.operand_batching_dims]
    inserted = [int(d) for d in numbers.inserted_window_dims]
    places = [int(d) for d in numbers.update_window_dims]
    window = [d for d in range(len(operand.dims)) if d not in (*inserted, *batched)]
    to = dict(zip(places, window, strict=True))
    sizes = {d: update.dims[u].size for u, d in to.items()}
    known: list[int | None] = [0] * len(operand.dims)
    for d in mapped:
        known[d] = _clamped(indices.literal, operand, d, sizes.get(d, 1), clamp=False)
    whole = _overlay(reader, operand, update, to, known)
    for d in inserted:
        start = known[d]
        if start is not None:
            cut(reader, operand.dims[d], start, start + 1)
        else:
            reader.rigid(operand.dims[d], _WRITTEN)
            reader.touch(operand, d, Role.LOOKUP)
    rest = [u for u in range(len(update.dims)) if u not in places]
    shared = dict(
        zip(map(int, numbers.scatter_indices_batching_dims), batched, strict=True)
    )
    for k, u in enumerate(rest):
        reader.solver.unify(indices.dims[k], update.dims[u])
        _count_entries(reader, indices, k)
        if k in shared:
            reader.solver.unify(operand.dims[shared[k]], update.dims[u])
            whole[u] = shared[k]
        else:
            reader.rigid(update.dims[u], _WRITTEN)
    linear = eqn.primitive.name in ("scatter", "scatter-add", "scatter-sub")
    return _written(reader, (operand, update, indices), whole, linear=linear)


def _overlay(
    reader: Reader,
    operand: Value,
    update: Value,
    to: dict[int, int],
    starts: Sequence[int | None],
) -> dict[int, int]:
    """The update's axis `u` lies on the operand's axis `to[u]`, from `starts` on.

    **Returns:** `to` for the axes that are written from end to end.
    """
    whole = {}
    for u, d in to.items():
        start, size, full = starts[d], update.dims[u].size, operand.dims[d].size
        if start is None and not size == full > 1:
            for node in (operand.dims[d], update.dims[u]):
                reader.rigid(node, _WRITTEN)
            reader.touch(operand, d, Role.LOOKUP)
            continue
        place = cut(reader, operand.dims[d], start or 0, (start or 0) + size)
        reader.solver.unify(place, update.dims[u])
        if size == full:
            whole[u] = d
    return whole


def _written(
    reader: Reader, values: Sequence[Value], whole: dict[int, int], *, linear: bool
) -> Value:
    """The operand with the update in it; `whole` maps the axes that both have."""
    operand, update, *_ = values
    kind = combined(values)
    if kind > Kind.PARAM:
        reader.absorb(operand)
        reader.absorb(update)
        return Value(operand.dims, Kind.ACT)
    both = (operand, update)
    return Value(
        operand.dims,
        kind,
        (*operand.origins, *moved_origins(update, whole, operand.dims)),
        zeroable=zero_with_leaves(both) and not lost(update, whole),
        linear=linear and all(v.linear for v in both),
    )


INDEXING: dict[str, Rule] = {
    "dynamic_slice": dynamic_slice,
    "gather": gather,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(
        "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split(),
        scatter,
    ),
}
