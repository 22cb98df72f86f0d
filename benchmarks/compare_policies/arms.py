"""Arms as programs: seeds, rates, sizes and paths are batched; runs are one call."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from .replay import Replay
from .settings import BATCH, EVERY, MOST, POLICIES, RATES, SEEDS, STEPS, TUNING
from .tasks import error, loss, Task


class Seen(eqx.Module):
    """Of each run; `path`: sizes after each tick, `[ticks, widths]`."""

    valid: Any
    valid_loss: Any
    test: Any
    test_loss: Any
    path: Any


Run = Callable[[Any, Any, Any], Seen]
"""From keys, rates and what is each run's own, with a first axis of runs."""


def policy_runs(task: Task, name: str) -> Run:
    start, policy = POLICIES[name]
    return _growing(task, lambda own: policy(), start, {"valid", "valid_at"})


@ft.cache
def replayed_runs(task: Task, start: int, every: int) -> Run:
    return _growing(task, lambda path: Replay(path, every), start, set())


@ft.cache
def static_runs(task: Task, length: int, most: int) -> Run:
    """Static networks of any sizes up to `most`, trained for up to `length` steps: a
    run's own is its sizes and its number of steps."""

    def one(key: Any, rate: Any, own: tuple[Any, Any]) -> Seen:
        sizes, steps = own
        keys = jr.split(key, 3)
        data = task.data(keys[0])
        net = task.network(keys[1], sizes, most)
        rate_at = lambda count: jnp.where(count < steps, rate, 0.0)
        grown = gn.grow(
            net, loss, data[0], optimizer=optax.adam(rate_at), steps=length,
            policy=gn.NoGrowth(EVERY), key=keys[2], batch_size=BATCH, capacity=most,
        )  # fmt: skip
        return _seen(grown.growing.view(), data, sizes[None])

    return _batched(one)


def _growing(
    task: Task, policy_of: Callable[[Any], Any], start: int, held_out: set[str]
) -> Run:
    def one(key: Any, rate: Any, own: Any) -> Seen:
        keys, policy = jr.split(key, 3), policy_of(own)
        data = task.data(keys[0])
        grown = gn.grow(
            task.network(keys[1], (start,) * task.hidden), loss, data[0],
            valid=data[1] if policy.needs & held_out else None, overflow="hold",
            optimizer=optax.adam(rate), policy=policy, steps=STEPS, key=keys[2],
            batch_size=BATCH, capacity=MOST,
        )  # fmt: skip
        path = jnp.stack(list(grown.reports.sizes.values()), axis=-1)
        ticks = STEPS // policy.every  # There may be room for more.
        return _seen(grown.growing.view(), data, path[:ticks])

    return _batched(one)


def _seen(net: Any, data: Any, path: Any) -> Seen:
    _, valid, test = data
    return Seen(
        error(net, valid), loss(net, valid), error(net, test), loss(net, test), path
    )


def _batched(one: Callable[..., Seen]) -> Run:
    every = jax.jit(jax.vmap(one))
    return lambda *args: jax.tree.map(np.asarray, every(*args))


@dataclasses.dataclass(frozen=True)
class Tuned:
    """An arm at the rate that was best on held-out data of the tuning seeds.

    - `tries`: mean held-out error by rate.
    - `tuning_path`: sizes on the tuning seeds at the chosen rate.
    """

    rate: float
    tries: dict[float, float]
    runs: Seen
    tuning_path: np.ndarray


def tuned(run: Run, own: Any = None, own_in_tuning: Any = None) -> Tuned:
    """`RATES` times `TUNING` runs, then the evaluation seeds at one rate. Test errors
    of the former are never looked at."""
    keys = _keys([*TUNING] * len(RATES) + [TUNING[0]] * (len(SEEDS) - 9))
    rates = np.repeat(RATES, len(TUNING))
    rates = np.append(rates, [RATES[0]] * (len(SEEDS) - len(rates)))
    again = jax.tree.map(
        lambda leaf: np.resize(leaf, (len(SEEDS), *leaf.shape[1:])), own_in_tuning
    )
    tries = run(keys, rates.astype(np.float32), again)
    by_rate = tries.valid[:9].reshape(len(RATES), -1).mean(axis=1)
    best = int(np.nanargmin(by_rate))
    mine = slice(best * len(TUNING), (best + 1) * len(TUNING))
    rate = RATES[best]
    runs = run(_keys(SEEDS), np.full(len(SEEDS), rate, np.float32), own)
    by = dict(zip(RATES, by_rate.tolist(), strict=True))
    return Tuned(rate, by, runs, tries.path[mine])


def _keys(seeds: Any) -> Any:
    return jnp.stack([jr.key(seed) for seed in seeds])
