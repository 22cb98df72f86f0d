"""What a tree shaped like the network holds for each unit of a width."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.widths import Member
from .contractions import unit_numbers


def unit_rows(anatomy: Anatomy, name: str, tree: Any) -> dict[Member, Any]:
    """The entries of every member of a width, unit by unit. Works on traced arrays.

    **Arguments:**

    - `name`: the width's.
    - `tree`: shaped like the network: the network itself, gradients; or arrays by leaf
        path. What it lacks is left out, and so are masks.

    **Returns:** by member, `[units, entries]` in leaf order.

    **Raises:** `ValueError` for an unknown width, or arrays of other shapes.

    !!! example

        ```python
        rows = gn.unit_rows(anatomy, "layers[0]", mlp)
        made = [r for member, r in rows.items() if "producer" in member.roles]
        norms = jnp.linalg.norm(made[0], axis=1)
        ```
    """
    (name,) = anatomy.match([name])
    arrays = _by_path(anatomy, tree)
    found = {}
    for member in anatomy.widths[name].members:
        leaf = anatomy.leaves[member.leaf]
        if member.path not in arrays or leaf.mask:
            continue
        array = arrays[member.path]
        if array.shape != leaf.shape:
            raise ValueError(
                f"{member.path!r} has shape {array.shape} here; the anatomy says "
                f"{leaf.shape}"
            )
        index = _entries(anatomy, member)
        found[member] = jnp.reshape(array, -1)[index]
    return found


def with_unit_rows(
    anatomy: Anatomy, name: str, tree: Any, rows: Mapping[Member, Any]
) -> dict[str, Any]:
    """The leaves of a tree with other rows for the units of a width.

    **Arguments:**

    - `tree`: as in `unit_rows`.
    - `rows`: by member, as `unit_rows` gives them; members may be left out.

    **Returns:** whole arrays by leaf path, as `Change.rewrite` takes them.

    **Raises:** `ValueError` for a member that the width doesn't have, and for two that
        share entries of a leaf (both axes of a recurrent matrix): give one at a time.
    """
    (name,) = anatomy.match([name])
    arrays = _by_path(anatomy, tree)
    new: dict[str, Any] = {}
    written: dict[str, np.ndarray] = {}
    for member, values in rows.items():
        if member not in anatomy.widths[name].members:
            raise ValueError(f"{member} isn't a member of {name!r}")
        path, index = member.path, _entries(anatomy, member)
        if np.isin(index, written.get(path, [])).any():
            raise ValueError(
                f"{path!r} is there twice, and both rows say what the same entries "
                "are; give one at a time"
            )
        written[path] = np.append(written.get(path, np.empty(0, int)), index)
        array = new.get(path, arrays[path])
        flat = jnp.reshape(array, -1).at[index].set(values)
        new[path] = flat.reshape(array.shape)
    return new


def _by_path(anatomy: Anatomy, tree: Any) -> dict[str, Any]:
    paths = {leaf.path for leaf in anatomy.leaves}
    if isinstance(tree, dict) and tree.keys() <= paths:
        return tree
    return array_leaves(tree)


def _entries(anatomy: Anatomy, member: Member) -> np.ndarray:
    """Flat indices of a leaf: `[units, entries]`."""
    numbers = unit_numbers(anatomy, member).reshape(-1)
    order = np.argsort(numbers, kind="stable")
    units = int(numbers.max()) + 1
    return order[np.searchsorted(numbers[order], 0) :].reshape(units, -1)
