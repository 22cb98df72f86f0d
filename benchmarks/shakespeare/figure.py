"""Held-out loss against seconds and against FLOPs; what the seconds are made of."""

from pathlib import Path
from typing import Any

import numpy as np

from .report import of, Rows


COLORS = {
    "large": "black",
    "large, short": "grey",
    "middle": "C0",
    "small": "C9",
    "grown": "C3",
    "grown, reset": "C1",
    "grown, warm-up": "C4",
    "grown, copies": "C2",
}


def figure(rows: Rows, made: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, column, unit in ((axes[0], 1, 1.0), (axes[1], 2, 1e12)):
        for name, row in rows.items():
            curves = np.array([run["curve"] for run in row["runs"]]).mean(axis=0)
            style = "-" if name in ("large", "grown") else "--"
            x, y = curves[:, column] / unit, curves[:, 3]
            axis.plot(x, y, style, color=COLORS[name], lw=1.6)
            axis.plot(x[-1], y[-1], "o", color=COLORS[name], ms=5, label=name)
        end = np.mean([run["curve"][-1][3] for run in rows["large"]["runs"]])
        axis.axhline(end, color="black", lw=0.6)
        axis.text(0, end, "large, at the end", va="bottom", fontsize=8)
        axis.set_ylim(end - 0.06, end + 0.6)
    axes[0].set(
        xlabel="seconds of one core, without planning and compiling",
        ylabel="loss on a held-out play, nats per letter",
    )
    axes[1].set(xlabel="executed TFLOP")
    axes[1].legend(fontsize=8, frameon=False)
    _seconds(axes[2], rows)
    fig.savefig(made, dpi=110)


def _seconds(axis: Any, rows: Rows) -> None:
    """Stacked: training, edits, compiling."""
    left, at = np.zeros(len(rows)), np.arange(len(rows))
    shades = (
        ("training", "0.35"),
        ("edits", "C3"),
        ("planning", "C1"),
        ("compiling", "0.8"),
    )
    for what, shade in shades:
        width = np.array([of(row, what).mean() for row in rows.values()])
        axis.barh(at, width, left=left, color=shade, label=what)
        left += width
    for y, (end, row) in enumerate(zip(left, rows.values(), strict=True)):
        text = f" {of(row, 'loss').mean():.3f}"
        axis.text(end, y, text, va="center", fontsize=8)
    axis.set_yticks(at, list(rows), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * left.max())
    axis.set(xlabel="seconds of one core (number: loss at the end)")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncol": 4}
    axis.legend(fontsize=8, frameon=False, **above)
