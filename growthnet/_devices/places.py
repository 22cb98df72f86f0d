"""The places of a run's arrays on a mesh, which its programs give back as they were.

Left to itself XLA chooses the shardings of a program's results: a bias that was on all
devices comes back in pieces, since its layer's weights are. Then the next call compiles
anew, and an edit finds other places than the user gave. So a run remembers its places.
"""

import dataclasses
import functools as ft
from typing import Any

import jax
import jax.tree_util as jtu
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .placement import put_at


@jtu.register_static
@dataclasses.dataclass(frozen=True)
class Places:
    """The sharding of each leaf of a tree that is on a mesh, by its key path. Static:
    a program is traced for the places of its arrays."""

    by_path: tuple[tuple[Any, NamedSharding], ...]

    @ft.cached_property
    def _hash(self) -> int:
        return hash(self.by_path)

    def __hash__(self) -> int:
        return self._hash


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh of more than one device that the arrays of a tree are on, if any."""
    for leaf in jax.tree.leaves(tree):
        sharding = _known(leaf)
        if sharding is not None and sharding.num_devices > 1:
            assert isinstance(sharding.mesh, Mesh)
            return sharding.mesh
    return None


def _known(leaf: Any) -> NamedSharding | None:
    """The sharding of an array on a mesh."""
    if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array):
        return None
    return leaf.sharding if isinstance(leaf.sharding, NamedSharding) else None


def on_mesh(tree: Any, mesh: Mesh | None) -> Any:
    """The tree with the arrays that have no place of their own on every device of a
    mesh: what programs give back is there, and one program takes both."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    loose = lambda x: isinstance(x, jax.Array) and not isinstance(x, Tracer)
    put = lambda x: put_at(x, everywhere)
    return jax.tree.map(lambda x: put(x) if loose(x) and not x.committed else x, tree)


def places_of(tree: Any) -> Places | None:
    """Where the arrays of a tree are; nothing where no mesh is."""
    if mesh_of(tree) is None:
        return None
    found = ((p, _known(leaf)) for p, leaf in jtu.tree_leaves_with_path(tree))
    # Axes of an explicit mesh are part of types, and never get lost.
    free = lambda s: AxisType.Explicit not in s.mesh.axis_types
    return Places(tuple((p, s) for p, s in found if s is not None and free(s)))


def everywhere(tree: Any, places: Places | None) -> Any:
    """In a program: the tree with its arrays whole on every device, for every process
    to read."""
    if places is None or not places.by_path:
        return tree
    whole = places.by_path[0][1].update(spec=PartitionSpec())
    whole_ = lambda x: jax.lax.with_sharding_constraint(x, whole)
    return jax.tree.map(lambda x: whole_(x) if isinstance(x, jax.Array) else x, tree)


def pinned(tree: Any, places: Places | None) -> Any:
    """In a program: the tree with its arrays at these places."""
    if places is None:
        return tree
    known = dict(places.by_path)

    def pin(path: Any, leaf: Any) -> Any:
        sharding = known.get(path)
        if sharding is None or not isinstance(leaf, jax.Array):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jtu.tree_map_with_path(pin, tree)
