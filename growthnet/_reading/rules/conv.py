"""Convolutions: channels are contracted and produced, positions are not units."""

from typing import Any

from ..events import Kind, Value
from ..reader import opaque, Reader, Rule
from .contract import note_roles, product
from .moves import with_dim


def convolution(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Any:
    """Input channels meet the kernel's, output channels are the kernel's own.

    With groups, both channel axes are `groups * channels of a group`: the groups are
    shared by input and output, as a batch axis is, and only the rest is contracted. A
    depthwise convolution has one channel in each group.
    """
    lhs, rhs = values
    params = eqn.params
    groups = params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return opaque(reader, values, "a convolution with groups along the batch")
    if groups > 1 and max(lhs.kind, rhs.kind) <= Kind.PARAM:
        return opaque(reader, values, "weights convolved with weights in groups")
    numbers = params["dimension_numbers"]
    batch, channel, *space = numbers.lhs_spec
    out, inner, *window = numbers.rhs_spec
    to_l, to_r = {batch: numbers.out_spec[0]}, {out: numbers.out_spec[1]}
    dims = list(reader.dims(reader.out()))
    slid = _slide(reader, params, [(lhs, d) for d in space], [(rhs, d) for d in window])
    for d, new, moves in zip(space, numbers.out_spec[2:], slid, strict=True):
        if moves:
            reader.rigid(dims[new], "a convolution slides a window along it")
        else:
            to_l[d] = new
    if groups == 1:
        reader.contract(lhs, channel, rhs, inner)
        note_roles(reader, rhs, lhs, [inner, *window], [out], [])
        note_roles(reader, lhs, rhs, [channel], list(to_l), [])
    else:
        _grouped(reader, lhs, (channel, list(to_l)), rhs, (out, inner, window), groups)
    for value, to in ((lhs, to_l), (rhs, to_r)):
        for d, new in to.items():
            dims[new] = value.dims[d]
    return product((lhs, to_l), (rhs, to_r), tuple(dims))


def _slide(
    reader: Reader,
    params: dict[str, Any],
    space: list[tuple[Value, int]],
    window: list[tuple[Value, int]],
) -> list[bool]:
    """Which axes of positions a window really moves along; a 1x1 convolution leaves
    them alone."""
    moves = []
    for k, ((lhs, d), (rhs, w)) in enumerate(zip(space, window, strict=True)):
        alone = (
            rhs.dims[w].size == params["window_strides"][k] == 1
            and params["lhs_dilation"][k] == 1
            and tuple(params["padding"][k]) == (0, 0)
        )
        moves.append(not alone)
        reader.rigid(rhs.dims[w], "it is a convolution's kernel window")
        if not alone:
            reader.rigid(lhs.dims[d], "a convolution slides a window along it")
    return moves


def _grouped(
    reader: Reader,
    lhs: Value,
    axes_l: tuple[int, list[int]],
    rhs: Value,
    axes_r: tuple[int, int, list[int]],
    groups: int,
) -> None:
    """`lhs` has `groups * I` channels, `rhs` makes `groups * m` out of them."""
    (channel, free), (out, inner, window) = axes_l, axes_r
    solver = reader.solver

    def halves(value: Value, d: int) -> list[Value]:
        def split() -> list:
            return list(solver.split_prod(value.dims[d], groups))

        parts = solver.guarded(value.dims[d], split)
        return [with_dim(value, d, part) for part in parts]

    ins, outs = halves(lhs, channel), halves(rhs, out)
    if not ins or not outs:
        for value, d in ((lhs, channel), (rhs, out), (rhs, inner)):
            reader.rigid(value.dims[d], "a convolution's groups cut through its units")
        return
    (shared_l, each_l), (shared_r, each_r) = ins, outs
    solver.unify(shared_l.dims[channel], shared_r.dims[out])
    reader.contract(each_l, channel, rhs, inner)
    note_roles(reader, rhs, lhs, [inner, *window], [], [])
    note_roles(reader, each_r, lhs, [], [out], [])
    note_roles(reader, shared_r, lhs, [], [], [out])
    note_roles(reader, each_l, rhs, [channel], free, [])
    note_roles(reader, shared_l, rhs, [], [], [channel])


CONVOLUTIONS: dict[str, Rule] = {"conv_general_dilated": convolution}
