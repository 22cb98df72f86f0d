"""Five networks with their data: perceptrons, convolutions, a residual stream, a small
transformer. Each starts narrow; all its hidden widths grow together."""

import dataclasses
import pydoc_data.topics
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits


Arrays = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, its data and how it grows.

    - `make`: a network from a key.
    - `data`: training, validation and test data from a key.
    - `score`: the loss of one example from outputs and target.
    - `widths`: which of them grow, `add` units at a time, `first` units at the start.
    - `together`: is it faster to train all members in one batch?
    """

    make: Callable[[Any], Any]
    data: Callable[[Any], tuple[Arrays, Arrays, Arrays]]
    score: Callable[[Any, Any], Any]
    widths: str
    first: int
    add: int
    steps: int = 2400
    batch: int = 32
    together: bool = True

    @property
    def births(self) -> tuple[int, ...]:
        """A third of the run goes before the first of four, a sixth after each."""
        return tuple(self.steps * n // 6 for n in (2, 3, 4, 5))

    @property
    def capacity(self) -> int:
        return self.first + len(self.births) * self.add

    def loss(self, net: Any, batch: Arrays, key: Any) -> Any:
        del key
        x, y = batch
        return jnp.mean(jax.vmap(self.score)(jax.vmap(net)(x), y))


def classes(logits: Any, label: Any) -> Any:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses)


def squares(output: Any, target: Any) -> Any:
    return jnp.mean((output - target) ** 2)


def parted(x: Any, y: Any, train: int, held: int) -> tuple[Arrays, Arrays, Arrays]:
    at = lambda a, b: (x[a:b], y[a:b])
    end = train + held
    return at(0, train), at(train, end), at(end, end + held)


# --- digits, as vectors and as images


def digits(key: Any) -> Any:
    del key
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 8 - 1).astype(np.float32), y[order].astype(np.int32)
    return parted(jnp.asarray(x), jnp.asarray(y), 1000, 398)


class Convolutions(eqx.Module):
    """Two convolutions, the second with a stride, and a readout of its mean."""

    layers: list[eqx.nn.Conv2d]
    readout: eqx.nn.Linear

    def __init__(self, channels: int, *, key: Any):
        keys = jr.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, channels, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(channels, channels, 3, stride=2, padding=1, key=keys[1]),
        ]
        self.readout = eqx.nn.Linear(channels, 10, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = x.reshape(1, 8, 8)
        for layer in self.layers:
            x = jax.nn.relu(convolved(layer, x))
        return self.readout(jnp.mean(x, axis=(1, 2)))


def convolved(layer: eqx.nn.Conv2d, x: Any) -> Any:
    """`layer(x)` as a sum over shifts: XLA's convolutions are slow on a CPU where their
    kernels are a batch too."""
    stride, size = layer.stride[0], x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    rows = [padded[:, i : i + size : stride] for i in range(3)]
    shifts = [[r[..., j : j + size : stride] for j in range(3)] for r in rows]
    patches = jnp.stack([jnp.stack(row) for row in shifts])
    assert layer.bias is not None
    return jnp.einsum("oikl,klihw->ohw", layer.weight, patches) + layer.bias


# --- spirals


def spirals(key: Any) -> Any:
    """Three arms of one and a half turns, with noise in the angle."""
    k1, k2, k3 = jr.split(key, 3)
    count = 512 + 2 * 512
    label = jr.randint(k1, (count,), 0, 3)
    radius = jr.uniform(k2, (count,), minval=0.1)
    turn = 3 * jnp.pi * radius + 2 * jnp.pi / 3 * label
    turn = turn + 0.2 * jr.normal(k3, (count,))
    x = 2 * radius[:, None] * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)
    return parted(x, label, 512, 512)


# --- a teacher, for a student with a residual stream


class Residual(eqx.Module):
    """A stream of 24 numbers; blocks of a norm, two layers and a sum."""

    embed: eqx.nn.Linear
    norms: list[eqx.nn.LayerNorm]
    up: list[eqx.nn.Linear]
    down: list[eqx.nn.Linear]
    readout: eqx.nn.Linear

    def __init__(self, hidden: int, *, key: Any, blocks: int = 4, stream: int = 24):
        keys = jr.split(key, 2 * blocks + 2)
        linear = eqx.nn.Linear
        self.embed = linear(8, stream, key=keys[0])
        self.readout = linear(stream, 1, key=keys[1])
        self.norms = [eqx.nn.LayerNorm(stream) for _ in range(blocks)]
        self.up = [linear(stream, hidden, key=k) for k in keys[2::2]]
        self.down = [linear(hidden, stream, key=k) for k in keys[3::2]]

    def __call__(self, x: Any) -> Any:
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(jax.nn.relu(up(norm(x))))
        return self.readout(x)


def taught(key: Any) -> Any:
    """Two layers of 32 tanh units, on 8 normal inputs; targets of variance one."""
    keys = jr.split(key, 4)
    x = jr.normal(keys[0], (1024 + 2 * 512, 8))
    y = x
    for k, (n, m) in zip(keys[1:3], ((8, 32), (32, 32)), strict=True):
        y = jnp.tanh(y @ jr.normal(k, (n, m)) * 2 / np.sqrt(n))
    y = y @ jr.normal(keys[3], (32, 1))
    return parted(x, (y - y.mean()) / y.std(), 1024, 512)


# --- the next letter


LETTERS, LENGTH = 64, 32


class Transformer(eqx.Module):
    """Two blocks before whose layers the stream is normalised; two heads each."""

    embed: eqx.nn.Embedding
    places: Any
    norms: list[eqx.nn.LayerNorm]
    attention: list[eqx.nn.MultiheadAttention]
    up: list[eqx.nn.Linear]
    down: list[eqx.nn.Linear]
    readout: eqx.nn.Linear

    def __init__(self, hidden: int, *, key: Any, blocks: int = 2, stream: int = 32):
        keys = jr.split(key, 3 * blocks + 3)
        self.embed = eqx.nn.Embedding(LETTERS, stream, key=keys[0])
        self.places = 0.1 * jr.normal(keys[1], (LENGTH, stream))
        self.readout = eqx.nn.Linear(stream, LETTERS, key=keys[2])
        self.norms = [eqx.nn.LayerNorm(stream) for _ in range(2 * blocks)]
        attend = lambda k: eqx.nn.MultiheadAttention(2, stream, key=k)
        self.attention = [attend(k) for k in keys[3::3]]
        self.up = [eqx.nn.Linear(stream, hidden, key=k) for k in keys[4::3]]
        self.down = [eqx.nn.Linear(hidden, stream, key=k) for k in keys[5::3]]

    def __call__(self, letters: Any) -> Any:
        x = jax.vmap(self.embed)(letters) + self.places
        mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        for i, attention in enumerate(self.attention):
            y = jax.vmap(self.norms[2 * i])(x)
            x = x + attention(y, y, y, mask)
            y = jax.vmap(self.norms[2 * i + 1])(x)
            x = x + jax.vmap(self.down[i])(jax.nn.relu(jax.vmap(self.up[i])(y)))
        return jax.vmap(self.readout)(x)


def letters(key: Any) -> Any:
    """Pieces of Python's own help texts; rare letters are one letter."""
    del key
    topics = pydoc_data.topics.topics
    text = np.frombuffer("\n".join(topics[k] for k in sorted(topics)).encode(), "u1")
    kinds, counts = np.unique(text, return_counts=True)
    common = np.sort(kinds[np.argsort(-counts)[: LETTERS - 1]])
    codes = np.where(np.isin(text, common), np.searchsorted(common, text) + 1, 0)
    pieces = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    order = np.random.default_rng(0).permutation(len(pieces))
    pieces = jnp.asarray(pieces[order], jnp.int32)
    return parted(pieces[:, :-1], pieces[:, 1:], 12_000, 128)


def perceptron(inputs: int, outputs: int, units: int, activation: Any) -> Any:
    return lambda key: eqx.nn.MLP(
        inputs, outputs, units, 2, activation=activation, key=key
    )


TASKS = {
    "digits, perceptron": Task(
        perceptron(64, 10, 8, jax.nn.relu), digits, classes, "layers[*]", 8, 4
    ),
    "spirals, perceptron": Task(
        perceptron(2, 3, 6, jnp.tanh), spirals, classes, "layers[*]", 6, 4
    ),
    "teacher, residual": Task(
        lambda key: Residual(4, key=key), taught, squares, "up[*]", 4, 4
    ),
    "digits, convolutions": Task(
        lambda key: Convolutions(4, key=key),
        digits,
        classes,
        "layers[*]",
        4,
        4,
        steps=1200,
    ),
    "letters, transformer": Task(
        lambda key: Transformer(8, key=key),
        letters,
        classes,
        "up[*]",
        8,
        8,
        steps=1200,
        batch=8,
        together=False,
    ),
}
