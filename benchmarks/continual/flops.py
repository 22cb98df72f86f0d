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
from jax.interpreters.partial_eval import dce_jaxpr

import growthnet as gn
from growthnet._evidence.look import Look, Past  # noqa: PLC2701
from growthnet._policies.turn import decide  # noqa: PLC2701
from growthnet._runs.data import ArrayData  # noqa: PLC2701
from growthnet._runs.tick import Ticker  # noqa: PLC2701

from ..executed import operations
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
    net = network(jr.key(0), start, outputs)
    batch = jnp.ones((BATCH, PIXELS)), jnp.zeros(BATCH, jnp.int32)
    policy = policy_of(rule, to - start, 0, LOOK)
    grower = gn.Grower(policy, optax.adam(1e-3), capacity=to)
    look = grower.look = Look.at(loss, ArrayData.of(batch, BATCH), None)
    anatomy = gn.trace(net, batch[0][0])
    growing, state = grower.init(net, anatomy, key=jr.key(1))
    ticker = Ticker(grower, loss)

    def turn(growing: Any, state: Any) -> Any:
        step, number = jnp.asarray(LOOK, jnp.int32), jnp.zeros(())
        past = Past(lambda at: batch, step, step, None)
        seen = look(grower, growing, state, past, number, number)
        return decide(growing, state, seen)[:2]

    def count(function: Any) -> float:
        program = eqx.filter_make_jaxpr(function)(growing, state)[0].jaxpr
        program = dce_jaxpr(program, [True] * len(program.outvars))[0]
        return operations(program, 4)

    steps = count(lambda growing, state: ticker._step(growing, state, batch))
    whole = count(lambda growing, state: ticker._value(growing.view(), batch, state))
    return steps, count(turn) if rule else 0.0, whole


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
