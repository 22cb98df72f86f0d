"""Edits as linear maps: what each new unit is made of.

A `UnitMap` says, for one width, how new units are formed from old ones. A width has a
pair of them: `produce` for the members that compute the units, `consume` for the
members that read them. Copying, dropping, splitting and merging are all such pairs:

- copying: `produce` takes, `consume` takes;
- growing: newborn rows are empty in both (their values come from an init);
- splitting: `produce` copies a row, `consume` shares it out with weights that sum to 1.

Gradients travel the other way: where the consumers' values are scaled by c, the
producers' gradients are. So the gradient map of a producer is `consume`, and the
gradient map of a consumer is `produce`. Optimizer moments follow these.
"""

import dataclasses
import functools as ft
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from .._reading.layout import (
    Atom,
    edit_axis,
    Layout,
    occurrences,
    Place,
    size_of,
    spread,
)
from .moves import moved, scale, Sources


@dataclasses.dataclass(frozen=True, eq=False)
class UnitMap:
    """`new[rows] += weights * old[cols]`: a sparse map from `old` to `new` units."""

    old: int
    new: int
    rows: np.ndarray
    cols: np.ndarray
    weights: np.ndarray

    @staticmethod
    def take(old: int, indices: Sequence[int] | np.ndarray) -> "UnitMap":
        """`new[j] = old[indices[j]]`; an index of -1 is a newborn."""
        indices = np.asarray(indices, np.int64)
        rows = np.flatnonzero(indices >= 0)
        return UnitMap(
            old, indices.size, rows, indices[rows], np.ones(rows.size, np.float64)
        )

    @staticmethod
    def weighted(old: int, indices: np.ndarray, weights: np.ndarray) -> "UnitMap":
        """`new[j] = weights[j] * old[indices[j]]`; an index of -1 is a newborn."""
        plain = UnitMap.take(old, indices)
        return dataclasses.replace(plain, weights=np.asarray(weights)[plain.rows])

    @ft.cached_property
    def born(self) -> np.ndarray:
        """Which new units have no parent: `bool[new]`."""
        born = np.ones(self.new, bool)
        born[self.rows] = False
        return born

    @ft.cached_property
    def scaled(self) -> np.ndarray:
        """Which new units aren't a plain copy of one old unit: `bool[new]`."""
        scaled = np.zeros(self.new, bool)
        scaled[self.rows[self.weights != 1]] = True
        counts = np.bincount(self.rows, minlength=self.new)
        return scaled | (counts > 1)

    @ft.cached_property
    def merges(self) -> bool:
        """Is any new unit made of several old ones?"""
        return bool(np.bincount(self.rows, minlength=1).max() > 1)

    @ft.cached_property
    def plain(self) -> "UnitMap":
        """The same map without weights."""
        return dataclasses.replace(self, weights=np.ones(self.rows.size))

    @ft.cached_property
    def sources(self) -> Sources:
        """Which old unit each new one is made of, if it is one."""
        index = np.full(self.new, -1, np.int64)
        index[self.rows] = self.cols
        return Sources(index)

    @ft.cached_property
    def is_identity(self) -> bool:
        return (
            self.old == self.new
            and self.rows.size == self.new
            and not self.scaled.any()
            and bool((self.rows == np.arange(self.new)).all())
            and bool((self.cols == np.arange(self.new)).all())
        )

    def times(self, factor: float) -> "UnitMap":
        """The same map with all its weights multiplied."""
        if factor == 1:
            return self
        return dataclasses.replace(self, weights=self.weights * factor)

    def power(self, power: int) -> "UnitMap":
        """The same map with its weights raised: second moments go with c squared."""
        if power == 1:
            return self
        return dataclasses.replace(self, weights=self.weights**power)

    def apply(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Maps one axis; newborn rows are zero. Plain copies are bit for bit."""
        if self.merges:
            return self._accumulate(array, axis)
        if not self.rows.size:
            # Perhaps there is no old unit that `take` could put in their place.
            shape = (*array.shape[:axis], self.new, *array.shape[axis + 1 :])
            return np.zeros(shape, array.dtype)
        source = np.zeros(self.new, np.int64)
        source[self.rows] = self.cols
        out = np.take(array, source, axis=axis)
        units = np.moveaxis(out, axis, 0)
        if self.scaled.any():
            touched = self.weights != 1
            rows, weights = self.rows[touched], self.weights[touched]
            units[rows] = _weighted(units[rows], weights).astype(array.dtype)
        units[self.born] = 0
        return out

    def _accumulate(self, array: np.ndarray, axis: int) -> np.ndarray:
        old = np.moveaxis(array, axis, 0)
        parts = _weighted(old[self.cols], self.weights)
        total = np.zeros((self.new, *old.shape[1:]), parts.dtype)
        np.add.at(total, self.rows, parts)
        out = total.astype(array.dtype)
        # Rows with one plain parent don't pass through float64.
        single = (~self.scaled & ~self.born)[self.rows]
        out[self.rows[single]] = old[self.cols[single]]
        return np.moveaxis(out, 0, axis)


def _weighted(units: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows times weights in double precision."""
    wide = np.complex128 if units.dtype.kind == "c" else np.float64
    return units.astype(wide) * weights.reshape((-1,) + (1,) * (units.ndim - 1))


@dataclasses.dataclass(frozen=True)
class MapPair:
    """What an edit does to one width: see the head of this file."""

    produce: UnitMap
    consume: UnitMap


@dataclasses.dataclass(frozen=True)
class PlaceEdit:
    """What an edit does to one member: its pair, whether it takes the consumers' map,
    and a factor for all its entries. Where an entry is multiplied by c and the function
    stays, its gradient is divided by c."""

    place: Place
    pair: MapPair
    consumer: bool
    factor: float = 1.0

    def map(self, gradient: bool, power: int) -> UnitMap:
        unit_map = self.pair.consume if self.consumer != gradient else self.pair.produce
        factor = 1 / self.factor if gradient else self.factor
        return unit_map.times(factor).power(power)


@dataclasses.dataclass(frozen=True)
class AxisEdit:
    """What an edit does to one axis of one leaf. Axes that aren't edited have no
    `places`."""

    layout: Layout
    places: tuple[PlaceEdit, ...] = ()

    @property
    def touched(self) -> bool:
        return any(
            not (p.pair.produce.is_identity and p.pair.consume.is_identity)
            or p.factor != 1
            for p in self.places
        )

    @ft.cached_property
    def new_size(self) -> int:
        news = {p.place: p.pair.produce.new for p in self.places}
        vector = spread(self.layout, lambda p, a: np.empty(news.get(p, a.size), bool))
        return int(vector.size)

    def _maps(self, gradient: bool, power: int) -> dict[Place, UnitMap]:
        return {p.place: p.map(gradient, power) for p in self.places}

    def apply(
        self, array: np.ndarray, axis: int, *, gradient: bool = False, power: int = 1
    ) -> np.ndarray:
        """Maps this axis of an array; newborn entries are zero."""
        if not self.places:
            return array
        maps = self._maps(gradient, power)
        return edit_axis(
            array,
            axis,
            self.layout,
            lambda p, _: maps[p].apply if p in maps else None,
        )

    @ft.cached_property
    def sources(self) -> dict[bool, Sources | None]:
        """For values (`False`) and gradients (`True`), where each new index comes from;
        nothing is said where some come from several."""
        if not self.places:
            return {False: None, True: None}
        maps = {gradient: self._maps(gradient, 1) for gradient in (False, True)}
        merging = lambda own: any(m.merges for m in own.values())
        return {g: self._taken(own) for g, own in maps.items() if not merging(own)}

    def _taken(self, maps: dict[Place, UnitMap]) -> Sources:
        if isinstance(self.layout, Atom):
            return maps[()].sources
        plain = {p: m.plain.apply for p, m in maps.items()}
        places = np.arange(1, size_of(self.layout) + 1)
        new = edit_axis(places, 0, self.layout, lambda p, _: plain.get(p))
        return Sources(new - 1)

    def weights(self, gradient: bool, power: int) -> Iterator[np.ndarray]:
        """By what new indices are multiplied, one place after the other."""
        maps = self._maps(gradient, power)
        for place, unit_map in maps.items():
            if unit_map.scaled.any():
                yield self._weighed(maps, place)

    def _weighed(self, maps: dict[Place, UnitMap], place: Place) -> np.ndarray:
        def vector(here: Place, atom: Atom) -> np.ndarray:
            ones = np.ones(maps[here].new if here in maps else atom.size)
            if here == place:
                ones[maps[here].rows] = maps[here].weights
            return ones

        return spread(self.layout, vector)

    def marks(
        self, what: str, *, gradient: bool = False, only: Place | None = None
    ) -> np.ndarray:
        """`bool[new_size]`: which new indices are `"born"` or `"scaled"`, at all places
        or at one."""
        maps = self._maps(gradient, 1)

        def mark(place: Place, atom: Atom) -> np.ndarray:
            if place not in maps:
                return np.zeros(atom.size, bool)
            if only is not None and place != only:
                return np.zeros(maps[place].new, bool)
            return getattr(maps[place], what)

        return spread(self.layout, mark, times=lambda outer, inner: outer | inner)


@dataclasses.dataclass(frozen=True)
class LeafEdit:
    """What an edit does to one leaf, or to a state array laid out like it."""

    axes: tuple[AxisEdit, ...]

    @property
    def touched(self) -> bool:
        return any(axis.touched for axis in self.axes)

    @property
    def old_shape(self) -> tuple[int, ...]:
        return tuple(size_of(axis.layout) for axis in self.axes)

    @property
    def new_shape(self) -> tuple[int, ...]:
        return tuple(axis.new_size for axis in self.axes)

    def values(self, array: np.ndarray) -> np.ndarray:
        """Maps parameters, or copies of parameters; always a new array."""
        return self._apply(array, gradient=False, power=1)

    def gradients(self, array: np.ndarray, power: int = 1) -> np.ndarray:
        """Maps gradients (`power=1`) or their second moments (`power=2`)."""
        return self._apply(array, gradient=True, power=power)

    def _apply(self, array: np.ndarray, *, gradient: bool, power: int) -> np.ndarray:
        if all(gradient in edit.sources for edit in self.axes):
            new = moved(array, [edit.sources[gradient] for edit in self.axes])
            for axis, edit in enumerate(self.axes):
                for weights in edit.weights(gradient, power):
                    scale(new, axis, weights)
            return new
        for axis, edit in enumerate(self.axes):
            array = edit.apply(array, axis, gradient=gradient, power=power)
        return array

    def born(self) -> np.ndarray:
        """`bool[new_shape]`: entries that belong to at least one newborn unit."""
        return self._marks("born", gradient=False)

    def scaled(self, *, gradient: bool) -> np.ndarray:
        """`bool[new_shape]`: entries that aren't a plain copy of one old entry."""
        return self._marks("scaled", gradient=gradient)

    def _marks(self, what: str, *, gradient: bool) -> np.ndarray:
        marks = np.zeros((), bool)
        for i, axis in enumerate(self.axes):
            along = axis.marks(what, gradient=gradient)
            shape = [1] * len(self.axes)
            shape[i] = -1
            marks = marks | along.reshape(shape)
        return np.broadcast_to(marks, self.new_shape)

    def lead(self, sizes: Sequence[int]) -> "LeafEdit":
        """The same edit behind extra leading axes, as in a history of gradients."""
        free = tuple(AxisEdit(Atom(-1, size)) for size in sizes)
        return LeafEdit((*free, *self.axes))

    def keep_axes(self, axes: Sequence[int]) -> "LeafEdit":
        """The same edit on some of the axes, as in a factored second moment."""
        return LeafEdit(tuple(self.axes[i] for i in axes))


def axis_edit(
    layout: Layout,
    pairs: dict[int, MapPair],
    consumers: frozenset[Place],
    factors: Mapping[Place, float] = MappingProxyType({}),
) -> AxisEdit:
    """The edit of one axis, given the pairs by atom id, which places take the
    consumers' map, and the factors of places that are scaled."""
    return AxisEdit(
        layout,
        tuple(
            PlaceEdit(
                place, pairs[atom.id], place in consumers, factors.get(place, 1.0)
            )
            for place, atom in occurrences(layout)
            if atom.id in pairs
        ),
    )
