"""Attention: Equinox's, fused projections, shared keys, positions, two sequences."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._model import averaged, free, Model, register, rigid


# The width of queries and keys: a silent unit adds nothing, but what is divided by the
# square root of their number has to be made up for.
def scored(size: int):
    return averaged(size, exact="zero_out, clone x2")


@register(h=2, qk=2, vo=2)
def multihead(h: int = 3, qk: int = 2, vo: int = 7) -> Model:
    """Equinox's own, attending to itself."""

    def make(key):
        return eqx.nn.MultiheadAttention(
            h, 5, qk_size=qk, vo_size=vo, use_query_bias=True, key=key
        )

    widths = {
        "query_proj": free(h),
        "query_proj/1": scored(qk),
        "value_proj": free(vo),
    }
    return Model(make, ((11, 5),), widths, lambda net, x: net(x, x, x))


class CrossAttention(eqx.Module):
    encoder: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention

    def __init__(self, m, h, qk, vo, *, key):
        first, last = jr.split(key)
        self.encoder = eqx.nn.Linear(4, m, key=first)
        self.attention = eqx.nn.MultiheadAttention(
            h, 3, m, m, 2, qk_size=qk, vo_size=vo, key=last
        )

    def __call__(self, x, memory):
        memory = jnn.gelu(jax.vmap(self.encoder)(memory))
        return self.attention(x, memory, memory)


@register(m=4, h=2, qk=2, vo=2)
def cross_attention(m: int = 7, h: int = 2, qk: int = 3, vo: int = 5) -> Model:
    """One sequence attends to another."""
    widths = {
        "encoder": free(m),
        "attention.query_proj": free(h),
        "attention.query_proj/1": scored(qk),
        "attention.value_proj": free(vo),
    }
    make = lambda key: CrossAttention(m, h, qk, vo, key=key)
    return Model(make, ((6, 3), (9, 4)), widths)


def attend(q, k, v):
    """Of (time, heads, size) each."""
    scores = jnp.einsum("qhd,khd->hqk", q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum("hqk,khd->qhd", jnn.softmax(scores), v)


class FusedAttention(eqx.Module):
    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    order: str = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(self, h, d, order, *, key):
        first, last = jr.split(key)
        self.qkv = eqx.nn.Linear(4, 3 * h * d, key=first)
        self.out = eqx.nn.Linear(h * d, 2, key=last)
        self.order = order
        self.heads = h

    def __call__(self, x):
        made, h = jax.vmap(self.qkv)(x), self.heads
        if self.order == "3hd":
            parts = jnp.moveaxis(made.reshape(len(x), 3, h, -1), 1, 0)
        elif self.order == "h3d":
            parts = jnp.moveaxis(made.reshape(len(x), h, 3, -1), 2, 0)
        elif self.order == "hd3":
            parts = jnp.moveaxis(made.reshape(len(x), h, -1, 3), 3, 0)
        else:
            thirds = jnp.split(made, 3, axis=-1)
            parts = [part.reshape(len(x), h, -1) for part in thirds]
        q, k, v = parts
        return jax.vmap(self.out)(attend(q, k, v).reshape(len(x), -1))


def _fused(h: int, d: int, order: str) -> Model:
    """Queries, keys and values of one projection have one size."""
    three = {f"qkv/{i}": rigid(1, "cut out by a constant") for i in (2, 3, 4)}
    widths = {"qkv": free(h), "qkv/1": scored(d), **three}
    make = lambda key: FusedAttention(h, d, order, key=key)
    return Model(make, ((7, 4),), widths)


@register(h=2, d=2)
def fused_3hd(h: int = 2, d: int = 5) -> Model:
    """One projection, laid out 3 x heads x size."""
    return _fused(h, d, "3hd")


@register(h=3, d=3)
def fused_h3d(h: int = 2, d: int = 5) -> Model:
    """One projection, laid out heads x 3 x size."""
    return _fused(h, d, "h3d")


@register(h=3, d=3)
def fused_hd3(h: int = 2, d: int = 5) -> Model:
    """One projection, laid out heads x size x 3."""
    return _fused(h, d, "hd3")


@register(h=2, d=2)
def fused_split(h: int = 2, d: int = 5) -> Model:
    """One projection, cut into thirds, each then laid out heads x size."""
    model = _fused(h, d, "split")
    # Three equal parts: neither of the sizes can change without the other.
    stuck = rigid(d, "another size")
    return Model(
        model.make,
        model.args,
        {"qkv": free(h), "qkv/1": stuck, "qkv/2": stuck},
    )


class GroupedQueries(eqx.Module):
    q: jax.Array
    k: jax.Array
    v: jax.Array
    out: jax.Array

    def __init__(self, n, g, qk, vo, *, key):
        keys = jr.split(key, 4)
        self.q = jr.normal(keys[0], (4, n, g, qk))
        self.k = jr.normal(keys[1], (4, n, qk))
        self.v = jr.normal(keys[2], (4, n, vo))
        self.out = jr.normal(keys[3], (n, g, vo, 2))

    def __call__(self, x):
        q = jnp.einsum("td,dngk->tngk", x, self.q)
        k = jnp.einsum("td,dnk->tnk", x, self.k)
        v = jnp.einsum("td,dnv->tnv", x, self.v)
        scores = jnp.einsum("sngk,tnk->ngst", q, k) * q.shape[-1] ** -0.5
        mixed = jnp.einsum("ngst,tnv->sngv", jnn.softmax(scores), v)
        return jnp.einsum("sngv,ngvo->so", mixed, self.out)


@register(n=2, g=2, qk=2, vo=2)
def grouped_queries(n: int = 2, g: int = 3, qk: int = 5, vo: int = 7) -> Model:
    """Several queries for each key, every axis of its own."""
    widths = {"q": free(n), "q/1": free(g), "q/2": scored(qk), "v": free(vo)}
    make = lambda key: GroupedQueries(n, g, qk, vo, key=key)
    return Model(make, ((5, 4),), widths)


class MultiQuery(eqx.Module):
    q: eqx.nn.Linear
    kv: eqx.nn.Linear
    out: eqx.nn.Linear
    size: int = eqx.field(static=True)

    def __init__(self, h, d, *, key):
        keys = jr.split(key, 3)
        self.q = eqx.nn.Linear(4, h * d, use_bias=False, key=keys[0])
        self.kv = eqx.nn.Linear(4, 2 * d, use_bias=False, key=keys[1])
        self.out = eqx.nn.Linear(h * d, 2, use_bias=False, key=keys[2])
        self.size = d

    def __call__(self, x):
        q = jax.vmap(self.q)(x).reshape(len(x), -1, self.size)
        kv = jax.vmap(self.kv)(x)
        k, v = kv[:, : self.size], kv[:, self.size :]
        scores = jnp.einsum("shd,td->hst", q, k) / self.size**0.5
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        scores = jnp.where(causal, scores, -jnp.inf)
        mixed = jnp.einsum("hst,td->shd", jnn.softmax(scores), v)
        return jax.vmap(self.out)(mixed.reshape(len(x), -1))


@register(h=3, d=3)
def multi_query(h: int = 3, d: int = 5) -> Model:
    """All heads share keys and values. The field is the size of the keys; how many
    heads there are, and the size of the values, is what is left over."""
    widths = {"q": free(h), "q/1": scored(d), "kv": free(d)}
    return Model(lambda key: MultiQuery(h, d, key=key), ((6, 4),), widths)


class Rotary(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, h, d, vo, *, key):
        keys = jr.split(key, 4)
        self.query = eqx.nn.Linear(4, h * d, use_bias=False, key=keys[0])
        self.key = eqx.nn.Linear(4, h * d, use_bias=False, key=keys[1])
        self.value = eqx.nn.Linear(4, h * vo, key=keys[2])
        self.out = eqx.nn.Linear(h * vo, 2, key=keys[3])
        self.heads = h

    def rotate(self, x):
        """Of (time, heads, size): pairs of units turned by angles that grow."""
        time, _, size = x.shape
        rates = 100.0 ** (-jnp.arange(size // 2) / (size // 2))
        angles = jnp.arange(time)[:, None, None] * rates
        one, other = jnp.split(x, 2, axis=-1)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], -1)

    def __call__(self, x):
        split = lambda y: y.reshape(len(x), self.heads, -1)
        q = self.rotate(split(jax.vmap(self.query)(x)))
        k = self.rotate(split(jax.vmap(self.key)(x)))
        mixed = attend(q, k, split(jax.vmap(self.value)(x)))
        return jax.vmap(self.out)(mixed.reshape(len(x), -1))


@register(h=2, d=4, vo=4)
def rotary(h: int = 3, d: int = 4, vo: int = 5) -> Model:
    """Positions as rotations: a unit's index is an angle, so the size is rigid."""
    pair = rigid(d // 2, "index is used as a number")
    widths = {"query": free(h), "query/1": pair, "value": free(vo)}
    return Model(lambda key: Rotary(h, d, vo, key=key), ((6, 4),), widths)


class Biased(eqx.Module):
    attention: eqx.nn.MultiheadAttention

    def __call__(self, x):
        net = self.attention
        split = lambda y: y.reshape(len(x), net.num_heads, -1)
        q, k, v = (
            split(jax.vmap(layer)(x))
            for layer in (net.query_proj, net.key_proj, net.value_proj)
        )
        slopes = 2.0 ** (-8 * jnp.arange(1, net.num_heads + 1) / net.num_heads)
        gaps = jnp.abs(jnp.arange(len(x))[:, None] - jnp.arange(len(x)))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / jnp.sqrt(q.shape[-1])
        scores = scores - slopes[:, None, None] * gaps
        mixed = jnp.einsum("hqk,khd->qhd", jnn.softmax(scores), v)
        return jax.vmap(net.output_proj)(mixed.reshape(len(x), -1))


@register(h=2, qk=2, vo=2)
def linear_biases(h: int = 3, qk: int = 2, vo: int = 5) -> Model:
    """ALiBi: a head's index is its slope, so the heads are rigid."""

    def make(key):
        return Biased(eqx.nn.MultiheadAttention(h, 4, qk_size=qk, vo_size=vo, key=key))

    widths = {
        "attention.query_proj": rigid(h, "index is used as a number"),
        "attention.query_proj/1": scored(qk),
        "attention.value_proj": free(vo),
    }
    return Model(make, ((6, 4),), widths)


class VisionTransformer(eqx.Module):
    patches: eqx.nn.Conv2d
    token: jax.Array
    positions: jax.Array
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, d, h, qk, vo, *, key):
        keys = jr.split(key, 5)
        self.patches = eqx.nn.Conv2d(1, d, 3, stride=3, key=keys[0])
        self.token = jr.normal(keys[1], (1, d))
        self.positions = jr.normal(keys[2], (5, d))
        self.norm = eqx.nn.LayerNorm(d)
        self.attention = eqx.nn.MultiheadAttention(
            h, d, qk_size=qk, vo_size=vo, key=keys[3]
        )
        self.head = eqx.nn.Linear(d, 2, key=keys[4])

    def __call__(self, image):
        x = self.patches(image)
        x = x.reshape(x.shape[0], -1).T
        x = jnp.concatenate([self.token, x]) + self.positions
        y = jax.vmap(self.norm)(x)
        return self.head((x + self.attention(y, y, y))[0])


@register(d=4, h=2, qk=2, vo=2)
def vision_transformer(d: int = 7, h: int = 2, qk: int = 3, vo: int = 5) -> Model:
    """Patches by a strided convolution, a token for the class."""
    widths = {
        "patches": averaged(d),
        "token": rigid(1, "cut out by a constant"),
        "attention.query_proj": free(h),
        "attention.query_proj/1": scored(qk),
        "attention.value_proj": free(vo),
    }
    make = lambda key: VisionTransformer(d, h, qk, vo, key=key)
    return Model(make, ((1, 6, 6),), widths)
