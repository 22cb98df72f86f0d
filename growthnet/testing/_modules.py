"""Small networks, each with one way of wiring widths that a tracer can trip over."""

from typing import Any, TypeAlias

import equinox as eqx
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


Sizes: TypeAlias = Any
"""A tuple of integers. Said so, a run-time type checker would pick one of them to look
at by the `random` module, which Hypothesis forbids while it draws."""


class PerUnit(eqx.Module):
    """An activation with a slope of its own for every unit; `eqx.nn.MLP` makes copies
    of it, stacked over layers and units."""

    slope: Float[Array, "..."]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(x > 0, x, self.slope * x)


class Residual(eqx.Module):
    """Blocks that add to a stream: all of them share the stream's width."""

    stem: eqx.nn.Linear
    ups: list[eqx.nn.Linear]
    downs: list[eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, stream: int, inner: Sizes, *, key: PRNGKeyArray):
        first, last, *keys = jr.split(key, 2 + 2 * len(inner))
        self.stem = eqx.nn.Linear(3, stream, key=first)
        self.ups = [
            eqx.nn.Linear(stream, n, key=k)
            for n, k in zip(inner, keys[::2], strict=True)
        ]
        self.downs = [
            eqx.nn.Linear(n, stream, use_bias=False, key=k)
            for n, k in zip(inner, keys[1::2], strict=True)
        ]
        self.head = eqx.nn.Linear(stream, 2, key=last)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(jnn.gelu(up(x)))
        return self.head(x)


class Concatenating(eqx.Module):
    """Every layer reads the input and all layers before it, as in a DenseNet."""

    layers: tuple[eqx.nn.Linear, ...]
    head: eqx.nn.Linear

    def __init__(self, units: Sizes, *, key: PRNGKeyArray):
        last, *keys = jr.split(key, 1 + len(units))
        self.layers = tuple(
            eqx.nn.Linear(3 + sum(units[:i]), n, key=keys[i])
            for i, n in enumerate(units)
        )
        self.head = eqx.nn.Linear(3 + sum(units), 2, key=last)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        for layer in self.layers:
            x = jnp.concatenate([x, jnp.tanh(layer(x))])
        return self.head(x)


class Fused(eqx.Module):
    """A gated linear unit whose two halves come from one projection. Where it is cut
    is a static field that the forward pass reads."""

    both: eqx.nn.Linear
    out: eqx.nn.Linear
    units: int = eqx.field(static=True)

    def __init__(self, units: int, *, key: PRNGKeyArray):
        first, last = jr.split(key)
        self.both = eqx.nn.Linear(3, 2 * units, key=first)
        self.out = eqx.nn.Linear(units, 2, key=last)
        self.units = units

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        both = self.both(x)
        return self.out(both[: self.units] * jnn.sigmoid(both[self.units :]))


class TwoByTwo(eqx.Module):
    """Two inputs that meet in one width, and two outputs that leave another."""

    left: eqx.nn.Linear
    right: eqx.nn.Linear
    trunk: eqx.nn.Linear
    heads: tuple[eqx.nn.Linear, eqx.nn.Linear]

    def __init__(self, meeting: int, trunk: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 5)
        self.left = eqx.nn.Linear(3, meeting, key=keys[0])
        self.right = eqx.nn.Linear(4, meeting, use_bias=False, key=keys[1])
        self.trunk = eqx.nn.Linear(meeting, trunk, key=keys[2])
        self.heads = (
            eqx.nn.Linear(trunk, 2, key=keys[3]),
            eqx.nn.Linear(trunk, 1, key=keys[4]),
        )

    def __call__(
        self, x: Float[Array, " d"], y: Float[Array, " e"]
    ) -> tuple[Float[Array, " c"], Float[Array, " b"]]:
        z = jnp.tanh(self.trunk(jnp.tanh(self.left(x) + self.right(y))))
        return self.heads[0](z), self.heads[1](z)


class Recycled(eqx.Module):
    """One hidden layer applied twice: its output is its own input."""

    stem: eqx.nn.Linear
    again: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, units: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Linear(3, units, key=keys[0])
        self.again = eqx.nn.Linear(units, units, key=keys[1])
        self.head = eqx.nn.Linear(units, 2, key=keys[2])

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        x = jnp.tanh(self.stem(x))
        return self.head(jnp.tanh(self.again(jnp.tanh(self.again(x)))))


class Autoencoder(eqx.Module):
    """Decodes with the transpose of what it encodes with."""

    weight: Float[Array, "units d"]
    inner: Float[Array, " units"]
    outer: Float[Array, " d"]

    def __init__(self, units: int, *, key: PRNGKeyArray):
        self.weight = jr.normal(key, (units, 3))
        self.inner = jnp.zeros(units)
        self.outer = jnp.zeros(3)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        code = jnp.tanh(self.weight @ x + self.inner)
        return self.weight.T @ code + self.outer


class Factored(eqx.Module):
    """A weight with a correction of low rank, as LoRA has it: the rank is a width.
    The correction is added to the weight, or to what the weight gives."""

    weight: Float[Array, "units d"]
    up: Float[Array, "units rank"]
    down: Float[Array, "rank d"]
    head: eqx.nn.Linear
    merged: bool = eqx.field(static=True)

    def __init__(self, units: int, rank: int, merged: bool, *, key: PRNGKeyArray):
        keys = jr.split(key, 4)
        self.weight = jr.normal(keys[0], (units, 3))
        self.up = jr.normal(keys[1], (units, rank))
        self.down = jr.normal(keys[2], (rank, 3))
        self.head = eqx.nn.Linear(units, 2, key=keys[3])
        self.merged = merged

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        if self.merged:
            return self.head(jnp.tanh((self.weight + self.up @ self.down) @ x))
        return self.head(jnp.tanh(self.weight @ x + self.up @ (self.down @ x)))


class Normalised(eqx.Module):
    """Weight normalisation: directions of length one, and a length per unit. Without
    an `epsilon` the direction zero isn't one."""

    direction: Float[Array, "units d"]
    length: Float[Array, " units"]
    head: eqx.nn.Linear
    epsilon: float = eqx.field(static=True)

    def __init__(self, units: int, epsilon: float, *, key: PRNGKeyArray):
        first, last = jr.split(key)
        self.direction = jr.normal(first, (units, 3))
        self.length = jnp.ones(units)
        self.head = eqx.nn.Linear(units, 2, key=last)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        squares = jnp.sum(self.direction**2, axis=1, keepdims=True)
        norm = jnp.sqrt(squares + self.epsilon)
        weight = self.length[:, None] * self.direction / norm
        return self.head(jnp.tanh(weight @ x))


class Experts(eqx.Module):
    """A mixture of dense experts under a softmax: a width per expert's hidden layer,
    and one, the number of experts, that can't grow by silence."""

    choice: eqx.nn.Linear
    up: Float[Array, "experts units d"]
    down: Float[Array, "experts c units"]

    def __init__(self, experts: int, units: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 3)
        self.choice = eqx.nn.Linear(3, experts, key=keys[0])
        self.up = jr.normal(keys[1], (experts, units, 3))
        self.down = jr.normal(keys[2], (experts, 2, units))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        shares = jnn.softmax(self.choice(x))
        hidden = jnp.tanh(jnp.einsum("ehd,d->eh", self.up, x))
        return shares @ jnp.einsum("ech,eh->ec", self.down, hidden)


class Counting(eqx.Module):
    """A network that holds what isn't trained as well: an integer counter."""

    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    calls: Int[Array, ""]

    def __init__(self, units: int, *, key: PRNGKeyArray):
        first, last = jr.split(key)
        self.inner = eqx.nn.Linear(3, units, key=first)
        self.outer = eqx.nn.Linear(units, 2, key=last)
        self.calls = jnp.asarray(0, jnp.int32)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        return self.outer(jnn.softplus(self.inner(x)))
