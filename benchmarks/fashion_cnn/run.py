"""Runs the arms and keeps their results: a JSON file each, made once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..stored import load, Row, timed, write
from . import seconds
from .arms import executed, needed, per_step, run_once, Seen
from .settings import Arm, ARMS, RATES, SEEDS, STEPS, TUNING
from .task import Sizes


def run(folder: Path, only: str, parts: list[str]) -> None:
    """All arms, or those whose names contain `only`; what is there isn't run again."""
    for name, make in arms(folder):
        path = folder / f"{name}.json"
        part = "tuning" if name.startswith("tuning") else "evaluation"
        if only not in name or part not in parts or path.exists():
            continue
        row = timed(make)
        write(path, row)
        print(f"{name}: {told(row)}", flush=True)


def arms(folder: Path) -> Iterator[tuple[str, Callable[[], Row]]]:
    """In an order in which each has what it needs."""
    for name, arm in ARMS.items():
        yield f"tuning {name}", lambda a=arm: tuned(a, folder)
        yield name, lambda n=name, a=arm: evaluated(n, a, folder)
        if arm.equal:
            yield "seconds", lambda: seconds.measured(folder)


def tuned(arm: Arm, folder: Path) -> Row:
    """The rate with the least mean held-out loss, and the sizes that it led to."""
    known = load(folder, f"tuning {arm.follows}") if arm.follows else None
    seen = {rate: runs(arm, rate, TUNING, known) for rate in RATES}
    tries = {rate: _mean(some) for rate, some in seen.items()}
    rate = min(RATES, key=lambda r: tries[r])
    return {"rate": rate, "tries": tries, **_costs(arm, seen[rate])}


def evaluated(name: str, arm: Arm, folder: Path) -> Row:
    """The evaluation seeds at that rate; the only place that looks at test data."""
    rate = load(folder, f"tuning {name}")["rate"]
    known = load(folder, arm.follows) if arm.follows else None
    some = runs(arm, rate, SEEDS, known)
    tests = [seen.test for _, _, seen in some]
    told = {"test_loss": [t[0] for t in tests], "test": [t[1] for t in tests]}
    return {"rate": rate, **told, **_costs(arm, some)}


Made = tuple[Sizes, int, Seen]


def runs(arm: Arm, rate: float, seeds: Any, known: Row | None) -> list[Made]:
    """First sizes, steps and what was seen, by seed; `known` is of the arm that is
    followed, for the same seeds."""
    made = []
    for i, seed in enumerate(seeds):
        start, steps = arm.start, STEPS
        if start is None:
            assert known is not None
            start = tuple(known["final"][i])
            if arm.equal:
                steps = round(known["flops"][i] / per_step(start))
        made.append((start, steps, run_once(arm, start, steps, rate, seed)))
    return made


def _mean(some: list[Made]) -> float:
    """Held-out loss; a run that diverged counts as infinite."""
    return float(np.mean(np.nan_to_num([s.valid[0] for *_, s in some], nan=np.inf)))


def _costs(arm: Arm, some: list[Made]) -> Row:
    return {
        "valid_loss": [seen.valid[0] for *_, seen in some],
        "valid": [seen.valid[1] for *_, seen in some],
        "steps": [steps for _, steps, _ in some],
        "path": [seen.path.tolist() for *_, seen in some],
        "final": [seen.path[-1].tolist() for *_, seen in some],
        "flops": [executed(arm, a, n, seen.path) for a, n, seen in some],
        "needed": [needed(arm, a, n, seen.path) for a, n, seen in some],
    }


def told(row: Row) -> str:
    if "final" not in row:
        return f"{row['seconds']} s"
    error = np.mean(row.get("test", row["valid"]))
    sizes = np.mean(row["final"], axis=0).round(1).tolist()
    return (
        f"rate {row['rate']:g}, units {sizes}, error {error:.2f} %, "
        f"{np.mean(row['flops']) / 1e9:.1f} GFLOP, {row['seconds']} s"
    )
