"""Choices: mixtures of experts, maxout, graphs, flows."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._model import averaged, free, Model, register, rigid


class TopExperts(eqx.Module):
    router: eqx.nn.Linear
    up: jax.Array
    down: jax.Array

    def __init__(self, n, h, *, key):
        keys = jr.split(key, 3)
        self.router = eqx.nn.Linear(3, n, use_bias=False, key=keys[0])
        self.up = jr.normal(keys[1], (n, h, 3))
        self.down = jr.normal(keys[2], (n, 2, h))

    def __call__(self, x):
        scores, chosen = jax.lax.top_k(self.router(x), 2)
        hidden = jnn.relu(jnp.einsum("khd,d->kh", self.up[chosen], x))
        made = jnp.einsum("kch,kh->kc", self.down[chosen], hidden)
        return jnn.softmax(scores) @ made


@register(n=4, h=4)
def top_experts(n: int = 5, h: int = 7) -> Model:
    """The two best experts: which ones is a number, so how many there are is rigid."""
    widths = {"router": rigid(n, "top_k"), "up": free(h)}
    return Model(lambda key: TopExperts(n, h, key=key), ((3,),), widths)


class SoftExperts(eqx.Module):
    router: eqx.nn.Linear
    experts: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, n, h, d, *, key):
        keys = jr.split(key, 3)
        self.router = eqx.nn.Linear(3, n, key=keys[0])
        make = lambda key: eqx.nn.MLP(3, d, h, 1, key=key)
        self.experts = eqx.filter_vmap(make)(jr.split(keys[1], n))
        self.head = eqx.nn.Linear(d, 2, key=keys[2])

    def __call__(self, x):
        made = eqx.filter_vmap(lambda net, x: net(x), in_axes=(eqx.if_array(0), None))
        shares = jnn.softmax(self.router(x))
        return self.head(jnn.relu(shares @ made(self.experts, x)))


@register(n=3, h=3, d=3)
def soft_experts(n: int = 2, h: int = 5, d: int = 7) -> Model:
    """All experts, in shares that add up to one: copies of all of them share alike."""
    widths = {
        "router": averaged(n),
        "experts.layers[0]": free(h),
        "experts.layers[1]": free(d),
    }
    return Model(lambda key: SoftExperts(n, h, d, key=key), ((3,),), widths)


class Maxout(eqx.Module):
    pieces: eqx.nn.Linear
    head: eqx.nn.Linear
    count: int = eqx.field(static=True)

    def __init__(self, h, k, *, key):
        first, last = jr.split(key)
        self.pieces = eqx.nn.Linear(3, h * k, key=first)
        self.head = eqx.nn.Linear(h, 2, key=last)
        self.count = k

    def __call__(self, x):
        pieces = self.pieces(x).reshape(-1, self.count)
        return self.head(jnp.max(pieces, axis=1))


@register(h=3, k=3)
def maxout(h: int = 5, k: int = 3) -> Model:
    """The largest of several pieces: a piece that says zero isn't silent."""
    widths = {"pieces": free(h), "pieces/1": averaged(k, exact="")}
    return Model(lambda key: Maxout(h, k, key=key), ((3,),), widths)


class GraphNetwork(eqx.Module):
    encode: eqx.nn.Linear
    message: eqx.nn.Linear
    update: eqx.nn.Linear
    decode: eqx.nn.Linear

    def __init__(self, d, m, u, *, key):
        keys = jr.split(key, 4)
        self.encode = eqx.nn.Linear(3, d, key=keys[0])
        self.message = eqx.nn.Linear(2 * d, m, key=keys[1])
        self.update = eqx.nn.Linear(d + m, u, key=keys[2])
        self.decode = eqx.nn.Linear(u, 2, key=keys[3])

    def __call__(self, nodes, senders, receivers):
        x = jnp.tanh(jax.vmap(self.encode)(nodes))
        ends = jnp.concatenate([x[senders], x[receivers]], axis=-1)
        messages = jnn.relu(jax.vmap(self.message)(ends))
        heard = jax.ops.segment_sum(messages, receivers, len(nodes))
        made = jax.vmap(self.update)(jnp.concatenate([x, heard], axis=-1))
        return (
            jnp.zeros((2,), made.dtype)
            .at[:]
            .add(jnp.sum(jax.vmap(self.decode)(jnn.gelu(made)), axis=0))
        )


@register(d=4, m=4, u=4)
def graph_network(d: int = 5, m: int = 7, u: int = 11) -> Model:
    """Messages gathered along edges and added up at nodes."""
    senders, receivers = np.array([0, 1, 1, 3, 2]), np.array([1, 0, 2, 2, 3])
    widths = {"encode": free(d), "message": free(m), "update": free(u)}
    make = lambda key: GraphNetwork(d, m, u, key=key)
    return Model(make, ((4, 3), senders, receivers), widths)


class Coupling(eqx.Module):
    nets: list[eqx.nn.MLP]

    def __init__(self, h, *, key):
        self.nets = [
            eqx.nn.MLP(2, 4, h, 1, activation=jnp.tanh, key=k) for k in jr.split(key)
        ]

    def __call__(self, x):
        a, b = jnp.split(x, 2)
        volume = jnp.zeros((), x.dtype)
        for net in self.nets:
            scale, shift = jnp.split(net(a), 2)
            a, b = b * jnp.exp(jnp.tanh(scale)) + shift, a
            volume = volume + jnp.sum(jnp.tanh(scale))
        return jnp.concatenate([a, b]), volume


@register(h=2)
def coupling_flow(h: int = 5) -> Model:
    """An invertible map and the logarithm of its volume."""
    widths = {"nets[0].layers[0]": free(h), "nets[1].layers[0]": free(h)}
    return Model(lambda key: Coupling(h, key=key), ((4,),), widths)


class Spline(eqx.Module):
    knots: eqx.nn.MLP

    def __init__(self, n, h, *, key):
        self.knots = eqx.nn.MLP(3, n, h, 1, key=key)

    def __call__(self, y, condition):
        """A monotone piecewise linear map of [0, 1]."""
        heights = jnn.softmax(self.knots(condition))
        edges = jnp.concatenate([jnp.zeros(1, y.dtype), jnp.cumsum(heights)])
        places = jnp.linspace(0.0, 1.0, edges.size)
        return jnp.interp(jnn.sigmoid(y), places, edges)


@register(n=4, h=4)
def spline_flow(n: int = 5, h: int = 7) -> Model:
    """Bins in a row: their order means something."""
    widths = {"knots.layers[0]": free(h), "knots.layers[1]": rigid(n, "order")}
    return Model(lambda key: Spline(n, h, key=key), ((), (3,)), widths)
