"""Digits, a regression, the cloning of an expert, and noise: all new for every seed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from .. import digits as images


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`data(key)` is `(train, valid, test)`, of which `held_out` examples are valid;
    `score(outputs, test, net)` is told beside the loss. `batches`: how many of the last
    batches probes are trained on."""

    inputs: int
    outputs: int
    held_out: int
    data: Callable[[Any], tuple[Any, Any, Any]]
    loss: Callable[[Any, Any], Any]
    score: Callable[[Any, Any, Any], Any]
    what: str
    batches: int = 8


def squared(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs - y) ** 2)


def digits() -> Task:
    x, y = images.digits()

    def loss(outputs: Any, y: Any) -> Any:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
        return jnp.mean(each)

    wrong = lambda outputs, test, net: jnp.mean(jnp.argmax(outputs, 1) != test[1])
    data = lambda key: images.parted(x, y, key)
    return Task(64, 10, images.VALID, data, loss, wrong, "test error")


def regression(*, noise_only: bool = False) -> Task:
    def data(key: Any) -> tuple[Any, Any, Any]:
        keys = jr.split(key, 5)
        weights, out = jr.normal(keys[0], (12, 4)), jr.normal(keys[1], (1, 12))
        x = jr.normal(keys[2], (4_096, 4))
        clean = jnp.tanh(x @ weights.T + jr.normal(keys[3], (12,))) @ out.T
        clean = (clean - jnp.mean(clean)) / jnp.std(clean)
        noise = jr.normal(keys[4], clean.shape)
        y = noise if noise_only else clean + 0.3 * noise
        parts = slice(0, 1_024), slice(1_024, 2_048), slice(2_048, None)
        train, valid, test = [(x[rows], y[rows]) for rows in parts]
        return train, valid, (*test, clean[parts[2]])

    clean = lambda outputs, test, net: squared(outputs, test[2])
    return Task(4, 1, 1_024, data, squared, clean, "noise-free loss")


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
        states, _ = ways(expert, key, 80, 0.5)
        every = jr.split(jr.fold_in(key, 1), 80)
        pick = lambda states, key: jr.permutation(key, states[:100])[:64]
        states = jax.vmap(pick)(states, every)  # Parted by ways, not by states.

        def part(ways: Any) -> Any:
            flat = ways.reshape(-1, 2)
            return jax.vmap(seen)(flat), jax.vmap(expert)(flat)[:, None]

        return part(states[:40]), part(states[40:64]), part(states[64:])

    def cost(outputs: Any, test: Any, net: Any) -> Any:
        control = lambda state: net(seen(state))[0]
        return jnp.mean(ways(control, jr.key(1), 32, 0.0)[1])

    return Task(3, 1, 1_536, data, squared, cost, "cost of driving")


TASKS = {
    "digits": digits,
    "regression": regression,
    "clone": clone,
    "noise": lambda: regression(noise_only=True),
}
