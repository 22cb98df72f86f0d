"""What was fixed before any evaluation seed was run. One setting for both tasks."""

import os
from collections.abc import Callable
from typing import Any

import growthnet as gn
from growthnet_policies import (
    Condensation,
    Firefly,
    GradientSizeWeight,
    GradMax,
    NestedSize,
    North,
    Pruning,
    Recycling,
    ResidualFitting,
    Splitting,
    Tiny,
)

from .tasks import MOST


STEPS, BATCH, EVERY = 2_000, 64, 100
RATES = (3e-3, 1e-2, 3e-2)
"""Of Adam; every arm tries each on the tuning seeds."""
TUNING = (1_000, 1_001, 1_002)
SEEDS = tuple(range(*map(int, os.environ.get("SEEDS", "100 110").split())))
"""Of evaluation. `SEEDS="200 220"` in the environment takes others, to look again."""
START, ADD, ENDS = 8, 4, 1_400
"""Growth begins with `START` units, adds up to `ADD` at a time, and ends at step
`ENDS`: 14 turns, 64 units where all are used. Pruning ends there too."""
SWEEP = (8, 16, 24, 32, 48, 64)


def random_newborns() -> gn.AbstractPolicy:
    """Random silent units, as many as the growth rules may add."""

    def grows(evidence: gn.Evidence, key: Any) -> gn.Decision:
        del key
        due = ADD * (evidence.step <= ENDS)
        return gn.Decision({n: gn.Change(m, due) for n, m in evidence.open.items()})

    return gn.as_policy(grows, every=EVERY)


def until_the_end(policy: gn.AbstractPolicy) -> gn.AbstractPolicy:
    return gn.during(policy, 0, ENDS + 1)


def rules(**also: int) -> dict[str, Any]:
    return {"add": ADD, "every": EVERY, "until": MOST, **also}


POLICIES: dict[str, tuple[int, Callable[[], gn.AbstractPolicy]]] = {
    "random": (START, random_newborns),
    "GradMax": (START, lambda: GradMax(**rules(batches=4))),
    "Tiny": (START, lambda: Tiny(**rules(batches=4))),
    "Splitting": (START, lambda: until_the_end(Splitting(**rules(batches=4)))),
    "Firefly": (START, lambda: until_the_end(Firefly(**rules(batches=4)))),
    "Firefly, if it pays": (
        START,
        lambda: until_the_end(gn.if_it_pays(Firefly(**rules(batches=4)), batches=4)),
    ),
    "North": (START, lambda: until_the_end(North(**rules(batches=4), gamma=0.75))),
    "ResidualFitting": (
        START,
        lambda: until_the_end(ResidualFitting(ADD, every=EVERY, batches=8, until=MOST)),
    ),
    "GradientSizeWeight": (
        START,
        lambda: GradientSizeWeight(MOST, 0.1, learning_rate=0.0125, every=5),
    ),
    "NestedSize": (START, lambda: NestedSize(ENDS, 0.02, maximum=MOST, every=EVERY)),
    "Pruning magnitude": (
        MOST,
        lambda: Pruning("magnitude", ratio=0.75, start=300, end=ENDS, every=EVERY),
    ),
    "Pruning fisher": (
        MOST,
        lambda: Pruning(
            "fisher",
            ratio=0.75,
            start=300,
            end=ENDS,
            every=EVERY,
            removal="refit",
            batches=4,
        ),
    ),
    "Condensation": (
        MOST,
        lambda: Condensation(0.7, activation="odd", start=300, tolerance=0.05),
    ),
    "Recycling": (MOST, lambda: Recycling(rate=1e-4, every=EVERY)),
}
"""Name: units at the start, and the policy."""
