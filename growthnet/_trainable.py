"""Which leaves of a network are trained."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu

from ._paths import is_state, join, key_names, named_leaves


class TrainableSpec:
    """Picks the trained leaves of any tree shaped like the network.

    A tree of booleans is remembered by leaf path, since the structure of a network
    changes with its sizes. Without a choice, every inexact array is trained except
    inside `eqx.nn.State`: running statistics, integers, keys and counters never are.
    """

    def __init__(self, spec: Any = None):
        self._function = spec if callable(spec) and not _is_tree(spec) else None
        self._paths: dict[str, bool] | None = None
        if spec is not None and self._function is None:
            self._paths = {
                name: leaf
                for name, leaf in named_leaves(spec)
                if isinstance(leaf, bool)
            }
            if not self._paths:
                raise ValueError(
                    "trainable has no booleans; give a tree of booleans shaped like "
                    "the network, or a function of a leaf"
                )

    def of(self, tree: Any) -> Any:
        """The tree with everything that isn't trained replaced by `None`."""

        def pick(path: tuple, leaf: Any) -> Any:
            if is_state(leaf) or not eqx.is_inexact_array(leaf):
                return None
            if self._function is not None:
                return leaf if self._function(leaf) else None
            if self._paths is not None:
                return leaf if self._paths.get(join(key_names(path)), False) else None
            return leaf

        return jtu.tree_map_with_path(pick, tree, is_leaf=is_state)


def _is_tree(spec: Any) -> bool:
    leaves = jax.tree.leaves(spec)
    return bool(leaves) and all(isinstance(leaf, bool) for leaf in leaves)
