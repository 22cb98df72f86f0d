"""Residual fitting: grow only if the residuals hold error that new units explain.

Every so often a small probe g is trained on what the network f gets wrong. If on other
data it explains more than every probe of shuffled residuals does, twice running, it
becomes part of the network, which then is f + alpha g: the probe is a few units of a
width, and alpha is in what reads them. The source's two conditions come first, on data
of their own: the error is still high, and the last growth paid.

    training data            what f is trained on; probes too
    valid, first part        is the error high? did the last growth pay?
    valid, the three others  in turn: is a probe worth something? how loud?

Where residuals are noise, a test succeeds in q = 1 / (1 + shuffles) of all cases. What
succeeds by chance succeeds again on the same data, so tests that follow one another use
different parts: n running succeed in q^n. In look k, n have to be so many that k q^n <=
level / 2: two up to the tenth look, three up to the 200th. Added up, no more than
`level` of such runs ever grow.

Source: Ford, Winder, McClellan, "Adaptive Neural Networks Using Residual Fitting",
arXiv 2301.05744. The two conditions are theirs; test and bound are ours.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._explainable import examples, EXPLAINABLE, explainable, Explained


TESTS = 3
"""Parts of the held-out data for tests that follow one another."""


class ResidualFitting(gn.AbstractPolicy):
    """Merges a trained probe into the network where residuals hold explainable error.

    **Arguments:**

    - `units`: how many units a probe has; all of one width, the one where it helps
        most.
    - `every`: training steps between looks. The network should have had time to learn
        by itself: a probe can't tell what isn't explained yet from what can't be.
    - `until`: no width gets more units than this; `None` for no limit.
    - `floor`: an error (loss on the stopping data) up to this is low enough.
    - `paid`: by which part the error must have fallen since the last growth before
        there is another.
    - `level`: at most this part of the runs on pure noise ever grows (in 200 looks;
        counted anew after every growth).
    - `freeze`: what was there before the last growth rests from then on, as in cascade
        correlation. By default everything is trained on together.
    - `batches`: how many of the last batches probes are trained on, at most `every`;
        together some hundred examples.
    - `shuffles`, `steps`, `rate`: of `explainable`.

    Needs `valid=`, with the examples along a common first axis: four parts are made of
    it. Where there is no room for newborns, `fit` makes some and the policy looks again
    at once.

    **Raises:** `ValueError` for numbers out of range, data that can't be shuffled or
    parted, and on widths whose contractions can't be had.

    !!! example

        ```python
        policy = ResidualFitting(units=4, every=500, until=64)
        run = gn.fit(mlp, loss, (x, y), valid=(x2, y2), optimizer=optax.adam(1e-3),
                     policy=policy, steps=20_000, key=jax.random.key(0))
        print(run.state.memory["p"], run.state.memory["drop"])  # of the last look
        ```
    """

    floor: Any
    paid: Any
    level: Any
    rate: Any
    units: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    freeze: bool = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    shuffles: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None = None

    def __init__(
        self,
        units: int = 4,
        *,
        every: int = 500,
        until: int | None = None,
        floor: Any = 0.0,
        paid: Any = 0.01,
        level: Any = 0.05,
        freeze: bool = False,
        batches: int = 1,
        shuffles: int = 19,
        steps: int = 20,
        rate: Any = 0.05,
    ):
        for name, value, least in (
            ("units", units, 1),
            ("every", every, 1),
            ("batches", batches, 1),
            ("shuffles", shuffles, 19),
            ("steps", steps, 1),
        ):
            at_least(name, value, least)
        if isinstance(level, int | float) and not 0 < level <= 1:
            raise ValueError(f"level={level}; it is above 0, and 1 at most")
        self.units, self.every, self.until = units, every, until
        self.floor, self.paid, self.level, self.rate = floor, paid, level, rate
        self.freeze, self.batches = freeze, batches
        self.shuffles, self.steps = shuffles, steps
        self.needs = EXPLAINABLE | {"batches", "valid", "evaluate"}

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, dict[str, Any]]:
        """What is remembered: `error`, of the stopping data, at the last look and at
        the last growth; `drop` and `p` of the last test; how many `looks` there were
        since the last growth, and how many succeeded `running`; which units are older
        than the last growth."""
        del key
        sizes = {name: width.size for name, width in anatomy.widths.items()}
        young = {n: gn.PerUnit(jnp.zeros(s, bool), n) for n, s in sizes.items()}
        return None, {
            "error": jnp.asarray(jnp.inf),
            "error_at_growth": jnp.asarray(jnp.inf),
            "drop": jnp.zeros(()),
            "p": jnp.ones(()),
            "looks": jnp.zeros((), jnp.int32),
            "running": jnp.zeros((), jnp.int32),
            "units": jnp.asarray(sum(sizes.values()), jnp.int32),
            "old": young,
        }

    def rates(self, memory: Any, anatomy: gn.Anatomy, open: Any) -> dict[str, Any]:
        if not self.freeze:
            return {}
        old = {n: per_unit.array for n, per_unit in memory["old"].items()}
        some = lambda masks: jnp.any(jnp.stack([jnp.any(mask) for mask in masks]))
        # Newborns may still be waiting for room: nothing rests before there are some.
        grew = some(old.values()) & some([open[n] & ~old[n] for n in old])
        resting = gn.entry_masks(anatomy, old)
        everywhere = jnp.ones((), bool)
        return {
            leaf.path: ~(grew & resting.get(leaf.path, everywhere))
            for leaf in anatomy.leaves
        }

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        train = jax.tree.map(
            lambda a: a.reshape(-1, *a.shape[2:]), evidence.batches(self.batches)
        )
        parts = parted(evidence.valid, 1 + TESTS)
        part = lambda i: jax.tree.map(lambda a: a[i], parts)
        stopping, test = part(0), part(1 + memory["looks"] % TESTS)
        error = evidence.on(stopping).evaluate(gn.Decision())
        error = error.astype(memory["error"].dtype)
        total = sum(jnp.sum(mask, dtype=jnp.int32) for mask in evidence.open.values())
        grew = total > memory["units"]
        last = jnp.where(grew, memory["error"], memory["error_at_growth"])
        due = (error > self.floor) & ~(error > (1 - self.paid) * last)

        def look() -> Explained:
            found = explainable(
                evidence, train, test, key=key, units=self.units,
                shuffles=self.shuffles, steps=self.steps, rate=self.rate,
            )  # fmt: skip
            room = {n: self._room(mask) for n, mask in evidence.open.items()}
            drops = {n: jnp.where(room[n], d, 0) for n, d in found.drops.items()}
            return Explained(drops, found.probes)

        found = _if(due, look)
        p = jnp.where(due, found.p, 1).astype(memory["p"].dtype)
        looks = jnp.where(grew, 0, memory["looks"]) + due.astype(jnp.int32)
        before = jnp.where(grew, 0, memory["running"])
        chance = 1 / (1 + self.shuffles)
        running = jnp.where(p <= chance * 1.001, before + 1, 0)
        rare = looks.astype(p.dtype) * chance ** running.astype(p.dtype)
        grows = (running > 0) & (rare <= self.level / 2 * 1.001)
        best = jnp.argmax(jnp.stack([d[0] for d in found.drops.values()]))
        changes, old = {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            births = jnp.where(grows & (best == i), self.units, 0)
            changes[name] = evidence.candidates[name].change(found.probes[name], births)
            marked = jnp.where(grows, mask, memory["old"][name].array)
            old[name] = gn.PerUnit(marked, name)
        memory = {
            "error": error,
            "error_at_growth": last,
            "drop": found.drop.astype(memory["drop"].dtype),
            "p": p,
            "looks": looks,
            "running": running,
            "units": total,
            "old": old,
        }
        info = {"drop": found.drop, "p": p}
        return gn.Decision(changes), trainable, memory, info

    def _room(self, mask: Any) -> Any:
        if self.until is None:
            return jnp.ones((), bool)
        return jnp.sum(mask) + self.units <= self.until


def parted(valid: Any, parts: int) -> Any:
    """Data in `parts` parts of one size along a new first axis: example i is in part
    `i % parts`, and what is left over in none.

    **Raises:** `ValueError` for data that can't be parted.
    """
    count = examples(valid)
    each = count // parts
    if each < 2:
        raise ValueError(
            f"valid= has {count} examples; residual fitting parts it in {parts} (one "
            "for its conditions, the others for tests) and needs at least 2 in each "
            "(some hundreds are better)"
        )

    def part(array: Any) -> Any:
        kept = array[: each * parts].reshape(each, parts, *array.shape[1:])
        return jnp.moveaxis(kept, 1, 0)

    return jax.tree.map(part, valid)


def _if(due: Any, look: Any) -> Explained:
    """What is found if it is looked for; otherwise nothing."""
    once: Any = eqx.filter_closure_convert(look)  # Traced here, for both uses.
    nothing = lambda: jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), once.out_struct
    )
    return jax.lax.cond(due, lambda: once(), nothing)
