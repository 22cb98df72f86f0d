"""Which leaves of a network are trained."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu

from .._libraries.kinds import node_kind
from .._paths import is_state, named_leaves


class TrainableSpec:
    """Picks the trained leaves of any tree shaped like the network.

    A tree of booleans is remembered by leaf path, since the structure of a network
    changes with its sizes. A class means the leaves inside its instances. Without a
    choice, every inexact array is trained except inside `eqx.nn.State`, and in Flax
    NNX what isn't in a `Param`: running statistics, integers, keys and counters never
    are.
    """

    def __init__(self, spec: Any = None):
        self._class = spec if isinstance(spec, type) else None
        self._function: Callable[[Any], Any] | None = None
        self._paths: dict[str, bool] | None = None
        if spec is None or self._class is not None:
            return
        if callable(spec) and not _is_tree(spec):
            self._function = spec
            return
        named = named_leaves(spec)
        self._paths = {name: leaf for name, leaf in named if isinstance(leaf, bool)}
        if not self._paths:
            raise ValueError(
                "trainable has no booleans; give a tree of booleans shaped like "
                "the network, a function of a leaf, or a class"
            )

    def of(self, tree: Any) -> Any:
        """The tree with everything that isn't trained replaced by `None`."""
        learns = _marks(tree, lambda cls: node_kind(cls).learns, True)
        if self._class is not None:
            of_class = _marks(tree, self._is_class, False)
            # Who names a type of variables means these.
            named = node_kind(self._class).box
            learns = [x and (y or named) for x, y in zip(of_class, learns, strict=True)]
        pairs = zip(named_leaves(tree), learns, strict=True)
        leaves = [x if self._picks(n, x, yes) else None for (n, x), yes in pairs]
        picked = jtu.tree_unflatten(jtu.tree_structure(tree), leaves)
        return jtu.tree_map(
            lambda leaf: None if is_state(leaf) else leaf, picked, is_leaf=is_state
        )

    def _picks(self, name: str, leaf: Any, learns: bool) -> bool:
        if not eqx.is_inexact_array(leaf):
            return False
        if self._paths is not None:
            return self._paths.get(name, False)
        if self._function is not None:
            return learns and bool(self._function(leaf))
        return learns

    def _is_class(self, cls: type) -> bool | None:
        return True if issubclass(cls, self._class or object) else None


def _marks(tree: Any, says: Callable[[type], bool | None], default: bool) -> list[bool]:
    """For each leaf, what the innermost node around it says of whether it is trained;
    `default` where none does."""
    said = says(type(tree))
    default = default if said is None else said
    stop = lambda node: node is not tree and says(type(node)) is not None
    marks = []
    for node in jtu.tree_leaves(tree, is_leaf=stop):
        marks += _marks(node, says, default) if stop(node) else [default]
    return marks


def _is_tree(spec: Any) -> bool:
    leaves = jax.tree.leaves(spec)
    return bool(leaves) and all(isinstance(leaf, bool) for leaf in leaves)
