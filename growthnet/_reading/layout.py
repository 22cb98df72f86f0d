"""Layouts: how the indices of one array axis are made of units.

A layout is a small frozen tree. `Atom` is one width (or one part of an axis that
nothing ties to anything). `Prod` is a row-major product, as in `heads * head_dim`.
`Sum` is a run of consecutive segments, as in the two halves of a gated linear unit.

Everything that changes an array along a width is one recursion over its layout, and
everything that says something about each index of an axis (is it open, how loud is its
gate, which label seeds its draw) is one fold over it. This file knows neither JAX nor
networks.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np


Place: TypeAlias = tuple[int, ...]
"""Where an atom stands in a layout: the child indices on the way from the root."""


@dataclasses.dataclass(frozen=True)
class Atom:
    """`size` units of the width `id`; equal ids in one anatomy are one width."""

    id: int
    size: int


@dataclasses.dataclass(frozen=True)
class Prod:
    """Row-major product: the last factor varies fastest."""

    factors: tuple["Layout", ...]


@dataclasses.dataclass(frozen=True)
class Sum:
    """Consecutive segments."""

    segments: tuple["Layout", ...]


Layout: TypeAlias = Atom | Prod | Sum


def size_of(layout: Layout) -> int:
    """Number of indices along the axis."""
    match layout:
        case Atom(size=size):
            return size
        case Prod(factors=factors):
            return math.prod(map(size_of, factors))
        case Sum(segments=segments):
            return sum(size_of(s) for s in segments)


def occurrences(layout: Layout, place: Place = ()) -> Iterator[tuple[Place, Atom]]:
    """Every atom of a layout with its place, left to right."""
    match layout:
        case Atom():
            yield place, layout
        case Prod(factors=children) | Sum(segments=children):
            for i, child in enumerate(children):
                yield from occurrences(child, (*place, i))


def resized(layout: Layout, sizes: Mapping[int, int]) -> Layout:
    """The same tree with new sizes for some atom ids."""
    match layout:
        case Atom(id=id, size=size):
            return Atom(id, sizes.get(id, size))
        case Prod(factors=factors):
            return Prod(tuple(resized(f, sizes) for f in factors))
        case Sum(segments=segments):
            return Sum(tuple(resized(s, sizes) for s in segments))


def relabelled(layout: Layout, ids: Mapping[int, int]) -> Layout:
    """The same tree with other atom ids."""
    match layout:
        case Atom(id=id, size=size):
            return Atom(ids[id], size)
        case Prod(factors=factors):
            return Prod(tuple(relabelled(f, ids) for f in factors))
        case Sum(segments=segments):
            return Sum(tuple(relabelled(s, ids) for s in segments))


def edit_axis(
    array: Any,
    axis: int,
    layout: Layout,
    edit: Callable[[Place, Atom], Callable[[Any, int], Any] | None],
    *,
    place: Place = (),
    xp: Any = np,
) -> Any:
    """Rewrites one axis of `array` along its layout.

    **Arguments:**

    - `edit`: asked of every atom, perhaps repeatedly; gives a function
        `(array, axis) -> array` that rewrites that atom's indices, or `None` to
        leave them alone.
    - `xp`: `numpy` or `jax.numpy`.

    **Returns:** the array with the rewritten axis.
    """
    if not any(edit((*place, *p), atom) for p, atom in occurrences(layout)):
        return array
    match layout:
        case Atom():
            change = edit(place, layout)
            assert change is not None
            return change(array, axis)
        case Prod(factors=factors):
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            array = array.reshape(before + tuple(map(size_of, factors)) + after)
            for i, factor in enumerate(factors):
                array = edit_axis(
                    array, axis + i, factor, edit, place=(*place, i), xp=xp
                )
            # Not -1: an array without entries doesn't say what that would be.
            new = math.prod(array.shape[axis : axis + len(factors)])
            return array.reshape(*before, new, *after)
        case Sum(segments=segments):
            cuts = np.cumsum([size_of(s) for s in segments])[:-1].tolist()
            parts = xp.split(array, cuts, axis=axis)
            return xp.concatenate(
                [
                    edit_axis(part, axis, segment, edit, place=(*place, i), xp=xp)
                    for i, (part, segment) in enumerate(
                        zip(parts, segments, strict=True)
                    )
                ],
                axis=axis,
            )


def spread(
    layout: Layout,
    vector: Callable[[Place, Atom], Any],
    *,
    times: Callable[[Any, Any], Any] = lambda outer, inner: outer * inner,
    place: Place = (),
    xp: Any = np,
) -> Any:
    """One value per index of the axis, from one vector per atom.

    In a product each index gets `times(outer, inner)` of its factors' values; in a sum
    the segments' values follow one another. With boolean vectors and the default
    `times` this is "does every unit that the index belongs to satisfy the predicate".
    """
    match layout:
        case Atom():
            return vector(place, layout)
        case Prod(factors=factors):
            values = None
            for i, factor in enumerate(factors):
                inner = spread(factor, vector, times=times, place=(*place, i), xp=xp)
                values = (
                    inner
                    if values is None
                    else times(values[:, None], inner[None, :]).reshape(-1)
                )
            return values
        case Sum(segments=segments):
            return xp.concatenate(
                [
                    spread(s, vector, times=times, place=(*place, i), xp=xp)
                    for i, s in enumerate(segments)
                ]
            )


def span(layout: Layout, place: Place) -> tuple[int, int]:
    """First and last-plus-one index of the atom at `place`."""
    match layout:
        case Atom():
            return 0, layout.size
        case Sum(segments=segments):
            before = sum(map(size_of, segments[: place[0]]))
            start, stop = span(segments[place[0]], place[1:])
            return before + start, before + stop
        case Prod(factors=factors) if size_of(layout):
            outer = size_of(Prod(factors[: place[0]]))
            inner = size_of(Prod(factors[place[0] + 1 :]))
            start, stop = span(factors[place[0]], place[1:])
            again = outer - 1 if start < stop else 0
            last = again * size_of(factors[place[0]])
            return start * inner, (last + stop) * inner
    return 0, 0


def positions(layout: Layout, place: Place) -> np.ndarray:
    """The axis indices that the atom at `place` covers, in increasing order."""
    here = spread(
        layout,
        lambda p, atom: np.full(atom.size, p == place),
        times=lambda outer, inner: outer | inner,
    )
    return np.flatnonzero(here)


def moved_cut(old: Layout, new: Layout, at: int) -> int | None:
    """Where a cut of the axis at index `at` falls once its layout is resized.

    `None` where it cuts through units whose number changes: nothing says where in the
    new ones it should be.
    """
    if at == size_of(old):
        return size_of(new)
    if at == 0 or old == new:
        return at
    match old, new:
        case Sum(segments=before), Sum(segments=after):
            start = 0
            for a, b in zip(before, after, strict=True):
                if at <= size_of(a):
                    inner = moved_cut(a, b, at)
                    return None if inner is None else start + inner
                at -= size_of(a)
                start += size_of(b)
        case Prod(factors=before), Prod(factors=after):
            row = size_of(Prod(before[1:]))
            if at % row == 0:
                outer = moved_cut(before[0], after[0], at // row)
                return None if outer is None else outer * size_of(Prod(after[1:]))
    return None


def describe(layout: Layout, name: Callable[[Atom], str]) -> str:
    """A layout in words, as `heads*dim` or `h+h`."""
    match layout:
        case Atom():
            return name(layout)
        case Prod(factors=factors):
            inner = (describe(f, name) for f in factors)
            return "*".join(f"({s})" if "+" in s else s for s in inner)
        case Sum(segments=segments):
            return "+".join(describe(s, name) for s in segments)
