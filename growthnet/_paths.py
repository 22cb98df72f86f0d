"""Leaves of a tree by name: `layers[0].weight`, `mlp.w1`."""

import collections
import functools as ft
import re
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from ._libraries.kinds import is_box, node_kind


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
            parts.append(key_part(key.key))
        else:
            parts.append(f"[{getattr(key, 'key', key)}]")
    return tuple(parts)


def key_part(name: Any) -> str:
    """One key of a dictionary, or one attribute, as a printable part."""
    ok = isinstance(name, str) and name.isidentifier()
    return name if ok else f"[{name!r}]"


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
    """Every leaf with its name, in leaf order; names say nothing of boxes.

    What an Equinox `State` holds is named after the layer that it belongs to, as
    `[1].norm.ema_state_index[0]` for the `norm` of a network `(model, state)`. What is
    in a box that stands at several places has one name everywhere.
    """
    first: dict[int, tuple[Any, ...]] = {}
    found = []
    for path, node in _leaves(tree):
        if not _is_special(node):
            found.append((join(key_names(path)), node))
        elif is_state(node):
            entries = _entries(join(key_names(path)), node).values()
            found += [leaf for entry in entries for leaf in entry]
        else:
            path = first.setdefault(id(node), path)
            for (_, *inner), leaf in jtu.tree_flatten_with_path(node)[0]:
                found.append((join(key_names((*path, *inner))) or "value", leaf))
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
    return jtu.tree_flatten_with_path(tree, is_leaf=_is_special)[0]


def _is_special(node: Any) -> bool:
    return _special(type(node))


@ft.lru_cache(maxsize=4096)
def _special(cls: type) -> bool:
    return issubclass(cls, eqx.nn.State) or node_kind(cls).box


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
    """The same tree with Equinox states of its own, for a call to consume, and boxes of
    its own, to write to: NNX allows that at the level of the trace that made them."""
    return map_arrays(tree, {})


def array_leaves(tree: Any) -> dict[str, Any]:
    """The array leaves of a tree by name, in leaf order."""
    return {name: leaf for name, leaf in named_leaves(tree) if is_array(leaf)}


def map_arrays(tree: Any, new: dict[str, Any]) -> Any:
    """The tree with the named leaves replaced."""
    names = named_leaves(tree)
    replaced = [new.get(name, leaf) for name, leaf in names]
    result = jtu.tree_unflatten(jtu.tree_structure(tree), replaced)
    if len({name for name, _ in names}) < len(names):
        return _shared_alike(tree, result)
    return result


def _shared_alike(old: Any, new: Any) -> Any:
    """The new tree with boxes at several places where the old one has them."""
    boxes, treedef = jtu.tree_flatten(new, is_leaf=is_box)
    first: dict[int, Any] = {}
    pairs = zip(jtu.tree_leaves(old, is_leaf=is_box), boxes, strict=True)
    shared = [first.setdefault(id(a), b) if is_box(a) else b for a, b in pairs]
    return jtu.tree_unflatten(treedef, shared)


def shared_leaves(tree: Any) -> list[str]:
    """Names of the leaves that stand at several places."""
    names = [name for name, _ in named_leaves(tree)]
    return [name for name, count in collections.Counter(names).items() if count > 1]
