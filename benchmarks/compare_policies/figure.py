"""Test error against executed FLOPs, with final sizes."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import bounds

from .report import load, sizes_of, units
from .settings import POLICIES


def figure(path: Path, made: Path) -> None:
    """A point per policy, and the static networks of the sweep as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = load(path)
    sizes = sizes_of(rows)
    fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    _points(left, rows, [(f"static {s}", "grey", "s", str(s)) for s in sizes])
    mean = lambda key: [np.mean(rows[f"static {s}"][key]) for s in sizes]
    left.plot(np.array(mean("flops")) / 1e9, mean("test"), color="grey", lw=1)
    told = [p for p in POLICIES if f"{p} / equal" in rows]
    marks, tints = "oD^vHP*X<>hdp8", mpl.colormaps["tab20"](np.linspace(0, 1, 20))
    tints = [tint for i, tint in enumerate(tints) if i not in (14, 15)]  # Greys.
    points = [(name, tints[i], marks[i], "") for i, name in enumerate(told)]
    _points(left, rows, points)
    left.set(
        xscale="log",
        xlabel="executed GFLOP, with evidence (log)",
        ylabel="test error, percent",
        title="policies (units at the end), and static networks (squares)",
    )
    ticks = (0.3, 0.5, 1, 2, 5, 10)
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set_xticks([], minor=True)
    left.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _differences(right, rows, told)
    fig.savefig(made, dpi=110)


def _points(axis: Any, rows: Any, points: Any) -> None:
    for name, color, mark, text in points:
        row = rows[name]
        x, y = np.mean(row["flops"]) / 1e9, np.mean(row["test"])
        low, high = bounds(row["test"])
        known = {} if text else {"label": f"{name} ({units(row)})"}
        axis.errorbar(
            x, y, [[y - low], [high - y]], fmt=mark, color=color, ms=6, lw=1, **known
        )
        axis.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=8)


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
