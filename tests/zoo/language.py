"""Language models: embeddings, positions, tied heads, whole transformers."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._model import averaged, free, Model, register


TOKENS = np.array([3, 0, 5, 1, 1, 6])
VOCABULARY = 13


class Bag(eqx.Module):
    embedding: eqx.nn.Embedding
    positions: jax.Array
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, d, h, *, key):
        keys = jr.split(key, 4)
        self.embedding = eqx.nn.Embedding(VOCABULARY, d, key=keys[0])
        self.positions = jr.normal(keys[1], (11, d))
        self.hidden = eqx.nn.Linear(d, h, key=keys[2])
        self.head = eqx.nn.Linear(h, 2, key=keys[3])

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens) + self.positions[: len(tokens)]
        x = jnn.gelu(jax.vmap(self.hidden)(x))
        return self.head(jnp.mean(x, axis=0))


@register(d=4, h=4)
def bag_of_tokens(d: int = 5, h: int = 7) -> Model:
    """Rows of tables, by token and by position."""
    widths = {"embedding": free(d), "hidden": free(h)}
    return Model(lambda key: Bag(d, h, key=key), (TOKENS,), widths)


class Tied(eqx.Module):
    table: jax.Array
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, d, h, *, key):
        keys = jr.split(key, 3)
        self.table = jr.normal(keys[0], (VOCABULARY, d))
        self.up = eqx.nn.Linear(d, h, key=keys[1])
        self.down = eqx.nn.Linear(h, d, key=keys[2])

    def __call__(self, tokens):
        x = self.table[tokens]
        x = x + jax.vmap(self.down)(jnn.relu(jax.vmap(self.up)(x)))
        return x @ self.table.T


@register(d=4, h=4)
def tied_head(d: int = 5, h: int = 7) -> Model:
    """The table is read at both ends, so a gate would enter squared, and shares of
    copies have to be equal."""
    widths = {
        "table": free(d, exact="zero_out, clone x2", gateable="binary"),
        "up": free(h),
    }
    return Model(lambda key: Tied(d, h, key=key), (TOKENS,), widths)


class Block(eqx.Module):
    norm1: eqx.Module
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.Module
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, norm, d, h, qk, vo, m, *, key):
        keys = jr.split(key, 3)
        self.norm1, self.norm2 = norm(d), norm(d)
        self.attention = eqx.nn.MultiheadAttention(
            h, d, qk_size=qk, vo_size=vo, key=keys[0]
        )
        self.up = eqx.nn.Linear(d, m, key=keys[1])
        self.down = eqx.nn.Linear(m, d, key=keys[2])

    def __call__(self, x):
        y = jax.vmap(self.norm1)(x)  # pyright: ignore
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(y, y, y, mask)
        y = jax.vmap(self.norm2)(x)  # pyright: ignore
        return x + jax.vmap(self.down)(jnn.gelu(jax.vmap(self.up)(y)))


class Transformer(eqx.Module):
    embedding: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.Module
    head: eqx.nn.Linear | None

    def __init__(self, norm, tied, d, h, qk, vo, m, *, key):
        keys = jr.split(key, 5)
        self.embedding = eqx.nn.Embedding(VOCABULARY, d, key=keys[0])
        self.positions = jr.normal(keys[1], (len(TOKENS), d))
        self.blocks = [Block(norm, d, h, qk, vo, m, key=k) for k in keys[2:4]]
        self.norm = norm(d)
        self.head = None if tied else eqx.nn.Linear(d, 2, use_bias=False, key=keys[4])

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        x = jax.vmap(self.norm)(x)  # pyright: ignore
        if self.head is None:
            return x @ self.embedding.weight.T
        return jax.vmap(self.head)(x)


def _transformer(norm, tied, wanted, h, qk, vo, m) -> Model:
    widths = {"embedding": wanted}
    for i in (0, 1):
        block = f"blocks[{i}]"
        widths[f"{block}.attention.query_proj"] = free(h)
        widths[f"{block}.attention.query_proj/1"] = averaged(
            qk, exact="zero_out, clone x2"
        )
        widths[f"{block}.attention.value_proj"] = free(vo)
        widths[f"{block}.up"] = free(m)
    d = wanted.size
    make = lambda key: Transformer(norm, tied, d, h, qk, vo, m, key=key)
    return Model(make, (TOKENS,), widths)


@register(d=4, h=2, qk=2, vo=2, m=4)
def transformer(d: int = 5, h: int = 2, qk: int = 3, vo: int = 7, m: int = 11) -> Model:
    """Layer norms and a head of its own."""
    return _transformer(eqx.nn.LayerNorm, False, averaged(d), h, qk, vo, m)


@register(d=4, h=2, qk=2, vo=2, m=4)
def tied_transformer(
    d: int = 5, h: int = 2, qk: int = 3, vo: int = 7, m: int = 11
) -> Model:
    """The table is the head as well. Copies are exact: the last norm is halved."""
    return _transformer(eqx.nn.LayerNorm, True, averaged(d), h, qk, vo, m)


@register(d=4, h=2, qk=2, vo=2, m=4)
def tied_rms_transformer(
    d: int = 5, h: int = 2, qk: int = 3, vo: int = 7, m: int = 11
) -> Model:
    """Root mean squares: silent units of the stream are exact as well."""
    wanted = averaged(d, exact="zero_out, clone x2")
    return _transformer(eqx.nn.RMSNorm, True, wanted, h, qk, vo, m)


class Shared(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self, d, h, *, key):
        keys = jr.split(key, 4)
        embedding = eqx.nn.Embedding(VOCABULARY, d, key=keys[0])
        hidden = eqx.nn.MLP(d, d, h, 1, key=keys[1])
        head = eqx.nn.Linear(d, VOCABULARY, key=keys[2])
        self.shared = eqx.nn.Shared(
            (embedding, hidden, head),
            where=lambda parts: parts[2].weight,
            get=lambda parts: parts[0].weight,
        )

    def __call__(self, tokens):
        embedding, hidden, head = self.shared()
        return jax.vmap(head)(jax.vmap(hidden)(jax.vmap(embedding)(tokens)))


@register(d=4, h=4)
def shared_weights(d: int = 5, h: int = 7) -> Model:
    """Tied by `eqx.nn.Shared`. The network between has an end on either side of the
    table, so that it can be silent alone."""
    widths = {
        "shared.pytree[0]": free(d),
        "shared.pytree[1].layers[0]": free(h),
    }
    return Model(lambda key: Shared(d, h, key=key), (TOKENS,), widths)
