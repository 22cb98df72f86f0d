"""Fashion-MNIST, an Equinox CNN of any sizes, its loss and what it gets wrong."""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from ..fashion_mnist import fashion_mnist


Sizes = tuple[int, int, int, int]
HELD_OUT = 10_000
SLOPE = 0.1
"""Of the rectifier below 0. With none, most newborns never speak."""
WIDTHS = ("layers[0]", "layers[2]", "layers[4]", "layers[7]")
"""Channels of three convolutions, units of the dense layer."""


def network(sizes: Sizes, key: Any) -> eqx.nn.Sequential:
    """Three convolutions, 28 x 28 to 14 x 14, 7 x 7, 4 x 4, and two dense layers."""
    first, second, third, dense = sizes
    keys = jr.split(key, 5)
    convolution = ft.partial(eqx.nn.Conv2d, kernel_size=3, stride=2, padding=1)
    relu = eqx.nn.Lambda(ft.partial(jax.nn.leaky_relu, negative_slope=SLOPE))
    return eqx.nn.Sequential(
        [
            convolution(1, first, key=keys[0]),
            relu,
            convolution(first, second, key=keys[1]),
            relu,
            convolution(second, third, key=keys[2]),
            relu,
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16 * third, dense, key=keys[3]),
            relu,
            eqx.nn.Linear(dense, 10, key=keys[4]),
        ]
    )


def params(sizes: Sizes) -> int:
    first, second, third, dense = sizes
    convolutions = 10 * first + (9 * first + 1) * second + (9 * second + 1) * third
    return convolutions + (16 * third + 1) * dense + (dense + 1) * 10


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    logits = jax.vmap(net)(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


@eqx.filter_jit
def measured(net: Any, part: Any) -> tuple[Any, Any]:
    """Loss, and the images that are told wrong in percent."""
    x, y = part
    logits = jax.vmap(net)(x)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(each), 100 * jnp.mean(jnp.argmax(logits, axis=-1) != y)


@ft.cache
def learnt() -> tuple[Any, Any]:
    """50,000 images to train and 10,000 held out, always the same ones."""
    x, y = fashion_mnist()
    x = _scaled(x)
    order = np.random.default_rng(0).permutation(len(y))
    parts = order[HELD_OUT:], order[:HELD_OUT]
    train, valid = [(jnp.asarray(x[rows]), jnp.asarray(y[rows])) for rows in parts]
    return train, valid


@ft.cache
def unseen() -> Any:
    """The 10,000 images of the test."""
    x, y = fashion_mnist(test=True)
    return jnp.asarray(_scaled(x)), jnp.asarray(y)


def _scaled(x: np.ndarray) -> np.ndarray:
    """By the mean and the deviation of all training pixels, as images of a channel."""
    return ((x - 0.286) / 0.353).reshape(-1, 1, 28, 28).astype(np.float32)
