"""Splitting steepest descent: units become two where the loss curves down.

At a minimum of the loss no step of the units' parameters lowers it. But a unit a(t) of
parameters t may become two, each read half as loud, with parameters t + e v and t - e v
for a direction |v| = 1. The loss then changes by

    e^2 / 2  v' S v  + O(e^3),    S = sum over samples of  d loss / d a  .  d^2 a / dt^2

so it falls fastest along the eigenvector of the smallest eigenvalue of the *splitting
matrix* S, if that one is negative. Nothing else of how many, and how loud, the copies
are does better (the theorem of the source).

S is never formed: it is the Hessian in t of sum d loss / d a . a(t), all units' at
once, so one product costs about what two gradients do. A few of them give the smallest
eigenvalues by Lanczos' method. With as many as a unit has parameters that is exact.

Source: Liu, Wu, Wang, "Splitting Steepest Descent for Growing Neural Architectures",
NeurIPS 2019, arXiv 1910.02366. Products instead of matrices: Wang, Li, Wu, Chandra,
Liu, "Energy-Aware Neural Architecture Optimization with Fast Splitting Steepest
Descent", arXiv 1910.03103.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._arguments import at_least
from ._batches import recent, recent_needs
from ._lanczos import lowest
from ._newborns import mean_norm, room_for
from ._splits import (
    apart_again,
    check_splits,
    halves,
    of_the_best,
    parameters,
    rows_now,
    side_by_side,
    taken,
    there,
)


class Splitting(gn.AbstractPolicy):
    """Splits the units of which two, moved apart, lower the loss fastest.

    **Arguments:**

    - `add`: how many units are split at a time at most, all in one width: the one where
        it helps most. Units whose smallest eigenvalue isn't negative aren't split.
    - `every`: training steps between splits: enough for training to come to rest.
    - `until`: no width gets more units than this; `None` for no limit.
    - `epsilon`: how far copies move, times the norm of a mean unit's parameters.
    - `products`: how many products with the splitting matrices are computed; more find
        directions that stand out less. Beyond a unit's parameters there is no need.
    - `batches`: how many of the last batches S is computed on, at most `every`.

    `info["eigenvalue/NAME"]` is the smallest of the width.

    Works on widths that copies can share out exactly, whatever makes their units, not
    where a norm goes over the width. Functions without curvature (`jax.nn.relu`) have
    S = 0 and are never split: use a smooth one, or `Firefly`.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = Splitting(add=2, every=500, until=32)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    epsilon: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    products: int = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 500,
        until: int | None = None,
        epsilon: Any = 0.1,
        products: int = 20,
        batches: int = 1,
    ):
        for name, value in (
            ("add", add),
            ("every", every),
            ("products", products),
            ("batches", batches),
        ):
            at_least(name, value, 1)
        self.add, self.every, self.until = add, every, until
        self.epsilon, self.products, self.batches = epsilon, products, batches
        kinds = {"network", "unit_cotangents", "candidates"}
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
        gains, births, orders, apart, info = {}, {}, {}, {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            values, vectors, size = self._directions(seen, name, jr.fold_in(key, i))
            values = jnp.where(mask, values, jnp.inf)
            info[f"eigenvalue/{name}"] = jnp.min(values)
            orders[name] = jnp.argsort(values)[: min(self.add, mask.size)]
            smallest = values[orders[name]]
            room = room_for(self, mask)
            falls = (smallest < 0) & (jnp.arange(smallest.size) < room)
            births[name] = jnp.sum(falls)
            gains[name] = -(size**2) * jnp.sum(jnp.where(falls, smallest, 0))
            apart[name] = vectors
        changes = {}
        for name, count in of_the_best(gains, births).items():
            now = rows_now(evidence, name)
            two = halves(evidence.anatomy.widths[name], now, apart[name])
            candidates = evidence.candidates[name]
            changes[name] = taken(candidates, now, *two, orders[name], count)
        return gn.Decision(changes), trainable, memory, info

    def _directions(
        self, evidence: gn.Evidence, name: str, key: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        """Smallest eigenvalues `[capacity]`, and how far to go along their vectors, as
        rows and as a number."""
        candidates, mask = evidence.candidates[name], evidence.open[name]
        rows = rows_now(evidence, name)
        own = parameters(evidence, name, rows)
        fixed = {p: r for p, r in rows.items() if p not in own}
        slopes = jax.lax.stop_gradient(evidence.units[name].cotangents)
        exist = side_by_side(there(evidence, name, own))

        def read(own: dict[str, Any]) -> Any:
            return jnp.sum(slopes * candidates.activations({**fixed, **own}))

        _, product = jax.linearize(jax.grad(read), own)

        def multiply(vectors: Any) -> Any:
            given = side_by_side(product(apart_again(vectors, own)))
            return jnp.where(exist, given, 0).astype(vectors.dtype)

        drawn = parameters(evidence, name, candidates.drawn(mask.size, key))
        start = jnp.where(exist, side_by_side(drawn), 0)
        far = self.epsilon * mean_norm(jnp.where(exist, side_by_side(own), 0), mask)
        values, vectors = lowest(multiply, start, self.products, far)
        return values, apart_again(vectors, own), far
