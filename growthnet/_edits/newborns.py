"""What an edit writes into the entries of newborn units."""

import dataclasses
from typing import Any, TYPE_CHECKING, TypeAlias

import jax.random as jr
import numpy as np

from .._reading.layout import edit_axis, Layout, positions
from .._reading.widths import Member, Width
from .draws import draw_host, fill_value, key_words, uniform
from .inits import Clone, Rows
from .maps import LeafEdit, MapPair
from .moves import runs


if TYPE_CHECKING:
    from .edit import Edit


@dataclasses.dataclass(frozen=True, eq=False)
class RowEntries:
    """New rows of a table: the mean of the old ones, or noise of their scale."""

    where: np.ndarray
    axis: int
    noise: np.ndarray | None

    def write(self, array: np.ndarray) -> np.ndarray:
        old = np.compress(~self.where.reshape(-1), array, self.axis).astype(np.float64)
        values = old.mean(self.axis, keepdims=True)
        if self.noise is not None:
            # The noise is uniform on [-1, 1).
            values = self.noise * np.sqrt(3 * np.mean(np.square(old)))
        return np.where(self.where, values.astype(array.dtype), array)


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """Values for some indices along an axis of a leaf."""

    axis: int
    at: np.ndarray
    values: np.ndarray

    def write(self, array: np.ndarray) -> np.ndarray:
        before, values = (slice(None),) * self.axis, self.values
        for new, old, n in runs(self.at):
            part = values[(*before, slice(new, new + n))] if values.ndim else values
            array[(*before, slice(old, old + n))] = part.astype(array.dtype)
        return array


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """What is added to the marked entries of a leaf, in units of its entries' size."""

    where: np.ndarray
    values: np.ndarray

    def write(self, array: np.ndarray) -> np.ndarray:
        rms = np.sqrt(np.mean(np.square(array.astype(np.float64))))
        values = array.astype(np.float64) + self.values * rms
        return np.where(self.where, values.astype(array.dtype), array)


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
    """The marked entries of a leaf repeat those of units that were there before."""

    where: np.ndarray
    member: Member
    layout: Layout
    kept: int

    def write(self, array: np.ndarray) -> np.ndarray:
        def repeat(part: np.ndarray, axis: int) -> np.ndarray:
            born = np.arange(part.shape[axis] - self.kept)
            source = np.concatenate([np.arange(self.kept), born % self.kept])
            return np.take(part, source, axis)

        found = edit_axis(
            array,
            self.member.axis,
            self.layout,
            lambda place, _: repeat if place == self.member.place else None,
        )
        return np.where(self.where, found, array)


Writes: TypeAlias = dict[str, list[Any]]


def newborn_entries(edit: "Edit", key: Any) -> Writes:
    """Per leaf path, what to write, in order: covers come last, so that an entry that
    is newborn along two axes is silent if either asks for it.

    **Raises:** `ValueError` if a key is needed and missing, or an init function gives
    something unusable.
    """
    growing = [c for c in edit.changes if c.born]
    init = edit.init
    if isinstance(init, Rows):
        return _rows(edit, init, key)
    silent = isinstance(init, str) and init == "closed"
    noisy = isinstance(init, Clone) and init.noise > 0
    if not growing or (isinstance(init, Clone) and not noisy):
        return {}
    if key is None and not silent:
        raise ValueError(f"growing {growing[0].name!r} draws its newborns: pass `key=`")
    words = np.zeros(2, np.uint32) if silent else np.asarray(key_words(key))
    writes: Writes = {}
    covers: Writes = {}
    for change in growing:
        width = edit.after.widths[change.name]
        recipe = width.copied if isinstance(init, Clone) else width.silent
        for i, member in enumerate(width.members):
            leaf_edit = edit.leaf_edits[member.path]
            covered = i in recipe.cover
            if isinstance(init, Clone):
                if covered:
                    entries = _noise(edit, words, width, member)
                    covers.setdefault(member.path, []).append(entries)
                continue
            leaf = edit.after.leaves[member.leaf]
            born = leaf_edit.axes[member.axis].marks("born", only=member.place)
            at = np.flatnonzero(born)
            if leaf.mask and change.kept and not covered:
                layout = leaf.layouts[member.axis]
                where = _along(born, member.axis, len(leaf.shape))
                repeated = Repeated(where, member, layout, len(change.kept))
                writes.setdefault(member.path, []).append(repeated)
            elif covered and init != "drawn":
                zeros = Entries(member.axis, at, np.zeros((), np.float32))
                covers.setdefault(member.path, []).append(zeros)
            else:
                values = _draw(edit, key, words, width, member, at)
                entries = Entries(member.axis, at, values)
                writes.setdefault(member.path, []).append(entries)
    for path, entries in covers.items():
        writes.setdefault(path, []).extend(entries)
    return writes


def _rows(edit: "Edit", init: Rows, key: Any) -> Writes:
    drawn = init.how == "drawn" and any(c.born for c in edit.changes)
    if drawn and key is None:
        raise ValueError(f"rows of {edit.changes[0].name!r} are drawn: pass `key=`")
    words = np.asarray(key_words(key)) if drawn else np.zeros(2, np.uint32)
    writes: Writes = {}
    for change in edit.changes:
        for member in (
            edit.groups(edit.after)[change.name].members if change.born else ()
        ):
            leaf = edit.after.leaves[member.leaf]
            noise = uniform(words, leaf, np).astype(np.float64) if drawn else None
            born = _born(edit.leaf_edits[member.path], member)
            entries = RowEntries(born, member.axis, noise)
            writes.setdefault(member.path, []).append(entries)
    return writes


def _born(edit: LeafEdit, member: Member) -> np.ndarray:
    """Newborn entries of one member, broadcasting against the new leaf."""
    marks = edit.axes[member.axis].marks("born", only=member.place)
    return _along(marks, member.axis, len(edit.axes))


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _draw(
    edit: "Edit",
    key: Any,
    words: np.ndarray,
    width: Width,
    member: Member,
    at: np.ndarray,
) -> np.ndarray:
    """Newborn values, for these indices along the member's axis."""
    leaf = edit.after.leaves[member.leaf]
    init = edit.init
    if isinstance(init, str) and init == "closed":
        return np.asarray(fill_value(member, leaf), np.float32)
    if callable(init) and "producer" in member.roles:
        made = np.asarray(
            init(jr.fold_in(key, member.leaf), leaf.shape, np.dtype(leaf.dtype))
        )
        if made.shape != leaf.shape or not np.isfinite(made.astype(np.float32)).all():
            raise ValueError(
                f"the init function gave an array of shape {made.shape} for "
                f"{leaf.path!r}; it must be finite and of shape {leaf.shape}"
            )
        return np.take(made, at, member.axis)
    return draw_host(words, edit.after, width, member, at)


def _noise(edit: "Edit", words: np.ndarray, width: Width, member: Member) -> Noise:
    """Noise on the shares of copies that sums to zero over the copies of each unit."""
    assert isinstance(edit.init, Clone)
    leaf = edit.after.leaves[member.leaf]
    pair: MapPair = edit.pairs[width.id]
    groups = np.bincount(pair.produce.cols, minlength=pair.produce.old)
    copied = groups[pair.produce.cols] > 1

    def centre(array: np.ndarray, axis: int) -> np.ndarray:
        moved = np.moveaxis(array, axis, 0)
        sums = np.zeros((pair.produce.old, *moved.shape[1:]))
        np.add.at(sums, pair.produce.cols, moved)
        means = sums / np.maximum(groups, 1).reshape((-1,) + (1,) * (sums.ndim - 1))
        centred = np.where(
            copied.reshape((-1,) + (1,) * (moved.ndim - 1)),
            moved - means[pair.produce.cols],
            0,
        )
        return np.moveaxis(centred, 0, axis)

    noise = edit_axis(
        uniform(words, leaf, np).astype(np.float64) * edit.init.noise,
        member.axis,
        leaf.layouts[member.axis],
        lambda place, _: centre if place == member.place else None,
    )
    here = positions(leaf.layouts[member.axis], member.place)
    where = np.isin(np.arange(leaf.shape[member.axis]), here)
    return Noise(_along(where, member.axis, len(leaf.shape)), noise)
