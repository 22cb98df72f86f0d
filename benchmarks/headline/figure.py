"""A panel per task, with an arrow per grown run, and one for seconds."""

from pathlib import Path
from typing import Any

import numpy as np

from .report import best_static, Rows
from .settings import LEAST, MOST, Settings
from .tasks import TASKS


COLORS = {"growthnet from 2": "C0", "growthnet from 128": "C3"}
POINTS = {"plateau from 2": ("C2", "P"), "pruned from 128": ("C1", "X")}


def figure(found: dict[str, Rows], seconds: Any, s: Settings, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = {n: r for n, r in found.items() if "sweep" in r}
    count = len(shown) + 1
    columns = 3 if count > 2 else count
    size = (5 * columns, 4.2 * -(-count // columns))
    fig, axes = plt.subplots(
        -(-count // columns), columns, figsize=size, layout="constrained", squeeze=False
    )
    every = list(axes.flat)
    for axis, (name, rows) in zip(every, shown.items(), strict=False):
        _task(axis, name, rows, s)
    every[0].legend(fontsize=7, frameon=False)
    _seconds(every[len(shown)], seconds)
    for axis in every[count:]:
        axis.set_axis_off()
    fig.savefig(path, dpi=110)


def _task(axis: Any, name: str, rows: Rows, s: Settings) -> None:
    """Test error against width. Of two layers, the geometric mean of both."""
    shape = TASKS[name].shape
    key = "test_loss" if shape.kind == "numbers" else "test_error"
    static = np.array([rows[f"static {w}"][key] for w in s.widths])
    low, mid, high = np.quantile(static, [0.1, 0.5, 0.9], axis=1)
    axis.fill_between(s.widths, low, high, color="grey", alpha=0.25, lw=0)
    axis.plot(s.widths, mid, color="grey", label="static: median, 10-90 %")
    choice = best_static(rows, s)[1]
    axis.plot(
        choice, mid[s.widths.index(choice)], "k*", ms=13, label="the sweep's choice"
    )
    first = {LEAST: mid[0], MOST: mid[-1]}
    for arm, color in COLORS.items():
        start = LEAST if arm.endswith(" 2") else MOST
        for found, test in zip(*_ends(rows.get(arm), key), strict=True):
            axis.annotate(
                "", (found, test), (start, first[start]),
                arrowprops={"arrowstyle": "-|>", "color": color, "lw": 0.7},
            )  # fmt: skip
        axis.plot([], [], color=color, label=arm)
    for arm, (color, mark) in POINTS.items():
        found, test = _ends(rows.get(arm), key)
        axis.plot(found, test, mark, color=color, ms=5, alpha=0.8, label=arm)
    told = {"test_loss": "test loss", "test_error": "test error, percent"}[key]
    axis.set(
        xscale="log", yscale="log", xlabel="units", ylabel=told,
        title=TASKS[name].title, ylim=(None, 1.3 * mid.max()),
    )  # fmt: skip
    _plain(axis.xaxis, np.array([2, 4, 8, 16, 32, 64, 128]))
    steps = np.outer(10.0 ** np.arange(-3, 3), [1, 2, 3, 4, 5, 6, 8]).ravel()
    bottom, top = axis.get_ylim()
    _plain(axis.yaxis, steps[(bottom < steps) & (steps < top)])


def _plain(axis: Any, ticks: np.ndarray) -> None:
    axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_ticks([], minor=True)


def _ends(row: Any, key: str) -> tuple[Any, Any]:
    if row is None:
        return np.array([]), np.array([])
    found = np.exp(np.log(np.array(row["found"], float)).mean(axis=-1))
    return found, np.array(row[key])


def _seconds(axis: Any, results: Any) -> None:
    """Wall time of every arm; hatched where it misses the loss."""
    axis.set_title("seconds to within 10 % of the sweep's best", fontsize=10)
    if not results:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        return
    names = list(results["arms"])
    for i, name in enumerate(names):
        runs = results["arms"][name]
        wall = np.median([r["seconds"] for r in runs])
        processor = np.median([r["cpu_seconds"] for r in runs])
        hits = np.mean([r["valid_loss"] <= results["needed"] for r in runs])
        axis.barh(i, wall, color="C0" if hits >= 0.5 else "white", edgecolor="C0",
                  hatch=None if hits >= 0.5 else "///", height=0.6)  # fmt: skip
        axis.plot(processor, i, "k|", ms=10)
        told = f"  {wall:.1f} s, {hits:.0%} of runs"
        axis.text(max(wall, processor), i, told, va="center", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.45)
    axis.set_xlabel("wall seconds (tick: processor; hatched: misses)")
