"""What was fixed before any evaluation seed was run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

import growthnet as gn
from growthnet_policies import GradMax, Pruning

from ..compare_policies.replay import Replay
from .task import Sizes


STEPS, BATCH, EVERY = 1_000, 128, 100
RATES = (3e-3, 1e-2, 3e-2)
"""Of Adam with a cosine to 0; every arm tries each on the tuning seeds."""
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
GROWN = 700
"""The step at which growth and pruning end."""
ADD = 4
"""Units that are born in a width at a time."""
ROOM = (24, 24, 36, 48)
"""The most that a growing run may open in a width."""


def worth(evidence: gn.Evidence, key: Any) -> dict[str, Any]:
    """Widths in which a newborn has at least half the most squared gradient per
    parameter, by `GradMax`'s measure."""
    del key

    arrays = evidence.anatomy.check(evidence.network, "the network")
    now, gains = evidence.anatomy.params(evidence.sizes), {}
    for name, units in evidence.units.items():
        (producer,), (consumer,) = units.producers, units.consumers
        moment = producer.inputs.T @ consumer.cotangents
        norms = jnp.linalg.norm(consumer.rows(arrays[consumer.path]), axis=1)
        loud = jnp.mean(norms, where=evidence.open[name])
        more = evidence.sizes | {name: evidence.sizes[name] + 1}
        price = evidence.anatomy.params(more) - now
        gains[name] = (_largest(moment) * loud) ** 2 / price
    most = jnp.max(jnp.stack([*gains.values()]))
    return {name: gain >= most / 2 for name, gain in gains.items()}


def _largest(matrix: Any) -> Any:
    """The largest singular value, by power iteration."""
    towards = jnp.ones(matrix.shape[1])
    for _ in range(8):
        towards = matrix.T @ (matrix @ (towards / jnp.linalg.norm(towards)))
    return jnp.sqrt(jnp.linalg.norm(towards))


def grows() -> gn.AbstractPolicy:
    rule = GradMax(ADD, every=EVERY)
    needs = {"network", "producer_inputs", "output_cotangents"}
    where = gn.provided(rule, worth, needs=needs)
    return gn.within_budget(gn.during(where, 0, GROWN + 1), params=BUDGET)


def prunes() -> gn.AbstractPolicy:
    return Pruning(
        "taylor", params=BUDGET, scope="global", start=200, end=GROWN, every=EVERY
    )


@dataclasses.dataclass(frozen=True)
class Arm:
    """- `start`: its first sizes; none where they are those that `follows` ended with.
    - `policy`: of a path of sizes, `[ticks, widths]`.
    - `follows`: the arm whose sizes it takes; `equal`: at whose FLOPs, too.
    """

    start: Sizes | None
    policy: Callable[[Any], gn.AbstractPolicy] = lambda path: gn.NoGrowth(EVERY)
    follows: str = ""
    equal: bool = False


ARMS: dict[str, Arm] = {
    "static hand": Arm(SHAPES["hand"]),
    "grown": Arm(START, lambda path: grows()),
    "open": Arm(START, lambda path: Replay(path, EVERY), "grown"),
    "final": Arm(None, follows="grown"),
    "equal FLOPs": Arm(None, follows="grown", equal=True),
    "pruned": Arm(LARGE, lambda path: prunes()),
    "static dense": Arm(SHAPES["dense"]),
    "static flat": Arm(SHAPES["flat"]),
}
