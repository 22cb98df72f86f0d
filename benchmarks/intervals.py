"""Means with 95 % bootstrap intervals over seeds."""

from typing import Any

import numpy as np


def bounds(values: Any) -> tuple[float, float]:
    """Where 95 % of the means of 10,000 resamples lie."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def interval(values: Any, form: str = ".2f") -> str:
    """`mean (low, high)`, each number in the form of a format string."""
    low, high = bounds(values)
    return f"{np.mean(values):{form}} ({low:{form}}, {high:{form}})"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson, JASA 22, 1927)."""
    z, n = 1.96, trials
    rate = successes / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return float(middle - half), float(middle + half)
