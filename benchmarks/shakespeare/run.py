"""Arms in turn: learning rates on tuning seeds, then the seeds that count."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..stored import write
from .made import Made
from .settings import ARMS, Settings
from .train import run


def load(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    made = json.loads(path.read_text()) if path.exists() else {}
    return {"tuning": [], "runs": [], **made}


def best_rate(row: dict[str, Any], s: Settings) -> float:
    """The one with the least mean loss on the play that is held out for this."""
    means = {
        rate: np.mean([r["loss"] for r in row["tuning"] if r["rate"] == rate])
        for rate in s.rates
    }
    return min(means, key=lambda rate: means[rate])


def tune(name: str, made: Made, folder: Path) -> None:
    s = made.settings
    wanted = [(seed, rate) for rate in s.rates for seed in s.tuning]
    _fill(name, made, folder, "tuning", wanted)


def evaluate(name: str, made: Made, folder: Path) -> None:
    rate = best_rate(load(folder, name), made.settings)
    _fill(name, made, folder, "runs", [(seed, rate) for seed in made.settings.seeds])


def _fill(
    name: str, made: Made, folder: Path, kind: str, wanted: list[tuple[int, float]]
) -> None:
    """Runs that aren't there yet; every one is written down at once."""
    row = load(folder, name)
    there = {(r["seed"], r["rate"]) for r in row[kind]}
    for seed, rate in wanted:
        if (seed, rate) in there:
            continue
        part = "valid" if kind == "tuning" else "test"
        done = run(ARMS[name], made, seed, rate, part)
        row[kind].append(done)
        write(folder / f"{name}.json", row)
        parts = ("training", "edits", "planning", "compiling")
        spent = ", ".join(f"{part} {done[part]:.1f} s" for part in parts)
        print(f"{name}, seed {seed}, rate {rate:g}: {done['loss']:.4f}; {spent}")
