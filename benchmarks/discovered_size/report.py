"""From results to the table, the bars, and the figure."""

from pathlib import Path
from typing import Any

import numpy as np

from .arms import CAPACITY, EVERY
from .run import NOISES
from .tasks import forward, TRAIN


Rows = list[dict[str, Any]]


def rows_of(results: dict[str, Any]) -> Rows:
    """A row per teacher, noise and arm."""
    rows: Rows = []
    arms, steps = results["arms"], results["steps"]
    static = {
        tuple(int(w) for w in name.split()[1].split(",")): arm
        for name, arm in arms.items()
        if name.startswith("static")
    }
    for h, hidden in enumerate(results["hidden"]):
        for n, noise in enumerate(NOISES):
            block = h * len(NOISES) + n
            best = _sweep(static, block)
            task = {"teacher": tuple(hidden), "noise": noise, **best}
            for name, arm in arms.items():
                if not name.startswith("static"):
                    own = _found(arm, block, best, steps)
                    rows.append(task | {"arm": name} | own)
            rows.append(
                task | {"arm": "one sweep"} | _picked(static, block, best, steps)
            )
    return rows


def part(values: Any, seeds: int, block: int) -> Any:
    return np.asarray(values)[block * seeds : (block + 1) * seeds]


def _sweep(static: dict[tuple[int, ...], Any], block: int) -> dict[str, Any]:
    """w*: the fewest parameters within 10 % of the best median held-out loss."""
    median = {
        widths: {
            k: np.median(part(arm[k], arm["seeds"], block))
            for k in ("valid", "test", "clean")
        }
        for widths, arm in static.items()
    }
    least = min(m["valid"] for m in median.values())
    good = [w for w, m in median.items() if m["valid"] <= 1.1 * least]
    star = min(good, key=forward)
    return {
        "star": star,
        "best_test": min(m["test"] for m in median.values()),
        "best_clean": min(m["clean"] for m in median.values()),
        "star_test": median[star]["test"],
    }


def _found(
    arm: dict[str, Any], block: int, best: dict[str, Any], steps: int
) -> dict[str, Any]:
    seeds = arm["seeds"]
    here = {
        key: part(arm[key], seeds, block)
        for key in ("found", "test", "clean", "flops_fit", "flops_here")
    }
    return _judged(best, steps, **here)


def _picked(
    static: Any, block: int, best: dict[str, Any], steps: int
) -> dict[str, Any]:
    """What a user's own sweep, of one run per size, gives by the same rule."""
    sizes = sorted(static, key=forward)
    grab = lambda key: np.stack(
        [part(static[w][key], static[w]["seeds"], block) for w in sizes]
    )
    valid = grab("valid")
    pick = np.argmax(valid <= 1.1 * valid.min(0), axis=0)
    found = np.asarray(sizes)[pick]
    every = np.arange(len(pick))
    spent = np.full(len(pick), sum(forward(w) for w in sizes) * 3.0 * TRAIN * steps)
    return _judged(
        best,
        steps,
        found=found,
        test=grab("test")[pick, every],
        clean=grab("clean")[pick, every],
        flops_fit=spent,
        flops_here=spent,
    )


def _judged(
    best: dict[str, Any],
    steps: int,
    found: Any,
    test: Any,
    clean: Any,
    flops_fit: Any,
    flops_here: Any,
) -> dict[str, Any]:
    ratio = found / np.asarray(best["star"])
    close = np.all((ratio <= 3) & (ratio >= 1 / 3), axis=1)
    one = 3.0 * TRAIN * steps * forward((CAPACITY,) * len(best["star"]))
    return {
        "found": np.median(found, 0),
        "low": np.quantile(found, 0.1, axis=0),
        "high": np.quantile(found, 0.9, axis=0),
        "ratio": np.median(ratio, 0),
        "within": close.mean(),
        "test": np.median(test) / best["best_test"],
        "clean": np.median(clean) / best["best_clean"],
        "flops": np.median(flops_fit) / one,
        "flops_here": np.median(flops_here) / one,
    }


def table(rows: Rows) -> str:
    head = (
        "| teacher | noise | w* | arm | found (10-90 %) | found/w* | within 3x "
        "| test / best | noise-free test / best | FLOPs |\n" + "|---" * 10 + "|"
    )
    lines = [head]
    for r in rows:
        size = " , ".join(
            f"{m:g} ({a:.0f}-{b:.0f})"
            for m, a, b in zip(r["found"], r["low"], r["high"], strict=True)
        )
        ratio = ", ".join(f"{x:.2f}" for x in r["ratio"])
        lines.append(
            f"| {_named(r['teacher'])} | {r['noise']} | {_named(r['star'])} | "
            f"{r['arm']} | {size} | {ratio} | {r['within']:.0%} | {r['test']:.2f} | "
            f"{r['clean']:.2f} | {r['flops']:.2f} |"
        )
    return "\n".join(lines)


def bars(rows: Rows) -> str:
    """Which bars hold, arm by arm: on how many of the tasks."""
    lines = [
        "| arm | median found/w* in 0.5-2 | 90 % within 3x | test <= 1.25 best |",
        "|---|---|---|---|",
    ]
    for arm in dict.fromkeys(r["arm"] for r in rows):
        own = [r for r in rows if r["arm"] == arm]
        held = [
            sum(bool(np.all((r["ratio"] >= 0.5) & (r["ratio"] <= 2))) for r in own),
            sum(r["within"] >= 0.9 for r in own),
            sum(r["test"] <= 1.25 for r in own),
        ]
        lines.append(f"| {arm} | " + " | ".join(f"{x}/{len(own)}" for x in held) + " |")
    return "\n".join(lines)


def figure(rows: Rows, results: dict[str, Any], path: Path) -> None:
    """Found sizes against w*, and how they came about."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    one = [r for r in rows if len(r["star"]) == 1]
    arms = [a for a in dict.fromkeys(r["arm"] for r in one) if a != "one sweep"]
    for i, arm in enumerate(arms):
        own = [r for r in one if r["arm"] == arm]
        star = np.array([r["star"][0] for r in own]) * 1.05 ** (i - len(arms) / 2)
        mid = np.array([r["found"][0] for r in own])
        low = mid - [r["low"][0] for r in own]
        high = np.array([r["high"][0] for r in own]) - mid
        left.errorbar(star, mid, (low, high), fmt="o", ms=4, lw=1, label=arm)
    line = np.array([2, 40])
    left.plot(line, line, color="grey", lw=1)
    left.fill_between(line, line / 2, 2 * line, color="grey", alpha=0.12, lw=0)
    left.set(xscale="log", yscale="log", xlabel="w* (of the sweep)", ylabel="found")
    for color, start in (("C0", 2), ("C1", 64)):
        arm = results["arms"][f"nested from {start}"]
        block = 2 * len(NOISES)
        paths = part(arm["path"], arm["seeds"], block)[:, 0]
        steps = 4 * EVERY * np.arange(paths.shape[1]) + EVERY
        for path_ in paths:
            right.plot(steps, path_, color=color, lw=0.8, alpha=0.6)
        right.plot([], [], color=color, label=f"from {start}")
    right.set(
        yscale="log",
        xlabel="training step",
        ylabel="units, with the room above",
        title="12 hidden units, noise 0.05: 20 seeds",
    )
    _plain(left.xaxis, (2, 3, 4, 6, 8, 12, 24))
    _plain(left.yaxis, (2, 3, 4, 6, 8, 12, 24, 48))
    _plain(right.yaxis, (4, 8, 16, 32, 64))
    left.legend(fontsize=8, frameon=False)
    right.legend(frameon=False)
    fig.savefig(path, dpi=110)


def _plain(axis: Any, ticks: tuple[int, ...]) -> None:
    axis.set_ticks(ticks, [str(t) for t in ticks])
    axis.set_ticks([], minor=True)


def _named(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths))
