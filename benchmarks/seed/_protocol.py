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
) -> dict[str, Any]:
    """`rows`, one per arm, size input and rate, with ratios to "static" beside it.

    And `best`: of all arms that grow against all that don't (by their names), each the
    best on held-out data.
    """
    cases = list(it.product(arms, (True, False)))
    grid = list(it.product(rates, (False, True)))
    tried = [Job(*case, *how) for case in cases for how in grid]
    held_out = _means(run(tried, "held out")).reshape(len(cases), len(grid))
    chosen = [grid[i] for i in held_out.argmin(axis=1)]
    finals = [Job(*case, published, False) for case in cases]
    finals += [Job(*case, *how) for case, how in zip(cases, chosen, strict=True)]
    test = run(finals, "test")
    test = np.where(np.isfinite(test), test, np.inf)
    half = len(cases)
    rows = []
    for i, job in enumerate(finals):
        # Its place is the same in both halves.
        static = test[i - i % half + cases.index(("static", job.size_input))]
        row = {"column": "published" if i < half else "tuned"} | job._asdict()
        row |= _summary(test[i], static)
        if i >= half:
            row["held out"] = held_out[i - half].tolist()
        rows.append(row)
    least = held_out.min(axis=1)
    best = [_best(finals[half:], least, test[half:], fed) for fed in (True, False)]
    return {"rows": rows, "best": best}


def _summary(losses: np.ndarray, static: np.ndarray) -> dict[str, Any]:
    # Among infinities, those that diverged, quantiles needn't be numbers.
    with np.errstate(invalid="ignore"):
        deciles = np.quantile(losses, np.linspace(0.1, 0.9, 9))
    return {
        "mean": float(losses.mean()),
        "median": float(deciles[4]),
        "deciles": deciles.tolist(),
        "diverged": float(np.mean(~np.isfinite(losses))),
        "ratio": ratio(losses, static),
    }


def _best(
    jobs: Sequence[Job], held_out: np.ndarray, test: np.ndarray, size_input: bool
) -> dict[str, Any]:
    """The best arm that grows and the best that doesn't, and their ratio."""
    indices: dict[str, int] = {}
    for i, job in enumerate(jobs):
        kind = job.arm.partition(",")[0]
        if job.size_input == size_input and kind in ("growing", "static"):
            if kind not in indices or held_out[i] < held_out[indices[kind]]:
                indices[kind] = i
    return {
        "size_input": size_input,
        **{kind: jobs[i]._asdict() for kind, i in indices.items()},
        "means": {kind: float(test[i].mean()) for kind, i in indices.items()},
        "ratio": ratio(*(test[indices[kind]] for kind in ("growing", "static"))),
    }


def _means(losses: np.ndarray) -> np.ndarray:
    """Means over networks; a job with a network that diverged can't be chosen."""
    means = losses.mean(axis=(1, 2))
    return np.where(np.isfinite(means), means, np.inf)
