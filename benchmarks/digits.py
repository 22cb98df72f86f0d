"""Scikit-learn's digits: 1,797 images of 8 x 8, and how most benchmarks part them."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
from sklearn.datasets import load_digits


TRAIN, VALID = 800, 400


def digits() -> tuple[Any, Any]:
    """Rows of 64 numbers in [0, 1], and labels."""
    known = load_digits()
    return jnp.asarray(known.data / 16, jnp.float32), jnp.asarray(known.target)


def rows(key: Any) -> tuple[Any, Any, Any]:
    """Which of them are for training (800), held out (400), and for tests (597)."""
    order = jr.permutation(key, 1797)
    return order[:TRAIN], order[TRAIN : TRAIN + VALID], order[TRAIN + VALID :]


def parted(x: Any, y: Any, key: Any) -> tuple[Any, Any, Any]:
    """`(train, valid, test)`, each `(x, y)`."""
    train, valid, test = [(x[own], y[own]) for own in rows(key)]
    return train, valid, test
