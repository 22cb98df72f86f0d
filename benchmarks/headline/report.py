"""From results to the declared bars and tables, with intervals."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..stored import load, Row
from .costs import halved
from .settings import ARMS, LARGE, Settings, SMALL
from .tasks import Task, TASKS


Rows = dict[str, Row]
SEARCHES = tuple(n for n, arm in ARMS.items() if arm.kind in ("growthnet", "trimmed"))


def gathered(task: Task, s: Settings, folder: Path) -> Rows:
    """The arms of a task that there are, with the searches that a sweep gives."""
    names = [*(f"static {w}" for w in s.widths), *ARMS]
    rows: Rows = {n: load(folder, n) for n in names if (folder / f"{n}.json").exists()}
    if all(f"static {w}" in rows for w in s.widths):
        rows = {**searched(rows, s), **rows}
    return rows


def searched(rows: Rows, s: Settings) -> Rows:
    """What a user's sweep of one run per width delivers, seed by seed: the smallest
    width within 10 % of the best held-out loss. The same with successive halving,
    which delivers its winner."""
    static = [rows[f"static {w}"] for w in s.widths]
    valid = np.array([r["valid_loss"] for r in static])
    spent = np.array([r["flops"] for r in static])
    curves = np.array([r["curve"] for r in static])
    picks = np.argmax(valid <= 1.1 * valid.min(0), axis=0)
    every = range(valid.shape[1])
    halves = [halved(curves[:, i], spent[:, i]) for i in every]
    return {
        "sweep": _delivered(static, picks, spent.sum(0)),
        "halving": _delivered(static, [h[0] for h in halves], [h[1] for h in halves]),
    }


def _delivered(static: list[Row], picks: Any, spent: Any) -> Row:
    keys = [k for k in static[0] if k.endswith(("_loss", "_error"))] + ["found"]
    row: Row = {k: [static[p][k][i] for i, p in enumerate(picks)] for k in keys}
    return row | {"rate": static[0]["rate"], "flops": list(spent)}


def best_static(rows: Rows, s: Settings) -> tuple[int, int]:
    """The width whose median held-out loss is least, and the sweep's choice: the
    smallest width within 10 % of that."""
    medians = {w: np.median(rows[f"static {w}"]["valid_loss"]) for w in s.widths}
    best = min(medians, key=lambda w: medians[w])
    return best, min(w for w, m in medians.items() if m <= 1.1 * medians[best])


def judged(rows: Rows, name: str, s: Settings) -> dict[str, Any]:
    """An arm against the sweep: ratios of medians with bootstrap intervals, paired by
    seed; whether each declared bar holds."""
    best, choice = best_static(rows, s)
    row, reference = rows[name], rows[f"static {best}"]
    ratio = compared(row["test_loss"], reference["test_loss"], np.divide)
    points = compared(row["test_error"], reference["test_error"], np.subtract)
    sizes = np.array(row["found"], float) / choice
    share = np.median(row["flops"]) / np.median(rows["sweep"]["flops"])
    median = np.median(sizes, axis=0)
    within = np.all((sizes <= 3) & (sizes >= 1 / 3), axis=-1).mean()
    return {
        "ratio": ratio, "points": points, "median": median, "within": within,
        "share": share,
        "bars": {
            "loss": ratio[0] <= 1.1,
            "accuracy": points[0] <= 1,
            "size": bool(np.all((median >= 0.5) & (median <= 2))),
            "spread": within >= 0.9,
            "cost": share <= 0.25,
        },
    }  # fmt: skip


def compared(mine: Any, other: Any, how: Any) -> tuple[float, float, float]:
    """Of medians, with a 95 % interval of 2,000 draws of seeds."""
    mine, other = np.asarray(mine), np.asarray(other)
    draws = np.random.default_rng(0).integers(len(mine), size=(2_000, len(mine)))
    many = how(np.median(mine[draws], axis=1), np.median(other[draws], axis=1))
    low, high = np.quantile(many, [0.025, 0.975])
    return float(how(np.median(mine), np.median(other))), float(low), float(high)


def table(task: Task, rows: Rows, s: Settings) -> str:
    """Every arm of a task against the sweep."""
    best, choice = best_static(rows, s)
    numbers = task.shape.kind == "numbers"
    heads = ["arm", "rate", "units (10-90 %)", f"units / {choice}", "within 3x"]
    heads += ["held-out loss", "test loss / best"]
    heads += [] if numbers else ["test error, %", "less best's, points"]
    heads += ["FLOPs / sweep"]
    lines = [
        f"**{task.title}**: the sweep's best width is {best}, its choice {choice}.\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    static = dict.fromkeys(f"static {w}" for w in (best, s.widths[-1]))
    for name in [*static, *(n for n in rows if not n.startswith("static"))]:
        row, seen = rows[name], judged(rows, name, s)
        cells = [name, f"{row['rate']:g}", units(row)]
        cells += [
            ", ".join(f"{m:.2f}" for m in seen["median"]),
            f"{seen['within']:.0%}",
            f"{np.median(row['valid_loss']):.4f}",
            span(seen["ratio"], ".2f"),
        ]
        if not numbers:
            cells += [
                f"{np.median(row['test_error']):.1f}",
                span(seen["points"], "+.1f"),
            ]
        cells.append(f"{seen['share']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def units(row: Row) -> str:
    found = np.array(row["found"], float)
    return ", ".join(
        f"{np.median(f):g} ({np.quantile(f, 0.1):.0f}-{np.quantile(f, 0.9):.0f})"
        for f in found.T
    )


def span(values: tuple[float, float, float], form: str) -> str:
    mid, low, high = (f"{v:{form}}" for v in values)
    return f"{mid} ({low}, {high})"


def spent(folders: list[Path]) -> str:
    """What all runs of some tasks took, compiling and tuning included."""
    rows = [json.loads(p.read_text()) for f in folders for p in f.glob("*.json")]
    wall, processor = (sum(r[k] for r in rows) for k in ("seconds", "cpu_seconds"))
    return f"Runs: {wall:.0f} s, {processor:.0f} s of processor."


BARS = {
    "loss": "test loss <= 1.10 best",
    "accuracy": "accuracy within 1 point",
    "size": "median units within 2x",
    "spread": "90 % within 3x",
    "cost": "FLOPs <= 1/4 of the sweep",
}


def bars(found: dict[str, Rows], s: Settings) -> str:
    """Every declared bar, task by task, for both starts and settings."""
    lines = [f"| task | arm | {' | '.join(BARS.values())} |", "|---" * 7 + "|"]
    for name, rows in found.items():
        for arm in SEARCHES:
            if arm not in rows or "sweep" not in rows:
                continue
            held = judged(rows, arm, s)["bars"]
            if TASKS[name].shape.kind == "numbers":
                held["accuracy"] = None
            cells = [
                {True: "holds", False: "**fails**", None: ""}[held[b]] for b in BARS
            ]
            lines.append(f"| {TASKS[name].title} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines + ["", *_small_and_large(found)])


def _small_and_large(found: dict[str, Rows]) -> list[str]:
    lines = []
    for arm in SEARCHES:
        pair = [found.get(t, {}).get(arm) for t in ("digits", "mnist1d")]
        if None in pair:
            continue
        small, large = (float(np.median(r["found"])) for r in pair if r)
        held = small <= SMALL and large >= LARGE
        lines.append(
            f"- {arm}: {small:g} units on digits (at most {SMALL}), {large:g} on "
            f"MNIST-1D (at least {LARGE}): {'holds' if held else '**fails**'}."
        )
    return lines
