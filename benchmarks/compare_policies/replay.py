"""Open-loop control: sizes at the same steps, random units."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn


class Replay(gn.AbstractPolicy):
    """Sizes of another run, tick by tick: newborns are random and silent, units that go
    are picked at random."""

    path: Any  # [ticks, widths]
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        wanted = self.path[evidence.step // self.every - 1]
        changes = {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            order = jnp.where(mask, jr.uniform(jr.fold_in(key, i), mask.shape), 2.0)
            rank = jnp.argsort(jnp.argsort(order))
            keep = mask & (rank < wanted[i])
            changes[name] = gn.Change(keep, wanted[i] - jnp.sum(keep))
        return gn.Decision(changes), trainable, memory, {}
