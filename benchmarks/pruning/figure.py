"""Test accuracy against the part of the parameters that is kept."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import bounds

from .report import on
from .run import Results
from .settings import KEPT, WIDTH


LINES = {
    "random silence": ("random", "0.6", "o", "-"),
    "magnitude silence": ("magnitude", "C0", "^", "-"),
    "random refit": ("random, refit", "C1", "D", "-"),
    "fisher refit": ("fisher, refit", "C3", "s", "-"),
    "scratch, steps": ("from scratch, equal steps", "k", "v", ":"),
    "scratch, FLOPs": ("from scratch, equal FLOPs", "k", "P", "--"),
}


def figure(found: dict[str, Results], made: Path) -> None:
    """A row for every data set: right after pruning, and trained on."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    size = (9, 3.6 * len(found))
    fig, axes = plt.subplots(len(found), 2, figsize=size, layout="constrained")
    for (title, results), (left, right) in zip(
        found.items(), np.atleast_2d(axes), strict=True
    ):
        _panel(left, results, "pruned", f"{title}: right after pruning")
        _panel(right, results, "on", f"{title}: trained on")
        left.set(ylabel="test accuracy, percent")
    handles, labels = np.atleast_2d(axes)[0, 1].get_legend_handles_labels()
    fig.legend(handles, labels, ncols=3, frameon=False, loc="outside lower center")
    fig.savefig(made, dpi=110)


def _panel(axis: Any, results: Results, what: str, title: str) -> None:
    params = results["params"]
    part = lambda width: 100 * params[str(width)] / params[str(WIDTH)]
    x = [part(width) for width in KEPT]
    for i, (name, (label, color, mark, style)) in enumerate(LINES.items()):
        if what == "pruned" and name.startswith("scratch"):
            continue
        runs = [results["runs"][f"{name} {width}"][what] for width in KEPT]
        if what == "on":
            runs = [on(results, name, width) for width in KEPT]
        means, ends = [np.mean(run) for run in runs], [bounds(run) for run in runs]
        off = [
            [m - e[0] for m, e in zip(means, ends, strict=True)],
            [e[1] - m for m, e in zip(means, ends, strict=True)],
        ]
        aside = 1.02 ** (i - len(LINES) / 2)  # Or bars hide one another.
        axis.errorbar(
            np.array(x) * aside,
            means,
            off,
            label=label,
            color=color,
            marker=mark,
            ls=style,
            ms=5,
            lw=1.2,
        )
    before = np.mean(results["runs"]["large"])
    axis.axhline(before, color="0.8", lw=1, zorder=0, label="before pruning")
    axis.set(xscale="log", title=title, xlabel="parameters kept, percent (log)")
    axis.set_xticks(x, [f"{value:.0f}" for value in x])
    axis.set_xticks([], minor=True)
