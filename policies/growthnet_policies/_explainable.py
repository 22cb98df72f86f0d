"""Do a network's residuals hold error that a few more units could explain?

The pseudo-residuals are r = -d loss / d outputs of what reads a width (for one hidden
layer, of the network): for a squared error y - f(x), for cross-entropy what was wanted
less what was said. A probe, g, is a few new units of that width. It is trained to give
r on training data, and the question is how far

    L(f) - max over alpha > 0 of  L(f + alpha g)

falls on data that neither has seen. How much is enough is learned from probes that are
trained in the same way on residuals of other examples: a permutation test. Where inputs
say nothing about residuals, the true one is the best of 1 + 19 in a 20th of all cases.

Source: Ford, Winder, McClellan, "Adaptive Neural Networks Using Residual Fitting",
arXiv 2301.05744, for growth where a small network finds explainable error in residuals.
The test, its null and its statistic are ours.
"""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._adam import adam
from ._factorizations import solve
from ._newborns import cotangents


EXPLAINABLE = frozenset({"on", "candidates", "output_cotangents"})
"""The evidence that `explainable` reads."""

ALPHAS = tuple(2.0**i for i in range(-6, 6))
"""How loud probes are tried, in units of the residuals' size."""


class Explained(eqx.Module):
    """What `explainable` found; all are arrays.

    - `drops`: by width, how far the held-out loss falls with a probe at its best alpha,
        `[1 + shuffles]`: first of the true residuals, then of shuffled ones.
    - `probes`: by width, the true probe at its best alpha: rows of `gn.Candidates`.
    """

    drops: dict[str, Any]
    probes: dict[str, dict[str, Any]]

    @property
    def drop(self) -> Any:
        """The statistic: the largest fall of any width."""
        return self._best[0]

    @property
    def null(self) -> Any:
        """The same of shuffled residuals, `[shuffles]`."""
        return self._best[1:]

    @property
    def p(self) -> Any:
        """The chance of such a drop where there is nothing to explain: the rank of the
        true drop, over `1 + shuffles`."""
        return jnp.mean(self._best >= self.drop, dtype=self._best.dtype)

    @property
    def _best(self) -> Any:
        return jnp.max(jnp.stack(list(self.drops.values())), axis=0)


def explainable(
    evidence: gn.Evidence,
    train: Any,
    test: Any,
    *,
    key: Any,
    widths: Iterable[str] | None = None,
    units: int = 4,
    shuffles: int = 19,
    steps: int = 20,
    rate: Any = 0.05,
    alphas: Any = ALPHAS,
) -> Explained:
    """Tests whether `units` more units could explain some of the loss.

    **Arguments:**

    - `evidence`: with the kinds `EXPLAINABLE`.
    - `train`: a batch that probes are trained on: what the network itself is trained
        on, since what its training data don't show it can't learn.
    - `test`: another batch, of examples that are in neither's training. Both are trees
        of arrays with the examples along a common first axis.
    - `widths`: by default all of the run. The drop is the best of them, and so are
        those that it is compared with.
    - `shuffles`, `steps`, `rate`: how many probes of shuffled residuals; steps and rate
        of the probes' training (Adam on what makes the units, least squares for what
        reads them).

    Pure: it works inside programs and under `vmap`.

    **Returns:** an `Explained`. There is something to explain if its `p` is small.

    **Raises:** `ValueError` for batches without a common first axis, widths that aren't
    part of the run, evidence that wasn't declared, and on widths whose contractions
    can't be had (with the reason).

    !!! example

        ```python
        class Watch(gn.NoGrowth):
            needs: frozenset[str] = eqx.field(
                static=True, default=EXPLAINABLE | {"batches", "valid"}
            )

            def init(self, anatomy, *, key):
                return None, jnp.ones(())

            def step(self, trainable, memory, evidence, *, key):
                (train,) = [jax.tree.map(lambda a: a[0], evidence.batches(1))]
                p = explainable(evidence, train, evidence.valid, key=key).p
                return gn.Decision(), trainable, p, {}
        ```
    """
    names = list(evidence.open if widths is None else widths)
    if not set(names) <= set(evidence.open) or not names:
        raise ValueError(f"widths={names}; those of this run are {list(evidence.open)}")
    if evidence.on is None or evidence.candidates is None:
        raise ValueError(
            f"explainable reads the evidence {', '.join(sorted(EXPLAINABLE))}; add "
            "`EXPLAINABLE` to the policy's `needs`"
        )
    count = examples(train)
    examples(test)
    keys = jr.split(key, 1 + len(names))
    others = jax.vmap(lambda k: jr.permutation(k, count))(jr.split(keys[0], shuffles))
    orders = jnp.concatenate([jnp.arange(count)[None].astype(others.dtype), others])

    def residuals(order: Any) -> dict[str, Any]:
        seen = evidence.on(jax.tree.map(lambda a: a[order], train)).units
        return {name: -count * cotangents(seen[name]) for name in names}

    wanted = jax.lax.map(residuals, orders)
    on_train, on_test = evidence.on(train), evidence.on(test)
    drops, probes = {}, {}
    for name, own in zip(names, keys[1:], strict=True):
        rows, size = _probes(on_train, name, wanted[name], own, units, steps, rate)
        drops[name], probes[name] = _tried(on_test, name, rows, size, alphas)
    return Explained(drops, probes)


def examples(batch: Any) -> int:
    """How many examples a batch holds.

    **Raises:** `ValueError` for arrays without a common first axis.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            f"a batch holds arrays of shapes {shapes}; to be shuffled and parted they "
            "need one common first axis (the examples)"
        )
    ((count,),) = counts
    return count


def _probes(
    evidence: gn.Evidence,
    name: str,
    wanted: Any,
    key: Any,
    units: int,
    steps: int,
    rate: Any,
) -> tuple[dict[str, Any], Any]:
    """A probe for each of the wanted residuals, `[probes, samples, entries]`: rows
    `[probes, units, entries]` for residuals of size 1, and their true size."""
    candidates, consumers = evidence.candidates[name], evidence.units[name].consumers
    wanted = wanted - jnp.mean(wanted, axis=1, keepdims=True)
    size = jnp.sqrt(jnp.mean(wanted[0] ** 2))
    wanted = wanted / jnp.where(size > 0, size, 1)
    # All of them are units of one network: probe after probe.
    drawn = candidates.drawn(units, key)
    read = {c.path for c in consumers}
    still = {leaf.path for leaf in evidence.anatomy.leaves if leaf.initial is not None}
    count = len(wanted)
    made = {p: jnp.tile(r, (count, 1)) for p, r in drawn.items() if p not in read}
    fixed = {p: rows for p, rows in made.items() if p in still}
    moving = {p: rows for p, rows in made.items() if p not in still}

    def said(moving: Any) -> Any:
        values = candidates.activations({**moving, **fixed})
        return values.reshape(len(values), count, units).transpose(1, 0, 2)

    def error(moving: Any) -> Any:
        values = said(moving)
        readout = _best_readout(jax.lax.stop_gradient(values), wanted)
        return jnp.sum(jnp.mean((values @ readout - wanted) ** 2, axis=(1, 2)))

    moving = adam(jax.grad(error), moving, steps, rate)
    readout = _best_readout(said(moving), wanted)
    rows = {p: r.reshape(count, units, -1) for p, r in {**moving, **fixed}.items()}
    start = 0
    for consumer in consumers:
        stop = start + drawn[consumer.path].shape[1]
        rows[consumer.path] = readout[:, :, start:stop]
        start = stop
    return rows, size


def _tried(
    evidence: gn.Evidence,
    name: str,
    probes: dict[str, Any],
    size: Any,
    alphas: Any,
) -> tuple[Any, dict[str, Any]]:
    """How far the loss falls with each probe at its best alpha; the first probe at its
    own."""
    candidates = evidence.candidates[name]
    read = {c.path for c in evidence.units[name].consumers}
    loud = jnp.concatenate([jnp.zeros(1), jnp.asarray(alphas)]).astype(size.dtype)

    def at(probe: dict[str, Any], alpha: Any) -> dict[str, Any]:
        return {p: r * (alpha * size if p in read else 1) for p, r in probe.items()}

    loss = lambda probe, alpha: candidates.loss(at(probe, alpha))
    every_alpha = jax.vmap(loss, in_axes=(None, 0))
    losses = jax.vmap(every_alpha, in_axes=(0, None))(probes, loud)
    losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    drops = losses[:, 0] - jnp.min(losses, axis=1)
    first = {path: rows[0] for path, rows in probes.items()}
    best = loud[jnp.argmin(losses[0])]
    # An infinite loss, to begin with, isn't a matter of units.
    return jnp.where(jnp.isfinite(drops), drops, 0), at(first, best)


def _best_readout(values: Any, wanted: Any) -> Any:
    """Least squares by probe: `[probes, units, entries]` from `[probes, samples, _]`;
    a little ridge, for units that say the same."""
    turned = jnp.swapaxes(values, 1, 2)
    moment = turned @ values
    units = moment.shape[-1]
    ridge = 1e-4 * jnp.trace(moment, axis1=1, axis2=2) / units + 1e-12
    moment = moment + ridge[:, None, None] * jnp.eye(units, dtype=moment.dtype)[None]
    return jax.vmap(solve)(moment, turned @ wanted)
