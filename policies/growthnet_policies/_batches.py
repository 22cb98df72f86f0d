"""Evidence of several batches: its mean over them, or all of them as one."""

from collections.abc import Callable
from typing import Any

import jax

import growthnet as gn


def mean(
    evidence: gn.Evidence, function: Callable[[gn.Evidence], Any], batches: int
) -> Any:
    """Of a function of evidence, over the last batches, one at a time."""
    return function(evidence) if batches == 1 else evidence.average(function, batches)


def recent(evidence: gn.Evidence, batches: int) -> gn.Evidence:
    """The evidence on the last batches as one."""
    if batches == 1:
        return evidence
    merged = lambda array: array.reshape(-1, *array.shape[2:])
    return evidence.on(jax.tree.map(merged, evidence.batches(batches)))


def mean_needs(batches: int) -> set[str]:
    """What `mean` reads."""
    return {"average"} if batches > 1 else set()


def recent_needs(batches: int) -> set[str]:
    """What `recent` reads."""
    return {"on", "batches"} if batches > 1 else set()
