"""Normalisation: by groups, layers, batches, instances and weights."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._model import averaged, free, Model, register


@register(g=2, c=2)
def group_norm(g: int = 3, c: int = 2) -> Model:
    """Groups come and go; a channel more in every group moves its mean."""

    def make(key):
        first, last = jr.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, g * c, 3, key=first),
                eqx.nn.GroupNorm(g, g * c),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.Conv2d(g * c, 2, 1, key=last),
            ]
        )

    widths = {"layers[0]": free(g), "layers[0]/1": averaged(c)}
    return Model(make, ((1, 5, 5),), widths)


@register(h=2)
def layer_norm(h: int = 5) -> Model:
    """Over a hidden width: copies keep the mean if all get equally many."""

    def make(key):
        first, last = jr.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, h, key=first),
                eqx.nn.LayerNorm(h),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(h, 2, key=last),
            ]
        )

    return Model(make, ((3,),), {"layers[0]": averaged(h)})


class NormBlock(eqx.Module):
    norm: eqx.Module
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, norm, d, h, *, key):
        first, last = jr.split(key)
        self.norm = norm(d)
        self.up = eqx.nn.Linear(d, h, key=first)
        self.down = eqx.nn.Linear(h, d, key=last)

    def __call__(self, x):
        return x + self.down(jnn.gelu(self.up(self.norm(x))))  # pyright: ignore


class NormStream(eqx.Module):
    stem: eqx.nn.Linear
    blocks: tuple[NormBlock, ...]
    norm: eqx.Module
    head: eqx.nn.Linear

    def __init__(self, norm, d, h, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Linear(3, d, key=keys[0])
        self.blocks = tuple(NormBlock(norm, d, h, key=k) for k in keys[1:3])
        self.norm = norm(d)
        self.head = eqx.nn.Linear(d, 2, key=keys[3])

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # pyright: ignore


def _stream(norm, d, h, wanted) -> Model:
    widths = {"stem": wanted, "blocks[0].up": free(h), "blocks[1].up": free(h)}
    return Model(lambda key: NormStream(norm, d, h, key=key), ((3,),), widths)


@register(d=4, h=4)
def layer_norm_stream(d: int = 5, h: int = 7) -> Model:
    """Over the residual stream, before every block."""
    return _stream(eqx.nn.LayerNorm, d, h, averaged(d))


@register(d=4, h=4)
def rms_norm_stream(d: int = 5, h: int = 7) -> Model:
    """A silent unit adds nothing to the sum of squares, only to the count."""
    wanted = averaged(d, exact="zero_out, clone x2")
    return _stream(eqx.nn.RMSNorm, d, h, wanted)


class HandWrittenRMS(eqx.Module):
    scale: jax.Array

    def __init__(self, d):
        self.scale = jnp.ones(d)

    def __call__(self, x):
        mean = jnp.mean(x * x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean + 1e-6) * self.scale


@register(d=4, h=4)
def rms_by_hand(d: int = 5, h: int = 7) -> Model:
    """Its epsilon stands in the code, out of reach: only copies are exact."""
    return _stream(HandWrittenRMS, d, h, averaged(d))


class WeightNormed(eqx.Module):
    first: eqx.nn.WeightNorm
    second: eqx.nn.WeightNorm
    head: eqx.nn.Linear

    def __init__(self, a, b, *, key):
        keys = jr.split(key, 3)
        self.first = eqx.nn.WeightNorm(eqx.nn.Linear(3, a, key=keys[0]))
        self.second = eqx.nn.WeightNorm(eqx.nn.Linear(a, b, key=keys[1]))
        self.head = eqx.nn.Linear(b, 2, key=keys[2])

    def __call__(self, x):
        return self.head(jnp.tanh(self.second(jnp.tanh(self.first(x)))))


@register(a=4, b=4)
def weight_norm(a: int = 5, b: int = 7) -> Model:
    """Zeros don't make a row longer; shares of a copy would. A closed unit's row has no
    direction, so units of these widths can't be closed."""
    widths = {
        "first.layer": free(a, exact="zero_out", gateable="no"),
        "second.layer": free(b, gateable="no"),
    }
    return Model(lambda key: WeightNormed(a, b, key=key), ((3,),), widths)


class InstanceNormed(eqx.Module):
    conv: eqx.nn.Conv1d
    scale: jax.Array
    offset: jax.Array
    out: eqx.nn.Conv1d

    def __init__(self, c, *, key):
        first, last = jr.split(key)
        self.conv = eqx.nn.Conv1d(2, c, 3, use_bias=False, key=first)
        self.scale = jnp.ones((c, 1))
        self.offset = jnp.zeros((c, 1))
        self.out = eqx.nn.Conv1d(c, 2, 1, key=last)

    def __call__(self, x):
        x = self.conv(x)
        mean = jnp.mean(x, axis=1, keepdims=True)
        var = jnp.var(x, axis=1, keepdims=True)
        x = (x - mean) / jnp.sqrt(var + 1e-5) * self.scale + self.offset
        return self.out(jnn.leaky_relu(x))


@register(c=2)
def instance_norm(c: int = 5) -> Model:
    """Every channel by itself, over places."""
    widths = {"conv": free(c)}
    return Model(lambda key: InstanceNormed(c, key=key), ((2, 7),), widths)


class BatchNormed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Linear
    norm2: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, a, b, mode, *, key):
        keys = jr.split(key, 3)
        self.first = eqx.nn.Linear(3, a, use_bias=False, key=keys[0])
        self.norm = eqx.nn.BatchNorm(a, "batch", mode=mode)
        self.second = eqx.nn.Linear(a, b, key=keys[1])
        self.norm2 = eqx.nn.BatchNorm(b, "batch", mode=mode, channelwise_affine=False)
        self.head = eqx.nn.Linear(b, 2, key=keys[2])

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        x, state = self.norm2(self.second(jnn.relu(x)), state)
        return self.head(jnn.relu(x)), state


def _batch_normed(a: int, b: int, mode: str):
    def make(key):
        return eqx.nn.make_with_state(BatchNormed)(a, b, mode, key=key)

    return make


def _evaluated(net, x):
    model, state = net
    return eqx.nn.inference_mode(model)(x, state)[0]


def _trained(net, xs):
    model, state = net
    over = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return over(xs, state)[0]


@register(a=4, b=4)
def batch_norm_eval(a: int = 5, b: int = 7) -> Model:
    """By running statistics."""
    widths = {"[0].first": free(a), "[0].second": free(b)}
    make = _batch_normed(a, b, "ema")
    return Model(make, ((3,),), widths, _evaluated, positive=("<flat index",))


@register(a=4, b=4)
def batch_norm_train(a: int = 5, b: int = 7) -> Model:
    """By the statistics of a batch, the running ones following."""
    widths = {"[0].first": free(a), "[0].second": free(b)}
    return Model(_batch_normed(a, b, "batch"), ((6, 3),), widths, _trained)
