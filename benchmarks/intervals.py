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
