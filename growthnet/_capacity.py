"""Open and closed: units come and go inside spare capacity, with no new shapes.

A reserved network has slots that no unit lives in yet. A closed slot holds zeros
(scales and variances: one) and its cover is masked, so that it says nothing and learns
nothing. Everything here works on traced arrays: openings are masked writes inside the
program.
"""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._anatomy import Anatomy, Member, Width
from ._draws import drawn_scale, fill_value, key_words, limit_table, uniform
from ._edit import Edit, plan
from ._layout import Atom, Place, spread
from ._paths import array_leaves, map_arrays


Openings = dict[str, Any]
"""Per width name, `bool[capacity]`: does the unit exist?"""


class Reserved(eqx.Module):
    """A network with spare capacity: its arrays, its anatomy, and which slots are open.

    A pytree: `net` and `open` are its children, `anatomy` is static.
    """

    net: Any
    anatomy: Anatomy
    open: Openings

    @property
    def sizes(self) -> dict[str, int]:
        """Open units per width (reads the arrays)."""
        return {name: int(np.sum(np.asarray(o))) for name, o in self.open.items()}


# --- masks along leaves


def along(vector: Any, axis: int, rank: int) -> Any:
    """A vector laid along one axis of an array of the given rank."""
    return vector.reshape([-1 if a == axis else 1 for a in range(rank)])


def member_vector(anatomy: Anatomy, member: Member, vector: Any) -> Any:
    """A width's vector (gates, masks) spread over one member's axis, 1 elsewhere."""
    leaf = anatomy.leaves[member.leaf]
    ones = jnp.ones_like(vector, shape=())

    def at(place: Place, atom: Atom) -> Any:
        here = place == member.place
        return vector if here else jnp.broadcast_to(ones, (atom.size,))

    values = spread(leaf.layouts[member.axis], at, xp=jnp)
    return along(values, member.axis, len(leaf.shape))


def entry_masks(anatomy: Anatomy, vectors: Mapping[str, Any]) -> dict[str, Any]:
    """Per leaf path: which entries belong only to marked units; broadcasts against the
    leaf. Leaves outside the named widths are left out."""
    masks: dict[str, Any] = {}
    for name, vector in vectors.items():
        for member in anatomy.widths[name].members:
            mask = member_vector(anatomy, member, vector)
            masks[member.path] = masks.get(member.path, jnp.ones((), bool)) & mask
    return masks


def silence(net: Any, anatomy: Anatomy, gates: Mapping[str, Any]) -> Any:
    """The network with every cover multiplied by its width's gates."""
    factors: dict[str, Any] = {}
    for name, gate in gates.items():
        width = anatomy.widths[name]
        for i in width.cover:
            member = width.members[i]
            factor = member_vector(anatomy, member, gate)
            present = factors.get(member.path)
            factors[member.path] = factor if present is None else present * factor
    arrays = array_leaves(net)
    new = {
        path: arrays[path] * factor.astype(arrays[path].dtype)
        for path, factor in factors.items()
        if path in arrays
    }
    return map_arrays(net, new)


def gate(net: Any, anatomy: Anatomy, gates: Mapping[str, Any]) -> Any:
    """A differentiable view of the network with some units turned down.

    A gate is a number in [0, 1] per unit. It multiplies the width's cover (nearly
    always the weights that read the unit), and nothing else.

    **Arguments:**

    - `net`, `anatomy`: a network and its anatomy.
    - `gates`: by width name or pattern, an array of shape `[size]`.

    **Returns:** a network of the same structure.

    **Raises:** `ValueError` for a width that can't be gated, a wrong shape, or real
    gates on a width whose gates must be 0 or 1 (give those as booleans).

    !!! example

        ```python
        half = gn.gate(mlp, anatomy, {"layers[0]": jnp.full(8, 0.5)})
        ```
    """
    anatomy.check(net, "the network")
    named = {}
    for pattern, values in gates.items():
        for name in anatomy.match(pattern):
            named[name] = _checked_gate(anatomy.widths[name], jnp.asarray(values))
    return silence(net, anatomy, named)


def _checked_gate(width: Width, values: Any) -> Any:
    if width.gateable == "no":
        why = "; ".join((*width.reasons, *width.drift))
        raise ValueError(f"{width.name!r} can't be gated: {why}")
    if values.shape != (width.size,):
        raise ValueError(
            f"gates for {width.name!r} have shape {values.shape}; "
            f"one per unit is {(width.size,)}"
        )
    if width.gateable == "binary" and values.dtype != bool:
        raise ValueError(
            f"{width.name!r} is tied (a leaf of its cover is used twice), so a gate "
            "would enter squared; its gates are booleans"
        )
    return values


# --- opening and closing


def change_openings(
    net: Any,
    anatomy: Anatomy,
    before: Openings,
    after: Openings,
    words: Any,
    drawn: frozenset[str] = frozenset(),
    values: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Writes newborn and closed units; pure, for use inside programs.

    **Arguments:**

    - `before`, `after`: which units are open, before and after.
    - `words`: two words of a key (`key_words`) that seed the newborns.
    - `drawn`: widths whose newborns' covers are random too (behind a gate at 0).
    - `values`: newborn values by leaf path (shape of the leaf) instead of draws.

    **Returns:** the network, and per leaf path which entries changed hands (newborn or
    closed): their optimizer entries are to be reset.
    """
    arrays = array_leaves(net)
    new = dict(arrays)
    silent: dict[str, list[Any]] = {}
    changed: dict[str, Any] = {}
    for name, open_after in after.items():
        width = anatomy.widths[name]
        born = open_after & ~before[name]
        differs = open_after ^ before[name]
        for i, member in enumerate(width.members):
            path = member.path
            if path not in arrays:
                continue
            where = marked_entries(anatomy, member, born)
            moved = marked_entries(anatomy, member, differs)
            changed[path] = changed.get(path, jnp.zeros((), bool)) | moved
            if values is not None and path in values:
                draw = values[path]
            elif i in width.cover and name not in drawn:
                silent.setdefault(path, []).append(where)
                continue
            else:
                draw = _draw(words, anatomy, width, member, after)
            new[path] = jnp.where(where, draw.astype(new[path].dtype), new[path])
    for path, masks in silent.items():
        for where in masks:
            new[path] = jnp.where(where, jnp.zeros((), new[path].dtype), new[path])
    return map_arrays(net, _filled(new, anatomy, after)), changed


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
    }
    for path, mask in entry_masks(anatomy, after).items():
        if path in arrays:
            fill = jnp.asarray(fills[path], arrays[path].dtype)
            arrays[path] = jnp.where(mask, arrays[path], fill)
    return {path: arrays[path] for path in fills if path in arrays}


def _draw(
    words: Any, anatomy: Anatomy, width: Width, member: Member, after: Openings
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
    return uniform(words, leaf, jnp) * table[fan_in]


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
                why = "; ".join((*width.reasons, *width.drift))
                raise ValueError(f"{name!r} can't have closed units: {why}")
            if size < width.size:
                raise ValueError(
                    f"capacity {size} for {name!r} is below its size {width.size}"
                )
    return plan(anatomy, sizes, init="closed")


def compacting(anatomy: Anatomy, open: Mapping[str, Any]) -> Edit:
    """The edit that keeps the open units, for the network and its optimizer state."""
    keep = {name: np.flatnonzero(np.asarray(o)) for name, o in open.items()}
    for name, indices in keep.items():
        if not indices.size:
            raise ValueError(f"{name!r} has no open unit; a width keeps at least one")
    sizes = {name: int(k.size) for name, k in keep.items()}
    keep = {n: k for n, k in keep.items()}
    return plan(anatomy, sizes, keep=keep)


def compact(
    reserved: Reserved, *, gates: Mapping[str, Any] | None = None, fold: bool = False
) -> Any:
    """An ordinary network of just the open units.

    **Arguments:**

    - `gates`: by width name, `[capacity]` numbers.
    - `fold`: multiply the gates in, and drop units whose gate is 0.

    **Returns:** the network, at its real sizes.

    **Raises:** `ValueError` if a width has no open unit, or gates are given without
    `fold`.
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
    return compacting(reserved.anatomy, open_)(net)


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
    """
    after = {
        name: (mask | newly_open(mask, add[name]) if name in add else mask)
        for name, mask in reserved.open.items()
    }
    drawn = frozenset(add) if init == "drawn" else frozenset()
    net, _ = change_openings(
        reserved.net, reserved.anatomy, reserved.open, after, key_words(key), drawn
    )
    return Reserved(net, reserved.anatomy, after)


def close_units(reserved: Reserved, keep: Mapping[str, Any]) -> Reserved:
    """Closes the units that `keep` (`bool[capacity]` by width) doesn't mark."""
    after = {n: o & keep[n] if n in keep else o for n, o in reserved.open.items()}
    words = np.zeros(2, np.uint32)
    net, _ = change_openings(
        reserved.net, reserved.anatomy, reserved.open, after, words
    )
    return Reserved(net, reserved.anatomy, after)


def newly_open(open: Any, add: Any) -> Any:
    """The lowest `add` closed slots: `bool[capacity]`."""
    free = ~open
    return free & (jnp.cumsum(free) <= add)
