"""Leaves of a tree by name: `layers[0].weight`, `mlp.w1`."""

import re
from typing import Any

import equinox as eqx
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


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf with its name, in leaf order.

    What an Equinox `State` holds is named after the layer that it belongs to, as
    `[1].norm.ema_state_index[0]` for the `norm` of a network `(model, state)`.
    """
    found = []
    for path, leaf in _leaves(tree):
        name = join(key_names(path))
        if is_state(leaf):
            found += [x for entry in _entries(name, leaf).values() for x in entry]
        else:
            found.append((name, leaf))
    return found


def states(tree: Any) -> list[dict[Any, list[tuple[str, Any]]]]:
    """Every Equinox `State` in a tree: the named leaves of each of its entries."""
    return [_entries(join(key_names(p)), s) for p, s in _leaves(tree) if is_state(s)]


def _entries(name: str, state: eqx.nn.State) -> dict[Any, list[tuple[str, Any]]]:
    values, markers = state.tree_flatten()
    found = {}
    for i, (marker, value) in enumerate(zip(markers, values, strict=True)):
        owner = _owner(marker, i)
        start = f"{name}.{owner}" if name and owner[0] != "[" else name + owner
        found[marker] = [
            (join((start, *key_names(path))), leaf) for path, leaf in _leaves(value)
        ]
    return found


def _leaves(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    return jtu.tree_flatten_with_path(tree, is_leaf=is_state)[0]


def is_state(tree: Any) -> bool:
    """Is this the state of an Equinox model?"""
    return isinstance(tree, eqx.nn.State)


def _owner(marker: Any, index: int) -> str:
    """`norm.ema_state_index` of `Model.norm.ema_state_index`, as Equinox's
    `make_with_state` marks it; without such a mark, the place in the state."""
    found = (
        re.fullmatch(r"\w+?((\.|\[).+)", marker) if isinstance(marker, str) else None
    )
    return found[1].removeprefix(".") if found else f"[{index}]"


def fresh(tree: Any) -> Any:
    """The same tree with Equinox states of its own, for a call to consume."""
    return jtu.tree_map(lambda leaf: leaf, tree)


def array_leaves(tree: Any) -> dict[str, Any]:
    """The array leaves of a tree by name, in leaf order."""
    return {name: leaf for name, leaf in named_leaves(tree) if is_array(leaf)}


def map_arrays(tree: Any, new: dict[str, Any]) -> Any:
    """The tree with the named leaves replaced."""
    replaced = [new.get(name, leaf) for name, leaf in named_leaves(tree)]
    return jtu.tree_unflatten(jtu.tree_structure(tree), replaced)
