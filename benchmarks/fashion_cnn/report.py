"""From results to a table, with paired intervals."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import interval
from ..stored import load, Row
from .seconds import TIMED
from .settings import ARMS, SHAPES
from .task import params


SWEEP = "best of three"
Rows = dict[str, Row]


def gathered(folder: Path) -> Rows:
    """The arms that have been evaluated, and the best of the static proportions."""
    rows: Rows = {n: load(folder, n) for n in ARMS if (folder / f"{n}.json").exists()}
    static = [f"static {name}" for name in SHAPES]
    if all(name in rows for name in static):
        rows[SWEEP] = _picked([rows[name] for name in static])
    return rows


def _picked(static: list[Row]) -> Row:
    """By seed the proportions with the least held-out loss; all are paid for."""
    best = np.argmin([row["valid_loss"] for row in static], axis=0)
    keys = ("valid_loss", "valid", "test_loss", "test", "final")
    row: Row = {k: [static[b][k][i] for i, b in enumerate(best)] for k in keys}
    for k in ("flops", "needed"):
        row[k] = np.sum([s[k] for s in static], axis=0).tolist()
    return row | {"rate": None, "steps": static[0]["steps"]}


def less(rows: Rows, name: str, other: str, key: str = "test") -> np.ndarray:
    """An arm's test error or loss less another's, seed by seed."""
    return np.asarray(rows[name][key]) - np.asarray(rows[other][key])


def table(rows: Rows) -> str:
    head = "| arm | rate | steps | units | params | test error, % | - hand | test loss "
    head += "| - hand | GFLOP | needed |"
    lines = [head, "|---" * 11 + "|"]
    for name, row in rows.items():
        lines.append(_line(rows, name, row))
    return "\n".join(lines)


def _line(rows: Rows, name: str, row: Row) -> str:
    hand = "static hand"
    differs = lambda key, form: (
        "" if name == hand else interval(less(rows, name, hand, key), form)
    )
    cells = [
        name,
        "" if row["rate"] is None else f"{row['rate']:g}",
        f"{np.mean(row['steps']):.0f}",
        ", ".join(f"{mean:.3g}" for mean in np.mean(row["final"], axis=0)),
        f"{np.mean([params(tuple(s)) for s in row['final']]):,.0f}",
        interval(row["test"]),
        differs("test", "+.2f"),
        interval(row["test_loss"], ".3f"),
        differs("test_loss", "+.3f"),
        f"{np.mean(row['flops']) / 1e9:.0f}",
        f"{np.mean(row['needed']) / 1e9:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def pairs(rows: Rows) -> str:
    """The grown network less its own controls."""
    others = ("static hand", SWEEP, "final", "equal FLOPs", "even", "GradMax", "pruned")
    lines = ["| grown less | test error, points | test loss |", "|---|---|---|"]
    for other in others:
        if other in rows and "grown" in rows:
            error = interval(less(rows, "grown", other), "+.2f")
            loss = interval(less(rows, "grown", other, "test_loss"), "+.4f")
            lines.append(f"| {other} | {error} | {loss} |")
    return "\n".join(lines)


def sizes(rows: Rows) -> str:
    """Final sizes by seed, of those arms that choose them."""
    lines = ["| arm | by seed |", "|---|---|"]
    for name in ("grown", "even", "GradMax", "pruned"):
        if name in rows:
            every = "; ".join(" ".join(map(str, s)) for s in rows[name]["final"])
            lines.append(f"| {name} | {every} |")
    return "\n".join(lines)


def timed(folder: Path) -> str:
    if not (folder / "seconds.json").exists():
        return "No seconds were measured."
    found: dict[str, Any] = load(folder, "seconds")["timed"]
    head = "| run | seconds of processor, cold | warm | programs | units |"
    lines = [head, "|---" * 5 + "|"]
    for name in TIMED:
        cold, warm = (found[name][state] for state in ("cold", "warm"))
        units = ", ".join(map(str, cold["sizes"]))
        lines.append(
            f"| {name} | {cold['cpu_seconds']:.1f} | {warm['cpu_seconds']:.1f} "
            f"| {cold['programs']} | {units} |"
        )
    return "\n".join(lines)


def spent(folder: Path) -> str:
    rows = [load(folder, path.stem) for path in sorted(folder.glob("*.json"))]
    wall, cpu = (sum(r[key] for r in rows) for key in ("seconds", "cpu_seconds"))
    return f"All runs took {wall:.0f} s, {cpu:.0f} s of processor in this process."
