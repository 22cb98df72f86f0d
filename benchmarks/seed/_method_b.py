"""Method B of the paper, by hand: a controller's one number masks the hidden layer.

A network has d inputs, the control c as one more, n tanh units, and a linear layer:

    y(x) = shift + out (mask(c) * tanh(bias + in x + c_in c)),   s = sin^2(pi c / 2)

In the authors' code the mask is built for a layer of size 1, so that it is one gain s
for all units. `Setting.per_unit` is the mask that their function makes for n units: the
first floor(s n) of them, and a part of the next. The control starts near 0 and follows
0.32 (c - 1)^2, in one Adam with the weights, and no gradient of the data reaches it,
unless `data_gradient`.
"""

import functools as ft
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax


SIZE_WEIGHT = 0.32

Array = Any


class Net(NamedTuple):
    """One network; under `vmap` a leading axis counts them."""

    control: Array
    inputs: Array  # [n, d]
    control_in: Array  # [n]
    bias: Array  # [n]
    out: Array  # [outputs, n]
    shift: Array  # [outputs]


class Setting(NamedTuple):
    """How one network is trained: numbers, so that one program trains any mixture."""

    rate: Array
    cosine: Array  # does the rate fall to 0 along half a cosine?
    size_input: Array  # is the control fed to the units, as published?
    per_unit: Array  # a mask per unit, instead of one gain?
    weight: Array  # lambda, of the size loss
    data_gradient: Array  # does the data move the control too?
    ramp: Array  # does the control follow a given curve, and no gradient at all?


@ft.partial(jax.jit, static_argnames=("d", "n", "outputs"))
def init(
    key: Array, d: int, n: int, outputs: int, control: Array, size_input: Array
) -> Net:
    """Uniform in +-1/sqrt(inputs), as Equinox draws linear layers."""
    keys = jr.split(key, 6)
    inside = 1 / jnp.sqrt(d + size_input)

    def uniform(i: int, shape: tuple[int, ...], bound: Array) -> Array:
        return bound * jr.uniform(keys[i], shape, minval=-1.0, maxval=1.0)

    return Net(
        control,
        uniform(0, (n, d), inside),
        uniform(1, (n,), inside),
        uniform(2, (n,), inside),
        uniform(3, (outputs, n), n**-0.5),
        uniform(4, (outputs,), n**-0.5),
    )


def mask(control: Array, n: int, per_unit: Array) -> Array:
    """How loud each of n units is."""
    s = jnp.sin(jnp.pi / 2 * control) ** 2
    return jnp.where(per_unit, jnp.clip(s * n - jnp.arange(n), 0.0, 1.0), s)


def outputs(net: Net, setting: Setting, x: Array) -> Array:
    """[points, d] to [outputs, points]."""
    frozen = jax.lax.stop_gradient(net.control)
    control = jnp.where(setting.data_gradient, net.control, frozen)
    gains = mask(control, len(net.bias), setting.per_unit)
    bias = net.bias + control * setting.size_input * net.control_in
    hidden = jnp.tanh(bias[:, None] + net.inputs @ x.T)
    return net.shift[:, None] + (net.out * gains) @ hidden


def data_loss(net: Net, setting: Setting, x: Array, y: Array) -> Array:
    """Mean squared error, or cross-entropy where the targets are classes."""
    values = outputs(net, setting, x)
    if jnp.issubdtype(y.dtype, jnp.integer):
        own = jnp.where(jnp.arange(len(values))[:, None] == y, values, 0.0).sum(axis=0)
        return jnp.mean(jax.nn.logsumexp(values, axis=0) - own)
    return jnp.mean((values[0] - y) ** 2)


@ft.partial(jax.jit, static_argnames="epochs")
def free_control(start: Array, rate: float, epochs: int) -> Array:
    """The control after each epoch under Adam on the size loss alone, [epochs]."""
    adam = optax.adam(rate)

    def step(carry: Any, _: None) -> Any:
        control, state = carry
        pull = jax.grad(lambda c: SIZE_WEIGHT * (c - 1) ** 2)(control)
        change, state = adam.update(pull, state)
        control = control + change
        return (control, state), control

    return jax.lax.scan(step, (start, adam.init(start)), length=epochs)[1]


@ft.partial(jax.jit, static_argnames="epochs")
def train(
    net: Net, setting: Setting, curve: Array, x: Array, y: Array, *, epochs: int
) -> tuple[Net, Array]:
    """Train k networks at once, each on its own points; also the control per epoch.

    `curve` is [epochs], what the controls of ramps follow.
    """
    adam = optax.scale_by_adam()

    def run(net: Net, setting: Setting, x: Array, y: Array) -> tuple[Net, Array]:
        def objective(net: Net) -> Array:
            size_loss = setting.weight * (net.control - 1) ** 2
            return data_loss(net, setting, x, y) + size_loss

        def step(carry: Any, at: tuple[Array, Array]) -> Any:
            net, state = carry
            epoch, control = at
            updates, state = adam.update(jax.grad(objective)(net), state)
            half = 0.5 * (1 + jnp.cos(jnp.pi * epoch / epochs))
            rate = setting.rate * jnp.where(setting.cosine, half, 1.0)
            net = jax.tree.map(lambda p, u: p - rate * u, net, updates)
            control = jnp.where(setting.ramp, control, net.control)
            net = net._replace(control=control)
            return (net, state), control

        ends, controls = jax.lax.scan(
            step, (net, adam.init(net)), (jnp.arange(epochs), curve)
        )
        return ends[0], controls

    return jax.vmap(run)(net, setting, x, y)
