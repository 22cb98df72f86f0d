"""Rates are chosen on seeds of their own; then every arm is measured."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .nets import Nets
from .settings import ARMS, KEPT, keys, RATES, Task, WIDTH


Results = dict[str, Any]
SCRATCH = ("scratch, steps", "scratch, FLOPs")


def load(path: Path) -> Results:
    return json.loads(path.read_text()) if path.exists() else {}


def chosen(nets: Nets, width: int, arrays: Any, own: Any, steps: int) -> Any:
    """Held-out accuracies, `[rates, ...]`, of networks trained at each rate; `arrays`
    and keys have the axis `[...]`."""
    count = len(own)
    arrays, own = joined([arrays] * len(RATES)), joined([own] * len(RATES))
    after = nets.trained(width, arrays, own, np.repeat(RATES, count), steps)
    told = nets.accuracies(width, after, own, test=False)
    return told.reshape(len(RATES), count), after


def run(task: Task, path: Path) -> None:
    """What `path` has isn't run again."""
    results, nets = load(path), Nets(task)
    for name, part in (("tuning", tune), ("runs", measure)):
        if name not in results:
            began = time.process_time()
            results[name] = part(nets, results)
            spent = round(time.process_time() - began)
            results.setdefault("cpu_seconds", {})[name] = spent
            print(f"{task.name}, {name}: {spent} CPU seconds", flush=True)
            path.write_text(json.dumps(results))


def tune(nets: Nets, results: Results) -> Results:
    """Rates by arm and units kept: the best of five on the held-out data of the tuning
    seeds."""
    del results
    task, own = nets.task, keys(tuning=True)
    best = lambda told: RATES[int(np.argmax(told.mean(axis=-1)))]
    first = nets.first(WIDTH, own)
    told, after = chosen(nets, WIDTH, first, own, task.steps)
    pick = int(np.argmax(told.mean(axis=-1))) * len(own)
    large = jax.tree.map(lambda a: a[pick : pick + len(own)], after)
    rates: dict[str, Any] = {"large": best(told)}
    seen: dict[str, Any] = {"large": told.tolist()}
    small = {arm: nets.pruned(arm, large, own) for arm in ARMS}
    for j, width in enumerate(KEPT):
        every = joined([small[arm][j] for arm in ARMS])
        again = joined([own] * len(ARMS))
        told, _ = chosen(nets, width, every, again, task.more)
        told = told.reshape(len(RATES), len(ARMS), len(own))
        for i, arm in enumerate(ARMS):
            rates[f"{arm} {width}"] = best(told[:, i])
            seen[f"{arm} {width}"] = told[:, i].tolist()
        for name, steps in zip(SCRATCH, lengths(nets, width), strict=True):
            start = nets.first(width, own)
            told, _ = chosen(nets, width, start, own, steps)
            rates[f"{name} {width}"] = best(told)
            seen[f"{name} {width}"] = told.tolist()
    return {"rates": rates, "held_out": seen}


def joined(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def lengths(nets: Nets, width: int) -> tuple[int, int]:
    """Steps from scratch: as many as the pruned networks had, and for as many FLOPs."""
    return nets.task.steps + nets.task.more, nets.equal_steps(width)


def measure(nets: Nets, results: Results) -> Results:
    """Test accuracies by arm, units kept and seed, at the rates that were chosen."""
    task, rates, own = nets.task, results["tuning"]["rates"], keys(tuning=False)
    count = len(own)
    same = lambda name: np.full(count, rates[name])
    large = nets.first(WIDTH, own)
    large = nets.trained(WIDTH, large, own, same("large"), task.steps)
    test = lambda width, arrays, own: nets.accuracies(width, arrays, own, test=True)
    runs: dict[str, Any] = {"large": test(WIDTH, large, own).tolist()}
    small = {arm: nets.pruned(arm, large, own) for arm in ARMS}
    for j, width in enumerate(KEPT):
        every = joined([small[arm][j] for arm in ARMS])
        again = joined([own] * len(ARMS))
        before = test(width, every, again).reshape(len(ARMS), count)
        all_rates = np.concatenate([same(f"{arm} {width}") for arm in ARMS])
        after = nets.trained(width, every, again, all_rates, task.more)
        after = test(width, after, again).reshape(len(ARMS), count)
        for arm, a, b in zip(ARMS, before, after, strict=True):
            runs[f"{arm} {width}"] = {"pruned": a.tolist(), "on": b.tolist()}
        for name, steps in zip(SCRATCH, lengths(nets, width), strict=True):
            arrays = nets.first(width, own)
            arrays = nets.trained(width, arrays, own, same(f"{name} {width}"), steps)
            runs[f"{name} {width}"] = {"on": test(width, arrays, own).tolist()}
    results["steps"] = {str(w): lengths(nets, w) for w in KEPT}
    results["params"] = {str(w): nets.params(w) for w in (WIDTH, *KEPT)}
    return runs
