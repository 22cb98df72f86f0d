"""A few steps of descent inside a decision."""

from typing import Any

import jax
import jax.numpy as jnp


def adam(gradient: Any, params: Any, steps: int, rate: Any) -> Any:
    """Adam (Kingma and Ba, arXiv 1412.6980)."""
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(state: Any, i: Any) -> tuple[Any, None]:
        params, mean, square = state
        slope = gradient(params)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, square, slope)
        far = rate * jnp.sqrt(1 - 0.99**i) / (1 - 0.9**i)
        move = lambda p, m, v: p - (far * m / (jnp.sqrt(v) + 1e-8)).astype(p.dtype)
        return (jax.tree.map(move, params, mean, square), mean, square), None

    numbers = jnp.arange(1.0, steps + 1)
    return jax.lax.scan(step, (params, zeros, zeros), numbers)[0][0]
