"""No layers at all: trees of arrays, and functions of them."""

import jax
import jax.nn as jnn
import jax.numpy as jnp

from ._model import free, Model, register


def _mixer(net, x):
    """Of (places, channels): mixes along one axis, then along the other."""
    x = x @ net["stem"]
    for places, channels in net["blocks"]:
        x = x + places["up"].T @ jnn.gelu(places["down"] @ x)
        x = x + jnn.gelu(x @ channels["up"]) @ channels["down"]
    return jnp.mean(x, axis=0) @ net["head"]


@register(d=4, p=4, c=4)
def mixer(d: int = 5, p: int = 7, c: int = 11) -> Model:
    """Dicts in tuples in lists; places have a hidden width of their own."""

    def make(key):
        block = (
            {"down": jnp.zeros((p, 6)), "up": jnp.zeros((p, 6))},
            {"up": jnp.zeros((d, c)), "down": jnp.zeros((c, d))},
        )
        return {
            "stem": jnp.zeros((3, d)),
            "blocks": [block, jax.tree.map(jnp.zeros_like, block)],
            "head": jnp.zeros((d, 2)),
        }

    widths = {
        "blocks[0][1]": free(d),
        "blocks[0][0]": free(p),
        "blocks[0][1].up": free(c),
        "blocks[1][0]": free(p),
        "blocks[1][1].up": free(c),
    }
    return Model(make, ((6, 3),), widths, _mixer)


def _curve(net, x):
    outer = jnp.einsum("i,j->ij", x, net["spread"]) + net["offset"][None]
    first = jnp.tanh(x[:, None] * net["slope"][None] + net["bias"][None])
    return first @ net["out"] + jnp.sin(outer) @ net["last"]


@register(a=3, b=3)
def curve(a: int = 5, b: int = 7) -> Model:
    """Of numbers: vectors spread them over the units, no matrix does."""

    def make(key):
        first = {"bias": jnp.zeros(a), "out": jnp.zeros((a, 2)), "slope": jnp.zeros(a)}
        last = {"last": jnp.zeros((b, 2)), "offset": jnp.zeros(b)}
        return {**first, **last, "spread": jnp.zeros(b)}

    return Model(make, ((4,),), {"slope": free(a), "spread": free(b)}, _curve)


def _bilinear(net, x, y):
    mixed = jnp.einsum("kij,j->ki", net[1], jnp.tanh(net[2] @ y))
    return jnp.einsum("ki,i->k", mixed, jnp.tanh(net[0] @ x))


@register(a=2, b=2)
def bilinear(a: int = 5, b: int = 7) -> Model:
    """A weight with two consuming axes."""

    def make(key):
        return [jnp.zeros((a, 3)), jnp.zeros((2, a, b)), jnp.zeros((b, 4))]

    return Model(make, ((3,), (4,)), {"[0]": free(a), "[2]": free(b)}, _bilinear)


@jax.custom_vjp
def _clipped(x):
    return jnp.clip(x, -1.0, 1.0)


_clipped.defvjp(lambda x: (_clipped(x), None), lambda _, g: (g,))


@jax.jit
def _inner(weights, x):
    return jnp.einsum("oi,i->o", weights["w"], x) + weights["b"]


def _quantised(net, x):
    h = _clipped(_inner(net["first"], x))
    return jax.checkpoint(_inner)(net["last"], h + jax.lax.stop_gradient(jnp.round(h)))


@register(h=3)
def straight_through(h: int = 5) -> Model:
    """Own gradients, jit and remat inside."""

    def make(key):
        return {
            "first": {"w": jnp.zeros((h, 3)), "b": jnp.zeros(h)},
            "last": {"w": jnp.zeros((2, h)), "b": jnp.zeros(2)},
        }

    return Model(make, ((3,),), {"first": free(h)}, _quantised)
