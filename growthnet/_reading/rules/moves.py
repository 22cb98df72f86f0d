"""What becomes of origins when some axes of a value pass through an operation."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..events import Kind, Origin, Value
from ..reader import Reader
from ..unify import Node


def rearranged(
    value: Value,
    dims: Sequence[Node],
    grid: Callable[[np.ndarray], np.ndarray],
    along: Callable[[int], Sequence[int]],
) -> Value:
    """The value after its entries were moved; `along` maps old axes to new ones."""
    origins = tuple(
        Origin(
            o.leaf,
            o.axis,
            grid(o.grid),
            frozenset(int(new) for old in o.along for new in along(old)),
        )
        for o in value.origins
    )
    return dataclasses.replace(value, dims=tuple(dims), origins=origins, product=None)


def moved_origins(
    value: Value, to: Mapping[int, int], dims: Sequence[Node]
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


def lost(value: Value, to: Mapping[int, int]) -> bool:
    """Is an origin dropped that varies along an axis that stays? Then the result can't
    say which entries of the leaf would have to be zero for it to be zero."""
    return any(o.along & to.keys() and not o.along <= to.keys() for o in value.origins)


def with_dim(value: Value, dim: int, node: Node) -> Value:
    """The value with another node for one axis: a factor of it, say."""
    dims = [*value.dims]
    dims[dim] = node
    return dataclasses.replace(value, dims=tuple(dims))


def through(
    reader: Reader,
    value: Value,
    to: Mapping[int, int],
    shape: Sequence[int],
    why: str,
    *,
    kind: Kind | None = None,
    zeroable: bool = False,
    linear: bool = False,
) -> Value:
    """A result whose axis `to[d]` is the value's axis `d`; all other axes, before and
    after, are rigid.

    **Arguments:**

    - `kind`: of the result, if it depends on more than the value.
    - `zeroable`, `linear`: is the result so where the value is?
    """
    kind = value.kind if kind is None else kind
    dims = list(reader.dims(shape))
    for d, node in enumerate(value.dims):
        if d in to:
            dims[to[d]] = node
        else:
            reader.rigid(node, why)
    for new in set(range(len(dims))) - set(to.values()):
        reader.rigid(dims[new], why)
    if kind > value.kind or kind == Kind.ACT:
        reader.absorb(value)
        return Value(tuple(dims), kind)
    return Value(
        tuple(dims),
        kind,
        moved_origins(value, to, dims),
        zeroable=zeroable and value.zeroable and not lost(value, to),
        linear=linear and value.linear,
    )
