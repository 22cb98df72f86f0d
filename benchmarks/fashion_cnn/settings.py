"""What was fixed before any evaluation seed was run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

import growthnet as gn
from growthnet_policies import GradMax, Pruning

from .rule import Proportional
from .task import Sizes


STEPS, BATCH, EVERY = 1_000, 128, 50
RATES = (3e-3, 1e-2, 3e-2)
"""Of Adam with a cosine to 0; every arm tries each on the tuning seeds."""
WARMUP = 100
"""Steps of age in which updates come to their full size."""
TUNING = (1_000, 1_001)
SEEDS = (0, 1, 2, 3, 4)
BUDGET = 16_000
"""Parameters of the whole network."""
HAND = (6, 12, 24, 32)
"""Channels double where the resolution halves; 15,986 parameters."""
SHAPES: dict[str, Sizes] = {
    "hand": HAND,
    "flat": (16, 16, 16, 41),
    "dense": (4, 8, 16, 54),
}
"""Other proportions of the same budget: as many channels everywhere; a larger dense
layer."""
START = (2, 4, 8, 8)
LARGE = (8, 16, 32, 48)
"""Where pruning begins: half as many again in the larger widths; 31,002 parameters."""
GROWN, PRUNED = 400, 700
"""The steps at which growth and pruning end."""
RATIO = 1.0
"""Births by unit, in the width whose newborns are worth most."""
MOST = 12
"""Newborns of `GradMax` in a width at a time."""
ROOM = (20, 24, 48, 48)
"""The most that a growing run may open in a width."""


def optimizer(rate: Any, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine to 0; what is new warms up, the first weights too. Without,
    nearly all newborns die under an Adam that is old (`docs/newborns.md`)."""
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))
    warmup = optax.linear_schedule(0.0, 1.0, WARMUP)
    return optax.chain(adam, gn.scale_by_age(warmup))


def grows(weighted: bool = True, newborns: bool = False) -> gn.AbstractPolicy:
    made = GradMax(MOST, every=EVERY) if newborns else None
    rule = Proportional(RATIO, EVERY, weighted, made)
    return gn.within_budget(gn.during(rule, 0, GROWN + 1), params=BUDGET)


def prunes() -> gn.AbstractPolicy:
    return Pruning(
        "taylor", params=BUDGET, scope="global", start=200, end=PRUNED, every=EVERY
    )


@dataclasses.dataclass(frozen=True)
class Arm:
    """- `start`: its first sizes; none where they are those that `follows` ended with.
    - `follows`: the arm whose sizes it takes; `equal`: at whose FLOPs, too.
    """

    start: Sizes | None
    policy: Callable[[], gn.AbstractPolicy] = lambda: gn.NoGrowth(EVERY)
    follows: str = ""
    equal: bool = False


ARMS: dict[str, Arm] = {
    "static hand": Arm(SHAPES["hand"]),
    "grown": Arm(START, grows),
    "final": Arm(None, follows="grown"),
    "equal FLOPs": Arm(None, follows="grown", equal=True),
    "even": Arm(START, lambda: grows(weighted=False)),
    "GradMax": Arm(START, lambda: grows(newborns=True)),
    "pruned": Arm(LARGE, prunes),
    "static dense": Arm(SHAPES["dense"]),
    "static flat": Arm(SHAPES["flat"]),
}
