"""Tables: how often, how large, and what a success costs."""

from pathlib import Path
from typing import Any

import numpy as np

from ..intervals import wilson
from ..stored import load, Row
from .arms import ARMS
from .settings import DENSITIES


Rows = dict[str, Row]
HEAD = (
    "arm", "rate", "solved, %", "static of its size, %", "units", "MFLOP if solved",
    "MFLOP per success", "given up at best", "/ best static",
)  # fmt: skip


def gathered(folder: Path) -> Rows:
    """The arms that have been run, with the seconds of tuning, if that is there too,
    and evaluation."""
    found = {}
    for name in ARMS:
        if not (folder / f"evaluated {name}.json").exists():
            continue
        found[name] = row = load(folder, f"evaluated {name}")
        if (folder / f"tuned {name}.json").exists():
            first = load(folder, f"tuned {name}")
            row["seconds"] += first["seconds"]
            row["cpu_seconds"] += first["cpu_seconds"]
    return found


def per_success(row: Row, at: int, picked: Any = slice(None)) -> Any:
    """What is executed for one success, if failures are given up at the budget and
    begun again: all that the runs executed, over the successes among them."""
    flops, solved = np.array(row["flops"][at])[picked], np.array(row["solved"][at])
    return flops.sum(-1) / np.maximum(solved[picked].sum(-1), 1e-9)


def cheapest_success(row: Row, at: int, picked: Any = slice(None)) -> Any:
    """The same if they are given up earlier, where it is cheapest in hindsight."""
    flops, solved = np.array(row["flops"][at]), np.array(row["solved"][at])
    ends = np.where(solved, flops, np.inf)[picked]
    # It is cheapest to give up where one run just succeeds.
    order, count = np.sort(ends, axis=-1), ends.shape[-1]
    successes = np.arange(1, count + 1)
    with np.errstate(invalid="ignore"):
        executed = np.cumsum(order, -1) + (count - successes) * order
    return np.min(np.where(order < np.inf, executed / successes, np.inf), axis=-1)


def best_static(rows: Rows, at: int) -> str:
    """Of the static arms, the one with the cheapest success; in hindsight."""
    static = [name for name in rows if ARMS[name].static]
    return min(static, key=lambda name: cheapest_success(rows[name], at))


def table(rows: Rows, at: int) -> str:
    """Of one density."""
    best = best_static(rows, at)
    lines = [
        f"**Density {DENSITIES[at]}**: a static success is cheapest for {best}.\n",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    for name, row in rows.items():
        solved, sizes = np.array(row["solved"][at]), np.array(row["sizes"][at])
        low, high = wilson(int(solved.sum()), len(solved))
        units = sizes[solved] if solved.any() else sizes
        cells = [
            name,
            f"{row['rates'][at]:g}",
            f"{100 * solved.mean():.0f} ({100 * low:.0f}, {100 * high:.0f})",
            _of_its_size(rows, name, at),
            ", ".join(f"{n:.1f}" for n in units.mean(0)),
            *(_costs(row, rows[best], at) if solved.any() else "----"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _costs(row: Row, best: Row, at: int) -> list[str]:
    """Of an arm of which some runs succeed."""
    solved = np.array(row["solved"][at])
    flops = np.median(np.array(row["flops"][at])[solved])
    cheap, base = cheapest_success(row, at), cheapest_success(best, at)
    again = np.random.default_rng(0).integers(0, len(solved), (10_000, len(solved)))
    with np.errstate(invalid="ignore"):  # None of either may succeed.
        ratios = cheapest_success(row, at, again) / cheapest_success(best, at, again)
    low, high = np.nanquantile(ratios, [0.025, 0.975], method="nearest")
    return [
        *(f"{x / 1e6:.0f}" for x in (flops, per_success(row, at), cheap)),
        f"{cheap / base:.2f} ({low:.2f}, {high:.2f})",
    ]


def _of_its_size(rows: Rows, name: str, at: int) -> str:
    """How often static networks of the sizes at which runs ended succeed."""
    known = {
        ARMS[n].m: np.mean(row["solved"][at])
        for n, row in rows.items()
        if ARMS[n].static
    }
    sizes = np.array(rows[name]["sizes"][at])
    ladder = (sizes[:, 0] == 2 * sizes[:, 1]) & np.isin(sizes[:, 1], list(known))
    if ARMS[name].static or not ladder.all():
        return ""
    return f"{100 * np.mean([known[int(m)] for m in sizes[:, 1]]):.0f}"


def exactness(rows: Rows) -> str:
    """The other criterion: all cells of 100 boards of 32 x 32."""
    both = only = 0
    for row in rows.values():
        solved, held_out = np.array(row["solved"]), np.array(row["held_out"])
        both += int((solved & held_out).sum())
        only += int((held_out & ~solved).sum())
    return (
        f"{both} runs that know all neighbourhoods tell 100 held-out boards of "
        f"32 x 32 right; {only} do that without being counted."
    )


def seconds(rows: Rows) -> str:
    wall = sum(row["seconds"] for row in rows.values())
    processor = sum(row["cpu_seconds"] for row in rows.values())
    each = ", ".join(f"{name} {row['cpu_seconds']:.0f}" for name, row in rows.items())
    return (
        f"{wall:.0f} s, {processor:.0f} s of processor, tuning and compiling included; "
        f"of processor by arm: {each}."
    )
