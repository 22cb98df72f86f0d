"""A decoder of unmodified Equinox layers. Nothing in it knows that it will grow."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray


HEAD = 16
"""Size of queries, keys and values of a head."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    stream: int
    heads: int
    hidden: int
    depth: int

    def __str__(self) -> str:
        return f"{self.stream}/{self.heads}/{self.hidden}/{self.depth}"


class Block(eqx.Module):
    norms: list[eqx.nn.RMSNorm]
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self, sizes: Sizes, *, key: PRNGKeyArray):
        first, second = jr.split(key)
        n, hidden = sizes.stream, sizes.hidden
        self.norms = [eqx.nn.RMSNorm(n), eqx.nn.RMSNorm(n)]
        self.attention = eqx.nn.MultiheadAttention(
            sizes.heads, n, qk_size=HEAD, vo_size=HEAD, key=first
        )
        self.mlp = eqx.nn.MLP(n, n, hidden, 1, activation=jax.nn.gelu, key=second)

    def __call__(
        self, x: Float[Array, "letters stream"]
    ) -> Float[Array, "letters stream"]:
        y = jax.vmap(self.norms[0])(x)
        past = jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(y, y, y, past)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class Decoder(eqx.Module):
    """From letters to logits of the letter after each."""

    embedding: eqx.nn.Embedding
    places: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, sizes: Sizes, letters: int, length: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 3 + sizes.depth)
        n = sizes.stream
        self.embedding = eqx.nn.Embedding(letters, n, key=keys[0])
        self.places = eqx.nn.Embedding(length, n, key=keys[1])
        self.blocks = [Block(sizes, key=k) for k in keys[3:]]
        self.norm = eqx.nn.RMSNorm(n)
        self.head = eqx.nn.Linear(n, letters, key=keys[2])

    def __call__(self, text: Int[Array, " letters"]) -> Float[Array, "letters kinds"]:
        x = jax.vmap(self.embedding)(text)
        x = x + jax.vmap(self.places)(jnp.arange(len(text)))
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def loss(net: Any, windows: Any) -> Any:
    """Of every letter after the first, in nats; `windows` have one more than `net`
    sees."""
    logits = jax.vmap(net)(windows[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
    return jnp.mean(losses)


def params(net: Any) -> Any:
    return eqx.filter(net, eqx.is_inexact_array)
