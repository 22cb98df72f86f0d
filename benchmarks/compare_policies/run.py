"""Runs the arms of a task and keeps their results, arm by arm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..stored import timed, write
from .arms import policy_runs, replayed_runs, static_runs, Tuned, tuned
from .flops import executed, of_static, policy_of
from .settings import MOST, POLICIES, SEEDS, STEPS, SWEEP, TUNING
from .tasks import Task


Rows = dict[str, dict[str, Any]]


def run(task: Task, path: Path, only: str = "") -> Rows:
    """All arms, or those of the policies whose names contain `only`; what `path` has
    isn't run again."""
    rows: Rows = json.loads(path.read_text()) if path.exists() else {}

    def arm(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in rows:
            row = rows[name] = timed(make)
            write(path, rows)
            print(f"{task.name}, {name}: {_told(row)}", flush=True)
        return rows[name]

    for size in SWEEP:
        sizes = np.full((1, task.hidden), size)
        arm(f"static {size}", lambda s=sizes: _static(task, s, s, STEPS, STEPS))
    for name in POLICIES:
        if only in name:
            own = arm(name, lambda n=name: _policy(task, n))
            _controls(task, name, own, arm, rows)
    return rows


def _controls(task: Task, name: str, own: Any, arm: Any, rows: Rows) -> None:
    start, every = POLICIES[name][0], policy_of(name).every
    path, in_tuning = np.asarray(own["path"]), np.asarray(own["tuning_path"])
    arm(f"{name} / open", lambda: _open(task, start, every, path, in_tuning))
    final, tuned_final = path[:, -1], in_tuning[:, -1]
    known = f"static {final.flat[0]}"
    if known in rows and (np.append(final, tuned_final) == final.flat[0]).all():
        rows[f"{name} / final"] = rows[known]
    else:
        arm(f"{name} / final", lambda: _static(task, final, tuned_final, STEPS, STEPS))
    one = lambda sizes: of_static(task, sizes, 1)
    steps = np.asarray(own["flops"]) // one(final)
    in_tuning = np.asarray(own["tuning_flops"]) // one(tuned_final)
    arm(
        f"{name} / equal",
        lambda: _static(task, final, tuned_final, steps, in_tuning),
    )


def _policy(task: Task, name: str) -> dict[str, Any]:
    start, every = POLICIES[name][0], policy_of(name).every
    found = tuned(policy_runs(task, name))
    count = lambda path, fixed=0: executed(task, name, start, path, every, fixed)
    row = _row(found, count(found.runs.path))
    row["flops_here"] = count(found.runs.path, MOST).tolist()
    row["path"] = found.runs.path.tolist()
    row["tuning_path"] = found.tuning_path.tolist()
    row["tuning_flops"] = count(found.tuning_path).tolist()
    return row


def _open(
    task: Task, start: int, every: int, path: np.ndarray, in_tuning: np.ndarray
) -> dict[str, Any]:
    found = tuned(replayed_runs(task, start, every), path, in_tuning)
    spent = executed(task, f"replay {every}", start, found.runs.path, every)
    return _row(found, spent)


def _static(
    task: Task, sizes: np.ndarray, in_tuning: np.ndarray, steps: Any, steps_too: Any
) -> dict[str, Any]:
    own = _own(sizes, steps, len(SEEDS))
    most = max(np.max(steps), np.max(steps_too))
    length = next(STEPS << k for k in range(20) if most <= STEPS << k)
    largest, room = max(np.max(sizes), np.max(in_tuning)), MOST
    if length > 2 * STEPS:  # Else another program isn't worth its compilation.
        room = next(r for r in (8, 16, 32, MOST) if largest <= r)
    runs = static_runs(task, length, room)
    found = tuned(runs, own, _own(in_tuning, steps_too, len(TUNING)))
    row = _row(found, of_static(task, own[0], own[1]))
    row["steps"] = own[1].tolist()
    return row


def _own(sizes: np.ndarray, steps: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.broadcast_to(sizes, (count, sizes.shape[-1])).astype(np.int32)
    return sizes, np.broadcast_to(steps, (count,)).astype(np.int32)


def _row(found: Tuned, flops: np.ndarray) -> dict[str, Any]:
    seen = found.runs
    row: dict[str, Any] = {"rate": found.rate, "tries": found.tries}
    for name in ("valid", "valid_loss", "test", "test_loss"):
        row[name] = np.asarray(getattr(seen, name), float).round(5).tolist()
    row["final"] = seen.path[:, -1].tolist()
    row["flops"] = flops.tolist()
    return row


def _told(row: dict[str, Any]) -> str:
    final, flops = np.mean(row["final"], axis=0), np.mean(row["flops"]) / 1e9
    return (
        f"rate {row['rate']:g}, units {final.round(1)}, test error "
        f"{np.mean(row['test']):.2f} %, {flops:.2f} GFLOP, {row['seconds']} s"
    )
