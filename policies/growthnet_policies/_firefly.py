"""Firefly descent: of many ways to grow, those that a trial says lower the loss most.

A width of units a(t_i) has a neighbourhood of larger networks that differ little from
it: unit i may become two, half as loud each, with parameters t_i + e d_i and
t_i - e d_i for a direction |d_i| = 1; and new units may be there, read with weights
e h_j of size |h_j| = 1. In the network with all of them the d_i, the h_j and what makes
the new units are trained for a few steps. Then the fall of the loss is shared out: with
every candidate turned on by a factor u from 0 to 1,

    s_i = integral over u of  d loss / d u_i,   by the midpoint rule

so that the scores add up to the change of the loss with all of them. (At u = 0 alone
a split would have no slope.) The lowest k below 0 are taken, as far as u = 1.

Source: Wu, Liu, Stone, Liu, "Firefly Neural Architecture Descent: a General Approach
for Growing Neural Networks", NeurIPS 2020, arXiv 2102.08574. There a candidate is
turned on while the others are on; here all are together, so that scores add up.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn

from ._adam import adam
from ._arguments import at_least
from ._batches import recent, recent_needs
from ._newborns import room_for
from ._splits import check_splits, of_the_best, rows_now, taken
from ._trial import Trial, Tried


class Firefly(gn.AbstractPolicy):
    """Tries splits of all units and new ones together, and takes the best.

    **Arguments:**

    - `add`: how many candidates are taken at a time at most, all in one width: the one
        where it helps most. What has no score below 0 isn't taken.
    - `every`: training steps between growths.
    - `until`: no width gets more units than this; `None` for no limit.
    - `new`: how many new units are tried per width, beside a split of each that is
        there.
    - `epsilon`: how far candidates go: copies move by it, times the norm of a mean
        unit's parameters; new units are read by it, times that of a mean unit's
        readers.
    - `steps`, `rate`: of the candidates' training (Adam; at 0 steps they are random,
        with new units read downhill).
    - `points`: how many the integral is taken at.
    - `batches`: how many of the last batches all this is on, at most `every`.

    `info["fall/NAME"]` is how far the loss falls by what would be taken of a width.

    Works on widths that copies can share out exactly, whatever makes their units and
    whatever functions are between, not where a norm goes over the width.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = Firefly(add=4, every=500, until=64)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    epsilon: Any
    rate: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    new: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    points: int = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 500,
        until: int | None = None,
        new: int = 8,
        epsilon: Any = 0.1,
        steps: int = 10,
        rate: Any = 0.1,
        points: int = 3,
        batches: int = 1,
    ):
        for name, value, least in (
            ("add", add, 1),
            ("every", every, 1),
            ("new", new, 1),
            ("steps", steps, 0),
            ("points", points, 1),
            ("batches", batches, 1),
        ):
            at_least(name, value, least)
        self.add, self.every, self.until, self.new = add, every, until, new
        self.epsilon, self.rate, self.batches = epsilon, rate, batches
        self.steps, self.points = steps, points
        kinds = {"network", "candidates"}
        self.needs = frozenset(kinds | recent_needs(batches))
        self.optimizer = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        del key
        for width in anatomy.widths.values():
            check_splits(self, anatomy, width)
        return None, None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        seen = recent(evidence, self.batches)
        tried, orders, births, falls, info = {}, {}, {}, {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            found = self.tried(seen, name, jr.fold_in(key, i))
            order = jnp.argsort(found.scores)[: self.add]
            lowest = found.scores[order]
            room = room_for(self, mask)
            good = (lowest < 0) & (jnp.arange(order.size) < room)
            tried[name], orders[name], births[name] = found, order, jnp.sum(good)
            falls[name] = -jnp.sum(jnp.where(good, lowest, 0))
            info[f"fall/{name}"] = falls[name]
        changes = {}
        for name, count in of_the_best(falls, births).items():
            now, found = rows_now(evidence, name), tried[name]
            changes[name] = taken(
                evidence.candidates[name],
                now,
                found.moved,
                found.born,
                orders[name],
                count,
            )
        return gn.Decision(changes), trainable, memory, info

    def tried(self, evidence: gn.Evidence, name: str, key: Any) -> Tried:
        """A width's candidates after their training, and their scores."""
        candidates = evidence.candidates[name]
        trial = Trial(evidence, name, self.new, self.epsilon, key)
        objective = lambda ways: candidates.loss(*trial.at(ways, trial.on))
        ways = adam(jax.grad(objective), trial.ways, self.steps, self.rate)

        def slopes(u: Any) -> Any:
            loss = lambda on: candidates.loss(*trial.at(ways, on))
            return jax.grad(loss)(u * trial.on)

        middles = (np.arange(self.points) + 0.5) / self.points
        every = jax.lax.map(slopes, jnp.asarray(middles, trial.on.dtype))
        scores = jnp.mean(every, axis=0)
        born, moved = trial.at(ways, trial.on)
        exist = jnp.append(evidence.open[name], jnp.ones(self.new, bool))
        return Tried(moved, born, jnp.where(exist, scores, 0))
