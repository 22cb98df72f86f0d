"""What becomes of the optimizer when units are born, arm by arm, and when they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn


EVERY = 25
"""Steps of a tick; the held-out loss is taken after each."""


class AtTimes(gn.AbstractPolicy):
    """`add` units for every width, at given steps. With `paired`, they come in pairs
    that read alike and are read with opposite signs, random on both sides, and what
    reads the others is made smaller, so that the variance of what is read stays as it
    was at first: variance transfer (arXiv 2306.12700)."""

    births: tuple[int, ...] = eqx.field(static=True)
    add: int = eqx.field(static=True)
    paired: bool = eqx.field(static=True)
    every: int = eqx.field(static=True, default=EVERY)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"network"}))
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        now = jnp.any(evidence.step == jnp.asarray(self.births))
        add = jnp.where(now, self.add, 0)
        changes = {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            given: dict[str, Any] = {}
            if self.paired:
                given = transferred(evidence, name, add, jr.fold_in(key, i))
            changes[name] = gn.Change(mask, add, **given)
        return gn.Decision(changes), trainable, memory, {}


def transferred(evidence: gn.Evidence, name: str, add: Any, key: Any) -> dict[str, Any]:
    """`values` of newborn pairs, and the `rewrite` of what reads the others."""
    anatomy, mask = evidence.anatomy, evidence.open[name]
    width, before = anatomy.widths[name], jnp.sum(mask)
    smaller = jnp.sqrt(before / (before + add))
    birth = jnp.cumsum(~mask) - 1
    sign = jnp.where(birth % 2 == 0, 1.0, -1.0)
    values, rewrite = {}, {}
    for i, (member, rows) in enumerate(
        gn.unit_rows(anatomy, name, evidence.network).items()
    ):
        reads = member in [width.members[k] for k in width.cover]
        if not (reads or "producer" in member.roles):
            continue
        own = rows * smaller if reads else rows
        size = jnp.sqrt(jnp.mean(own**2, where=mask[:, None]))
        new = size * jr.normal(jr.fold_in(key, i), rows.shape)[birth // 2]
        new = new * sign[:, None] if reads else new
        whole = gn.with_unit_rows(anatomy, name, evidence.network, {member: new})
        values |= whole
        if reads:
            rewrite |= gn.with_unit_rows(anatomy, name, evidence.network, {member: own})
    return {"values": values, "rewrite": rewrite}


class ResetState(NamedTuple):
    inner: Any
    ages: Any


def reset_at_births(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Starts over whenever anything has been born."""
    clock: Any = gn.scale_by_age(optax.constant_schedule(1.0))

    def init(params: Any) -> ResetState:
        return ResetState(inner.init(params), clock.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        young = [jnp.any(age == 0) for age in jax.tree.leaves(state.ages.ages)]
        born = jnp.any(jnp.stack(young))
        again = lambda new, old: jnp.where(born, new, old)
        own = jax.tree.map(again, inner.init(params), state.inner)
        updates, own = inner.update(updates, own, params)
        return updates, ResetState(own, clock.update(updates, state.ages)[1])

    return optax.GradientTransformation(init, update)


def warming(steps: int) -> Callable[[Any], Any]:
    """Adam whose newborns warm up."""
    warmup = gn.scale_by_age(optax.linear_schedule(0.0, 1.0, steps))
    return lambda rate: optax.chain(optax.adam(rate), warmup)


ARMS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "carry": (optax.adam, False),
    "reset": (lambda rate: reset_at_births(optax.adam(rate)), False),
    "by age": (lambda rate: optax.chain(optax.adam(rate), gn.debias_by_age()), False),
    "warm-up, 20": (warming(20), False),
    "warm-up, 100": (warming(100), False),
    "stage rates": (
        lambda rate: optax.chain(optax.adam(rate), gn.scale_by_stage_norm(8)),
        False,
    ),
    "variance and stage rates": (
        lambda rate: optax.chain(optax.adam(rate), gn.scale_by_stage_norm(8)),
        True,
    ),
}
"""By name: an optimizer for a learning rate, and whether births are paired."""
