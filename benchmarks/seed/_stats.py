"""Ratios of means, with intervals."""

import numpy as np


def ratio(
    a: np.ndarray, b: np.ndarray, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """mean(a) / mean(b) and its bootstrap interval, for losses [draws, trials].

    The arms are paired: they have the same data and initial weights at each place, so a
    resample takes the same places from both, first draws, then trials within each.
    """
    rng = np.random.default_rng(0)
    draws, trials = a.shape
    which = rng.integers(draws, size=(resamples, draws, 1))
    inside = rng.integers(trials, size=(resamples, draws, trials))
    means = (x[which, inside].mean(axis=(1, 2)) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.divide(*means)
        tails = (1 - level) / 2
        low, high = np.quantile(ratios, [tails, 1 - tails])
        return float(np.mean(a) / np.mean(b)), float(low), float(high)
