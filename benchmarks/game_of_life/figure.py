"""Success against the channels at the end, and against what was executed."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import wilson
from .arms import ARMS
from .report import Rows
from .settings import DENSITIES, Settings


GROWN = {
    "random, plateau": ("C0", "o"),
    "GradMax, plateau": ("C3", "^"),
    "Net2Net, plateau": ("C2", "s"),
    "SENN": ("C1", "P"),
    "random + ReDo, plateau": ("C9", "D"),
}
RECYCLED = ("ReDo 1", "ReDo 2", "ReDo 4")
SHOWN = ("static 1", "static 2", "static 4", "static 8")


def figure(rows: Rows, s: Settings, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained", sharey=True)
    for at, density in enumerate(DENSITIES):
        _by_size(axes[0, at], rows, at)
        _by_flops(axes[1, at], rows, at, s)
        axes[0, at].set_title(f"{density:.0%} of the cells alive")
    axes[0, 0].legend(fontsize=8, frameon=False, loc="lower right")
    fig.legend(
        *axes[1, 0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=5,
        loc="outside lower center",
    )  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("runs that know the game, percent")
    fig.savefig(path, dpi=110)


def _by_size(axis: Any, rows: Rows, at: int) -> None:
    """Networks of constant size by m; grown ones at the mean of where they ended."""
    static = [name for name in rows if ARMS[name].static]
    for names, color, label in (
        (static, "grey", "static"),
        ([n for n in RECYCLED if n in rows], "C4", "static, ReDo"),
    ):
        if not names:
            continue
        m = [ARMS[name].m for name in names]
        rates, bounds = zip(*(_rate(rows[n], at) for n in names), strict=True)
        axis.plot(m, rates, color=color, marker=".", label=label)
        axis.fill_between(m, *np.array(bounds).T, color=color, alpha=0.15, lw=0)
    for name, (color, mark) in GROWN.items():
        if name not in rows:
            continue
        rate, (low, high) = _rate(rows[name], at)
        ends = np.mean(rows[name]["sizes"][at], 0).sum() / 3
        axis.errorbar(
            ends, rate, [[rate - low], [high - rate]], color=color, marker=mark,
            capsize=3, lw=1, ls="none", label=f"{name}, from m = 1",
        )  # fmt: skip
    axis.set(
        xlabel="m at the end: a third of the units",
        xticks=[ARMS[name].m for name in static],
        ylim=(-3, 103),
    )


def _by_flops(axis: Any, rows: Rows, at: int, s: Settings) -> None:
    shown = [name for name in SHOWN if name in rows]
    for i, name in enumerate(shown):
        shade = str(0.75 - 0.75 * i / len(SHOWN))
        _curve(axis, rows[name], at, s, color=shade, lw=1.2, ls="--", label=name)
    if "ReDo 4" in rows:
        _curve(axis, rows["ReDo 4"], at, s, color="C4", lw=1.8, label="ReDo 4")
    for name, (color, _) in GROWN.items():
        if name in rows:
            _curve(axis, rows[name], at, s, color=color, lw=1.8, label=name)
    most = s.budget / 1e6
    axis.set(xscale="log", xlabel="MFLOP executed by a run", xlim=(8, most))
    ticks = [t for t in (10, 20, 50, 100, 200, 400) if t <= most]
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_xticks([], minor=True)


def _curve(axis: Any, row: Any, at: int, s: Settings, **style: Any) -> None:
    flops, solved = np.array(row["flops"][at]), np.array(row["solved"][at])
    ends = np.sort(flops[solved]) / 1e6
    share = 100 * np.arange(1, len(ends) + 1) / len(flops)
    x = np.concatenate([[1], ends, [s.budget / 1e6]])
    last = share[-1] if len(share) else 0
    axis.step(x, np.concatenate([[0], share, [last]]), where="post", **style)


def _rate(row: Any, at: int) -> tuple[float, tuple[float, float]]:
    solved = np.array(row["solved"][at])
    low, high = wilson(int(solved.sum()), len(solved))
    return 100 * solved.mean(), (100 * low, 100 * high)
