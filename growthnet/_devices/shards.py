"""Sizes and meshes: an axis that is spread over devices comes in equal pieces.

JAX spreads an axis over devices only if they divide it. So a width whose leaves are
spread grows in multiples, and what doesn't fit is refused before anything is done.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.core import Tracer
from jax.sharding import NamedSharding, SingleDeviceSharding

from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.layout import positions


def pieces(array: Any) -> dict[int, int]:
    """Into how many pieces each axis is cut, for those that are."""
    sharding = None if isinstance(array, Tracer) else getattr(array, "sharding", None)
    if sharding is None or isinstance(sharding, SingleDeviceSharding) or not array.size:
        return {}
    cut = sharding.shard_shape(array.shape)
    counts = (n // m for n, m in zip(array.shape, cut, strict=True))
    return {axis: count for axis, count in enumerate(counts) if count > 1}


def check_shards(
    path: str,
    array: Any,
    shape: Sequence[int],
    whose: Callable[[int], str] = lambda axis: "its width",
) -> None:
    """Could an array be of this shape, spread as it is?

    **Arguments:** the array's name, the array, the shape, and for messages a function
    that names the width along an axis.

    **Raises:** `ValueError` naming the width, the axis, the mesh and sizes that fit.
    """
    for axis, count in pieces(array).items():
        size = shape[axis]
        if size % count:
            low = size // count * count
            fits = f"{low} or {low + count}" if low else f"{count}"
            raise ValueError(
                f"{whose(axis)}: axis {axis} of {path!r} would get {size} entries, but "
                f"it is spread over {count} devices{_along(array, axis)}, which have "
                f"to divide it; choose a size with which it has {fits} entries (in a "
                f"run: buckets=gn.Buckets(multiple_of={count})), or spread the array "
                "along another axis first"
            )


def _along(array: Any, axis: int) -> str:
    """Which axes of the mesh an axis runs along."""
    if not isinstance(array.sharding, NamedSharding):
        return ""
    names = array.sharding.spec[axis]
    names = names if isinstance(names, tuple) else (names,)
    mesh = array.sharding.mesh.shape
    return f" (mesh axis {' x '.join(f'{n!r} of size {mesh[n]}' for n in names)})"


def multiples(anatomy: Anatomy, tree: Any) -> dict[str, int]:
    """Of how many units each width has to be a multiple, so that every axis that is
    spread over devices can be; widths of any size aren't named."""
    cuts = {path: pieces(array) for path, array in array_leaves(tree).items()}
    found = {}
    for width in anatomy.all_widths:
        multiple = 1
        for m in width.members:
            count = cuts.get(m.path, {}).get(m.axis, 1)
            if count > 1:
                layout = anatomy.leaves[m.leaf].layouts[m.axis]
                per_unit = positions(layout, m.place).size // width.size
                multiple = math.lcm(multiple, count // math.gcd(count, per_unit))
        if multiple > 1:
            found[width.name] = multiple
    return found
