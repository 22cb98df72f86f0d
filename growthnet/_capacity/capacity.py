"""Open and closed: units come and go inside spare capacity, with no new shapes.

A reserved network has slots that no unit lives in yet. A closed slot holds zeros
(scales and variances: one) and its cover is masked, so that it says nothing and learns
nothing. Everything here works on traced arrays: openings are masked writes inside the
program.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._edits.draws import drawn_scale, fill_value, key_words, limit_table, uniforms
from .._edits.edit import Edit
from .._edits.plan import plan
from .._paths import array_leaves, map_arrays
from .._reading.anatomy import Anatomy
from .._reading.layout import spread
from .._reading.widths import Leaf, Member, Width
from .gates import along, entry_masks, silence


_NONE: Mapping[str, int] = MappingProxyType({})
Openings = dict[str, Any]
"""Per width name, `bool[capacity]`: does the unit exist?"""


class Reserved(eqx.Module):
    """A network with spare capacity: its arrays, its anatomy, and which slots are open.

    A pytree: `net` and `open` are its children, `anatomy` is static. To train it, use
    `Grower` or `fit`: a plain gradient step would wake closed units up, since their
    consumers get gradients from f(0). `gn.gate(net, anatomy, open)` is the network with
    closed units masked.
    """

    net: Any
    anatomy: Anatomy
    open: Openings

    @property
    def sizes(self) -> dict[str, int]:
        """Open units per width (reads the arrays)."""
        return {name: int(np.sum(np.asarray(o))) for name, o in self.open.items()}


# --- opening and closing


def change_openings(
    net: Any,
    anatomy: Anatomy,
    before: Openings,
    kept: Openings,
    after: Openings,
    words: Any,
    drawn: frozenset[str] = frozenset(),
    values: Mapping[str, Mapping[str, Any]] | None = None,
    valued: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Writes newborn and closed units; pure, for use inside programs.

    **Arguments:**

    - `before`, `kept`, `after`: which units are open before, which of these stay, and
        which are open afterwards. A slot that closes may be taken by a newborn.
    - `words`: two words of a key (`key_words`) that seed the newborns.
    - `drawn`: widths whose newborns' covers are random too (behind a gate at 0).
    - `values`: by width name and leaf path, newborn values (shape of the leaf) instead
        of draws. Where newborns of two widths meet, what reads units decides: silence
        comes before values, values for what is read before values for what is made, and
        these before draws.
    - `valued`: by width name and leaf path, booleans: do its values count? Else they
        are as if they weren't there.

    **Returns:** the network, and per leaf path which entries changed hands (newborn or
    closed): their optimizer entries are to be reset.
    """
    arrays = array_leaves(net)
    given, counts = values or {}, valued or {}
    # Whose newborns have values for a leaf at all times.
    sure = {n: own.keys() - (counts.get(n) or {}) for n, own in given.items()}
    changed: dict[str, Any] = {}
    # What is written later counts where newborns meet.
    draws, made, read, silent = [], [], [], []
    noise = uniforms(words, _drawn_leaves(anatomy, after, arrays, sure), jnp)
    for name, open_after in after.items():
        width = anatomy.widths[name]
        own, perhaps = given.get(name) or {}, counts.get(name) or {}
        born = open_after & ~kept[name]
        differs = born | (before[name] & ~kept[name])
        for i, member in enumerate(width.members):
            path = member.path
            if path not in arrays or anatomy.leaves[member.leaf].mask:
                continue
            where = marked_entries(anatomy, member, born)
            moved = marked_entries(anatomy, member, differs)
            changed[path] = changed.get(path, jnp.zeros((), bool)) | moved
            if path in own:
                here = where & perhaps.get(path, True)
                later = read if i in width.cover else made
                later.append((path, here, own[path]))
                if path not in perhaps:
                    continue
                where = where & ~here
            if i in width.cover and name not in drawn:
                silent.append((path, where, jnp.zeros(())))
            else:
                draw = _draw(noise, anatomy, width, member, after)
                draws.append((path, where, draw))
    new = dict(arrays)
    for path, where, value in (*draws, *made, *read, *silent):
        new[path] = jnp.where(where, value.astype(new[path].dtype), new[path])
    return map_arrays(net, _filled(new, anatomy, after)), changed


def _drawn_leaves(
    anatomy: Anatomy, after: Openings, arrays: Mapping[str, Any], given: Any
) -> list[Leaf]:
    """The leaves whose newborn entries may be random."""
    drawn = {
        m.leaf: anatomy.leaves[m.leaf]
        for name in after
        for m in anatomy.widths[name].members
        if m.path in arrays
        and m.path not in given.get(name, ())
        and drawn_scale(anatomy, anatomy.widths[name], m) is not None
    }
    return list(drawn.values())


def marked_entries(anatomy: Anatomy, member: Member, marked: Any) -> Any:
    """Entries of a member's leaf that belong to any marked unit at its place."""
    leaf = anatomy.leaves[member.leaf]
    vector = spread(
        leaf.layouts[member.axis],
        lambda place, atom: (
            marked if place == member.place else jnp.zeros(atom.size, bool)
        ),
        times=lambda outer, inner: outer | inner,
        xp=jnp,
    )
    return along(vector, member.axis, len(leaf.shape))


def _filled(
    arrays: dict[str, Any], anatomy: Anatomy, after: Openings
) -> dict[str, Any]:
    """Every entry of a closed unit holds its fill value."""
    fills = {
        m.path: fill_value(m, anatomy.leaves[m.leaf])
        for name in after
        for m in anatomy.widths[name].members
        if not anatomy.leaves[m.leaf].mask
    }
    for path, mask in entry_masks(anatomy, after).items():
        if path in arrays and path in fills:
            fill = jnp.asarray(fills[path], arrays[path].dtype)
            arrays[path] = jnp.where(mask, arrays[path], fill)
    return {path: arrays[path] for path in fills if path in arrays}


def _draw(
    noise: Any, anatomy: Anatomy, width: Width, member: Member, after: Openings
) -> Any:
    """As an edit draws: the limit counts the inputs that are open afterwards."""
    leaf = anatomy.leaves[member.leaf]
    scale = drawn_scale(anatomy, width, member)
    if scale is None:
        return jnp.full(leaf.shape, fill_value(member, leaf), jnp.float32)
    of, axes = scale
    source = anatomy.leaves[of]
    by_id = {anatomy.widths[n].id: o for n, o in after.items()}
    fan_in: Any = 1
    for axis in axes:
        open_here = spread(
            source.layouts[axis],
            lambda _, atom: by_id.get(atom.id, np.ones(atom.size, bool)),
            xp=jnp,
        )
        fan_in = fan_in * jnp.sum(open_here)
    table = jnp.asarray(limit_table(math.prod(source.shape[a] for a in axes)))
    return noise[leaf.path] * table[fan_in]


# --- reserving and compacting, on the host


def reserve(
    net: Any, anatomy: Anatomy, sizes: Mapping[str, int], *, key: Any = None
) -> Reserved:
    """Gives a network spare capacity: an edit whose new units are closed.

    **Arguments:**

    - `sizes`: capacity by width name or pattern; at least the present size.
    - `key`: not needed, since closed slots hold no draws; taken so that it can stand
        where `resize` stands.

    **Returns:** a `Reserved`. Its function is the network's. For the optimizer state
    use the same edit: `gn.plan(anatomy, sizes, init="closed").transfer(...)`.

    **Raises:** `ValueError` for a width that can't be gated, or a size that is too
    small.
    """
    del key
    edit = reserving(anatomy, sizes)
    grown = edit(net)
    open_ = {
        name: jnp.arange(width.size) < anatomy.widths[name].size
        for name, width in edit.after.widths.items()
        if width.gateable != "no"
    }
    return Reserved(grown, edit.after, open_)


def reserving(anatomy: Anatomy, sizes: Mapping[str, int]) -> Edit:
    """The edit behind `reserve`."""
    for pattern, size in sizes.items():
        for name in anatomy.match(pattern):
            width = anatomy.widths[name]
            if width.gateable == "no":
                why = "; ".join(width.ungateable)
                raise ValueError(f"{name!r} can't have closed units: {why}")
            if size < width.size:
                raise ValueError(
                    f"capacity {size} for {name!r} is below its size {width.size}"
                )
    return plan(anatomy, sizes, init="closed")


def compacting(
    anatomy: Anatomy, open: Mapping[str, Any], multiples: Mapping[str, int] = _NONE
) -> Edit:
    """The edit that keeps the open units, for the network and its optimizer state, and
    closed ones beside them where a width has to have a multiple of some number."""
    keep = {}
    for name, mask in open.items():
        mask = np.array(mask)
        if not mask.any():
            raise ValueError(f"{name!r} has no open unit; a width keeps at least one")
        closed = np.flatnonzero(~mask)
        mask[closed[: -int(mask.sum()) % multiples.get(name, 1)]] = True
        keep[name] = np.flatnonzero(mask)
    sizes = {name: int(k.size) for name, k in keep.items()}
    return plan(anatomy, sizes, keep=keep)


def compact(
    reserved: Reserved,
    *,
    gates: Mapping[str, Any] | None = None,
    fold: bool = False,
    multiple_of: int = 1,
) -> Any:
    """An ordinary network of just the open units.

    **Arguments:**

    - `gates`: by width name, `[capacity]` numbers.
    - `fold`: multiply the gates in, and drop units whose gate is 0.
    - `multiple_of`: keep so many closed (silent) units that every width has a multiple
        of this many, or all that there are: what a mesh asks for.

    **Returns:** the network, at its real sizes.

    **Raises:** `ValueError` if a width has no open unit, gates are given without
    `fold`, or a mesh doesn't divide a size.
    """
    if gates and not fold:
        raise ValueError(
            "gates change the function; pass fold=True to multiply them in"
        )
    net, open_ = reserved.net, dict(reserved.open)
    if fold and gates:
        net = silence(net, reserved.anatomy, gates)
        for name, values in gates.items():
            loud = np.asarray(open_[name]) & (np.asarray(values) != 0)
            open_[name] = loud if loud.any() else np.arange(loud.size) == 0
    multiples = dict.fromkeys(open_, multiple_of)
    return compacting(reserved.anatomy, open_, multiples)(net)


def open_units(
    reserved: Reserved, add: Mapping[str, Any], *, key: Any, init: str = "zero_out"
) -> Reserved:
    """Opens closed slots, lowest first; works inside a program.

    **Arguments:**

    - `add`: how many units to open, by width name; may be traced integers. Beyond the
        capacity nothing more opens.
    - `key`: seeds the newborns. They are the numbers that an edit to the same sizes
        would draw with this key.
    - `init`: `"zero_out"` or `"drawn"`.

    **Raises:** `ValueError` for an unknown width, init or number.
    """
    reserved.anatomy.check(reserved.net, "the network", numbers=True)
    if init not in ("zero_out", "drawn"):
        raise ValueError(f"init={init!r}; units open by 'zero_out' or 'drawn'")
    births = {}
    for pattern, count in add.items():
        if isinstance(count, bool | float) or (isinstance(count, int) and count < 0):
            raise ValueError(
                f"add[{pattern!r}]={count!r}; how many units open is a whole number"
            )
        for name in _reserved_names(reserved, pattern):
            births[name] = count
    after = {
        name: (mask | newly_open(mask, births[name]) if name in births else mask)
        for name, mask in reserved.open.items()
    }
    drawn = frozenset(births) if init == "drawn" else frozenset()
    net, _ = change_openings(
        reserved.net,
        reserved.anatomy,
        reserved.open,
        reserved.open,
        after,
        key_words(key),
        drawn,
    )
    return Reserved(net, reserved.anatomy, after)


def close_units(reserved: Reserved, keep: Mapping[str, Any]) -> Reserved:
    """Closes the units that `keep` (`bool[capacity]` by width or pattern) doesn't mark.

    **Raises:** `ValueError` for an unknown width.
    """
    kept = {
        name: mask
        for pattern, mask in keep.items()
        for name in _reserved_names(reserved, pattern)
    }
    after = {n: o & kept[n] if n in kept else o for n, o in reserved.open.items()}
    words = np.zeros(2, np.uint32)
    net, _ = change_openings(
        reserved.net, reserved.anatomy, reserved.open, after, after, words
    )
    return Reserved(net, reserved.anatomy, after)


def _reserved_names(reserved: Reserved, pattern: str) -> list[str]:
    names = [n for n in reserved.anatomy.match(pattern) if n in reserved.open]
    if not names:
        raise ValueError(
            f"{pattern!r} has no slots to open or close; "
            f"these have: {', '.join(reserved.open)}"
        )
    return names


def newly_open(open: Any, add: Any) -> Any:
    """The lowest `add` closed slots: `bool[capacity]`."""
    free = ~open
    order = jnp.cumsum(free)
    return free & (order <= jnp.asarray(add, order.dtype))
