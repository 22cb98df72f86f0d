"""Accuracy over the classes seen, phase by phase; what it costs."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import bounds
from .report import by_phase, final
from .settings import PER_PHASE, PHASES


SHOWN = {
    "random": "C0",
    "random, old units rest": "C4",
    "GradMax": "C1",
    "SENN": "C2",
    "static": "k",
    "small": "grey",
}
MARKS = {
    "no replay": "x",
    "no replay, new outputs": "v",
    "replay": "o",
    "all kept": "s",
}


def figure(rows: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    seen = PER_PHASE * np.arange(1, PHASES + 1)
    lows = {"no replay, new outputs": 15, "replay": 60}
    for axis, (memory, low) in zip(axes, lows.items(), strict=False):
        for arm, color in {**SHOWN, "retrained": "C3"}.items():
            row = rows.get(arm if arm == "retrained" else f"{arm} / {memory}")
            if row is not None:
                means = 100 * by_phase(row).mean(axis=0)
                style = "--" if arm in ("static", "small", "retrained") else "-"
                axis.plot(seen, means, style, color=color, label=arm)
        axis.set(xlabel="classes seen", title=memory, xticks=seen, ylim=(low, 100))
    plain = rows.get("static / no replay")
    if plain is not None:
        means = 100 * by_phase(plain).mean(axis=0)
        label = "static, softmax over all outputs"
        axes[0].plot(seen, means, "k:", label=label)
    axes[0].set(ylabel="accuracy over all classes seen, percent")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    _costs(axes[2], rows)
    fig.savefig(path, dpi=110)


def _costs(axis: Any, rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        arm, _, memory = name.partition(" / ")
        hollow = arm in ("static, equal FLOPs", "static, 36 units")
        color = SHOWN.get(arm, "k" if hollow else "")
        color = "C3" if arm == "retrained" else color
        if color:
            mark = MARKS.get(memory, "*")
            values = 100 * final(row)
            low, high = bounds(values)
            error = [[values.mean() - low], [high - values.mean()]]
            axis.errorbar(
                row["flops"] / 1e9, values.mean(), yerr=error, fmt=mark, color=color,
                mfc="none" if hollow else color,
            )  # fmt: skip
    for memory, mark in {**MARKS, "retrained": "*"}.items():
        axis.plot([], [], mark, color="grey", label=memory)
    axis.plot([], [], "ko", mfc="none", label="static, as many FLOPs as grown")
    axis.set(xlabel="GFLOP executed", title="final accuracy and its cost", xscale="log")
    ticks = [3, 10, 30, 60]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.56))
