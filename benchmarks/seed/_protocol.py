"""How arms are compared: as published, and with a rate of their own.

Each arm gets the same grid of learning rates on held-out data, with networks and data
that are not used again. Then all arms, at the published rate and at the chosen one,
start from the same weights on the same data, and the test points are read once.
"""

import itertools as it
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ._stats import ratio


class Job(NamedTuple):
    """An arm at a learning rate."""

    arm: str
    size_input: bool
    rate: float
    cosine: bool


Stage = Literal["held out", "test"]
# Trains every job on the same draws and weights: data losses [jobs, draws, trials].
Run = Callable[[Sequence[Job], Stage], np.ndarray]


def compare(
    arms: Sequence[str], rates: Sequence[float], published: float, run: Run
) -> list[dict[str, Any]]:
    """A row per arm, size input and rate; ratios are to its column's "static"."""
    cases = list(it.product(arms, (True, False)))
    grid = list(it.product(rates, (False, True)))
    tried = [Job(*case, *how) for case in cases for how in grid]
    held_out = _means(run(tried, "held out")).reshape(len(cases), len(grid))
    chosen = [grid[i] for i in held_out.argmin(axis=1)]
    finals = [Job(*case, published, False) for case in cases]
    finals += [Job(*case, *how) for case, how in zip(cases, chosen, strict=True)]
    test = run(finals, "test")
    test = np.where(np.isfinite(test), test, np.inf)
    columns = ["published"] * len(cases) + ["tuned"] * len(cases)
    place = {
        (job.arm, job.size_input, c): i
        for i, (job, c) in enumerate(zip(finals, columns, strict=True))
    }
    rows = []
    for i, (job, column) in enumerate(zip(finals, columns, strict=True)):
        static = test[place["static", job.size_input, column]]
        row = job._asdict() | {
            "column": column,
            "mean": float(test[i].mean()),
            "median": float(np.median(test[i])),
            "diverged": float(np.mean(~np.isfinite(test[i]))),
            "ratio": ratio(test[i], static),
            "deciles": np.quantile(test[i], np.linspace(0.1, 0.9, 9)).tolist(),
        }
        if column == "tuned":
            row["held out"] = held_out[i - len(cases)].tolist()
        rows.append(row)
    return rows


def _means(losses: np.ndarray) -> np.ndarray:
    """Means over networks; a job with a network that diverged can't be chosen."""
    means = losses.mean(axis=(1, 2))
    return np.where(np.isfinite(means), means, np.inf)
