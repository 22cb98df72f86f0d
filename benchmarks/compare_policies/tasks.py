"""Data and networks: scikit-learn's digits, MNIST-1D, tanh perceptrons."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from .. import digits as images
from ..mnist_1d import mnist1d as made_mnist1d


MOST = 64
"""Units that a width can have."""


class Perceptron(eqx.Module):
    """tanh layers and a linear one. With `masks`, only some units of each are there."""

    weights: list[Any]
    biases: list[Any]
    masks: list[Any] | None = None

    def __call__(self, x: Any) -> Any:
        for i, (weight, bias) in enumerate(
            zip(self.weights[:-1], self.biases[:-1], strict=True)
        ):
            x = jnp.tanh(weight @ x + bias)
            if self.masks is not None:
                x = jnp.where(self.masks[i], x, 0)
        return self.weights[-1] @ x + self.biases[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`data(key)` is `(train, valid, test)`, each `(x, y)`."""

    name: str
    inputs: int
    hidden: int
    data: Callable[[Any], tuple[Any, Any, Any]]

    def network(self, key: Any, sizes: Any, most: int = 0) -> Perceptron:
        """A network of `sizes` units by hidden layer: the same numbers, whether cut to
        size or, with sizes that may be traced, of `most` units and masked."""
        widths = [self.inputs, *[MOST] * self.hidden, 10]
        fans = [self.inputs, *[sizes[i] for i in range(self.hidden)]]
        weights, biases = [], []
        for i, fan in enumerate(fans):
            keys = jr.split(jr.fold_in(key, i))
            scale = 1 / jnp.sqrt(jnp.asarray(fan, float))
            draw = ft.partial(jr.uniform, minval=-1.0)
            weights.append(scale * draw(keys[0], (widths[i + 1], widths[i])))
            biases.append(scale * draw(keys[1], (widths[i + 1],)))
        masks, ends = None, [self.inputs, *sizes, 10]
        if most:
            masks = [jnp.arange(most) < sizes[i] for i in range(self.hidden)]
            ends = [self.inputs, *[most] * self.hidden, 10]
        weights = [w[: ends[i + 1], : ends[i]] for i, w in enumerate(weights)]
        pairs = zip(biases, ends[1:], strict=True)
        return Perceptron(weights, [bias[:end] for bias, end in pairs], masks)


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    each = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(net)(x), y)
    return jnp.mean(each)


def error(net: Any, data: Any) -> Any:
    """The part of the examples that is told wrong, in percent."""
    x, y = data
    return 100 * jnp.mean(jnp.argmax(jax.vmap(net)(x), axis=-1) != y)


def digits() -> Task:
    """8 x 8 images, 800 to train, 400 held out, 597 to test, parted anew by seed. One
    hidden layer."""
    x, y = images.digits()
    return Task("digits", 64, 1, lambda key: images.parted(x, y, key))


def mnist1d() -> Task:
    """MNIST-1D: 3,000 to train and 1,000 held out, parted anew by seed, and its 1,000
    to test. Two hidden layers."""
    (x, y), test = made_mnist1d()

    def data(key: Any) -> tuple[Any, Any, Any]:
        order = jr.permutation(key, len(y))
        train, valid = [(x[rows], y[rows]) for rows in (order[:3000], order[3000:])]
        return train, valid, test

    return Task("mnist1d", 40, 2, data)


TASKS = {"digits": digits, "mnist1d": mnist1d}
