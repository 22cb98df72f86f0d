"""Test error against executed operations, and the units that growth ended with."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import bounds
from .settings import HAND


MARKS = {
    "static hand": ("k", "s"),
    "static dense": ("0.45", "<"),
    "static flat": ("0.45", ">"),
    "grown": ("C3", "o"),
    "GradMax": ("C2", "o"),
    "even": ("C1", "v"),
    "pruned": ("C4", "^"),
    "final": ("C0", "D"),
    "equal FLOPs": ("C0", "P"),
}
CHOOSE = ("grown", "GradMax", "even", "pruned")
"""Arms that choose their sizes."""
LAYERS = ("channels 1", "channels 2", "channels 3", "dense units")


def figure(rows: dict[str, Any], made: Path) -> None:
    """Left a point per arm, right a point per run and width."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    told = [name for name in MARKS if name in rows]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for name in told:
        color, mark = MARKS[name]
        row = rows[name]
        x, y = np.mean(row["flops"]) / 1e9, np.mean(row["test"])
        low, high = bounds(row["test"])
        left.errorbar(
            x, y, [[y - low], [high - y]], fmt=mark, color=color, ms=7, lw=1, label=name
        )
    left.set(
        xscale="log",
        xlabel="executed GFLOP (log)",
        ylabel="test error, percent",
        title="error and cost: means, 95 % intervals over seeds",
    )
    left.minorticks_off()
    ticks = [t for t in (50, 70, 100, 150, 200, 300, 500, 700, 1_000) if _in(left, t)]
    left.set_xticks(ticks, [str(t) for t in ticks])
    _units(right, {name: rows[name] for name in CHOOSE if name in rows})
    fig.legend(*left.get_legend_handles_labels(), loc="outside right center",
               frameon=False, fontsize=9)  # fmt: skip
    fig.savefig(made, dpi=110)


def _in(axis: Any, x: float) -> bool:
    low, high = axis.get_xlim()
    return low <= x <= high


def _units(axis: Any, rows: dict[str, Any]) -> None:
    """Of every seed beside each other; lines are the hand's."""
    for i, hand in enumerate(HAND):
        axis.plot([i - 0.42, i + 0.42], [hand, hand], color="k", lw=2)
        for j, (name, row) in enumerate(rows.items()):
            color, mark = MARKS[name]
            units = [final[i] for final in row["final"]]
            x = i + 0.2 * (j - (len(rows) - 1) / 2)
            x = x + np.linspace(-0.05, 0.05, len(units))
            axis.plot(x, units, mark, color=color, ms=5, alpha=0.8)
    axis.set_yscale("log", base=2)
    ticks = (2, 4, 8, 16, 32, 64)
    axis.set_yticks(ticks, map(str, ticks))
    axis.set_xticks(range(len(HAND)), LAYERS)
    axis.set(ylabel="units at the end (log)", title="a point a run; lines: static hand")
