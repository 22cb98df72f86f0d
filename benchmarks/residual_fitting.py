"""Residual fitting beside its controls, on three tasks and on noise.

    python benchmarks/residual_fitting.py [--seeds 10] [--tasks digits regression clone]

Tasks, all new for every seed (data, split, first weights):

- `digits`: scikit-learn's 8 x 8 digits; 800 training, 400 held-out, 597 test examples.
- `regression`: a teacher of 12 tanh units on 4 inputs, noise of half the signal's size.
- `clone`: a pendulum is swung up by a hand-written expert; its torque is learned from
    states on its ways (behaviour cloning). The score is the cost of 200 steps with the
    clone in its place.
- `noise`: the same inputs as `regression`, outputs that have nothing to do with them.

Arms, one hidden tanh layer each, Adam, equal steps; the rate is the best of three on
held-out data of other seeds:

- `small`: 4 units. `large`: 48 units.
- `residual`: from 4 units, `ResidualFitting`. `frozen`: the same with `freeze=True`.
- `final`: static, at the size that `residual` ends with on that seed.
- `silent`: as many units at the same steps as `residual`, but silent ones.
- `ensemble`: the mean of small networks with as many units together.

FLOPs are those of the open units: training, and for `residual` all that is done to look
(residuals of 20 orders, probes, their trials, the stopping error), per run.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits

import growthnet as gn
from growthnet_policies import ResidualFitting


START, UNITS, LARGE = 4, 4, 48
STEPS, EVERY, BATCH = 4_000, 250, 64
BATCHES, PROBE_STEPS, SHUFFLES, ALPHAS = 8, 50, 19, 12
RATES = (1e-3, 3e-3, 1e-2)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`data(key)` is `(train, valid, test)`; `score(outputs, test, net)` is told beside
    the loss."""

    inputs: int
    outputs: int
    data: Callable[[Any], tuple[Any, Any, Any]]
    loss: Callable[[Any, Any], Any]
    score: Callable[[Any, Any, Any], Any]
    what: str


def squared(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs - y) ** 2)


def digits() -> Task:
    known = load_digits()
    x, y = jnp.asarray(known.data / 16, jnp.float32), jnp.asarray(known.target)

    def data(key: Any) -> tuple[Any, Any, Any]:
        order = jr.permutation(key, len(y))
        parts = order[:800], order[800:1200], order[1200:]
        train, valid, test = [(x[rows], y[rows]) for rows in parts]
        return train, valid, test

    def loss(outputs: Any, y: Any) -> Any:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
        return jnp.mean(each)

    wrong = lambda outputs, test, net: jnp.mean(jnp.argmax(outputs, 1) != test[1])
    return Task(64, 10, data, loss, wrong, "test error")


def regression(*, noise_only: bool = False) -> Task:
    def data(key: Any) -> tuple[Any, Any, Any]:
        keys = jr.split(key, 5)
        weights, out = jr.normal(keys[0], (12, 4)), jr.normal(keys[1], (1, 12))
        x = jr.normal(keys[2], (2_560, 4))
        clean = jnp.tanh(x @ weights.T + jr.normal(keys[3], (12,))) @ out.T
        clean = (clean - jnp.mean(clean)) / jnp.std(clean)
        noise = jr.normal(keys[4], clean.shape)
        y = noise if noise_only else clean + 0.5 * noise
        parts = slice(0, 512), slice(512, 1_024), slice(1_024, None)
        train, valid, test = [(x[rows], y[rows]) for rows in parts]
        return train, valid, (*test, clean[parts[2]])

    clean = lambda outputs, test, net: squared(outputs, test[2])
    return Task(4, 1, data, squared, clean, "noise-free loss")


# --- a pendulum: state (angle from above, speed), torque at most 2


def expert(state: Any) -> Any:
    angle, speed = state
    energy = 0.5 * speed**2 + 10 * (jnp.cos(angle) - 1)
    swing = jnp.clip(-0.6 * speed * energy, -2, 2)
    near = jnp.clip(-20 * angle - 4 * speed, -2, 2)
    return jnp.where((jnp.abs(angle) < 0.3) & (jnp.abs(speed) < 2), near, swing)


def seen(state: Any) -> Any:
    angle, speed = state
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / 4])


def ways(control: Callable[[Any], Any], key: Any, count: int, noise: float) -> Any:
    """States and costs of 200 steps from many starts: `[count, 200, 2]`, `[count]`."""

    def step(state: Any, key: Any) -> tuple[Any, tuple[Any, Any]]:
        angle, speed = state
        torque = jnp.clip(control(state), -2, 2)
        given = torque + noise * jr.normal(key)
        speed = speed + 0.05 * (10 * jnp.sin(angle) + 3 * given)
        angle = (angle + 0.05 * speed + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * speed**2 + 1e-3 * torque**2
        return jnp.stack([angle, speed]), (state, cost)

    def one(key: Any) -> Any:
        first, rest = jr.split(key)
        state = jr.uniform(first, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])
        _, (states, costs) = jax.lax.scan(step, state, jr.split(rest, 200))
        return states, jnp.mean(costs)

    return jax.vmap(one)(jr.split(key, count))


def clone() -> Task:
    def data(key: Any) -> tuple[Any, Any, Any]:
        states, _ = ways(expert, key, 36, 0.5)
        every = jr.split(jr.fold_in(key, 1), 36)
        pick = lambda states, key: jr.permutation(key, states)[:64]
        states = jax.vmap(pick)(states, every)  # Parted by ways, not by states.

        def part(ways: Any) -> Any:
            flat = ways.reshape(-1, 2)
            return jax.vmap(seen)(flat), jax.vmap(expert)(flat)[:, None]

        return part(states[:12]), part(states[12:20]), part(states[20:])

    def cost(outputs: Any, test: Any, net: Any) -> Any:
        control = lambda state: net(seen(state))[0]
        return jnp.mean(ways(control, jr.key(1), 32, 0.0)[1])

    return Task(3, 1, data, squared, cost, "cost of driving")


TASKS = {
    "digits": digits,
    "regression": regression,
    "clone": clone,
    "noise": lambda: regression(noise_only=True),
}


# --- runs


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


class Seen(eqx.Module):
    """Of each run: losses, score, outputs on the test data, sizes by tick."""

    valid: Any
    test: Any
    score: Any
    outputs: Any
    sizes: Any


def train(
    task: Task, policy: Callable[[Any], Any], width: int, keys: Any, rates: Any, own: Any
) -> Seen:
    """A static or growing run for every key; `own` is the policy's, by run."""

    def one(key: Any, rate: Any, own: Any) -> Seen:
        data_key, net_key, run_key = [jr.fold_in(key, i) for i in range(3)]
        data, valid, test = task.data(data_key)
        net = eqx.nn.MLP(
            task.inputs, task.outputs, width, 1, activation=jnp.tanh, key=net_key
        )
        grown = gn.grow(
            net, lambda net, batch, key: task.loss(jax.vmap(net)(batch[0]), batch[1]),
            data, valid=valid, optimizer=optax.adam(rate), policy=policy(own),
            steps=STEPS, key=run_key, batch_size=BATCH, capacity=max(width, LARGE),
            overflow="hold",
        )  # fmt: skip
        view = grown.growing.view()
        outputs = jax.vmap(view)(test[0])
        ((_, sizes),) = grown.reports.sizes.items() or ((None, jnp.zeros(1)),)
        return Seen(
            grown.reports.valid_loss[-1],
            task.loss(outputs, test[1]),
            task.score(outputs, test, view),
            outputs,
            sizes,
        )

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys, rates, own))


def tuned(
    task: Task, policy: Callable[[Any], Any], width: int, keys: Any, own: Any = None
) -> tuple[Seen, float]:
    """Runs at the rate that is best on the held-out data of three other seeds."""
    others = jr.split(jr.key(99), 3)
    rates = jnp.repeat(jnp.array(RATES), len(others))
    extra = None if own is None else jnp.repeat(own[:1], len(rates), axis=0)
    tries = train(task, policy, width, jnp.tile(others, len(RATES)), rates, extra)
    means = tries.valid.reshape(len(RATES), -1).mean(axis=1)
    rate = RATES[int(np.nanargmin(means))]
    return train(task, policy, width, keys, jnp.full(len(keys), rate), own), rate
