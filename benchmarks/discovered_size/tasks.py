"""Teachers with hidden tanh units, their data, and the students that learn them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


TRAIN, VALID, TEST = 512, 256, 1024
INPUTS = 4


class Student(eqx.Module):
    """A perceptron whose hidden layers may have different widths."""

    layers: list[eqx.nn.Linear]

    def __init__(self, widths: tuple[int, ...], *, key: Any):
        sizes = (INPUTS, *widths, 1)
        keys = jr.split(key, len(sizes))
        self.layers = [
            eqx.nn.Linear(a, b, key=k)
            for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=False)
        ]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        return self.layers[-1](x)


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def teacher(key: Any, hidden: tuple[int, ...], x: Any) -> Any:
    keys = jr.split(key, 2 * len(hidden) + 1)
    for i, width in enumerate(hidden):
        weight = 1.5 * jr.normal(keys[2 * i], (x.shape[-1], width))
        bias = 0.5 * jr.normal(keys[2 * i + 1], (width,))
        x = jnp.tanh(x @ weight / np.sqrt(x.shape[-1]) + bias)
    return x @ jr.normal(keys[-1], (x.shape[-1], 1))


def data(seed: int, hidden: tuple[int, ...], noise: float) -> dict[str, Any]:
    """Every seed draws a teacher, its data and its noise. Test data come with the noise
    and without."""
    k1, k2, k3 = jr.split(jr.key(seed), 3)
    x = jr.normal(k1, (TRAIN + VALID + TEST, INPUTS))
    clean = teacher(k2, hidden, x)
    clean = (clean - clean.mean()) / clean.std()
    y = clean + noise * jr.normal(k3, clean.shape)
    a, b = TRAIN, TRAIN + VALID
    return {
        "train": (x[:a], y[:a]),
        "valid": (x[a:b], y[a:b]),
        "test": (x[b:], y[b:]),
        "clean": (x[b:], clean[b:]),
    }


def stacked(seeds: range, hidden: list[tuple[int, ...]], noises: list[float]) -> Any:
    """All teachers, noises and seeds, in this order, along one axis; and keys."""
    all_ = [data(s, h, n) for h in hidden for n in noises for s in seeds]
    keys = [jr.key(10_000 + s) for _ in hidden for _ in noises for s in seeds]
    return jax.tree.map(lambda *a: jnp.stack(a), *all_), jnp.stack(keys)


def forward(widths: Any) -> Any:
    """FLOPs of one example through a student (a tanh counts as one)."""
    sizes = [INPUTS, *widths, 1]
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return sum(2.0 * a * b for a, b in pairs) + sum(widths)
