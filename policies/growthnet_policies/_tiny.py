"""TINY: units that do what the layers as they are can't, and how far to go with them.

Let -g be the way in which a batch would have the consumers' outputs move. Part of it
the consumers reach by themselves, with other weights on the units that there are; the
rest, r, is the *expressivity bottleneck*. A new unit that reads x through a and is read
through b moves outputs by (x . a) b. With S the mean of x x^T, N the mean of x r^T, and
the singular value decomposition of S^-1/2 N,

    a_k = sqrt(l_k) S^-1/2 u_k,   b_k = sqrt(l_k) v_k

do best for their number, and the loss falls at the rate of the sum of l_k^2 as both are
turned on. How far they are turned on is tried out on the batch.

Source: Verbockhaven, Rudkiewicz, Chevallier, Charpiat, "Growing Tiny Networks: Spotting
Expressivity Bottlenecks and Fixing Them Optimally", TMLR 2024, arXiv 2405.19816. The
old weights aren't moved here: that is left to training.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._newborns import cotangents, newborns, offsets, one_layer, room_for


class Tiny(gn.AbstractPolicy):
    """Adds the units that lower the loss fastest, as far as that pays.

    **Arguments:**

    - `add`: how many units each width gets at a time.
    - `every`: training steps between births.
    - `until`: no width gets more units than this; `None` for no limit.
    - `amplitudes`: what the newborns' outputs are multiplied by, to be tried on the
        batch. Where none lowers the loss, nothing is born.
    - `biased`: do the consumers have biases? What these can do, no unit has to.
    - `ridge`: directions in which second moments are smaller than this, relative to the
        largest, count as none.

    Works on widths that one contraction makes and dense layers read, with functions of
    single numbers between, which ought to be like u -> u near 0.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = Tiny(add=2, every=200, until=32)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.sgd(0.1), policy=policy,
                     steps=1_000, key=jax.random.key(0))
        ```
    """

    amplitudes: Any
    ridge: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    biased: bool = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 200,
        until: int | None = None,
        amplitudes: Any = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        biased: bool = True,
        ridge: Any = 1e-6,
    ):
        at_least("add", add, 1)
        at_least("every", every, 1)
        self.add, self.every, self.until, self.biased = add, every, until, biased
        self.amplitudes, self.ridge = jnp.asarray(amplitudes), ridge
        self.needs = frozenset(
            {"loss", "producer_inputs", "activations", "output_cotangents", "evaluate"}
        )
        self.optimizer = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        found = {n: best_units(self, evidence, n) for n in evidence.open}

        def decision(name: str, amplitude: Any, births: Any) -> gn.Decision:
            incoming, outgoing, offset, _ = found[name]
            root = jnp.sqrt(amplitude)
            values = newborns(
                evidence, name, incoming * root, outgoing * root, offset * root
            )
            change = gn.Change(evidence.open[name], births, values=values)
            return gn.Decision({name: change})

        changes, info = {}, {}
        for name, mask in evidence.open.items():
            births = room_for(self, mask)
            tried = lambda a, name=name, n=births: evidence.evaluate(
                decision(name, a, n)
            )
            losses = jax.vmap(tried)(self.amplitudes)
            now = tried(jnp.zeros_like(self.amplitudes, shape=()))
            # Beyond the capacity there are no slots to try: the first try is believed.
            fits = births <= jnp.sum(~mask)
            pays = (jnp.min(losses) < now) | ~fits
            best = self.amplitudes[jnp.argmin(losses)]
            taken = decision(name, best, jnp.where(pays, births, 0))
            changes |= taken.widths
            info[f"gain/{name}"] = jnp.sum(found[name][3])
        return gn.Decision(changes), trainable, memory, info


def best_units(
    policy: Any, evidence: gn.Evidence, name: str
) -> tuple[Any, Any, Any, Any]:
    """Incoming rows, outgoing rows and offsets by birth, and the gain of each: the rate
    at which the loss falls as it is turned on."""
    producer = one_layer(policy, evidence, name)
    units, mask = evidence.units[name], evidence.open[name]
    leaves = {leaf.path: leaf for leaf in evidence.anatomy.leaves}
    for consumer in units.consumers:
        if len(leaves[consumer.path].shape) != 2:
            raise ValueError(
                f"{type(policy).__name__} can't tell what the consumer "
                f"{consumer.path!r} of {name!r} could do by itself: it isn't a dense "
                "layer; leave the width out (`widths=`)"
            )
    inputs, count = producer.inputs, producer.inputs.shape[0]
    ones = jnp.ones((count, 1), inputs.dtype)
    offset_too = bool(offsets(evidence, name))
    if offset_too:
        inputs = jnp.concatenate([inputs, ones], axis=1)
    wanted = -cotangents(units) * count  # of each sample's loss, not of the mean
    values = jnp.where(mask[None], units.activations, 0)
    if policy.biased:
        values = jnp.concatenate([values, ones], axis=1)
    rest = _unexplained(values, wanted, policy.ridge)
    cross = inputs.T @ rest / count
    half = _inverse_root(inputs.T @ inputs / count, policy.ridge)
    left, gains, right = jnp.linalg.svd(half @ cross, full_matrices=False)
    kept = jnp.arange(policy.add) % gains.size
    root = jnp.sqrt(gains[kept])[:, None]
    incoming, outgoing = root * (half @ left).T[kept], root * right[kept]
    # More births than directions: the others start silent.
    first = (jnp.arange(policy.add) < gains.size)[:, None]
    outgoing = jnp.where(first, outgoing, 0)
    offset = incoming[:, -1] if offset_too else jnp.zeros(policy.add)
    rows = incoming[:, :-1] if offset_too else incoming
    return rows, outgoing, offset, jnp.where(first[:, 0], gains[kept] ** 2, 0)


def _unexplained(values: Any, wanted: Any, ridge: Any) -> Any:
    """What no linear function of the values gives."""
    half = _inverse_root(values.T @ values, ridge)
    return wanted - values @ (half @ (half @ (values.T @ wanted)))


def _inverse_root(moment: Any, ridge: Any) -> Any:
    """`S^-1/2` on the directions that inputs really have."""
    values, vectors = jnp.linalg.eigh(moment)
    there = values > ridge * jnp.max(values)
    roots = jnp.where(there, 1 / jnp.sqrt(jnp.where(there, values, 1.0)), 0.0)
    return (vectors * roots[None]) @ vectors.T
