"""Test error against executed operations, and where the parameters went."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import bounds
from .task import Sizes


MARKS = {
    "static hand": ("k", "s"),
    "static dense": ("0.45", "s"),
    "static flat": ("0.7", "s"),
    "grown": ("C3", "o"),
    "open": ("C1", "v"),
    "final": ("C0", "D"),
    "equal FLOPs": ("C0", "P"),
    "pruned": ("C4", "^"),
}
LAYERS = ("convolution 1", "convolution 2", "convolution 3", "dense", "output")


def figure(rows: dict[str, Any], made: Path) -> None:
    """Left a point per arm, right the parameters of every layer."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    told = [name for name in MARKS if name in rows]
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
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
        title="error and cost, with 95 % intervals over seeds",
    )
    left.minorticks_off()
    ticks = [t for t in (50, 70, 100, 150, 200, 300, 500, 700, 1_000) if _in(left, t)]
    left.set_xticks(ticks, [str(t) for t in ticks])
    left.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _parts(right, {name: rows[name] for name in told})
    fig.savefig(made, dpi=110)


def _in(axis: Any, x: float) -> bool:
    low, high = axis.get_xlim()
    return low <= x <= high


def _parts(axis: Any, rows: dict[str, Any]) -> None:
    """Parameters by layer, means over seeds; sizes beside them."""
    rows = {n: r for n, r in rows.items() if n not in ("final", "open", "equal FLOPs")}
    for i, (_name, row) in enumerate(rows.items()):
        parts = np.mean([by_layer(tuple(sizes)) for sizes in row["final"]], axis=0)
        start = 0.0
        for j, part in enumerate(parts):
            label = LAYERS[j] if i == 0 else None
            axis.barh(i, part, left=start, color=f"C{j}", label=label)
            start += part
        sizes = ", ".join(f"{n:.3g}" for n in np.mean(row["final"], axis=0))
        axis.text(start, i, f" {sizes}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlim(0, 22_000)
    axis.set_xticks(range(0, 16_001, 4_000))
    axis.set(xlabel="parameters", title="parameters by layer, and sizes at the end")
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper center",
                bbox_to_anchor=(0.5, -0.14))  # fmt: skip


def by_layer(sizes: Sizes) -> list[int]:
    first, second, third, dense = sizes
    return [
        10 * first,
        (9 * first + 1) * second,
        (9 * second + 1) * third,
        (16 * third + 1) * dense,
        (dense + 1) * 10,
    ]
