"""Runs of a task, as functions of keys, rates, and numbers of the arm's own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from growthnet_policies import ResidualFitting

from .tasks import Task


START, UNITS = 4, 4
STEPS, EVERY, BATCH = 6_000, 500, 64
MOST = START + UNITS * (STEPS // EVERY // 2)  # Every second look at most.


class Seen(eqx.Module):
    """Of each run: losses, score, and its size tick by tick."""

    valid: Any
    test: Any
    score: Any
    sizes: Any


Runs = Callable[[Any, Any, Any], Seen]
"""Of keys, rates, and the arm's own numbers: all with an axis of runs."""


class Cut(eqx.Module):
    """A perceptron of which only the first units are there."""

    net: eqx.nn.MLP
    there: Any

    def __init__(self, task: Task, most: int, size: Any, key: Any):
        first = perceptron(task, most, key)
        # Drawn as for so many inputs.
        scale = jnp.sqrt(most / size)
        louder = jax.tree.map(lambda a: a * scale, first.layers[1])
        self.net = eqx.tree_at(lambda n: n.layers[1], first, louder)
        self.there = jnp.arange(most) < size

    def __call__(self, x: Any) -> Any:
        first, last = self.net.layers
        return last(jnp.where(self.there, jnp.tanh(first(x)), 0))


def perceptron(task: Task, width: int, key: Any) -> eqx.nn.MLP:
    return eqx.nn.MLP(task.inputs, task.outputs, width, 1, activation=jnp.tanh, key=key)


class Silent(gn.AbstractPolicy):
    """So many silent units at each turn."""

    births: Any
    every: int = eqx.field(static=True, default=EVERY)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        ((name, mask),) = evidence.open.items()
        born = self.births[evidence.step // self.every - 1]
        return gn.Decision({name: gn.Change(mask, born)}), trainable, memory, {}


def grown(
    task: Task,
    policy: Any,
    net: Any,
    data: Any,
    key: Any,
    rate: Any,
    steps: int = STEPS,
    room: int = MOST,
) -> Any:
    return gn.grow(
        net, lambda net, batch, key: task.loss(jax.vmap(net)(batch[0]), batch[1]),
        data[0], valid=data[1], optimizer=optax.adam(rate), policy=policy, steps=steps,
        key=key, batch_size=BATCH, capacity=room, overflow="hold",
    )  # fmt: skip


def looked_at(task: Task, net: Any, data: Any, sizes: Any) -> Seen:
    _, valid, test = data
    outputs = jax.vmap(net)(test[0])
    held_out = task.loss(jax.vmap(net)(valid[0]), valid[1])
    loss, score = task.loss(outputs, test[1]), task.score(outputs, test, net)
    return Seen(held_out, loss, score, sizes)


def static_runs(task: Task, most: int, steps: int = STEPS) -> Runs:
    """Networks of as many units as `own` says, up to `most`."""

    def one(key: Any, rate: Any, own: Any) -> Seen:
        keys = jr.split(key, 3)
        data, net = task.data(keys[0]), Cut(task, most, own, keys[1])
        still, key = gn.NoGrowth(every=EVERY), keys[2]
        run = grown(task, still, net, data, key, rate, steps, max(most, MOST))
        sizes = jnp.broadcast_to(own, (steps // EVERY,))
        return looked_at(task, run.growing.view(), data, sizes)

    return many(one)


def growing_runs(task: Task, make: Callable[[Any], gn.AbstractPolicy]) -> Runs:
    """Networks of 4 units and a policy that `own` makes."""

    def one(key: Any, rate: Any, own: Any) -> Seen:
        keys = jr.split(key, 3)
        data, net = task.data(keys[0]), perceptron(task, START, keys[1])
        run = grown(task, make(own), net, data, keys[2], rate)
        (sizes,) = run.reports.sizes.values()
        return looked_at(task, run.growing.view(), data, sizes.reshape(-1))

    return many(one)


def residual_runs(task: Task, *, freeze: bool = False) -> Runs:
    policy = ResidualFitting(
        UNITS, every=EVERY, batches=task.batches, until=MOST, freeze=freeze
    )
    return growing_runs(task, lambda own: policy)


def silent_runs(task: Task) -> Runs:
    """Silent units along the sizes that `own` says."""
    start = jnp.asarray([START])
    return growing_runs(task, lambda own: Silent(jnp.diff(own, prepend=start)))


def ensemble_runs(task: Task) -> Runs:
    """Means of networks of 4 units that have as many units together as `own` says."""
    most = MOST // START

    def one(key: Any, rate: Any, own: Any) -> Seen:
        keys = jr.split(key, 3)
        data, count = task.data(keys[0]), own // START

        def member(keys: Any) -> Any:
            net = perceptron(task, START, keys[0])
            policy = gn.NoGrowth(every=EVERY)
            run = grown(task, policy, net, data, keys[1], rate)
            return run.growing.view()

        every = jax.vmap(lambda k: jr.split(k, 2))(jr.split(keys[1], most))
        nets = eqx.filter_vmap(member)(every)
        parts = (jnp.arange(most) < count) / count

        def mean(x: Any) -> Any:
            return parts @ eqx.filter_vmap(lambda net: net(x))(nets)

        sizes = jnp.broadcast_to(count * START, (STEPS // EVERY,))
        return looked_at(task, mean, data, sizes)

    return many(one)


def many(one: Callable[..., Seen]) -> Runs:
    every = jax.jit(jax.vmap(one))
    return lambda *args: jax.tree.map(np.asarray, every(*args))
