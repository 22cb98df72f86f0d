"""Runs of one task and one arm: a learning rate is chosen, then measured anew."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn
from growthnet_policies import VarianceTransfer

from .arms import ARMS, AtTimes, EVERY
from .tasks import Task


RATES = (6e-4, 1.5e-3, 4e-3, 1e-2, 2.5e-2, 6e-2)
TUNING, SEEDS = 3, 18
"""As many runs choose the rate as measure it, so that one program does both."""
LAST = 4
"""The loss at the end is the mean over so many ticks."""


def losses(task: Task, name: str) -> Any:
    """A program: keys, rates and whether on test data, to the held-out losses after
    each tick, `[runs, ticks]`."""
    make, transferred = ARMS[name]
    rule = VarianceTransfer(task.add, every=EVERY) if transferred else None

    def one(member: tuple[Any, Any, Any]) -> Any:
        key, rate, test = member
        train, valid, held = task.data(jr.fold_in(key, 0))
        pick = lambda a, b: jnp.where(test, a, b)
        grown = gn.grow(
            task.make(jr.fold_in(key, 1)),
            task.loss,
            train,
            optimizer=make(rate),
            policy=AtTimes(births=task.births, add=task.add, rule=rule),
            steps=task.steps,
            key=jr.fold_in(key, 2),
            capacity=task.capacity,
            widths=task.widths,
            valid=jax.tree.map(pick, held, valid),
            batch_size=task.batch,
        )
        held_out = grown.reports.valid_loss[: task.steps // EVERY]
        return held_out, grown.overflowed, grown.sizes

    many = jax.vmap(one) if task.together else lambda runs: jax.lax.map(one, runs)
    return jax.jit(many)


def run(task: Task, name: str) -> dict[str, Any]:
    """The chosen rate, and what the runs of other seeds gave with it."""
    program = losses(task, name)
    seeds = 1000 + np.tile(np.arange(TUNING), len(RATES))
    rates = np.repeat(np.asarray(RATES, np.float32), TUNING)
    chosen = _measured(task, program, seeds, rates, test=False)["after"]
    by_rate = np.mean(np.reshape(chosen, (len(RATES), TUNING)), axis=1)
    best = int(np.argmin(np.where(np.isfinite(by_rate), by_rate, np.inf)))
    rate = np.full(SEEDS, RATES[best], np.float32)
    found = _measured(task, program, 100 + np.arange(SEEDS), rate, test=True)
    return {"rate": RATES[best], "tuning": by_rate.tolist(), **found}


def _measured(
    task: Task, program: Any, seeds: Any, rates: Any, *, test: bool
) -> dict[str, Any]:
    keys = jax.vmap(jr.key)(jnp.asarray(seeds))
    flags = jnp.full(len(seeds), test)
    held, overflowed, sizes = jax.device_get(program((keys, rates, flags)))
    assert not overflowed.any()
    assert all(np.all(size == task.capacity) for size in sizes.values()), sizes
    first = task.births[0] // EVERY
    assert held.shape[1] == task.steps // EVERY and np.all(held > 0)
    found = {
        "after": held[:, first:].mean(axis=1),
        "last": held[:, -LAST:].mean(axis=1),
        "curve": np.median(held, axis=0),
    }
    return {k: [float(f"{x:.6g}") for x in v] for k, v in found.items()}
