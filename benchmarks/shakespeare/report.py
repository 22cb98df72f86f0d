"""From runs to a table, and to what was declared."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import interval
from .run import load
from .settings import ARMS, Settings


GOAL = 0.6
"""Of the large network's seconds, in which a grown one should reach its loss."""
Rows = dict[str, dict[str, Any]]


def gathered(folder: Path, s: Settings) -> Rows:
    """Arms of which all runs are there, in the order of `ARMS`."""
    rows = {name: load(folder, name) for name in ARMS}
    return {n: row for n, row in rows.items() if len(row["runs"]) == len(s.seeds)}


def of(row: dict[str, Any], what: str) -> np.ndarray:
    """By seed. `warm`: seconds of training and of edits. `cold`: with those of planning
    and compiling, which know no weights, and are the same for a longer run."""
    warm = "training", "edits"
    parts = {"warm": warm, "cold": (*warm, "planning", "compiling")}
    return np.array([sum(r[w] for w in parts.get(what, (what,))) for r in row["runs"]])


def reached(row: dict[str, Any], goal: np.ndarray) -> np.ndarray:
    """Seconds until the held-out loss was as low as `goal`, by seed; between two looks
    it is taken to go straight. Infinite, if it never was."""
    times = []
    for run, least in zip(row["runs"], goal, strict=True):
        _, seconds, _, losses = np.transpose(run["curve"])
        below = np.flatnonzero(losses <= least)
        if len(below) == 0 or below[0] == 0:
            times.append(seconds[0] if len(below) else np.inf)
            continue
        i = below[0]
        part = (losses[i - 1] - least) / (losses[i - 1] - losses[i])
        times.append(seconds[i - 1] + part * (seconds[i] - seconds[i - 1]))
    return np.array(times)


def ends(row: dict[str, Any]) -> np.ndarray:
    """The last held-out loss of the curve, by seed."""
    return np.array([run["curve"][-1][-1] for run in row["runs"]])


def table(rows: Rows, s: Settings) -> str:
    large = rows["large"]
    head = "arm", "rate", "steps", "loss", "less large's", "FLOPs / large's"
    head += "seconds", "/ large's", "planning", "compiling", "with these / large's"
    lines = [f"| {' | '.join((*head, 'has the loss of large at'))} |"]
    lines.append("|---" * (len(head) + 1) + "|")
    for name, row in rows.items():
        ratio = lambda what, row=row: np.mean(of(row, what) / of(large, what))
        at = reached(row, ends(large)) / of(large, "warm")
        cells = [
            name,
            f"{row['runs'][0]['rate']:g}",
            f"{s.chunk * sum(s.stages(ARMS[name]))}",
            interval(of(row, "loss"), ".3f"),
            interval(of(row, "loss") - of(large, "loss"), "+.3f"),
            f"{ratio('flops'):.2f}",
            f"{of(row, 'warm').mean():.1f}",
            f"{ratio('warm'):.2f}",
            f"{of(row, 'planning').mean():.1f}",
            f"{of(row, 'compiling').mean():.1f}",
            f"{ratio('cold'):.2f}",
            f"{at.mean():.2f}" if np.isfinite(at).all() else "never",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bar(rows: Rows) -> str:
    """What was declared, of every grown arm."""
    large, told = rows["large"], []
    for name in (n for n in rows if n.startswith("grown")):
        less = of(rows[name], "loss") - of(large, "loss")
        warm, cold = (
            np.mean(of(rows[name], w) / of(large, w)) for w in ("warm", "cold")
        )
        holds = less.mean() <= 0 and warm <= GOAL
        told.append(
            f"- {name}: loss {interval(less, '+.3f')} against the large network's, in "
            f"{warm:.2f} of its seconds ({cold:.2f} with planning and compiling): "
            f"**{'holds' if holds else 'fails'}**."
        )
    return "\n".join(told)


def against(rows: Rows) -> str:
    """The loss of `grown` less that of others, paired by seed."""
    told = [
        f"- less that of {name}: {interval(of(rows['grown'], 'loss') - theirs, '+.3f')}"
        for name, theirs in ((n, of(row, "loss")) for n, row in rows.items())
        if "grown" in rows and name not in ("grown", "large")
    ]
    return "\n".join(["Loss of grown", *told])


def rates(rows: Rows) -> str:
    """Losses on the tuning seeds, by learning rate."""
    tried = sorted({r["rate"] for row in rows.values() for r in row["tuning"]})
    lines = ["| arm | " + " | ".join(f"{rate:g}" for rate in tried) + " |"]
    lines.append("|---" * (1 + len(tried)) + "|")
    for name, row in rows.items():
        seen = [[r["loss"] for r in row["tuning"] if r["rate"] == t] for t in tried]
        cells = [f"{np.mean(losses):.3f}" if losses else "" for losses in seen]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)
