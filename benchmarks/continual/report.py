"""What accuracies by phase and class come to."""

from typing import Any

import numpy as np

from ..intervals import interval
from .settings import PER_PHASE, PHASES


Row = dict[str, Any]


def by_phase(row: Row) -> np.ndarray:
    """Accuracy over all classes seen, after each phase: `[runs, phases]`."""
    return np.nanmean(np.asarray(row["accuracy"], float), axis=2)


def final(row: Row) -> np.ndarray:
    return by_phase(row)[:, -1]


def forgotten(row: Row) -> np.ndarray:
    """The best that a class ever was before the last phase, less what it is at the end;
    mean over the classes of all phases but the last."""
    old = np.asarray(row["accuracy"], float)[:, :, : PER_PHASE * (PHASES - 1)]
    return (np.nanmax(old[:, :-1], axis=1) - old[:, -1]).mean(axis=1)


def learned(row: Row) -> np.ndarray:
    """Accuracy on the new classes right after their phase, mean over all phases but the
    first, which has nothing before it."""
    found = np.asarray(row["accuracy"], float)
    new = lambda phase: slice(PER_PHASE * phase, PER_PHASE * (phase + 1))
    parts = [found[:, p, new(p)].mean(axis=1) for p in range(1, PHASES)]
    return np.mean(parts, axis=0)


CONTROLS = ("static", "static, equal FLOPs", "static, 36 units", "random")


def table(rows: dict[str, Row], memory: str) -> str:
    """The arms with one memory, in percent and points; `retrained` in every table."""
    lines = [
        "| arm | rate | final | mean over phases | forgotten | new classes | - static |"
        " - equal FLOPs | - 36 units | - random | - retrained | GFLOP |",
        "|---" * 12 + "|",
    ]
    shown = {n: r for n, r in rows.items() if n.endswith(f" / {memory}")}
    shown |= {"retrained": rows["retrained"]} if "retrained" in rows else {}
    for name, row in shown.items():
        arm = name.split(" / ")[0]
        all_ = by_phase(row).mean(axis=1)
        cells = [arm, f"{row['rate']:g}"]
        cells += [interval(100 * v) for v in (final(row), all_)]
        cells += [interval(100 * v) for v in (forgotten(row), learned(row))]
        for other in (*(f"{c} / {memory}" for c in CONTROLS), "retrained"):
            less = 100 * (final(row) - final(rows[other])) if other in rows else None
            same = less is None or other == name
            cells.append("" if same else interval(less, "+.2f"))
        cells.append(f"{row['flops'] / 1e9:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
