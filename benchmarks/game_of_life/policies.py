"""The policies of this benchmark that don't come with growthnet."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn

from .life import EVERYTHING, right


Step = tuple[gn.Decision, Any, Any, dict[str, Any]]
MINIMAL = {"layers[0]": 2, "layers[1]": 1}


def knows(net: Any) -> Any:
    """Does the network tell all 512 neighbourhoods right, and so every board?"""
    return right(net, EVERYTHING)


def unsolved(evidence: gn.Evidence, key: Any) -> Any:
    del key
    return ~knows(evidence.network)


class Solved(gn.AbstractPolicy):
    """Ends the training of a network that knows the game, by rates of 0.

    Its memory is the step at which that was first seen, and -1 before.

    - `most`: the network also has to be as small as this.
    """

    most: int | None = eqx.field(static=True, default=None)
    every: int = eqx.field(static=True, default=25)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"network"}))
    optimizer: None = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        del anatomy, key
        return None, jnp.asarray(-1)

    def rates(
        self, memory: Any, anatomy: gn.Anatomy, open: Mapping[str, Any]
    ) -> dict[str, Any]:
        del open
        return {leaf.path: jnp.where(memory < 0, 1.0, 0.0) for leaf in anatomy.leaves}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> Step:
        del key
        now = knows(evidence.network)
        if self.most is not None:
            units = jnp.sum(jnp.stack(list(evidence.sizes.values())))
            now = now & (units <= self.most)
        step = jnp.asarray(evidence.step, memory.dtype)
        memory = jnp.where((memory < 0) & now, step, memory)
        return gn.Decision(), trainable, memory, {}


class Carve(gn.AbstractPolicy):
    """Whenever the network knows the game, one unit goes, down to the minimal network:
    the one without which the loss on the last batch is least. Before the network knew
    it for the first time, births are those of `grows`; its memory is whether it did.
    """

    grows: gn.AbstractPolicy
    every: int = eqx.field(static=True, default=25)
    optimizer: None = None

    @property
    def needs(self) -> frozenset[str]:
        return self.grows.needs | {"network", "evaluate"}

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[Any, Any]:
        trainable, memory = self.grows.init(anatomy, key=key)
        return trainable, (memory, jnp.asarray(False))

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> Step:
        inner, knew = memory
        born, trainable, inner, info = self.grows.step(
            trainable, inner, evidence, key=key
        )
        now = knows(evidence.network)
        losses = [self._without(name, evidence) for name in evidence.open]
        worst = jnp.concatenate(losses)
        # One alone, though several may say equally little.
        goes = now & jnp.isfinite(worst) & (jnp.arange(worst.size) == worst.argmin())
        changes, start = {}, 0
        for name, mask in evidence.open.items():
            own, start = goes[start : start + mask.size], start + mask.size
            add = born.widths[name].add if name in born.widths else 0
            changes[name] = gn.Change(mask & ~own, jnp.where(knew | now, 0, add))
        return gn.Decision(changes), trainable, (inner, knew | now), info

    def _without(self, name: str, evidence: gn.Evidence) -> Any:
        """The loss without each unit; infinite where none may go."""
        mask = evidence.open[name]
        none = {n: gn.Change(m, 0) for n, m in evidence.open.items()}

        def lost(one: Any) -> Any:
            return evidence.evaluate(
                gn.Decision({**none, name: gn.Change(mask & ~one, 0)})
            )

        losses = jax.vmap(lost)(jnp.eye(mask.size, dtype=bool))
        spare = mask & (jnp.sum(mask) > MINIMAL[name])
        return jnp.where(spare, losses, jnp.inf)
