"""Loops: cells over time, layers over depth, steps of a solver, branches."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._model import free, Model, register


class Recurrent(eqx.Module):
    cell: eqx.Module
    head: eqx.nn.Linear

    def __call__(self, xs):
        size = self.cell.hidden_size  # pyright: ignore
        zero = jnp.zeros(size, xs.dtype)
        start = (zero, zero) if isinstance(self.cell, eqx.nn.LSTMCell) else zero

        def step(state, x):
            state = self.cell(x, state)  # pyright: ignore
            out = state[0] if isinstance(state, tuple) else state
            return state, self.head(out)

        return jax.lax.scan(step, start, xs)[1]


def _recurrent(cell, h: int) -> Model:
    def make(key):
        first, last = jr.split(key)
        return Recurrent(cell(3, h, key=first), eqx.nn.Linear(h, 2, key=last))

    return Model(make, ((6, 3),), {"cell": free(h)})


@register(h=3)
def lstm(h: int = 5) -> Model:
    """Four gates in one projection, two states."""
    return _recurrent(eqx.nn.LSTMCell, h)


@register(h=3)
def gru(h: int = 5) -> Model:
    """Three gates in one projection."""
    return _recurrent(eqx.nn.GRUCell, h)


def _rnn(net, xs):
    def step(h, x):
        return jnp.tanh(net["into"] @ x + net["again"] @ h + net["bias"]), None

    h = jax.lax.scan(step, net["start"], xs)[0]
    return net["out"] @ h


@register(h=3)
def vanilla_rnn(h: int = 5) -> Model:
    """A dict of arrays, its first state trained as well."""

    def make(key):
        return {
            "into": jnp.zeros((h, 3)),
            "again": jnp.zeros((h, h)),
            "bias": jnp.zeros(h),
            "start": jnp.zeros(h),
            "out": jnp.zeros((2, h)),
        }

    return Model(make, ((6, 3),), {"again": free(h)}, _rnn)


class Bidirectional(eqx.Module):
    forward: eqx.nn.GRUCell
    backward: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, a, b, *, key):
        keys = jr.split(key, 3)
        self.forward = eqx.nn.GRUCell(3, a, key=keys[0])
        self.backward = eqx.nn.GRUCell(3, b, use_bias=False, key=keys[1])
        self.head = eqx.nn.Linear(a + b, 2, key=keys[2])

    def __call__(self, xs):
        def run(cell, reverse):
            def step(h, x):
                h = cell(x, h)
                return h, h

            start = jnp.zeros(cell.hidden_size, xs.dtype)
            return jax.lax.scan(step, start, xs, reverse=reverse)[1]

        both = [run(self.forward, False), run(self.backward, True)]
        return jax.vmap(self.head)(jnp.concatenate(both, axis=-1))


@register(a=4, b=4)
def bidirectional(a: int = 5, b: int = 2) -> Model:
    """There and back, side by side."""
    widths = {"forward": free(a), "backward": free(b)}
    return Model(lambda key: Bidirectional(a, b, key=key), ((4, 3),), widths)


class Layer(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, d, h, *, key):
        first, last = jr.split(key)
        self.up = eqx.nn.Linear(d, h, key=first)
        self.down = eqx.nn.Linear(h, d, use_bias=False, key=last)

    def __call__(self, x):
        return x + self.down(jnn.gelu(self.up(x)))


class Stacked(eqx.Module):
    stem: eqx.nn.Linear
    layers: Layer
    head: eqx.nn.Linear

    def __init__(self, n, d, h, *, key):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Linear(3, d, key=keys[0])
        make = lambda key: Layer(d, h, key=key)
        self.layers = eqx.filter_vmap(make)(jr.split(keys[1], n))
        self.head = eqx.nn.Linear(d, 2, key=keys[2])

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        @jax.checkpoint
        def step(x, arrays):
            return eqx.combine(arrays, static)(x), None

        return self.head(jax.lax.scan(step, self.stem(x), arrays)[0])


@register(n=4, d=4, h=4)
def stacked_layers(n: int = 2, d: int = 5, h: int = 7) -> Model:
    """Layers stacked along an axis, scanned under remat: depth is a width."""
    widths = {
        "stem": free(d),
        "layers.up": free(h),
        "layers.depth": free(n, exact="zero_out"),
    }
    return Model(lambda key: Stacked(n, d, h, key=key), ((3,),), widths)


class NeuralODE(eqx.Module):
    stem: eqx.nn.Linear
    field: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, d, h, *, key):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Linear(3, d, key=keys[0])
        self.field = eqx.nn.MLP(d, d, h, 1, activation=jnp.tanh, key=keys[1])
        self.head = eqx.nn.Linear(d, 2, key=keys[2])

    def __call__(self, x):
        def step(y, _):
            k1 = self.field(y)
            k2 = self.field(y + 0.05 * k1)
            k3 = self.field(y + 0.05 * k2)
            k4 = self.field(y + 0.1 * k3)
            return y + 0.1 * (k1 + 2 * k2 + 2 * k3 + k4) / 6, None

        return self.head(jax.lax.scan(step, self.stem(x), None, length=5)[0])


@register(d=3, h=3)
def neural_ode(d: int = 5, h: int = 7) -> Model:
    """Runge and Kutta's steps with a fixed size."""
    widths = {"stem": free(d), "field.layers[0]": free(h)}
    return Model(lambda key: NeuralODE(d, h, key=key), ((3,),), widths)


def _looping(net, x):
    """Layers picked by the counter of a loop."""
    x = net["stem"] @ x

    def body(i, x):
        up = jax.lax.dynamic_index_in_dim(net["up"], i, keepdims=False)
        return x + net["down"][i] @ jnn.relu(up @ x)

    return net["head"] @ jax.lax.fori_loop(0, net["up"].shape[0], body, x)


@register(d=3, h=3)
def picked_layers(d: int = 5, h: int = 7) -> Model:
    """A `fori_loop` that picks its layer."""

    def make(key):
        return {
            "stem": jnp.zeros((d, 3)),
            "up": jnp.zeros((3, h, d)),
            "down": jnp.zeros((3, d, h)),
            "head": jnp.zeros((2, d)),
        }

    widths = {"down": free(d), "up": free(h)}
    return Model(make, ((3,),), widths, _looping)


class Equilibrium(eqx.Module):
    into: eqx.nn.Linear
    again: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, h, *, key):
        keys = jr.split(key, 3)
        self.into = eqx.nn.Linear(3, h, key=keys[0])
        self.again = eqx.nn.Linear(h, h, use_bias=False, key=keys[1])
        self.head = eqx.nn.Linear(h, 2, key=keys[2])

    def __call__(self, x, steps):
        u = self.into(x)

        def body(state):
            i, z = state
            return i + 1, jnp.tanh(u + self.again(z))

        state = (jnp.zeros((), steps.dtype), jnp.zeros_like(u))
        return self.head(jax.lax.while_loop(lambda s: s[0] < steps, body, state)[1])


@register(h=3)
def equilibrium(h: int = 5) -> Model:
    """A `while_loop` towards a fixed point, as often as it is told."""
    make = lambda key: Equilibrium(h, key=key)
    steps = jnp.asarray(4, jnp.int32)
    return Model(make, ((3,), steps), {"into": free(h)}, differentiable=False)


class Branching(eqx.Module):
    stem: eqx.nn.Linear
    small: eqx.nn.Linear
    large: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, a, h, b, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Linear(3, a, key=keys[0])
        self.small = eqx.nn.Linear(a, b, key=keys[1])
        self.large = eqx.nn.MLP(a, b, h, 1, key=keys[2])
        self.head = eqx.nn.Linear(b, 2, key=keys[3])

    def __call__(self, x):
        h = jnp.tanh(self.stem(x))
        small, large = lambda h: self.small(h), lambda h: self.large(h)
        h = jax.lax.cond(x[0] > 0, small, large, h)
        return self.head(jnp.tanh(h))


@register(a=3, h=3, b=3)
def branching(a: int = 5, h: int = 7, b: int = 2) -> Model:
    """Two branches that meet in one width."""
    widths = {"stem": free(a), "small": free(b), "large.layers[0]": free(h)}
    return Model(lambda key: Branching(a, h, b, key=key), ((3,),), widths)
