"""From results to tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import interval

from .settings import POLICIES, SWEEP


CONTROLS = ("final", "equal", "open", "sweep")
"""Static at the final size; at as many executed FLOPs; random units along the same
sizes; the best size of a sweep by held-out error."""


def load(path: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads(path.read_text())
    return rows | {"sweep": picked(rows)}


def sizes_of(rows: dict[str, dict[str, Any]]) -> list[int]:
    return [size for size in SWEEP if f"static {size}" in rows]


def picked(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of a static run of each size, the one that is best on held-out data, by seed; all
    of them are paid for."""
    arms = [rows[f"static {size}"] for size in sizes_of(rows)]
    best = np.argmin([arm["valid"] for arm in arms], axis=0)
    of = lambda key: [arms[b][key][i] for i, b in enumerate(best)]
    spent = np.sum([arm["flops"] for arm in arms], axis=0).tolist()
    return {"test": of("test"), "final": of("final"), "flops": spent, "rate": None}


def difference(rows: dict[str, Any], name: str, control: str) -> np.ndarray:
    """Test error of a policy less that of a control, by seed: below 0 it is better."""
    other = rows["sweep" if control == "sweep" else f"{name} / {control}"]
    return np.asarray(rows[name]["test"]) - np.asarray(other["test"])


def units(row: dict[str, Any]) -> str:
    return ", ".join(f"{mean:.3g}" for mean in np.mean(row["final"], axis=0))


def table(path: Path) -> str:
    rows = load(path)
    head = "| arm | rate | units | test error | GFLOP |"
    lines = [head + " - final | - equal | - open | - sweep |", "|---" * 9 + "|"]
    for name in POLICIES:
        if f"{name} / equal" in rows:
            cells = [
                interval(difference(rows, name, control), "+.2f")
                for control in CONTROLS
            ]
            lines.append(_line(name, rows[name], cells))
    for name in (*(f"static {size}" for size in sizes_of(rows)), "sweep"):
        lines.append(_line(name, rows[name], [""] * 4))
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any], cells: list[str]) -> str:
    rate = "" if row["rate"] is None else f"{row['rate']:g}"
    spent = np.mean(row["flops"]) / 1e9
    told = [name, rate, units(row), interval(row["test"]), f"{spent:.3g}", *cells]
    return "| " + " | ".join(told) + " |"
