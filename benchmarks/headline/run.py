"""Runs the arms of a task and keeps their results: a JSON file each, made once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..stored import load, Row, timed, write
from .arms import runs, Seen, tuned
from .costs import executed
from .settings import Arm, ARMS, Settings
from .tasks import Task


def run(task: Task, s: Settings, folder: Path, only: str = "") -> None:
    """All arms, or those whose names contain `only`."""
    for name, make in arms(task, s, folder):
        path = folder / f"{name}.json"
        if only not in name or path.exists():
            continue
        row = timed(make)
        write(path, row)
        print(f"{task.name}, {name}: {told(row)}", flush=True)


def arms(
    task: Task, s: Settings, folder: Path
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """In an order in which each has what it needs; first all that looks at no
    evaluation seed."""
    yield "tuning static", lambda: sweep_rate(task, s)
    for name, arm in ARMS.items():
        yield f"tuning {name}", lambda a=arm: arm_rate(task, a, s, folder)
    for width in s.widths:
        arm = Arm("static", width)
        known = lambda: load(folder, "tuning static")
        yield f"static {width}", lambda a=arm, k=known: at_rate(task, a, s, k())
    for name, arm in ARMS.items():
        yield name, lambda n=name, a=arm: evaluated(task, n, a, s, folder)


def sweep_rate(task: Task, s: Settings) -> Row:
    """The rate at which the best of some widths is best: one for the whole sweep."""
    tries: dict[str, dict[str, float]] = {}
    for width in s.tried:
        seen, rates = tuned(task, Arm("static", width), s)
        tries[str(width)] = means(seen, rates)
    best = {rate: min(t[str(rate)] for t in tries.values()) for rate in s.rates}
    return {"rate": min(best, key=lambda r: best[r]), "tries": tries}


def arm_rate(task: Task, arm: Arm, s: Settings, folder: Path) -> Row:
    """The rate with the least mean held-out loss, and the sizes that it led to."""
    path = None
    if arm.follows:
        followed = load(folder, f"tuning {arm.follows}")["path"]
        path = np.tile(followed, (len(s.rates), 1, 1))
    seen, rates = tuned(task, arm, s, path)
    tries = means(seen, rates)
    rate = min(s.rates, key=lambda r: tries[str(r)])
    path = seen["path"][rates == rate]
    return {"rate": rate, "tries": tries, "path": path.tolist()}


def evaluated(task: Task, name: str, arm: Arm, s: Settings, folder: Path) -> Row:
    known = load(folder, f"tuning {name}")
    path = load(folder, arm.follows)["path"] if arm.follows else None
    return at_rate(task, arm, s, known, path)


def means(seen: Seen, rates: Any) -> dict[str, float]:
    """Mean held-out loss by rate; a run that diverged counts as infinite."""
    losses = np.nan_to_num(seen["valid_loss"], nan=np.inf)
    return {str(r): float(losses[rates == r].mean()) for r in np.unique(rates)}


def at_rate(task: Task, arm: Arm, s: Settings, known: Row, path: Any = None) -> Row:
    """The evaluation seeds at the rate that was best in tuning; the only place that
    looks at test data."""
    rate = known["rate"]
    seen = runs(task, arm, s, s.seeds, [rate] * len(s.seeds), path)
    spent = executed(task.shape, arm, s, task.counts(), seen)
    row: Row = {"rate": rate, "flops": spent.tolist()}
    row["found"] = seen["path"][:, -1].tolist()
    if arm.kind == "static":
        row["curve"] = np.asarray(seen["curve"], float).round(6).tolist()
    else:
        row["path"] = seen["path"].tolist()
    for name in seen:
        if name.endswith(("_loss", "_error")):
            row[name] = np.asarray(seen[name], float).round(6).tolist()
    return row


def told(row: Row) -> str:
    if "found" not in row:
        return f"rate {row['rate']:g}, {row['seconds']} s"
    units = np.median(row["found"], axis=0)
    return (
        f"rate {row['rate']:g}, units {units}, held out "
        f"{np.median(row['valid_loss']):.4f}, {np.median(row['flops']) / 1e9:.2f} "
        f"GFLOP, {row['seconds']} s, {row['cpu_seconds']} s of processor"
    )
