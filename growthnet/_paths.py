"""Leaves of a tree by name: `layers[0].weight`, `mlp.w1`."""

from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np


def is_array(leaf: Any) -> bool:
    """Arrays and descriptions of arrays; not Python numbers, which are static."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def key_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """A key path as printable parts; index-like parts carry their brackets."""
    parts = []
    for key in path:
        if isinstance(key, jtu.GetAttrKey):
            parts.append(key.name)
        elif isinstance(key, jtu.SequenceKey):
            parts.append(f"[{key.idx}]")
        elif isinstance(key, jtu.DictKey):
            name = key.key
            ok = isinstance(name, str) and name.isidentifier()
            parts.append(name if ok else f"[{name!r}]")
        else:
            parts.append(f"[{getattr(key, 'key', key)}]")
    return tuple(parts)


def join(parts: tuple[str, ...]) -> str:
    """`("layers", "[0]", "weight")` as `layers[0].weight`."""
    text = ""
    for part in parts:
        text += part if part.startswith("[") or not text else f".{part}"
    return text


def container_of(path: str) -> str:
    """`layers[0]` of `layers[0].weight`; empty at the root."""
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path.rpartition(".")[0]


def within(path: str, container: str) -> bool:
    """Is a leaf, or a container, inside a container (or the same)?"""
    start = (f"{container}.", f"{container}[")
    return not container or path == container or path.startswith(start)


def array_leaves(tree: Any) -> dict[str, Any]:
    """The array leaves of a tree by name, in leaf order."""
    leaves, _ = jtu.tree_flatten_with_path(tree)
    return {join(key_names(path)): leaf for path, leaf in leaves if is_array(leaf)}


def map_arrays(tree: Any, new: dict[str, Any]) -> Any:
    """The tree with the named leaves replaced."""
    leaves, treedef = jtu.tree_flatten_with_path(tree)
    replaced = [new.get(join(key_names(path)), leaf) for path, leaf in leaves]
    return jtu.tree_unflatten(treedef, replaced)
