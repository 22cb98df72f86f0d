"""Factorizations that are done one after the other, also under `vmap`.

Given a batch, jaxlib's kernels on processors share it out among XLA's threads, and wait
for them on one of these. Two such in a program, which XLA may run at once, wait for
each other where there are two threads (jaxlib 0.10.2): a population of policies, or
two widths of one, would stand still for ever. One matrix at a time waits for nobody.
"""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_batching.sequential_vmap
def eigh(matrix: Any) -> tuple[Any, Any]:
    """Eigenvalues, ascending, and vectors of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@jax.custom_batching.sequential_vmap
def svd(matrix: Any) -> tuple[Any, Any, Any]:
    """The thin singular value decomposition."""
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, values, right


@jax.custom_batching.sequential_vmap
def solve(matrix: Any, wanted: Any) -> Any:
    """The solution of `matrix @ x = wanted`."""
    return jnp.linalg.solve(matrix, wanted)
