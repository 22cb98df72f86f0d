"""TINY: units that do what the layers as they are can't, and how far to go with them.

Let -g be the way in which a batch would have the consumers' outputs move. Part of it
the consumers reach by themselves, with other weights on the units that there are; the
rest, r, is the *expressivity bottleneck*. A new unit that reads x through a and is read
through b moves outputs by (x . a) b. With S the mean of x x^T, N the mean of x r^T, and
the singular value decomposition of S^-1/2 N,

    a_k = sqrt(l_k) S^-1/2 u_k,   b_k = sqrt(l_k) v_k

do best for their number: as they are turned on, outputs move along r at the rate of the
sum of l_k^2. What the consumers reach by themselves is the least-squares change

    D = (E h h^T)^-1 E h (-g)^T

of their weights, h being the units that they read; with `move` they are changed by it,
as the paper does. How far all of it goes is tried out on the batch.

Source: Verbockhaven, Rudkiewicz, Chevallier, Charpiat, "Growing Tiny Networks: Spotting
Expressivity Bottlenecks and Fixing Them Optimally", TMLR 2024, arXiv 2405.19816.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._batches import mean, mean_needs
from ._factorizations import eigh, svd
from ._newborns import arrays_of, cotangents, newborns, offsets, one_layer, room_for


class Tiny(gn.AbstractPolicy):
    """Adds the units that lower the loss fastest, as far as that pays.

    **Arguments:**

    - `add`: how many units each width gets at a time.
    - `every`: training steps between births.
    - `until`: no width gets more units than this; `None` for no limit.
    - `amplitudes`: what the newborns' outputs are multiplied by, to be tried on the
        batch, from small to large; then as many between the neighbours of the best.
        Where none lowers the loss, nothing is born.
    - `batches`: how many of the last batches speak, at most `every`.
    - `biased`: do the consumers have biases? What these can do, no unit has to.
    - `move`: are the consumers' old weights and biases moved as well, as far as the
        newborns are turned on? Without, that is left to training.
    - `ridge`: directions in which second moments are smaller than this, relative to the
        largest, count as none.

    Works on widths that one contraction makes and dense layers read, with functions of
    single numbers between, which ought to be like u -> u near 0.

    **Raises:** `ValueError` for numbers out of range, on widths that it doesn't work
    on, and for a consumer without a bias where `biased` and `move` promise one.

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
    batches: int = eqx.field(static=True)
    biased: bool = eqx.field(static=True)
    move: bool = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 200,
        until: int | None = None,
        amplitudes: Any = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        batches: int = 1,
        biased: bool = True,
        move: bool = False,
        ridge: Any = 1e-6,
    ):
        at_least("add", add, 1)
        at_least("every", every, 1)
        at_least("batches", batches, 1)
        self.add, self.every, self.until, self.biased = add, every, until, biased
        self.amplitudes, self.ridge, self.move = jnp.asarray(amplitudes), ridge, move
        self.batches = batches
        needs = {"producer_inputs", "activations", "output_cotangents"}
        needs |= {"loss", "evaluate"}
        needs |= {"network"} if move else set()
        self.needs = frozenset(needs | mean_needs(batches))
        self.optimizer = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        found = {n: best_units(self, evidence, n) for n in evidence.open}

        def decision(name: str, amplitude: Any, births: Any) -> gn.Decision:
            best = found[name]
            amplitude = amplitude.astype(best.incoming.dtype)
            root = jnp.sqrt(amplitude)
            values = newborns(
                evidence,
                name,
                best.incoming * root,
                best.outgoing * root,
                best.offset * root,
            )
            moved = None
            if self.move:
                moved = moved_consumers(evidence, name, best.move * amplitude)
            change = gn.Change(
                evidence.open[name], births, values=values, rewrite=moved
            )
            return gn.Decision({name: change})

        changes, info = {}, {}
        for name, mask in evidence.open.items():
            births = room_for(self, mask)

            def tried(amplitudes: Any, name: str = name, births: Any = births) -> Any:
                def losses(evidence: gn.Evidence) -> Any:
                    return jax.vmap(
                        lambda a: evidence.evaluate(decision(name, a, births))
                    )(amplitudes)

                return mean(evidence, losses, self.batches)

            amplitude, pays = best_amplitude(tried, self.amplitudes)
            # Beyond the capacity there are no slots to try: the try is believed.
            pays = pays | (births > jnp.sum(~mask))
            amplitude = jnp.where(pays, amplitude, 0)
            taken = decision(name, amplitude, jnp.where(pays, births, 0))
            changes |= taken.widths
            info[f"gain/{name}"] = jnp.sum(found[name].gains)
        return gn.Decision(changes), trainable, memory, info


def best_amplitude(tried: Callable[[Any], Any], amplitudes: Any) -> tuple[Any, Any]:
    """The amplitude of least loss, of some and then of as many between the neighbours
    of the best of these; and whether it is better than nothing."""
    count = amplitudes.size

    def look(now: Any, _: Any) -> tuple[Any, Any]:
        losses = tried(jnp.concatenate([jnp.zeros_like(now, shape=1), now]))
        nothing, losses = losses[0], losses[1:]
        i = jnp.argmin(losses)
        near = now[jnp.maximum(i - 1, 0)], now[jnp.minimum(i + 1, count - 1)]
        finer = jnp.geomspace(*near, count, dtype=now.dtype)
        return finer, (now[i], losses[i], nothing)

    _, (best, losses, nothing) = jax.lax.scan(look, amplitudes, length=2)
    i = jnp.argmin(losses)
    return best[i], losses[i] < nothing[i]


class Best(NamedTuple):
    """Rows and offsets by birth, and the gain of each: the rate at which the loss falls
    along r as it is turned on (what it does along the rest of -g, the old units can do
    too). `move` is D by unit, the bias last if there is one."""

    incoming: Any
    outgoing: Any
    offset: Any
    gains: Any
    move: Any


def best_units(policy: Any, evidence: gn.Evidence, name: str) -> Best:
    """What TINY adds, and what it changes."""
    _dense_alone(policy, evidence, name)
    offset_too = bool(offsets(evidence, name))

    def seen(evidence: gn.Evidence) -> tuple[Any, Any, Any]:
        """Of each sample: the units' inputs, the units, and what is wanted of them."""
        units, mask = evidence.units[name], evidence.open[name]
        inputs = one_layer(policy, evidence, name).inputs
        count = len(inputs)
        ones = jnp.ones((count, 1), inputs.dtype)
        if offset_too:
            inputs = jnp.concatenate([inputs, ones], axis=1)
        values = jnp.where(mask[None], units.activations, 0)
        if policy.biased:
            values = jnp.concatenate([values, ones], axis=1)
        # Of each sample's loss, not of the mean.
        return inputs, values, -cotangents(units) * count

    def alone(evidence: gn.Evidence) -> tuple[Any, Any]:
        _, values, wanted = seen(evidence)
        return values.T @ values / len(values), values.T @ wanted / len(values)

    second, cross = mean(evidence, alone, policy.batches)
    half = _inverse_root(second, policy.ridge)
    move = half @ (half @ cross)

    def rest(evidence: gn.Evidence) -> tuple[Any, Any]:
        inputs, values, wanted = seen(evidence)
        left = wanted - values @ move
        return inputs.T @ inputs / len(values), inputs.T @ left / len(values)

    second, cross = mean(evidence, rest, policy.batches)
    half = _inverse_root(second, policy.ridge)
    left, gains, right = svd(half @ cross)
    kept = jnp.arange(policy.add) % gains.size
    root = jnp.sqrt(gains[kept])[:, None]
    incoming, outgoing = root * (half @ left).T[kept], root * right[kept]
    # More births than directions: the others start silent.
    first = (jnp.arange(policy.add) < gains.size)[:, None]
    outgoing = jnp.where(first, outgoing, 0)
    offset = incoming[:, -1] if offset_too else jnp.zeros(policy.add)
    rows = incoming[:, :-1] if offset_too else incoming
    gains = jnp.where(first[:, 0], gains[kept] ** 2, 0)
    return Best(rows, outgoing, offset, gains, move)


def _dense_alone(policy: Any, evidence: gn.Evidence, name: str) -> None:
    leaves = {leaf.path: leaf for leaf in evidence.anatomy.leaves}
    for consumer in evidence.units[name].consumers:
        if len(leaves[consumer.path].shape) != 2:
            raise ValueError(
                f"{type(policy).__name__} can't tell what the consumer "
                f"{consumer.path!r} of {name!r} could do by itself: it isn't a dense "
                "layer; leave the width out (`widths=`)"
            )


def moved_consumers(evidence: gn.Evidence, name: str, move: Any) -> dict[str, Any]:
    """The consumers' weights and biases after a move, by path.

    **Raises:** `ValueError` for a move of a bias that isn't there.
    """
    units, arrays = evidence.units[name], arrays_of(evidence)
    count, start = evidence.open[name].size, 0
    new: dict[str, Any] = {}
    for consumer in units.consumers:
        entries = slice(start, start + consumer.entries.index.shape[1])
        start = entries.stop
        path = consumer.path
        change = consumer.leaf(move[:count, entries])
        new[path] = new.get(path, arrays[path]) + change
        if len(move) == count:
            continue
        if consumer.bias is None:
            raise ValueError(
                f"Tiny(biased=True, move=True): {path!r}, which reads {name!r}, has no "
                "bias to be moved; use biased=False"
            )
        path = consumer.bias.path
        change = consumer.bias.leaf(move[count, entries])
        new[path] = new.get(path, arrays[path]) + change
    return new


def _inverse_root(moment: Any, ridge: Any) -> Any:
    """`S^-1/2` on the directions that inputs really have."""
    values, vectors = eigh(moment)
    there = values > ridge * jnp.max(values)
    roots = jnp.where(there, 1 / jnp.sqrt(jnp.where(there, values, 1.0)), 0.0)
    return (vectors * roots[None]) @ vectors.T
