"""Flax: Linen's dicts of parameters and NNX's modules."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx

import growthnet.flax as gf

from ._model import averaged, free, Model, register, rigid


TOKENS = np.array([3, 0, 5, 1, 1, 6])
VOCABULARY = 13


def linen(module, sizes, example, args, widths, **more) -> Model:
    """A Linen network that knows how its module is made."""
    make = lambda key: gf.Linen(module, sizes, example, key=key)
    return Model(make, args, widths, **more)


class LinenMLP(nn.Module):
    a: int
    b: int

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(self.a)(x))
        x = nn.tanh(nn.Dense(self.b, use_bias=False)(x))
        return nn.Dense(2)(x)


@register(a=3, b=3)
def linen_mlp(a: int = 5, b: int = 7) -> Model:
    """Sizes stand in the module, out of the parameters' reach."""
    widths = {"params.Dense_0": free(a), "params.Dense_1": free(b)}
    return linen(LinenMLP, {"a": a, "b": b}, jnp.zeros(3), ((3,),), widths)


class LinenCNN(nn.Module):
    a: int
    b: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.a, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(self.b, (3, 3))(x))
        return nn.Dense(2)(x.reshape(-1))


@register(a=4, b=4)
def linen_cnn(a: int = 5, b: int = 7) -> Model:
    """Channels last, statistics in a collection of their own, H x W x C flattened."""
    widths = {"params.Conv_0": free(a), "params.Conv_1": free(b)}
    shape = (6, 6, 1)
    example, sizes = jnp.zeros(shape), {"a": a, "b": b}
    return linen(LinenCNN, sizes, example, (shape,), widths, positive=("var",))


class LinenTransformer(nn.Module):
    d: int
    h: int
    m: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, self.d)
        x = embed(tokens)
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.h, qkv_features=3 * self.h)(y)
        y = nn.Dense(self.m)(nn.LayerNorm()(x))
        x = x + nn.Dense(self.d)(nn.gelu(y))
        return embed.attend(nn.LayerNorm()(x))


@register(d=4, h=2, m=4)
def linen_transformer(d: int = 5, h: int = 2, m: int = 7) -> Model:
    """A tied head by `attend`; how wide a head is stands in the code."""
    attention = "params.MultiHeadDotProductAttention_0"
    fixed = rigid(3, "no argument of the factory")
    widths = {
        "params.Dense_0": free(m),
        "params.Dense_1": averaged(d),
        f"{attention}.key": free(h),
        f"{attention}.key/1": fixed,
        f"{attention}.value": fixed,
    }
    sizes = {"d": d, "h": h, "m": m}
    example = jnp.zeros(len(TOKENS), int)
    return linen(LinenTransformer, sizes, example, (TOKENS,), widths)


class NNXMLP(nnx.Module):
    def __init__(self, a, b, *, rngs):
        self.first = nnx.Linear(3, a, rngs=rngs)
        self.second = nnx.Linear(a, b, rngs=rngs)
        self.norm = nnx.BatchNorm(b, use_running_average=True, rngs=rngs)
        self.last = nnx.Linear(b, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.first(x))
        return self.last(nnx.relu(self.norm(self.second(x))))


@register(a=4, b=4)
def nnx_mlp(a: int = 5, b: int = 7) -> Model:
    """A module that holds its sizes."""
    make = lambda key: NNXMLP(a, b, rngs=nnx.Rngs(key))
    widths = {"first": free(a), "second": free(b)}
    return Model(make, ((3,),), widths, positive=("var",))


class NNXCNN(nnx.Module):
    def __init__(self, a, b, *, rngs):
        self.conv1 = nnx.Conv(1, a, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(b, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nnx.relu(self.conv2(x))
        return self.head(jnp.mean(x, axis=(0, 1)))


@register(a=4, b=4)
def nnx_cnn(a: int = 5, b: int = 7) -> Model:
    """Convolutions with channels last, global average pooling."""
    make = lambda key: NNXCNN(a, b, rngs=nnx.Rngs(key))
    widths = {"conv1": free(a), "conv2": free(b)}
    return Model(make, ((6, 6, 1),), widths)


class NNXTransformer(nnx.Module):
    def __init__(self, d, h, m, *, rngs):
        self.embed = nnx.Embed(VOCABULARY, d, rngs=rngs)
        self.norm1 = nnx.LayerNorm(d, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(h, d, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(d, rngs=rngs)
        self.up = nnx.Linear(d, m, rngs=rngs)
        self.down = nnx.Linear(m, d, rngs=rngs)
        self.head = nnx.Linear(d, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.head(x)


@register(d=4, h=2, m=4)
def nnx_transformer(d: int = 6, h: int = 2, m: int = 5) -> Model:
    """Attention, layer norms and a head of its own."""
    make = lambda key: NNXTransformer(d, h, m, rngs=nnx.Rngs(key))
    # Flax wants queries and values of one size.
    stuck = rigid(d // h, "another size")
    widths = {
        "attention.key": free(h),
        "attention.key/1": stuck,
        "attention.value": stuck,
        "attention.out": averaged(d),
        "up": free(m),
    }
    return Model(make, (TOKENS,), widths)
