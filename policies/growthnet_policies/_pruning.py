"""Structural pruning: the units that are worth least go.

    score -> normalise -> which go (ratio, budget or threshold) -> what becomes of them

At once, or a little at every decision, by the cubic schedule

    cost(t) = last + (first - last) (1 - (t - start) / (end - start))^3

of Zhu & Gupta, "To prune, or not to prune", arXiv 1710.01878 (there for the sparsity of
weights). The scores are in `_scores`, the choice in `_selection`, what happens to the
rest of the network in `_removals`, each with its sources.
"""

from typing import Any, get_args, NamedTuple

import equinox as eqx
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._batches import mean, mean_needs
from ._removals import Moments, moments, NEEDS, Removal, rewrite
from ._scores import Score, score_of
from ._selection import best, Cost, Normalize, normalized, rounded, Scope, sizes_within


class _Seen(NamedTuple):
    score: Any
    moments: Moments | None


class Pruning(gn.AbstractPolicy):
    """Removes the units with the lowest scores.

    **Arguments:**

    - `score`: a name out of `SCORES`, or a `Score`.
    - How much, one of: `ratio`, the fraction of the units that go, of those that there
        are when pruning starts; `units`, how many stay in all widths together;
        `params`, the most parameters that the network may have; `flops`, the most
        operations that the traced call may execute (`anatomy.flops`); `threshold`,
        below which normalised score units go.
    - `start`, `end`: training steps between which units go, by the cubic schedule.
        Without `end` all go at the first decision from `start` on. A threshold is
        applied at every decision between.
    - `scope`: `"layer"` takes the same fraction of every width, `"global"` compares
        normalised scores across widths.
    - `normalize`: scores in units of their `"mean"`, `"max"` or Euclidean `"norm"` over
        a width, or `"none"`.
    - `removal`: `"silence"`, `"absorb"` (means go to biases) or `"refit"` (least
        squares).
    - `multiple_of`: a width's size stays a multiple, above what was asked for; a budget
        is kept to nevertheless.
    - `minimum`: no width gets smaller.
    - `every`: training steps between decisions.
    - `batches`: how many batches scores and moments are averaged over, up to `every`.
    - `ridge`: of the least squares, relative to the largest variance of a unit.

    `magnitude`, `incoming`, `outgoing`, `taylor` and `random` with `"silence"` also
    work in your own loop (`Grower.step`).

    **Raises:** `ValueError` for numbers out of range, no or two amounts, and a budget
    that no sizes meet.

    !!! example

        ```python
        policy = Pruning("taylor", ratio=0.5, start=500, end=1_500, removal="refit")
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=2_000, key=jax.random.key(0))

        # After training: one look at the data, no step of training.
        once = Pruning("fisher", params=10_000, start=1, every=1)
        run = gn.fit(run.net, loss, (x, y), optimizer=optax.set_to_zero(),
                     policy=once, steps=1, key=jax.random.key(0))
        ```
    """

    score: Score = eqx.field(static=True)
    ratio: Any
    units: Any
    params: Any
    flops: Any
    threshold: Any
    start: Any
    end: Any
    scope: Scope = eqx.field(static=True)
    normalize: Normalize = eqx.field(static=True)
    removal: Removal = eqx.field(static=True)
    multiple_of: int = eqx.field(static=True)
    minimum: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    ridge: Any
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        score: str | Score = "magnitude",
        *,
        ratio: Any = None,
        units: Any = None,
        params: Any = None,
        flops: Any = None,
        threshold: Any = None,
        start: Any,
        end: Any = None,
        scope: Scope = "layer",
        normalize: Normalize = "mean",
        removal: Removal = "silence",
        multiple_of: int = 1,
        minimum: int = 1,
        every: int = 100,
        batches: int = 1,
        ridge: Any = 1e-5,
    ):
        self.score = score_of(score)
        given = {"ratio": ratio, "units": units, "params": params, "flops": flops}
        given["threshold"] = threshold
        told = [name for name, value in given.items() if value is not None]
        if len(told) != 1:
            raise ValueError(
                f"give one of {', '.join(given)}; got {' and '.join(told) or 'none'}"
            )
        if isinstance(ratio, int | float) and not 0 <= ratio < 1:
            raise ValueError(f"ratio={ratio}; the fraction that goes is in [0, 1)")
        if isinstance(start, int) and isinstance(end, int) and not start < end:
            raise ValueError(f"start={start}, end={end}; it ends after it starts")
        for name, value, kind in (
            ("scope", scope, Scope),
            ("normalize", normalize, Normalize),
            ("removal", removal, Removal),
        ):
            if value not in get_args(kind):
                allowed = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name}={value!r}; one of {allowed}")
        at_least("multiple_of", multiple_of, 1)
        at_least("minimum", minimum, 1)
        at_least("every", every, 1)
        at_least("batches", batches, 1)
        self.ratio, self.units, self.params, self.flops = ratio, units, params, flops
        self.threshold, self.start, self.end = threshold, start, end
        self.scope, self.normalize, self.removal = scope, normalize, removal
        self.multiple_of, self.minimum = multiple_of, minimum
        self.every, self.batches, self.ridge = every, batches, ridge
        self.needs = self.score.needs | NEEDS[removal] | mean_needs(batches)
        self.optimizer = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, dict[str, Any]]:
        """Memory: the sizes that fractions refer to."""
        del key
        sizes = {name: width.size for name, width in anatomy.widths.items()}
        up = -(-self.minimum // self.multiple_of) * self.multiple_of
        least = {name: min(size, up) for name, size in sizes.items()}
        budget, cost = self._budget(anatomy)
        if isinstance(budget, int | float) and budget < cost(least):
            (name,) = (n for n in _BUDGETS if getattr(self, n) is not None)
            raise ValueError(
                f"{name}={budget}: the smallest sizes, "
                f"{', '.join(f'{n} {s}' for n, s in least.items())}, have "
                f"{cost(least):.0f}"
            )
        return None, {n: jnp.asarray(float(s)) for n, s in sizes.items()}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        seen = self._seen(evidence, key)
        scores = {
            name: normalized(found.score, evidence.open[name], self.normalize)
            for name, found in seen.items()
        }
        active, progress = self._when(evidence.step)
        memory = self._first(memory, evidence)
        sizes = self._sizes(memory, evidence, scores, progress)
        changes, info = {}, {}
        for name, mask in evidence.open.items():
            size = jnp.where(active, sizes[name], jnp.sum(mask))
            keep = best(scores[name], mask, size)
            new = rewrite(
                evidence,
                name,
                keep,
                seen[name].moments,
                self.removal,
                self.ridge,
                type(self).__name__,
            )
            changes[name] = gn.Change(keep, 0, rewrite=new)
            info[f"size/{name}"] = size
        return gn.Decision(changes), trainable, memory, info

    def _seen(self, evidence: gn.Evidence, key: Any) -> dict[str, _Seen]:
        def look(evidence: gn.Evidence) -> dict[str, _Seen]:
            found = {}
            for name, mask in evidence.open.items():
                score = self.score.of(evidence, name, key)
                if jnp.shape(score) != mask.shape:
                    raise ValueError(
                        f"the score of {name!r} has shape {jnp.shape(score)}; "
                        f"one number per slot is {mask.shape}"
                    )
                found[name] = _Seen(score, moments(evidence, name, self.removal))
            return found

        return mean(evidence, look, self.batches)

    def _budget(self, anatomy: gn.Anatomy) -> tuple[Any, Cost]:
        """What the network may cost in the end, if that was told, and what it does."""
        if self.params is not None:
            return self.params, anatomy.params
        if self.flops is not None:
            return self.flops, anatomy.flops
        return self.units, lambda sizes: sum(sizes.values())

    def _when(self, step: Any) -> tuple[Any, Any]:
        """Is it time to prune, and how much of the way has been gone?"""
        start = jnp.asarray(self.start, float)
        now = jnp.asarray(step, float)
        end = start if self.end is None else jnp.asarray(self.end, float)
        # Decisions come every so often: the last one is the first from `end` on.
        active = (now >= start) & (now < end + self.every)
        if self.end is None:
            return active, jnp.ones(())
        return active, jnp.clip((now - start) / (end - start), 0, 1)

    def _first(self, memory: Any, evidence: gn.Evidence) -> dict[str, Any]:
        """The sizes when pruning starts; until then, those that there are."""
        waits = evidence.step < self.start + self.every
        now = {n: s.astype(memory[n].dtype) for n, s in evidence.sizes.items()}
        return {n: jnp.where(waits, now[n], memory[n]) for n in memory}

    def _sizes(
        self, first: Any, evidence: gn.Evidence, scores: Any, progress: Any
    ) -> dict[str, Any]:
        """How many units each width should have."""
        if self.threshold is not None:
            return {
                name: rounded(
                    jnp.sum(mask & (scores[name] >= self.threshold)),
                    jnp.sum(mask),
                    self.multiple_of,
                    self.minimum,
                )
                for name, mask in evidence.open.items()
            }
        last, cost = self._budget(evidence.anatomy)
        before = cost(first)
        if self.ratio is not None:
            last = (1 - self.ratio) * before
        target = last + (before - last) * (1 - progress) ** 3
        if self.ratio is not None:
            target = jnp.round(target)
        return sizes_within(
            scores,
            evidence.open,
            first,
            cost,
            target,
            self.scope,
            multiple_of=self.multiple_of,
            minimum=self.minimum,
        )


_BUDGETS = ("units", "params", "flops")
