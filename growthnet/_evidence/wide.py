"""One precision for all evidence of a network.

A policy computes: scores, least squares, eigenvectors. In half precision that is too
coarse or isn't there at all, and where leaves differ it would have to bring them
together first. So whatever it is given has one precision, and what it gives back takes
the precision of the leaf that it is for.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .._paths import is_array


def wide_type(tree: Any) -> Any:
    """JAX's default float type, or that of the network's widest leaf if it is wider."""
    kinds = [leaf.dtype for leaf in jax.tree.leaves(tree) if is_array(leaf)]
    real = [jnp.finfo(k).dtype for k in kinds if jnp.issubdtype(k, jnp.inexact)]
    return max([jnp.zeros(()).dtype, *real], key=lambda dtype: dtype.itemsize)


def widened(tree: Any, wide: Any) -> Any:
    """The tree with its floating point arrays in a wider type; complex ones in that of
    their parts."""

    def widen(leaf: Any) -> Any:
        if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype(jnp.complex128 if wide.itemsize > 4 else jnp.complex64)
        return leaf.astype(wide)

    return jax.tree.map(widen, tree)
