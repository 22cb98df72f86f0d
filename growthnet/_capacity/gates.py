"""Gates: how loud each unit is. A gate multiplies the cover, nothing else."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .._paths import array_leaves, map_arrays
from .._reading.anatomy import Anatomy
from .._reading.layout import Atom, Place, spread
from .._reading.widths import Member, Width


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
    leaf. Leaves outside the named widths are left out.

    **Arguments:** an anatomy, and `bool[size]` by width name; may be traced.

    !!! example

        ```python
        masks = gn.entry_masks(anatomy, {"layers[0]": jnp.arange(8) < 4})
        masks["layers[0].weight"]  # bool[8, 1]: rows of the first four units
        ```
    """
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
    anatomy.check(net, "the network", numbers=True)
    named = {}
    for pattern, values in gates.items():
        for name in anatomy.match(pattern):
            named[name] = _checked_gate(anatomy.widths[name], jnp.asarray(values))
    return silence(net, anatomy, named)


def _checked_gate(width: Width, values: Any) -> Any:
    if width.gateable == "no":
        why = "; ".join(width.ungateable)
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
