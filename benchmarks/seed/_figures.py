"""One figure per experiment, from the stored results."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from ._stored import LAMBDA_BINS


mpl.use("Agg")
STYLE: Any = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
mpl.rcParams.update(STYLE)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHOWN = (
    "growing",
    "growing, size rate fixed",
    "growing, data gradient",
    "growing, mask per unit",
    "growing, mask per unit, data gradient",
    "open-loop ramp",
    "static, small output",
)


def law(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for row, color in zip(result["rows"], COLORS, strict=False):
        label = f"$\\lambda$ = {row['lambda']}"
        axes.plot(result["epochs"], row["mean"], color=color, label=label)
        band = row["low"], row["high"]
        axes.fill_between(result["epochs"], *band, color=color, alpha=0.2, lw=0)
        axes.plot(result["epochs"], row["law"], "k--", lw=0.9)
    axes.plot([], [], "k--", lw=0.9, label=r"$5(1-e^{-2\eta\lambda e})$")
    axes.set(xlabel="epoch", ylabel="size N (units)")
    axes.set_title(
        f"Method A, J0: mean size and 5-95 % band, n = {result['networks']} networks "
        "each",
        fontsize=9,
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def lambdas(result: dict[str, Any], path: Path) -> None:
    figure, both = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True)
    weights = np.asarray(result["lambdas"])
    for axes, name in zip(both, ("as published", "no size input"), strict=True):
        arms = result[name]
        grown = np.mean(arms["growing"]["data"], axis=1)
        extra = np.mean(arms["growing"]["size loss"], axis=1)
        static = np.mean(arms["static"]["data"], axis=1)
        total = static + np.mean(arms["static"]["size loss"], axis=1)
        axes.loglog(weights, (grown + extra) / total, color=COLORS[1], label="total")
        axes.loglog(weights, grown / static, color=COLORS[0], label="data only")
        axes.axhline(1, color="k", lw=0.8)
        axes.set(xlabel=r"$\lambda$ (weight of the size loss)")
        n = f"{result['draws']} draws x {arms['trials']} trials per point and arm"
        axes.set_title(f"{name}, rate 0.001: n = {n}", fontsize=9)
    middle = [10 ** ((b.low + b.high) / 2) for b in LAMBDA_BINS]
    for field, color in (("total", COLORS[1]), ("data", COLORS[0])):
        values = [getattr(b, field) for b in LAMBDA_BINS]
        label = f"authors' stored, {'total' if field == 'total' else 'data only'}"
        both[0].plot(middle, values, "o", ms=4, color=color, mfc="none", label=label)
    both[0].set_ylabel("test loss, growing / static")
    both[0].legend()
    both[1].legend()
    figure.suptitle("Method A, J0, 17,783 epochs (below 1: growing is better)")
    _save(figure, path)


def arms(
    places: dict[str, Any], columns: list[tuple[str, bool, str]], path: Path
) -> None:
    """Ratios to the static arm, one panel per (column, size input, title)."""
    figure, panels = plt.subplots(
        1, len(columns), figsize=(9.6, 0.95 + 0.72 * len(places)), sharey=True
    )
    for axes, (column, fed, title) in zip(panels, columns, strict=True):
        for y, place in enumerate(places.values()):
            rows = {
                r["arm"]: r
                for r in place["rows"]
                if r["column"] == column and r["size_input"] == fed
            }
            names = [name for name in SHOWN if name in rows]
            for i, name in enumerate(names):
                middle, low, high = rows[name]["ratio"]
                at = y + 0.7 * ((i + 0.5) / len(names) - 0.5)
                color = COLORS[i] if i < len(COLORS) else "k"
                axes.plot([low, high], [at, at], color=color, lw=1.6)
                label = name if y == 0 else None
                axes.plot(middle, at, "o", ms=4, color=color, label=label)
        axes.axvline(1, color="k", lw=0.8)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [a * 10.0**e for e in range(-3, 3) for a in (1, 2, 5)]
        ticks = [tick for tick in ticks if low < tick < high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("mean test data loss / static's, 95 % interval (< 1: better)")
        axes.set_title(title, fontsize=9)
    panels[0].set_yticks(range(len(places)), [_label(*p) for p in places.items()])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    _save(figure, path)


def control(alone: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for (name, values), mark in zip(alone["paths"].items(), ("-", "--"), strict=True):
        axes.plot(alone["epochs"], values, mark, label=name.partition(",")[0])
    gain = np.sin(np.pi / 2 * np.asarray(next(iter(alone["paths"].values())))) ** 2
    axes.plot(alone["epochs"], gain, ":", color="k", label="gain, both")
    axes.set(xlabel="epoch", ylabel="control c, gain (no unit)")
    axes.set_title("Method B, published settings: the control, n = 1 seed", fontsize=9)
    axes.legend()
    _save(figure, path)


def _label(name: str, place: dict[str, Any]) -> str:
    if "seeds" in place:
        return f"{name}\nn = {place['seeds'][1]}"
    draws, trials = place["draws x trials"]["test"]
    return f"{name}\nn = {draws * trials}"


def _save(figure: Any, path: Path) -> None:
    figure.set_layout_engine("constrained")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
