"""GradMax: newborns that say nothing yet and have the largest gradient.

A new unit reads x through w and is read through v. With w = 0 it is silent, and the
gradient at w is the sum over samples of x (g . v), with g the cotangent at what reads
the unit: M v, with M = sum x g^T. Among v of a given norm it is largest for the right
singular vectors of M, one for each newborn.

Source: Evci, van Merrienboer, Unterthiner, Vladymyrov, Pedregosa, "GradMax: Growing
Neural Networks using Gradient Information", ICLR 2022, arXiv 2201.05125. Here M comes
from any contraction (dense, convolution, einsum), and may be averaged over batches.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._batches import mean, mean_needs
from ._factorizations import svd
from ._newborns import (
    arrays_of,
    cotangents,
    mean_norm,
    newborns,
    one_layer,
    regular,
    room_for,
    rows_of,
)


class GradMax(gn.AbstractPolicy):
    """Adds units at regular times, with the largest gradient at birth.

    **Arguments:**

    - `add`: how many units each width gets at a time.
    - `every`: training steps between births.
    - `until`: no width gets more units than this; `None` for no limit.
    - `scale`: norm of a newborn's outgoing weights, times that of a mean unit.
    - `epsilon`: norm of its incoming weights, times that of a mean unit. At 0, as in
        the paper, newborns are silent, but learn only if the activation function has a
        slope at 0: `jax.nn.relu` has none there.
    - `batches`: how many batches M is averaged over, at most `every`.

    Works on widths that one contraction makes (a dense layer, a convolution) and that
    contractions read, with functions of single numbers between: not where a norm, a
    pooling or another layer's product comes between.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = GradMax(add=2, every=200, until=32)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.sgd(0.1), policy=policy,
                     steps=1_000, key=jax.random.key(0))
        ```
    """

    scale: Any
    epsilon: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 200,
        until: int | None = None,
        scale: Any = 1.0,
        epsilon: Any = 1e-3,
        batches: int = 1,
    ):
        at_least("add", add, 1)
        at_least("every", every, 1)
        at_least("batches", batches, 1)
        self.add, self.every, self.until = add, every, until
        self.scale, self.epsilon, self.batches = scale, epsilon, batches
        kinds = {"network", "producer_inputs", "output_cotangents"}
        self.needs = frozenset(kinds | mean_needs(batches))
        self.optimizer = None

    def forecast(self, anatomy: gn.Anatomy, steps: int) -> dict[str, Any]:
        return regular(self, anatomy, steps)

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        moments = mean(
            evidence,
            lambda e: {n: cross_moment(self, e, n) for n in e.open},
            self.batches,
        )
        changes, info = {}, {}
        for name, mask in evidence.open.items():
            incoming, outgoing, gain = self._newborns(evidence, name, moments[name])
            values = newborns(evidence, name, incoming, outgoing)
            add = room_for(self, mask)
            changes[name] = gn.Change(mask, add, values=values)
            info[f"gain/{name}"] = gain
        return gn.Decision(changes), trainable, memory, info

    def _newborns(
        self, evidence: gn.Evidence, name: str, moment: Any
    ) -> tuple[Any, Any, Any]:
        """Incoming and outgoing rows by birth; the gradients' norms."""
        units, mask = evidence.units[name], evidence.open[name]
        arrays = arrays_of(evidence)
        (producer,) = units.producers
        left, values, right = svd(moment)
        loud = mean_norm(rows_of(units.consumers, arrays.__getitem__), mask)
        small = mean_norm(producer.rows(arrays[producer.path]), mask)
        rank = min(self.add, values.size)
        # Downhill for the function x w -> v: w along -u where v is along the other.
        incoming = -self.epsilon * small * left[:, :rank].T
        outgoing = self.scale * loud * right[:rank]
        # The sign of a pair is free. Below 0 on all samples a relu would be dead, which
        # is every second one where its inputs are positive.
        speaks = incoming @ jnp.mean(producer.inputs, axis=0) >= 0
        sign = jnp.where(speaks, 1, -1).astype(incoming.dtype)[:, None]
        incoming, outgoing = sign * incoming, sign * outgoing
        return _filled(incoming, self.add), _filled(outgoing, self.add), values[:rank]


def cross_moment(policy: Any, evidence: gn.Evidence, name: str) -> Any:
    """`sum x g^T` of what a new unit reads and what it would be read for."""
    producer = one_layer(policy, evidence, name)
    return producer.inputs.T @ cotangents(evidence.units[name])


def _filled(rows: Any, count: int) -> Any:
    """More births than directions: the rest starts over with the first."""
    return jnp.resize(rows, (count, rows.shape[1]))
