"""Networks with lists of layers, to make deeper."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


class Residual(eqx.Module):
    """A pre-norm block."""

    norm: eqx.nn.LayerNorm
    into: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, size, hidden, *, key):
        keys = jr.split(key)
        self.norm = eqx.nn.LayerNorm(size)
        self.into = eqx.nn.Linear(size, hidden, key=keys[0])
        self.out = eqx.nn.Linear(hidden, size, key=keys[1])

    def __call__(self, x):
        return x + self.out(jax.nn.gelu(self.into(self.norm(x))))


class Scaled(eqx.Module):
    """A block behind a gain per channel; leaf order isn't the order of use."""

    gain: jax.Array
    a_out: jax.Array
    b_into: jax.Array

    def __init__(self, size, hidden, *, key):
        keys = jr.split(key)
        self.gain = jnp.ones(size)
        self.a_out = 0.5 * jr.normal(keys[0], (size, hidden))
        self.b_into = 0.5 * jr.normal(keys[1], (hidden, size))

    def __call__(self, x):
        return x + self.gain * (self.a_out @ jax.nn.relu(self.b_into @ x))


class Attention(eqx.Module):
    """A transformer block: two residual branches."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, size, hidden, *, key):
        keys = jr.split(key)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(size), eqx.nn.LayerNorm(size)
        self.attention = eqx.nn.MultiheadAttention(1, size, key=keys[0])
        self.mlp = eqx.nn.MLP(size, size, hidden, 1, jax.nn.gelu, key=keys[1])

    def __call__(self, x):
        h = jax.vmap(self.norm1)(x)
        x = x + self.attention(h, h, h)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))


class Stack(eqx.Module):
    """Blocks and a head; the depth also stands in a static field."""

    blocks: list
    head: eqx.nn.Linear
    depth: int = eqx.field(static=True)

    def __init__(self, block, size, hidden, depth, *, key):
        first, *keys = jr.split(key, depth + 1)
        self.head = eqx.nn.Linear(size, 2, key=first)
        self.blocks = [block(size, hidden, key=k) for k in keys]
        self.depth = depth

    def __call__(self, x):
        for i in range(self.depth):
            x = self.blocks[i](x)
        return self.head(x) if x.ndim == 1 else jax.vmap(self.head)(x)


def relu_pairs(net, x):
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = net[-1]
    return x @ w + b


def relu_dicts(net, x):
    for layer in net["layers"]:
        x = jax.nn.relu(layer["w"] @ x)
    return net["out"] @ x


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one kind.

    - `make(width, depth, key)` builds one, `inputs(width)` says what it takes.
    - `at(depth)`: the places where a block is exact, by its name.
    - `kind`: of the block there.
    - `at_depth`: does the constructor, given another depth, make the same structure?
    """

    make: Callable[..., Any]
    inputs: Callable[[int], tuple[int, ...]]
    at: Callable[[int], list[str]]
    kind: str
    call: Callable[..., Any] | None = None
    at_depth: bool = True


def _mlp(width, depth, key, **options):
    return eqx.nn.MLP(3, 2, width, depth, key=key, **options)


def _sequential(width, depth, key):
    keys = jr.split(key, depth + 1)
    sizes = [3, *[width] * depth]
    layers = []
    for i in range(depth):
        layers.append(eqx.nn.Linear(sizes[i], sizes[i + 1], key=keys[i]))
        layers.append(eqx.nn.Lambda(jax.nn.relu))
    return eqx.nn.Sequential([*layers, eqx.nn.Linear(width, 2, key=keys[-1])])


def _pairs(width, depth, key):
    sizes, keys = [3, *[width] * depth, 2], jr.split(key, depth + 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jr.normal(k, (m, n)), 0.1 * jnp.arange(1.0, n + 1)) for k, m, n in shapes]


def _dicts(width, depth, key):
    first, *keys = jr.split(key, depth + 1)
    sizes = [3, *[width] * depth]
    weights = [jr.normal(k, (sizes[i + 1], sizes[i])) for i, k in enumerate(keys)]
    layers = tuple({"w": w} for w in weights)
    return {"layers": layers, "out": jr.normal(first, (2, width))}


def _stack(block):
    return lambda width, depth, key: Stack(block, 4, width, depth, key=key)


_hidden = lambda depth: [f"layers[{i}]" for i in range(1, depth + 1)]
_blocks = lambda depth: [f"blocks[{i}]" for i in range(depth + 1)]
_flat = lambda width: (3,)

FAMILIES = {
    "mlp": Family(_mlp, _flat, _hidden, "identity"),
    "mlp without biases": Family(
        lambda width, depth, key: _mlp(
            width, depth, key, use_bias=False, use_final_bias=False
        ),
        _flat,
        _hidden,
        "identity",
    ),
    "mlp with learned slopes": Family(
        lambda width, depth, key: _mlp(width, depth, key, activation=eqx.nn.PReLU(0.2)),
        _flat,
        _hidden,
        "identity",
    ),
    "sequential": Family(
        _sequential,
        _flat,
        lambda depth: [f"layers[{2 * i}]" for i in range(1, depth + 1)],
        "identity",
    ),
    "pairs": Family(
        _pairs,
        _flat,
        lambda depth: [f"[{i}]" for i in range(1, depth + 1)],
        "identity",
        call=relu_pairs,
    ),
    "dicts": Family(_dicts, _flat, _hidden, "identity", call=relu_dicts),
    "residual": Family(_stack(Residual), lambda width: (4,), _blocks, "residual"),
    "scaled": Family(_stack(Scaled), lambda width: (4,), _blocks, "residual"),
    "attention": Family(_stack(Attention), lambda width: (5, 4), _blocks, "residual"),
}


def shaken(net, seed, dtype="float32"):
    """The network with generic numbers, perhaps of another precision."""
    rng = np.random.default_rng(seed)

    def one(x):
        if not eqx.is_inexact_array(x):
            return x
        return jnp.asarray(
            (np.asarray(x) + 0.1 * rng.normal(size=x.shape)).astype(dtype)
        )

    return jax.tree.map(one, net)
