"""Seconds, compile included, until each way has delivered a network.

Every run is a process of its own, in alternating order. The two ways by hand follow the
sizes of growthnet's first evaluation run: they are told what it had to find.
"""

import dataclasses
import itertools as it
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..side_by_side.arms import alternating, Arm, warmed
from .report import best_static, gathered
from .settings import Settings
from .tasks import Task


FOLLOWED = "growthnet from 2"
PACKAGE = "benchmarks.headline"


def measure(
    task: Task, s: Settings, folder: Path, python_torch: str, repeats: int
) -> None:
    """Writes `seconds.json`; the task's results have to be there.

    **Raises:** `ValueError` if the sweep's or growthnet's aren't, or with two layers.
    """
    if task.shape.depth != 1:
        raise ValueError(f"{task.name} has two hidden layers; seconds are for one")
    rows = gathered(task, s, folder / task.name)
    if "sweep" not in rows or FOLLOWED not in rows:
        raise ValueError(f"no sweep or no {FOLLOWED!r} in {folder}; run them first")
    best = best_static(rows, s)[0]
    needed = 1.1 * float(np.median(rows[f"static {best}"]["valid_loss"]))
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data.npz"
        parts = task.data([0])
        arrays: dict[str, Any] = {
            f"{part}_{name}": np.asarray(values[0] if task.drawn else values)
            for part in ("train", "valid")
            for name, values in zip("xy", parts[part], strict=True)
        }
        np.savez(data, **arrays)
        arms = _arms(task, s, rows, data, python_torch)
        for start in (2, 128):
            arms[f"growthnet from {start}, warm"] = warmed(
                arms[f"growthnet from {start}, cold"], temporary
            )
        found = alternating(arms, repeats)
    told = {"task": task.name, "needed": needed, "arms": found}
    (folder / "seconds.json").write_text(json.dumps(told))


def _arms(
    task: Task, s: Settings, rows: Any, data: Path, python_torch: str
) -> dict[str, Arm]:
    settings = dataclasses.asdict(s)
    job = {"task": task.name, "settings": settings, "data": str(data)}
    ways: dict[str, Arm] = {}

    def way(name: str, module: str, python: str = sys.executable, **more: Any) -> None:
        ways[name] = Arm(module, job | more, python, package=PACKAGE)

    rate = rows["sweep"]["rate"]
    way("sweep of 13 widths", "ways", way="sweep", rate=rate)
    way("successive halving", "ways", way="halving", rate=rate)
    for start in (2, 128):
        arm = f"growthnet from {start}"
        if arm in rows:
            more = {"way": "growthnet", "arm": arm, "rate": rows[arm]["rate"]}
            way(f"{arm}, cold", "ways", **more)
    plan = schedule(rows[FOLLOWED]["path"][0], s)
    follow = {"start": 2, "schedule": plan, "rate": rows[FOLLOWED]["rate"]}
    way("JAX by hand, recompiling", "ways", way="by_hand", **follow)
    loss = task.shape.kind
    way("PyTorch, eager", "torch_way", python_torch, loss=loss, **follow)
    return ways


def schedule(path: Any, s: Settings) -> list[tuple[int, int]]:
    """At which steps a run's size changes, and to what."""
    sizes = [n for (n,) in path]
    steps = range(s.every, s.steps + 1, s.every)
    pairs = it.pairwise([(0, 2), *zip(steps, sizes, strict=True)])
    return [now for before, now in pairs if now[1] != before[1] and now[0] < s.steps]


def load(folder: Path) -> Any:
    path = folder / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(told: Any) -> str:
    lines = [
        f"Seconds on {told['task']}; needed: a held-out loss of {told['needed']:.4f}\n",
        "| way | seconds (range) | of processor | held-out loss | delivers |",
        "|---|---|---|---|---|",
    ]
    for name, runs in told["arms"].items():
        wall = [r["seconds"] for r in runs]
        processor = np.median([r["cpu_seconds"] for r in runs])
        losses = [r["valid_loss"] for r in runs]
        hits = sum(v <= told["needed"] for v in losses)
        lines.append(
            f"| {name} | {np.median(wall):.1f} ({min(wall):.1f}-{max(wall):.1f}) "
            f"| {processor:.1f} | {np.median(losses):.4f} | {hits} of {len(runs)} |"
        )
    return "\n".join(lines)
