"""Greedy pruning, as a policy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn
from growthnet_policies._removals import moments, rewrite  # noqa: PLC2701


Step = tuple[gn.Decision, Any, Any, dict[str, Any]]


class Greedy(gn.AbstractPolicy):
    """Prunes while the held-out loss allows it. Between steps `start` and `until`, at
    every decision at which the retrained network's held-out loss is within `tolerance`
    of the best since `start`, a `share` of a width's units goes: those without whom,
    one at a time, the held-out loss is least. Their means go to the next bias."""

    start: int
    until: int
    tolerance: float = 0.1
    share: float = 0.08
    every: int = eqx.field(static=True, default=100)
    needs: frozenset[str] = eqx.field(
        static=True,
        default=frozenset({"valid_loss", "valid_at", "network", "activations"}),
    )
    optimizer: None = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        del anatomy, key
        return None, jnp.asarray(jnp.inf)

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> Step:
        del key
        searching = (evidence.step >= self.start) & (evidence.step < self.until)
        now = evidence.valid_loss
        best = jnp.where(searching, jnp.minimum(memory, now), memory)
        good = searching & (now <= (1 + self.tolerance) * best)
        changes = {}
        for name, mask in evidence.open.items():
            losses = jax.lax.cond(
                searching,
                lambda name=name: self._without(name, evidence),
                lambda mask=mask: jnp.zeros(mask.size, now.dtype),
            )
            units = jnp.sum(mask)
            gone = jnp.where(good, jnp.ceil(self.share * units.astype(float)), 0)
            rank = jnp.argsort(jnp.argsort(jnp.where(mask, losses, jnp.inf)))
            keep = mask & (rank >= jnp.minimum(gone, units - 1))
            seen = moments(evidence, name, "absorb")
            new = rewrite(evidence, name, keep, seen, "absorb", 0.0, "Greedy")
            changes[name] = gn.Change(keep, 0, rewrite=new)
        return gn.Decision(changes), trainable, best, {}

    def _without(self, name: str, evidence: gn.Evidence) -> Any:
        mask = evidence.open[name]
        each = mask & ~jnp.eye(mask.size, dtype=bool)
        return jax.lax.map(
            lambda mask: evidence.valid_at({name: mask.astype(float)}),
            each,
            batch_size=16,
        )
