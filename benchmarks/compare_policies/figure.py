"""Test error against executed FLOPs, with final sizes."""

from pathlib import Path
from typing import Any

import numpy as np

from .report import bounds, load, units
from .settings import POLICIES, SWEEP


def figure(path: Path, made: Path) -> None:
    """A point per policy, and the static networks of the sweep as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = load(path)
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    _points(left, rows, [(f"static {s}", "grey", "s", str(s)) for s in SWEEP])
    mean = lambda key: [np.mean(rows[f"static {s}"][key]) for s in SWEEP]
    left.plot(np.array(mean("flops")) / 1e9, mean("test"), color="grey", lw=1)
    told = [p for p in POLICIES if f"{p} / equal" in rows]
    marks = "oD^vP*X<>hdp8"
    points = [
        (name, f"C{i % 10}", marks[i], units(rows[name])) for i, name in enumerate(told)
    ]
    _points(left, rows, points, label=True)
    left.set(
        xscale="log",
        xlabel="executed GFLOP, with evidence (log)",
        ylabel="test error, percent",
        title="policies, and static networks (squares); units at the end",
    )
    left.legend(fontsize=8, frameon=False)
    _differences(right, rows, told)
    fig.savefig(made, dpi=110)


def _points(axis: Any, rows: Any, points: Any, label: bool = False) -> None:
    for name, color, mark, text in points:
        row = rows[name]
        x, y = np.mean(row["flops"]) / 1e9, np.mean(row["test"])
        low, high = bounds(row["test"])
        known = {"label": name} if label else {}
        axis.errorbar(
            x, y, [[y - low], [high - y]], fmt=mark, color=color, ms=5, lw=1, **known
        )
        axis.annotate(
            text, (x, y), (4, 4), textcoords="offset points", fontsize=7, color=color
        )


CONTROLS = {
    "final": "static, final size",
    "equal": "static, equal FLOPs",
    "open": "random units, same sizes",
}


def _differences(axis: Any, rows: Any, told: list[str]) -> None:
    """Paired differences to the controls, with intervals."""
    for c, (control, label) in enumerate(CONTROLS.items()):
        for i, name in enumerate(told):
            other = np.asarray(rows[f"{name} / {control}"]["test"])
            less = np.asarray(rows[name]["test"]) - other
            low, high = bounds(less)
            mean, y = less.mean(), i + 0.25 * (c - 1)
            axis.errorbar(
                mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=f"C{c}",
                ms=4, lw=1, label=label if i == 0 else None,
            )  # fmt: skip
    axis.axvline(0, color="k", lw=0.8)
    axis.set_yticks(range(len(told)), told, fontsize=8)
    axis.invert_yaxis()
    axis.set(
        xlabel="test error less that of the control, points (left of 0: better)",
        title="paired by seed, 95 % bootstrap intervals",
    )
    axis.legend(fontsize=8, frameon=False)
