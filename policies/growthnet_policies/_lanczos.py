"""Smallest eigenvalues of many symmetric matrices, by products alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._factorizations import eigh


def lowest(
    multiply: Callable[[Any], Any], start: Any, products: int, length: Any = 1.0
) -> tuple[Any, Any]:
    """The smallest eigenvalue of each of many symmetric matrices, and its vector.

    Lanczos' method, with every new direction made orthogonal to all that there are.

    **Arguments:**

    - `multiply`: vectors `[count, entries]`, one for each matrix, to their products.
    - `start`: such vectors, to start from.
    - `products`: how many are computed at most.
    - `length`: of the vectors that are returned.

    **Returns:** `[count]`, `[count, entries]`. A matrix that has no eigenvalue below 0
    may get a 0.
    """
    start = start.astype(np.promote_types(start.dtype, np.float32))
    steps = min(products, start.shape[1])
    size = lambda v: jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    small = jnp.sqrt(jnp.finfo(start.dtype).eps)

    def unit(vectors: Any, beside: Any) -> Any:
        # What is left of a product may be nothing but rounding.
        real = size(vectors) > small * beside
        return jnp.where(real, vectors / jnp.where(real, size(vectors), 1), 0)

    def step(i: Any, state: Any) -> Any:
        basis, given = state
        product = multiply(basis[i])
        rest = product
        for _ in range(2):
            shares = jnp.einsum("kue,ue->ku", basis, rest)
            rest = rest - jnp.einsum("kue,ku->ue", basis, shares)
        basis = basis.at[i + 1].set(unit(rest, size(product)), mode="drop")
        return basis, given.at[i].set(product)

    empty = jnp.zeros((steps, *start.shape), start.dtype)
    first = empty.at[0].set(unit(start, jnp.zeros_like(start[:, :1])))
    basis, given = jax.lax.fori_loop(0, steps, step, (first, empty))
    small_ones = jnp.einsum("iue,jue->uij", basis, given)
    values, vectors = jax.vmap(eigh)((small_ones + small_ones.swapaxes(1, 2)) / 2)
    # The length goes in here, since a product that is added to something later could be
    # rounded in one program and not in another.
    shares = vectors[:, :, 0] * jnp.asarray(length, start.dtype)
    return values[:, 0], jnp.einsum("kue,uk->ue", basis, shares)
