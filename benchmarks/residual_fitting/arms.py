"""The arms of a task, each at the rate that is best on other seeds' held-out data."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..stored import write
from .runs import (
    BATCH,
    ensemble_runs,
    EVERY,
    MOST,
    residual_runs,
    Runs,
    Seen,
    silent_runs,
    START,
    static_runs,
    STEPS,
    UNITS,
)
from .tasks import Task


LARGE = 48
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING = 3
Rows = dict[str, dict[str, Any]]


def keys_of(seeds: int) -> tuple[Any, Any]:
    """Of the runs that are told, and of those that choose rates."""
    return jr.split(jr.key(0), seeds), jr.split(jr.key(99), TUNING)


def tuned(runs: Runs, seeds: int, own: Any, in_tuning: Any) -> dict[str, Any]:
    """Runs at the best rate. `own` and `in_tuning` are the arm's numbers by seed, and
    by tuning seed."""
    keys, others = keys_of(seeds)
    # One program: as many runs as there are seeds, or all tries.
    tries = np.resize(np.arange(len(RATES) * TUNING), max(seeds, len(RATES) * TUNING))
    rates, seed = np.asarray(RATES)[tries // TUNING], tries % TUNING
    at = lambda a: jnp.asarray(np.asarray(a)[seed])
    found = runs(others[seed], jnp.asarray(rates, float), at(in_tuning))
    tried = jax.tree.map(lambda a: a[: len(RATES) * TUNING], found)
    losses = tried.valid.reshape(len(RATES), TUNING).mean(axis=1)
    best = int(np.nanargmin(losses))
    told = np.resize(np.arange(seeds), len(tries))
    at = lambda a: jnp.asarray(np.asarray(a)[told])
    found = runs(keys[told], jnp.full(len(tries), RATES[best]), at(own))
    found = jax.tree.map(lambda a: a[:seeds], found)
    pick = slice(best * TUNING, (best + 1) * TUNING)
    return {
        "rate": RATES[best],
        "tries": losses.tolist(),
        **row(found),
        "tuning_sizes": tried.sizes[pick].tolist(),
    }


def row(found: Seen) -> dict[str, Any]:
    told = {k: getattr(found, k).astype(float) for k in ("valid", "test", "score")}
    return {k: v.round(6).tolist() for k, v in told.items()} | {
        "sizes": found.sizes.astype(int).tolist()
    }


def run(task: Task, path: Path, seeds: int) -> Rows:
    """All arms; what `path` has isn't run again."""
    rows: Rows = json.loads(path.read_text()) if path.exists() else {}

    def arm(name: str, make: Callable[[], Runs], own: Any, in_tuning: Any) -> Any:
        if name not in rows:
            began = time.process_time()
            rows[name] = tuned(make(), seeds, own, in_tuning)
            rows[name]["cpu_seconds"] = round(time.process_time() - began, 1)
            write(path, rows)
            print(name, rows[name]["rate"], rows[name]["cpu_seconds"], flush=True)
        return rows[name]

    all_ = lambda size: (np.full(seeds, size), np.full(TUNING, size))
    arm("small", lambda: static_runs(task, START), *all_(START))
    arm("large", lambda: static_runs(task, LARGE), *all_(LARGE))
    arm("residual", lambda: residual_runs(task), *all_(0))
    sizes = [np.asarray(rows["residual"][k]) for k in ("sizes", "tuning_sizes")]
    final = [own[:, -1] for own in sizes]
    if (final[0] == START).all():
        return rows
    arm("frozen", lambda: residual_runs(task, freeze=True), *all_(0))
    arm("silent", lambda: silent_runs(task), *sizes)
    arm("final", lambda: static_runs(task, MOST), *final)
    # Static networks at its executed FLOPs: trained longer, or wider.
    spent = [work(task, own, looks=True) for own in sizes]
    ratio = spent[0].mean() / work(task, sizes[0] * 0 + final[0][:, None]).mean()
    longer = EVERY * round(STEPS * ratio / EVERY)
    arm("longer", lambda: static_runs(task, MOST, longer), *final)
    wide = [wider(task, own) for own in spent]
    most = int(max(own.max() for own in wide))
    arm("wider", lambda: static_runs(task, most), *wide)
    arm("ensemble", lambda: ensemble_runs(task), *final)
    return rows


# --- what it costs


def params(task: Task, width: Any) -> Any:
    return width * (task.inputs + task.outputs + 1) + task.outputs


def work(task: Task, sizes: np.ndarray, *, looks: bool = False) -> np.ndarray:
    """Executed FLOPs by run, from sizes tick by tick: an example costs 2 per parameter
    forward and 4 backward."""
    before = np.concatenate([np.full((len(sizes), 1), START), sizes[:, :-1]], axis=1)
    before = before if looks else sizes
    total = 6 * EVERY * BATCH * params(task, before)
    if looks:
        probes, examples = 20, task.batches * BATCH
        ends = task.inputs + task.outputs
        total = total + 6 * probes * examples * params(task, before)  # residuals
        total = total + 6 * 20 * probes * examples * UNITS * ends  # 20 steps of probes
        tries = 2 * probes * 13 * task.held_out / 4
        total = total + tries * params(task, before + UNITS)
    return total.sum(axis=1)


def wider(task: Task, spent: np.ndarray) -> np.ndarray:
    """The widths of static networks whose training costs as much."""
    each = spent / (6 * STEPS * BATCH) - task.outputs
    return np.round(each / (task.inputs + task.outputs + 1)).astype(int)
