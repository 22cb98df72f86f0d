"""How the growing arms grow: every width by a part of itself."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

import growthnet as gn
from growthnet_policies import GradMax


class Proportional(gn.AbstractPolicy):
    """Births in proportion to the units that a width has.

    - `ratio`: births by unit, of the width that gets the most of them.
    - `weighted`: another width gets as much less as its newborns are worth less; else
        all grow alike.
    - `newborns`: where newborns' weights come from, and how many there are at most;
        without, they are random and silent.
    """

    ratio: Any
    newborns: GradMax | None
    every: int = eqx.field(static=True)
    weighted: bool = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        ratio: Any,
        every: int,
        weighted: bool = True,
        newborns: GradMax | None = None,
    ):
        self.ratio, self.every, self.weighted = ratio, every, weighted
        self.newborns, self.optimizer = newborns, None
        looks = {"network", "producer_inputs", "output_cotangents"}
        self.needs = frozenset(looks if weighted or newborns else ())

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        shares = {name: jnp.ones(()) for name in evidence.open}
        if self.weighted:
            worths = worth(evidence)
            most = jnp.max(jnp.stack([*worths.values()]))
            shares = {name: one / most for name, one in worths.items()}
        births = {
            name: jnp.round(self.ratio * share * jnp.sum(evidence.open[name]))
            for name, share in shares.items()
        }
        changes = {
            name: gn.Change(evidence.open[name], born.astype(int))
            for name, born in births.items()
        }
        if self.newborns:
            made = self.newborns.step(trainable, memory, evidence, key=key)[0].widths
            changes = {
                name: gn.Change(c.keep, jnp.minimum(c.add, made[name].add),
                                values=made[name].values)
                for name, c in changes.items()
            }  # fmt: skip
        return gn.Decision(changes), trainable, memory, {}


def worth(evidence: gn.Evidence) -> dict[str, Any]:
    """By width the squared gradient at a newborn, by `GradMax`'s measure, for each
    parameter that one more unit costs."""
    arrays = evidence.anatomy.check(evidence.network, "the network")
    now, worths = evidence.anatomy.params(evidence.sizes), {}
    for name, units in evidence.units.items():
        (producer,), (consumer,) = units.producers, units.consumers
        moment = producer.inputs.T @ consumer.cotangents
        norms = jnp.linalg.norm(consumer.rows(arrays[consumer.path]), axis=1)
        loud = jnp.mean(norms, where=evidence.open[name])
        more = evidence.sizes | {name: evidence.sizes[name] + 1}
        price = evidence.anatomy.params(more) - now
        worths[name] = (largest(moment) * loud) ** 2 / price
    return worths


def largest(matrix: Any) -> Any:
    """The largest singular value, by power iteration."""
    towards = jnp.ones(matrix.shape[1])
    for _ in range(8):
        towards = matrix.T @ (matrix @ (towards / jnp.linalg.norm(towards)))
    return jnp.sqrt(jnp.linalg.norm(towards))
