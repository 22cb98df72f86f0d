"""Executed floating point operations of an arm, counted on the programs that it runs.

Steps with their gradients and Adam, the one turn of a policy in each phase with all of
its evidence, the losses around the change. A phase costs what its final width costs,
from its first step on. Answering what is asked after each phase isn't counted.
"""

import functools as ft
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

from ..executed import counted
from .learner import network, PIXELS
from .settings import Arm, ARMS, BATCH, CLASSES, LOOK, PER_PHASE, PHASES, policy_of


def loss(net: Any, batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    scores = eqx.filter_vmap(net)(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y))


@ft.cache
def costs(rule: str, start: int, to: int, outputs: int) -> tuple[float, float, float]:
    """Of a step, a turn (0 without a rule), and a loss, at `to` units."""
    batch = jnp.ones((BATCH, PIXELS)), jnp.zeros(BATCH, jnp.int32)
    policy = policy_of(rule, to - start, 0, LOOK)
    return counted(policy, network(jr.key(0), to, outputs), loss, batch, None, BATCH, 4)


def executed(arm: Arm) -> float:
    """Of a run."""
    total = 0.0
    for phase, width in enumerate(arm.widths):
        outputs = PER_PHASE * (phase + 1) if arm.rule else CLASSES
        rule = arm.rule if phase else ""
        before = arm.widths[phase - 1] if rule else width
        step, turn, value = costs(rule, before, width, outputs)
        total += arm.steps * (phase + 1 if arm.scratch else 1) * step
        total += turn + (2 * value if rule else 0)
    return total


def equal_steps() -> int:
    """For how many steps of the final size per phase a run of `random` pays."""
    random, static = ARMS["random / replay"], ARMS["static / replay"]
    return int(executed(random) / executed(static) * static.steps)


assert PHASES == len(ARMS["static / replay"].widths)
