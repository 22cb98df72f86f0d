"""Where a policy is tried: a small task, and runs on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from .._policies.policy import AbstractPolicy
from .._reading.anatomy import Anatomy
from .._reading.trace import trace
from .._runs.fit import fit, Run


DECISIONS = 3
"""How many decisions a run has."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a policy is tried on.

    - `net`: the network it starts from.
    - `loss`: as `growthnet.fit` takes it.
    - `data`, `valid`: a tuple of arrays each, with examples along their first axis.
    - `predict`: `predict(net, batch)`, the outputs.
    - `batch_size`: of training; all examples at once if `None`.
    """

    net: Any
    loss: Callable[..., Any]
    data: tuple[Any, ...]
    valid: tuple[Any, ...]
    predict: Callable[[Any, Any], Any]
    batch_size: int | None = None

    def anatomy(self) -> Anatomy:
        return trace(self.net, self.data, call=self.predict)


def small_task() -> Task:
    """A perceptron of 3 and 4 tanh units, and 48 points of a smooth function."""
    keys = jr.split(jr.key(0), 3)
    layers = [
        eqx.nn.Linear(2, 3, key=keys[0]),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Linear(3, 4, key=keys[1]),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Linear(4, 1, key=keys[2]),
    ]
    x = np.random.default_rng(0).uniform(-1, 1, (72, 2)).astype(np.float32)
    y = np.sin(3 * x[:, :1]) * x[:, 1:]
    data, valid = (x[:48], y[:48]), (x[48:], y[48:])
    return Task(eqx.nn.Sequential(layers), squared_error, data, valid, outputs, 16)


def outputs(net: Any, batch: Any) -> Any:
    return jax.vmap(net)(batch[0])


def squared_error(net: Any, batch: Any, key: Any) -> Any:
    del key
    return jnp.mean((outputs(net, batch) - batch[1]) ** 2)


def steps_of(policy: AbstractPolicy) -> int:
    return DECISIONS * policy.every


OPTIMIZER = optax.adam(1e-2)


def run_of(policy: AbstractPolicy, task: Task, **options: Any) -> Run:
    """A run of a few decisions, the same for the same options."""
    given = {
        "steps": steps_of(policy),
        "batch_size": task.batch_size,
        "key": jr.key(3),
        "valid": task.valid,
        "predict": task.predict,
        **options,
    }
    # optax counts on the promotion of dtypes and ranks that JAX has by default.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return fit(
            task.net, task.loss, task.data, optimizer=OPTIMIZER, policy=policy, **given
        )
