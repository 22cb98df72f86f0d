"""Arms as programs: a population of runs, mapped over seeds and learning rates."""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from .settings import Arm, MOST, Settings
from .tasks import Shape, Task


Seen = dict[str, np.ndarray]
PARTS = ("train", "valid", "test")


@ft.cache
def program(shape: Shape, drawn: bool, arm: Arm, s: Settings) -> Any:
    """From data, keys, rates and paths to what is seen of each run."""
    capacity = arm.start if arm.kind == "static" else MOST

    def one(data: Any, key: Any, rate: Any, path: Any) -> dict[str, Any]:
        first, rest = jr.split(key)
        schedule = optax.cosine_decay_schedule(rate, s.steps)
        grown = gn.grow(
            shape.network(arm.start, first),
            shape.loss,
            data["train"],
            valid=data["valid"],
            optimizer=optax.adam(schedule),
            policy=arm.policy(s, path),
            steps=s.steps,
            key=rest,
            capacity=capacity,
            batch_size=s.batch,
            overflow="hold",
        )
        net, reports = grown.growing.view(), grown.reports
        names = sorted(reports.sizes)
        return {
            **{f"{part}_loss": shape.loss(net, data[part]) for part in PARTS},
            **{f"{part}_error": shape.error(net, data[part]) for part in PARTS},
            "curve": reports.valid_loss,
            "path": jnp.stack([reports.sizes[n] for n in names], axis=-1),
            "before": jnp.stack([reports.old_sizes[n] for n in names], axis=-1),
        }

    axes = (0 if drawn else None, 0, 0, 0)
    return jax.jit(jax.vmap(one, in_axes=axes))


def runs(
    task: Task, arm: Arm, s: Settings, seeds: Any, rates: Any, path: Any = None
) -> Seen:
    """What is seen of a run per seed and rate. Programs are made for as many runs as
    there are seeds in an evaluation; what is missing is filled up and dropped."""
    count = len(seeds)
    pad = lambda a: np.resize(a, (max(len(s.seeds), count), *np.shape(a)[1:]))
    seeds, rates = pad(np.asarray(seeds)), pad(np.asarray(rates, np.float32))
    path = np.zeros((1, 1)) if path is None else np.asarray(path)
    ticks = s.steps // arm.policy(s, path).every
    keys = jnp.stack([jr.key(10_000 + int(seed)) for seed in seeds])
    made = program(task.shape, task.drawn, arm, s)
    seen = jax.device_get(made(task.data(seeds), keys, rates, pad(path)))
    for name in ("curve", "path", "before"):  # There may be room for more.
        seen[name] = seen[name][:, :ticks]
    return {name: np.asarray(values)[:count] for name, values in seen.items()}


def tuned(task: Task, arm: Arm, s: Settings, path: Any = None) -> tuple[Seen, Any]:
    """Every rate on every tuning seed: what is seen, and the rate of each run."""
    seeds = np.tile(s.tuning, len(s.rates))
    rates = np.repeat(s.rates, len(s.tuning))
    return runs(task, arm, s, seeds, rates, path), rates
