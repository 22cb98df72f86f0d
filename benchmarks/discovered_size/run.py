"""Runs the arms and keeps their results."""

import itertools as it
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .arms import flops, nested, plateau, pruned, swept
from .tasks import stacked


NOISES = [0.05, 0.2]
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
PAIRS = (*it.product((2, 4, 8, 16), (4, 8, 16, 32)), (32, 32), (64, 64))
STARTS = (2, 64)


def jobs(hidden: list[tuple[int, ...]], quick: bool) -> dict[str, Any]:
    """Name: (function, number of seeds)."""
    depth = len(hidden[0])
    seeds, sweeps = (2, 2) if quick else (20, 10)
    grid = PAIRS if depth == 2 else tuple((w,) for w in WIDTHS)
    made: dict[str, Any] = {}
    for start in STARTS:
        made[f"nested from {start}"] = (nested, (start,) * depth, seeds)
    for widths in grid:
        made[f"static {','.join(map(str, widths))}"] = (swept, widths, sweeps)
    made["plateau from 2"] = (plateau, (2,) * depth, sweeps)
    made["pruned from 64"] = (pruned, (64,) * depth, sweeps)
    return made


def run(
    hidden: list[tuple[int, ...]], steps: int, path: Path, quick: bool, only: str = ""
) -> dict[str, Any]:
    """All jobs of teachers of one depth (those whose name contains `only`); written to
    `path` after each."""
    results: dict[str, Any] = {"steps": steps, "hidden": hidden, "arms": {}}
    for name, (arm, start, seeds) in jobs(hidden, quick).items():
        if only not in name:
            continue
        batch, keys = stacked(range(seeds), hidden, NOISES)
        began = time.perf_counter()
        found = arm(start, steps, batch, keys)
        row = {"seconds": time.perf_counter() - began, "seeds": seeds}
        for key in ("train", "valid", "test", "clean"):
            row[key] = np.asarray(found[key], float).tolist()
        if "found" in found:
            row["found"] = found["found"].tolist()
            for kind in (True, False):
                label = "flops_fit" if kind else "flops_here"
                spent = flops(name.split()[0], found, steps, kind)
                row[label] = np.asarray(spent, float).tolist()
            row["path"] = found["path"][:, :, ::4].tolist()
        results["arms"][name] = row
        path.write_text(json.dumps(results))
        print(f"{name}: {row['seconds']:.0f} s", flush=True)
    return results
