"""From results to the table and the figure."""

from pathlib import Path
from typing import Any

import numpy as np

from .arms import ARMS, EVERY
from .tasks import TASKS


OTHERS = [arm for arm in ARMS if arm != "carry"]
Interval = tuple[float, float, float]


def difference(own: Any, others: Any) -> Interval:
    """By how many percent the mean loss differs, with a paired 95 % bootstrap interval
    over seeds; lists of tasks count alike (geometric mean of their ratios)."""
    own, others = np.atleast_2d(own), np.atleast_2d(others)
    rng = np.random.default_rng(0)
    tasks, seeds = own.shape
    picks = rng.integers(0, seeds, (10_000, tasks, seeds))
    rows = np.arange(tasks)[:, None]
    ratio = lambda a, b: np.exp(np.mean(np.log(a.mean(-1) / b.mean(-1)), axis=-1))
    low, high = np.quantile(
        ratio(own[rows, picks], others[rows, picks]), [0.025, 0.975]
    )
    mean, low, high = (100 * (float(x) - 1) for x in (ratio(own, others), low, high))
    return mean, low, high


def differences(results: dict[str, Any], what: str) -> dict[str, dict[str, Interval]]:
    """By task, and for all of them, then by arm: against `carry`."""
    found = {
        name: {arm: difference(own[arm][what], own["carry"][what]) for arm in OTHERS}
        for name, own in results.items()
    }
    every = lambda arm: [own[arm][what] for own in results.values()]
    found["all five"] = {arm: difference(every(arm), every("carry")) for arm in OTHERS}
    return found


def tables(results: dict[str, Any]) -> str:
    """Loss after the first birth, at the end, and the chosen rates."""
    rows = [["learning rate", *ARMS], ["---"] * (1 + len(ARMS))]
    for name, own in results.items():
        rows.append([name, *(f"{own[arm]['rate']:g}" for arm in ARMS)])
    titles = {"after": "loss after growth", "last": "loss at the end"}
    both = [_table(results, what, title) for what, title in titles.items()]
    return "\n\n".join([*both, _lines(rows)])


def _table(results: dict[str, Any], what: str, title: str) -> str:
    found = differences(results, what)
    rows = [[title, "carry", *(f"{arm}, %" for arm in OTHERS)]]
    rows.append(["---"] * (2 + len(OTHERS)))
    for name, own in found.items():
        carried = results[name]["carry"][what] if name in results else []
        mean = f"{np.mean(carried):.4f}" if carried else ""
        rows.append([name, mean, *(told(own[arm]) for arm in OTHERS)])
    return _lines(rows)


def _lines(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def told(interval: Interval) -> str:
    mean, low, high = interval
    return f"{mean:+.1f} ({low:+.1f}, {high:+.1f})"


def figure(results: dict[str, Any], path: Path) -> None:
    """Differences after growth with their intervals; and how the loss goes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplot_mosaic(
        [["all", "all", "a"], ["all", "all", "b"]],
        figsize=(11, 5.6),
        layout="constrained",
    )
    found = differences(results, "after")
    place = axes["all"]
    for i, arm in enumerate(OTHERS):
        for row, (name, own) in enumerate(found.items()):
            mean, low, high = own[arm]
            y = -row - (i - 2.5) * 0.13
            error = [[mean - low], [high - mean]]
            place.errorbar(
                mean, y, xerr=error, fmt="o", ms=4, lw=1.4, color=f"C{i + 1}",
                label=None if row else arm, mfc="w" if name == "all five" else None,
            )  # fmt: skip
    place.axvline(0, color="C0", lw=1)
    place.set_yticks(-np.arange(len(found)), list(found))
    place.set_xscale("symlog", linthresh=10)
    ticks = [-50, -20, -10, -5, 0, 5, 10, 20, 50, 100]
    shown = [t for t in ticks if place.get_xlim()[0] <= t <= place.get_xlim()[1]]
    place.set_xticks(shown, [f"{t:+d} %" if t else "carry" for t in shown])
    place.set_xticks([], minor=True)
    place.grid(axis="x", lw=0.4)
    place.set_title("loss after growth, against carried Adam")
    place.legend(fontsize=8, frameon=False, loc="best")
    for key, name in {"a": "digits, perceptron", "b": "letters, transformer"}.items():
        place = axes[key]
        if name not in results:
            continue
        for i, arm in enumerate(ARMS):
            curve = np.asarray(results[name][arm]["curve"])
            steps = EVERY * (1 + np.arange(len(curve)))
            first = len(curve) // 4
            place.plot(steps[first:], curve[first:], lw=1, color=f"C{i}", label=arm)
        for birth in TASKS[name].births:
            place.axvline(birth, color="grey", lw=0.5, ls=":")
        place.set(title=name, ylabel="held-out loss, median", xlabel="step")
    fig.savefig(path, dpi=110)
