"""Moving entries about: reshape, transpose, slice, concatenate and the like."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..events import combined, Kind, Origin, Value
from ..reader import opaque, Reader, Rule
from ..unify import Node
from .elementwise import zero_with_leaves
from .moves import rearranged


def transpose(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    del reader
    (value,) = values
    order = eqn.params["permutation"]
    dims = [value.dims[d] for d in order]
    to = {d: i for i, d in enumerate(order)}
    return rearranged(value, dims, lambda g: g.transpose(order), lambda d: (to[d],))


def squeeze(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    del reader
    (value,) = values
    return squeezed(value, [d % len(value.dims) for d in eqn.params["dimensions"]])


def squeezed(value: Value, gone: Sequence[int]) -> Value:
    """The value without these axes of size 1."""
    kept = [d for d in range(len(value.dims)) if d not in gone]
    to = {d: (i,) for i, d in enumerate(kept)}
    return rearranged(
        value,
        [value.dims[d] for d in kept],
        lambda g: g.reshape([g.shape[d] for d in kept]),
        lambda d: to.get(d, ()),
    )


def broadcast_in_dim(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """Mapped axes of equal size stay what they are; the others are new."""
    value = values[0]
    dims = list(reader.dims(reader.out()))
    places = eqn.params["broadcast_dimensions"]
    for d, new in enumerate(places):
        if value.dims[d].size == dims[new].size:
            dims[new] = value.dims[d]

    def grid(g: np.ndarray) -> np.ndarray:
        shape = [1] * len(dims)
        for d, new in enumerate(places):
            shape[new] = g.shape[d]
        return g.reshape(shape)

    return rearranged(value, dims, grid, lambda d: (places[d],))


def reshape(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value | list[Value]:
    """Equal axes are kept, blocks of equal product are regrouped."""
    value = values[0]
    if eqn.params.get("dimensions") is not None:
        return opaque(reader, values, "a reshape with permuted dimensions")
    old, new = value.shape, reader.out()
    if math.prod(old) == 0:
        return Value(reader.dims(new), value.kind)
    blocks = _blocks(old, new)
    dims: list[Node] = []
    for ins, outs in blocks:
        dims += _regroup(reader, [value.dims[d] for d in ins], [new[d] for d in outs])
    to = {d: outs for ins, outs in blocks for d in ins}

    def along(d: int) -> Sequence[int]:
        outs = to[d]
        return outs if old[d] == 1 else [o for o in outs if new[o] > 1]

    def grid(g: np.ndarray) -> np.ndarray:
        full, shape = list(g.shape), []
        for ins, outs in blocks:
            varies = any(g.shape[d] > 1 for d in ins)
            for d in ins:
                full[d] = old[d] if varies else 1
            shape += [new[d] if varies else 1 for d in outs]
        return np.broadcast_to(g, full).reshape(shape)

    return rearranged(value, dims, grid, along)


def _blocks(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Pairs up runs of axes with equal products, as short as possible."""
    lead = len(new) - len(old)
    if lead > 0 and math.prod(new[:lead]) == 1 and tuple(new[lead:]) == tuple(old):
        # What is reshaped to be broadcast stands last, also where its size is 1.
        return [([], [j]) for j in range(lead)] + [
            ([i], [lead + i]) for i in range(len(old))
        ]
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        if spare := _spare_ones(old[i:], new[j:]):
            # A batch axis of one comes, or goes, before the channels.
            ins = [i + k for k in range(-spare)]
            outs = [j + k for k in range(spare)]
        elif i < len(old) and j < len(new) and old[i] == new[j]:
            ins, outs = [i], [j]
        elif j < len(new) and new[j] == 1:
            ins, outs = [], [j]
        elif i < len(old) and old[i] == 1:
            ins, outs = [i], []
        else:
            ins, outs = [i], [j]
            a, b = old[i], new[j]
            while a != b:
                if a < b:
                    ins.append(ins[-1] + 1)
                    a *= old[ins[-1]]
                else:
                    outs.append(outs[-1] + 1)
                    b *= new[outs[-1]]
        blocks.append((ins, outs))
        i, j = i + len(ins), j + len(outs)
    return blocks


def _spare_ones(old: Sequence[int], new: Sequence[int]) -> int:
    """How many more axes of size 1 the new shape begins with, if both begin with some
    and go on after them."""
    ones = [next((k for k, n in enumerate(s) if n != 1), 0) for s in (old, new)]
    return ones[1] - ones[0] if min(ones) > 0 else 0


def _regroup(reader: Reader, ins: list[Node], outs: list[int]) -> list[Node]:
    if len(ins) == 1 and len(outs) == 1:
        return ins
    solver = reader.solver
    whole = solver.prod(ins)

    def split() -> list[Node]:
        nodes, rest = [], whole
        for size in outs:
            node, rest = solver.split_prod(rest, size)
            nodes.append(node)
        return nodes

    found = solver.guarded(whole, split)
    if found or not outs:
        return found
    fresh = list(reader.dims(outs))
    for node in fresh:
        reader.rigid(node, "a reshape mixes its units with others")
    return fresh


def cut(reader: Reader, node: Node, start: int, stop: int) -> Node:
    """The node of `axis[start:stop]`."""
    solver = reader.solver
    if (start, stop) == (0, node.size):
        return node

    def split() -> list[Node]:
        middle = node
        if start > 0:
            middle = solver.split_sum(middle, start)[1]
        if stop < node.size:
            middle = solver.split_sum(middle, stop - start)[0]
        return [middle]

    if start == stop:
        return reader.dims((0,))[0]
    found = solver.guarded(node, split)
    if found:
        return found[0]
    fresh = reader.dims((stop - start,))[0]
    reader.rigid(fresh, "a slice cuts through its units")
    return fresh


def slice_(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """Static bounds: the axis is a run of segments and this is one of them."""
    (value,) = values
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    dims = []
    for d, node in enumerate(value.dims):
        if strides[d] == 1:
            dims.append(cut(reader, node, int(starts[d]), int(stops[d])))
            continue
        dims.append(reader.dims((reader.out()[d],))[0])
        for rigid in (node, dims[-1]):
            reader.rigid(rigid, f"a slice takes every {strides[d]}th of its units")
    return _taken(value, dims, tuple(map(slice, starts, stops, strides)))


def _taken(value: Value, dims: Sequence[Node], bounds: Sequence[slice]) -> Value:
    def grid(g: np.ndarray) -> np.ndarray:
        every = slice(None)
        return g[tuple(b if g.shape[d] > 1 else every for d, b in enumerate(bounds))]

    return rearranged(value, dims, grid, lambda d: (d,))


def sliced(
    reader: Reader, value: Value, starts: Sequence[int], stops: Sequence[int]
) -> Value:
    """`value[start:stop]` along every axis."""
    dims = [cut(reader, *args) for args in zip(value.dims, starts, stops, strict=True)]
    return _taken(value, dims, tuple(map(slice, starts, stops)))


def split(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    (value,) = values
    axis, results, start = eqn.params["axis"], [], 0
    for size in map(int, eqn.params["sizes"]):
        stop = start + size
        dims = list(value.dims)
        dims[axis] = cut(reader, value.dims[axis], start, stop)

        def grid(g: np.ndarray, a: int = start, b: int = stop) -> np.ndarray:
            varies = g.shape[axis] > 1
            return np.take(g, range(a, b), axis) if varies else g

        results.append(rearranged(value, dims, grid, lambda d: (d,)))
        start = stop
    return results


def concatenate(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """Segments one after another; the other axes are shared."""
    axis = int(eqn.params["dimension"])
    dims = list(values[0].dims)
    dims[axis] = reader.solver.sum([v.dims[axis] for v in values])
    for value in values[1:]:
        for d, node in enumerate(value.dims):
            if d != axis:
                reader.solver.unify(dims[d], node)
    return _merged(reader, values, tuple(dims), axis)


def _merged(
    reader: Reader, values: Sequence[Value], dims: tuple[Node, ...], axis: int
) -> Value:
    """One value out of several that lie side by side along `axis`."""
    kind = combined(values)
    if kind == Kind.ACT:
        for value in values:
            reader.absorb(value)
        return Value(dims, kind)
    origins, start = [], 0
    for value in values:
        width = value.dims[axis].size
        for o in value.origins:
            shape = list(o.grid.shape)
            shape[axis] = dims[axis].size
            grid = np.full(shape, -1)
            here = tuple(
                slice(start, start + width) if d == axis else slice(None)
                for d in range(len(shape))
            )
            grid[here] = o.grid
            origins.append(Origin(o.leaf, o.axis, grid, o.along))
        start += width
    return Value(
        dims,
        kind,
        tuple(origins),
        # Ones beside a leaf's entries stay ones, whatever the leaf's entries are.
        zeroable=kind > Kind.CONST and zero_with_leaves(values),
        linear=all(v.linear for v in values),
    )


def pad(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value | list[Value]:
    """Padding around an axis is a run of rigid, pad and unit segments."""
    value, filler = values
    config = eqn.params["padding_config"]
    if any(lo < 0 or hi < 0 or step for lo, hi, step in config):
        return opaque(reader, values, "`pad` with negative or interior padding")
    dims = list(value.dims)
    for d, (lo, hi, _) in enumerate(config):
        ends = reader.dims((int(lo), int(hi)))
        for node in ends:
            reader.rigid(node, "padding")
        if lo or hi:
            dims[d] = reader.solver.sum([ends[0], value.dims[d], ends[1]])
    kind = combined(values)
    if kind == Kind.ACT:
        reader.absorb(value)
        return Value(tuple(dims), kind)

    def grid(g: np.ndarray) -> np.ndarray:
        widths = [
            (lo, hi) if g.shape[d] > 1 else (0, 0)
            for d, (lo, hi, _) in enumerate(config)
        ]
        return np.pad(g, widths, constant_values=-1)

    moved = rearranged(value, dims, grid, lambda d: (d,))
    return dataclasses.replace(
        moved, kind=kind, zeroable=moved.zeroable and filler.literal == 0, literal=None
    )


def stack(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """A new axis that counts the stacked values: rigid."""
    axis = int(eqn.params["axis"])
    counter = reader.dims((len(values),))[0]
    reader.rigid(counter, "it counts stacked arrays")
    single = [with_axis(v, axis, Node(1)) for v in values]
    dims = list(single[0].dims)
    dims[axis] = counter
    for value in single[1:]:
        for d, node in enumerate(value.dims):
            if d != axis:
                reader.solver.unify(dims[d], node)
    return _merged(reader, single, tuple(dims), axis)


def with_axis(value: Value, axis: int, node: Node) -> Value:
    """The value with a new axis along which it is the same everywhere."""
    dims = [*value.dims[:axis], node, *value.dims[axis:]]
    return rearranged(
        value,
        dims,
        lambda g: np.expand_dims(g, axis),
        lambda d: (d + (d >= axis),),
    )


def unstack(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    (value,) = values
    axis = int(eqn.params["axis"])
    reader.rigid(value.dims[axis], "it is taken apart one by one")
    kept = [d for d in range(len(value.dims)) if d != axis]
    dims = [value.dims[d] for d in kept]
    results = []
    for i in range(value.dims[axis].size):

        def grid(g: np.ndarray, i: int = i) -> np.ndarray:
            return np.take(g, i if g.shape[axis] > 1 else 0, axis)

        results.append(
            rearranged(
                value, dims, grid, lambda d: () if d == axis else (d - (d > axis),)
            )
        )
    return results


def tile(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    return tiled(reader, values[0], eqn.params["reps"], "it counts copies")


def tiled(reader: Reader, value: Value, reps: Sequence[int], why: str) -> Value:
    """A repeated axis is `copies x axis`; the number of copies is rigid."""
    dims = []
    for node, copies in zip(value.dims, reps, strict=True):
        if copies == 1:
            dims.append(node)
            continue
        counter = reader.dims((copies,))[0]
        reader.rigid(counter, why)
        dims.append(reader.solver.prod([counter, node]))
    return rearranged(
        value,
        dims,
        lambda g: np.tile(g, [r if g.shape[d] > 1 else 1 for d, r in enumerate(reps)]),
        lambda d: (d,),
    )


SHAPES: dict[str, Rule] = {
    "transpose": transpose,
    "squeeze": squeeze,
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "slice": slice_,
    "split": split,
    "concatenate": concatenate,
    "pad": pad,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
}
