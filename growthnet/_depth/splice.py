"""Entries come into a list of layers, or leave it, in any tree shaped like the network.

A tuple or list deep inside a tree is found by the keys that lead to it, and the nodes
above it are rebuilt one level at a time by JAX's own registry. So the same code serves
modules of any library, plain containers, averages, gradients, and (as tree structures)
optimizer states.
"""

import dataclasses
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import Any

import jax.tree_util as jtu

from .._paths import join, key_names


@dataclasses.dataclass(frozen=True)
class Splice:
    """Of the `size` entries of the sequence at `keys`, `drop` ones from `index` on make
    way for `born` new ones."""

    keys: tuple[Any, ...]
    size: int
    index: int
    drop: int = 0
    born: int = 0

    @property
    def name(self) -> str:
        """`layers`; empty if the whole network is the sequence."""
        return join(key_names(self.keys))

    def entry(self, index: int) -> str:
        """`layers[2]`."""
        return f"{self.name}[{index}]"

    @property
    def inverse(self) -> "Splice":
        size = self.size + self.born - self.drop
        return Splice(self.keys, size, self.index, self.born, self.drop)

    def origins(self, count: int) -> list[int | None]:
        """Per child of the new node, the child of the old one, which had `count`.

        Some nodes have children after their entries; those go with the last.
        """
        children: list[int | None] = list(range(count))
        children[self.index : self.index + self.drop] = [None] * self.born
        return children

    def applied(self, sequence: Any, entries: Sequence[Any]) -> Any:
        """The sequence with the new entries in it."""
        items = list(sequence)
        items[self.index : self.index + self.drop] = entries
        return type(sequence)(items)

    def matched(self, old: Any, new: Any) -> list[int | None]:
        """Per leaf of a tree structure, the leaf of the structure before the splice
        that it comes from: `None` for what is new, or stands elsewhere now.

        The structures are those of trees that hold the network, or parts of it, any
        number of times: only inside the spliced sequence do nodes change their arity.
        """
        return list(self._walk(old, new, 0))

    def _walk(self, old: Any, new: Any, start: int) -> Iterator[int | None]:
        if _is_leaf(old) and _is_leaf(new):
            yield start
            return
        origins = self._child_origins(old, new)
        if origins is None:
            yield from [None] * new.num_leaves
            return
        olds = old.children()
        starts = [start]
        for child in olds:
            starts.append(starts[-1] + child.num_leaves)
        for child, i in zip(new.children(), origins, strict=True):
            if i is None:
                yield from [None] * child.num_leaves
            else:
                yield from self._walk(olds[i], child, starts[i])

    def _child_origins(self, old: Any, new: Any) -> Sequence[int | None] | None:
        if _is_leaf(old) or _is_leaf(new):
            return None
        (kind, data), (kind2, data2) = old.node_data(), new.node_data()
        count, count2 = len(old.children()), len(new.children())
        if kind is not kind2:
            return None
        if count == count2:
            return None if kind is dict and data != data2 else range(count)
        if count >= self.size and count2 - count == self.born - self.drop:
            return self.origins(count)
        return None


def _is_leaf(structure: Any) -> bool:
    return structure.num_nodes == 1 and structure.num_leaves == 1


def children(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """A node's children with their keys, one level down, and how to rebuild it. A leaf
    has none."""
    pairs, structure = jtu.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if _is_leaf(structure):
        return [], structure
    return [(path[0], child) for path, child in pairs], structure


def is_sequence(node: Any) -> bool:
    """Tuples and lists, also those of other libraries, but not named tuples."""
    return isinstance(node, tuple | MutableSequence) and not hasattr(node, "_fields")


def sequences(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Every sequence inside a tree with the keys that lead to it, outermost first."""
    if is_sequence(tree):
        yield keys, tree
    for key, child in children(tree)[0]:
        yield from sequences(child, (*keys, key))


def node_at(tree: Any, keys: Sequence[Any]) -> Any:
    """The node that the keys lead to."""
    for key in keys:
        tree = dict(children(tree)[0])[key]
    return tree


def replaced(
    tree: Any,
    keys: Sequence[Any],
    new: Callable[[Any], Any],
    mend: Callable[[int, Any, Any], Any] = lambda level, old, made: made,
    level: int = 0,
) -> Any:
    """The tree with another node at `keys`.

    `mend(level, old, made)` may correct each rebuilt node above it, innermost first;
    the root has level 0.
    """
    if level == len(keys):
        return new(tree)
    pairs, structure = children(tree)
    changed = [
        replaced(child, keys, new, mend, level + 1) if key == keys[level] else child
        for key, child in pairs
    ]
    return mend(level, tree, structure.unflatten(changed))
