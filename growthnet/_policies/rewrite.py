"""What a decision does to survivors: entries of leaves that take other values.

A removal rule needs it (the mean of a removed unit goes to biases that other units
own, consumers are fitted anew, two units become one), and so does a growth rule that
moves the units that there are.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .._capacity.capacity import marked_entries, Openings
from .._capacity.gates import entry_masks
from .._reading.anatomy import Anatomy


Rewrites = Mapping[str, Mapping[str, Any] | None]
"""By width name, by leaf path: arrays of the leaf's shape."""


def rewritten(
    anatomy: Anatomy, arrays: Mapping[str, Any], rewrites: Rewrites, kept: Openings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves that a decision rewrites.

    **Arguments:**

    - `arrays`: the network's by path.
    - `rewrites`: what the changes of widths ask for.
    - `kept`: which units stay, `bool[capacity]` by width. Nothing else is rewritten.

    **Returns:** by path, the new arrays and which entries were written. An entry that
    one width rewrites takes its value; where several do, their moves add up, since what
    reads units is linear in them.
    """
    new: dict[str, Any] = {}
    written: dict[str, Any] = {}
    masks = entry_masks(anatomy, kept)
    for name, values in rewrites.items():
        for path, value in (values or {}).items():
            old = arrays[path]
            value = jnp.asarray(value).astype(old.dtype)
            where = _of_survivors(anatomy, name, path, kept[name])
            where = jnp.broadcast_to(where & masks.get(path, True), old.shape)
            if path in new:
                moved = jnp.where(written[path], new[path] + (value - old), value)
                new[path] = jnp.where(where, moved, new[path])
                written[path] = written[path] | where
            else:
                new[path], written[path] = jnp.where(where, value, old), where
    return new, written


def _of_survivors(anatomy: Anatomy, name: str, path: str, kept: Any) -> Any:
    """Entries that belong to units of the width that stay; all of them where the leaf
    has no axis of the width (the bias of what reads it)."""
    own = [m for m in anatomy.widths[name].members if m.path == path]
    everywhere = jnp.asarray(not own)
    for member in own:
        everywhere = everywhere | marked_entries(anatomy, member, kept)
    return everywhere


def differ(arrays: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    """Is anything rewritten? A traced boolean."""
    differences = [jnp.any(value != arrays[path]) for path, value in new.items()]
    return jnp.any(jnp.stack(differences)) if differences else jnp.zeros((), bool)
