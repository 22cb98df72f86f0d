"""Method A of the paper, by hand: the size is a weight, trained like every other.

A network has one input x, `UNITS` tanh units that all exist from the start, a size N:

    y(x) = shift + sum_m out_m theta(N - m) tanh(bias_m + N size_in_m + x x_in_m)
    theta(u) = sin^2(pi u / 2) on [0, 1], 0 below, 1 above;  m = 0, 1, ...
    loss = mean (y - target)^2 + lambda (N - TARGET)^2

Everything, N too, follows full-batch gradient descent. Nothing is ever resized: growth
is N rising from 0, and the static network is the one that starts at N = TARGET.

`train_vmapped` is the obvious hand-written program: the run of one network, and `vmap`.
`train` does the same arithmetic about three times faster. There the last axis of every
array counts networks, so that all sums over units and points are vector additions, and
the points are scanned over, so that a step stays in the cache.
"""

import functools as ft
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from ._tasks import Loss


UNITS, TARGET = 9, 5.0
# The rate and lambda of the paper's first figure: what an open-loop ramp follows.
OWN_RATE, OWN_WEIGHT = 1e-3, 0.1

Array = Any


class Net(NamedTuple):
    """k networks: [k] or [UNITS, k]."""

    size: Array
    size_in: Array
    x_in: Array
    bias: Array
    out: Array
    shift: Array


class Setting(NamedTuple):
    """How each of k networks is trained: [k], so one program trains any mixture."""

    rate: Array
    cosine: Array  # does the rate fall to 0 along half a cosine?
    weight: Array  # lambda
    size_input: Array  # is N fed to the units, as published?
    own_rate: Array  # does N have a rate of its own, OWN_RATE?
    ramp: Array  # does N follow the size law, and no gradient at all?


def theta(u: Array) -> Array:
    """How loud a unit is, `u` units below the size."""
    return jnp.sin(jnp.pi / 2 * jnp.clip(u, 0.0, 1.0)) ** 2


def law(epoch: Array, rate: Array, weight: Array, start: Array = 0.0) -> Array:
    """The size after `epoch` epochs if the data had no say."""
    return TARGET + (start - TARGET) * jnp.exp(-2 * rate * weight * epoch)


@ft.partial(jax.jit, static_argnames="k")
def init(key: Array, k: int, start: Array = 0.0, out_scale: Array = 1.0) -> Net:
    """k networks: all weights uniform in [-1, 1], also of units not heard yet."""

    def uniform(i: int, *shape: int) -> Array:
        return jr.uniform(jr.fold_in(key, i), (*shape, k), minval=-1.0, maxval=1.0)

    size = jnp.broadcast_to(jnp.asarray(start, jnp.float32), (k,))
    size_in, x_in, bias, out = (uniform(i, UNITS) for i in range(4))
    return Net(size, size_in, x_in, bias, out * out_scale, uniform(4))


def heard(net: Net, size_input: Array) -> tuple[Array, Array, Array, Array]:
    """The network at its size: what stands in front of 1, x, each unit, and alone."""
    m = jnp.arange(UNITS).reshape(-1, *[1] * jnp.ndim(net.size))
    bias = net.bias + net.size * size_input * net.size_in
    return bias, net.x_in, theta(net.size - m) * net.out, net.shift


def output(view: tuple[Array, Array, Array, Array], x: Array) -> Array:
    bias, slope, out, shift = view
    return shift + jnp.sum(out * jnp.tanh(bias + slope * x), axis=0)


def point_loss(loss: Loss, value: Array, y: Array) -> Array:
    if loss == "square":
        return (value - y) ** 2
    return jax.nn.softplus(value) - y * value


def gradient(net: Net, setting: Setting, x: Array, y: Array, loss: Loss) -> Net:
    """Of the whole loss, for each network; `x` and `y` are [points, k]."""
    view, pull_back = jax.vjp(lambda n: heard(n, setting.size_input), net)
    at_point = jax.grad(lambda v, x, y: jnp.sum(point_loss(loss, output(v, x), y)))

    def add(total: Any, point: Any) -> Any:
        return jax.tree.map(jnp.add, total, at_point(view, *point)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, view), (x, y))
    (grads,) = pull_back(jax.tree.map(lambda g: g / len(x), total))
    pull = 2 * setting.weight * (net.size - TARGET)
    return grads._replace(size=grads.size + pull)


def descend(net: Net, grads: Net, setting: Setting, epoch: Array, epochs: int) -> Net:
    """One step of gradient descent, N by its own rule."""
    half = 0.5 * (1 + jnp.cos(jnp.pi * epoch / epochs))
    rate = setting.rate * jnp.where(setting.cosine, half, 1.0)
    moved = jax.tree.map(lambda p, g: p - rate * g, net, grads)
    size = net.size - jnp.where(setting.own_rate, OWN_RATE, rate) * grads.size
    ramp = law(epoch + 1, OWN_RATE, OWN_WEIGHT)
    return moved._replace(size=jnp.where(setting.ramp, ramp, size))


@ft.partial(jax.jit, static_argnames=("epochs", "loss", "record"))
def train(
    net: Net,
    setting: Setting,
    x: Array,
    y: Array,
    *,
    epochs: int,
    loss: Loss = "square",
    record: int = 0,
) -> tuple[Net, Array | None]:
    """Train k networks, each on its own points [points, k], in one program.

    Returns the networks and, if asked for, the sizes after every `record` epochs.
    """

    def step(net: Net, epoch: Array) -> tuple[Net, None]:
        grads = gradient(net, setting, x, y, loss)
        return descend(net, grads, setting, epoch, epochs), None

    if not record:
        return jax.lax.scan(step, net, jnp.arange(epochs))

    def stretch(net: Net, which: Array) -> tuple[Net, Array]:
        net, _ = jax.lax.scan(step, net, which)
        return net, net.size

    return jax.lax.scan(stretch, net, jnp.arange(epochs).reshape(-1, record))


@ft.partial(jax.jit, static_argnames=("epochs", "loss"))
def train_vmapped(
    net: Net,
    setting: Setting,
    x: Array,
    y: Array,
    *,
    epochs: int,
    loss: Loss = "square",
) -> Net:
    """What `train` does, written as the run of one network and a `vmap`."""

    def run(net: Net, setting: Setting, x: Array, y: Array) -> Net:
        def objective(net: Net) -> Array:
            bias, slope, out, shift = heard(net, setting.size_input)
            values = shift + jnp.tanh(bias + x[:, None] * slope) @ out
            data = jnp.mean(point_loss(loss, values, y))
            return data + setting.weight * (net.size - TARGET) ** 2

        def step(net: Net, epoch: Array) -> tuple[Net, None]:
            return descend(net, jax.grad(objective)(net), setting, epoch, epochs), None

        return jax.lax.scan(step, net, jnp.arange(epochs))[0]

    return jax.vmap(run, in_axes=-1, out_axes=-1)(net, setting, x, y)


@ft.partial(jax.jit, static_argnames="loss")
def data_loss(
    net: Net, setting: Setting, x: Array, y: Array, loss: Loss = "square"
) -> Array:
    """The data part of the loss on points [points, k], per network."""
    values = jax.vmap(output, in_axes=(None, 0))(heard(net, setting.size_input), x)
    return jnp.mean(point_loss(loss, values, y), axis=0)


def size_loss(net: Net, setting: Setting) -> Array:
    """The rest of it."""
    return setting.weight * (net.size - TARGET) ** 2
