"""What is run: networks, steps, arms, rates and seeds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from growthnet_policies import SCORES

from .. import digits
from ..fashion_mnist import fashion_mnist


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`pool()` is all images and labels; `rows(key)` says which of them are for
    training, held out, and for tests. `look` is how many of the training examples a
    pruning looks at; `more` are the steps after it."""

    name: str
    inputs: int
    pool: Callable[[], tuple[Any, Any]]
    rows: Callable[[Any], tuple[Any, Any, Any]]
    steps: int
    more: int
    look: int


def fashion_pool() -> tuple[Any, Any]:
    """The 60,000 and after them the 10,000 to test."""
    parts = fashion_mnist(), fashion_mnist(test=True)
    x, y = (np.concatenate(both) for both in zip(*parts, strict=True))
    return jnp.asarray(x), jnp.asarray(y)


def fashion_rows(key: Any) -> tuple[Any, Any, Any]:
    order = jr.permutation(key, 60_000)
    return order[:50_000], order[50_000:], jnp.arange(60_000, 70_000)


TASKS = {
    task.name: task
    for task in (
        Task("digits", 64, digits.digits, digits.rows, 800, 200, 800),
        Task("fashion", 784, fashion_pool, fashion_rows, 3_000, 750, 4_000),
    )
}
WIDTH, KEPT = 64, (32, 16, 8)
"""Units of both hidden layers, at first and after pruning."""
BATCH = 64
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING, SEEDS = 3, 10
ARMS = [f"{score} silence" for score in SCORES]
ARMS += [f"{s} {r}" for s in ("random", "fisher") for r in ("absorb", "refit")]


def keys(*, tuning: bool) -> Any:
    return jr.split(jr.key(99 if tuning else 0), TUNING if tuning else SEEDS)
