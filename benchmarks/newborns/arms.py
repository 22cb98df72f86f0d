"""What becomes of the optimizer when units are born, arm by arm, and when they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import growthnet as gn
from growthnet_policies import VarianceTransfer


EVERY = 25
"""Steps of a tick; the held-out loss is taken after each."""


class AtTimes(gn.AbstractPolicy):
    """`add` units for every width, at given steps; silent ones, or as `rule` makes."""

    births: tuple[int, ...] = eqx.field(static=True)
    add: int = eqx.field(static=True)
    rule: VarianceTransfer | None = None
    every: int = eqx.field(static=True, default=EVERY)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"network"}))
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        now = jnp.any(evidence.step == jnp.asarray(self.births))
        add = jnp.where(now, self.add, 0)
        if self.rule is None:
            changes = {n: gn.Change(mask, add) for n, mask in evidence.open.items()}
            return gn.Decision(changes), trainable, memory, {}
        arrays = evidence.anatomy.check(evidence.network, "the network")
        stay = lambda new: {p: jnp.where(now, a, arrays[p]) for p, a in new.items()}
        decided = self.rule.step(None, None, evidence, key=key)[0]
        changes = {
            name: gn.Change(c.keep, add, values=c.values, rewrite=stay(c.rewrite))
            for name, c in decided.widths.items()
        }
        return gn.Decision(changes), trainable, memory, {}


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
"""By name: an optimizer for a learning rate, and whether variances are transferred."""
