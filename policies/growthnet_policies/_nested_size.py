"""Nested size: a width finds its own size by being cut short at random.

In training, every step draws a size n per width and silences the units from the n-th
on (nested dropout: Rippel, Gelbart, Adams, "Learning Ordered Representations with
Nested Dropout", arXiv 1402.0915, ICML 2014). So the units become ordered, each one adds
to those before it, and the network can be judged at smaller sizes than its own. Every
so often the held-out loss is taken at several sizes:

    found = the smallest n with  L(n) <= (1 + tolerance) min L

and the width is given room above what it needs,

    units = max(headroom * found, found + extra)

A width that needs all its units grows, since `found` is then near its edge; one that
doesn't shrinks. Newborns aren't judged: they stay in the room above until they are
found useful, or until the room moves down. At last the width is cut to the found size,
and trained on without truncation.

Where a loss stays near that of chance, as on a hard task of classes, a tenth of the
loss may be all that was ever won. `against="both"` takes the tolerance of what is left
and of what was won, in parallel,

    L(n) <= L + tolerance L (1 - L / L0),    L = min L,  L0 = the least L(0) so far

which is the same where L is small beside L0.

A network that is trained at random truncations is worse at each of them than one that
is trained at that size alone, so sizes are found too large. `trim` looks again, without
truncation: from step to step the found network loses its last units, as long as the
held-out loss of what is left, trained on, stays within a tolerance of the best. That
loss also falls because training goes on, and then it says nothing about the units; so
trimming begins when most has been learned.

The size weight of arXiv 2501.18012 has its target given; there a truncated, held-out
measure replaces the target. The published neighbour is Adaptive Width Neural Networks
(Errica et al., arXiv 2501.15889), which learns a soft ordering by gradient descent.
"""

import math
from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn


Against = Literal["loss", "both"]
SHARE = 0.08
"""Of the units, what goes at a decision that trims."""


class NestedSize(gn.AbstractPolicy):
    """Finds the size of each width from held-out data; no target is given.

    **Arguments:**

    - `until`: the training step at which the search ends and the size is fixed; about
        60 % of the run. The rest trains the found network.
    - `tolerance`: how much worse than the best a smaller size may be on held-out data.
    - `headroom`: a width has at least this many times the units that it was found to
        need,
    - `extra`: and at least this many more. It is what lets a very small width grow:
        units that only help together are there together.
    - `maximum`: no width gets larger (give it where the capacity is bounded).
    - `every`: training steps between decisions.
    - `candidates`: how many sizes the held-out loss is taken at, per width.
    - `against`: what tolerances are a part of: of the best held-out `"loss"`, or of
        `"both"` that loss and what was won over a silent width.
    - `trim`: `(start, stop)`, training steps after the search: at every decision
        between them at which the held-out loss is good enough, 8 % of the units go, the
        last ones. `None`: the found size stays.
    - `trim_tolerance`: how much worse than the best since the search the held-out loss
        may be for that.

    Room above isn't taken away before it is `headroom` times too much, so a found size
    that hovers changes nothing. Needs `valid=`; other widths are at full size when one
    is judged.

    **Raises:** `ValueError` for numbers out of range, or a `trim` that begins before
    the search has ended.

    !!! example

        ```python
        run = gn.fit(mlp, loss, (x, y), valid=(x2, y2), optimizer=optax.adam(1e-2),
                     policy=NestedSize(until=4_800), steps=8_000, key=jax.random.key(0))
        print(run.sizes)
        ```
    """

    ordered = True

    until: Any
    tolerance: Any
    headroom: Any
    extra: Any
    maximum: int | None = eqx.field(static=True)
    every: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)
    against: Against = eqx.field(static=True)
    trim: tuple[Any, Any] | None
    trim_tolerance: Any
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None = None

    def __init__(
        self,
        until: Any,
        tolerance: Any = 0.1,
        *,
        headroom: Any = 1.5,
        extra: Any = 8,
        maximum: int | None = None,
        every: int = 100,
        candidates: int = 16,
        against: Against = "loss",
        trim: tuple[Any, Any] | None = None,
        trim_tolerance: Any = 0.05,
    ):
        for name, value, least in (
            ("until", until, 1),
            ("tolerance", tolerance, 0),
            ("headroom", headroom, 1),
            ("extra", extra, 1),
            ("maximum", maximum, 1),
            ("every", every, 1),
            ("candidates", candidates, 2),
            ("trim_tolerance", trim_tolerance, 0),
        ):
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise ValueError(f"{name}={value}; it is {least} or more")
        if against not in get_args(Against):
            allowed = ", ".join(map(repr, get_args(Against)))
            raise ValueError(f"against={against!r}; one of {allowed}")
        if trim is not None:
            _check_trim(trim, until, every)
        self.until = until
        self.tolerance = tolerance
        self.headroom = headroom
        self.extra = extra
        self.maximum = maximum
        self.every = every
        self.candidates = candidates
        self.against = against
        self.trim = trim
        self.trim_tolerance = trim_tolerance
        trims = {"valid_loss"} if trim is not None else set()
        self.needs = frozenset({"valid_at"} | trims)

    def init(
        self, anatomy: gn.Anatomy, *, key: Any
    ) -> tuple[dict[str, Any], tuple[Any, Any]]:
        """Per width the least and the largest size that training draws. Memory, as far
        as it is asked for: the least loss without each width, the least loss since the
        search."""
        del key
        full = {name: width.size for name, width in anatomy.widths.items()}
        ranges = {n: jnp.array([(s + 1) // 2, s], float) for n, s in full.items()}
        both = self.against == "both"
        silent = {n: jnp.asarray(jnp.inf) for n in full} if both else None
        return ranges, (silent, None if self.trim is None else jnp.asarray(jnp.inf))

    def gates(
        self, trainable: Any, anatomy: gn.Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        gates = {}
        for i, (name, (least, most)) in enumerate(trainable.items()):
            size = most
            if train:
                u = jr.uniform(jr.fold_in(key, i), dtype=most.dtype)
                size = jnp.minimum(least + jnp.floor(u * (most - least + 1)), most)
            gates[name] = _places(anatomy.widths[name].size, size) < size
        return gates

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        silent, best = memory
        settled = evidence.step >= self.until + self.every
        silent, ranges = jax.lax.cond(
            settled,
            lambda: (silent, trainable),
            lambda: self._found(trainable, silent, evidence),
        )
        if self.trim is not None:
            best, ranges = self._trimmed(ranges, silent, best, settled, evidence)
        changes = {}
        for name, (_, most) in ranges.items():
            mask = evidence.open[name]
            keep = mask & (_places(mask.size, most) < most)
            add = most.astype(jnp.int32) - jnp.sum(keep, dtype=jnp.int32)
            changes[name] = gn.Change(keep, add)
        return gn.Decision(changes), ranges, (silent, best), {}

    def _found(
        self, trainable: Any, silent: Any, evidence: gn.Evidence
    ) -> tuple[Any, dict[str, Any]]:
        if silent is not None:
            least = lambda n: jnp.minimum(silent[n], _silent(n, evidence))
            silent = {n: least(n) for n in silent}
        ranges = {n: self._range(n, trainable, silent, evidence) for n in trainable}
        return silent, ranges

    def _part(self, tolerance: Any, best: Any, silent: Any, name: str) -> Any:
        """The tolerance as a part of the best loss."""
        if silent is None:
            return tolerance
        return tolerance * jnp.clip(1 - best / silent[name], 0, 1)

    def _trimmed(
        self, ranges: Any, silent: Any, best: Any, settled: Any, evidence: gn.Evidence
    ) -> tuple[Any, dict[str, Any]]:
        """The best loss since the search, and fewer units where it is nearly reached;
        both ends of a range are then the size."""
        assert self.trim is not None
        (start, stop), now = self.trim, evidence.valid_loss
        best = jnp.where(settled, jnp.minimum(best, now), best)
        due = (evidence.step >= start) & (evidence.step < stop) & settled
        trimmed = {}
        for name, drawn in ranges.items():
            part = self._part(self.trim_tolerance, best, silent, name)
            fewer = jnp.maximum(drawn - jnp.ceil(SHARE * drawn), 1)
            good = now <= (1 + part) * best
            trimmed[name] = jnp.where(due & good, fewer, drawn)
        return best, trimmed

    def _range(
        self, name: str, trainable: Any, silent: Any, evidence: gn.Evidence
    ) -> Any:
        """The sizes to draw from next; at the end of the search, the found one."""
        least, most = trainable[name]
        steps = jnp.linspace(0, 1, self.candidates, dtype=most.dtype)
        sizes = jnp.round(least * (most / least) ** steps)
        places = _places(evidence.open[name].size, most)
        losses = jax.vmap(lambda n: evidence.valid_at({name: places < n}))(sizes)
        best = jnp.min(losses)
        part = self._part(self.tolerance, best, silent, name)
        good = losses <= (1 + part) * best
        found = sizes[jnp.argmax(good)]
        room = jnp.maximum(jnp.ceil(self.headroom * found), found + self.extra)
        if self.maximum is not None:
            room = jnp.minimum(room, self.maximum)
        stays = (room <= most) & (most <= self.headroom * room)
        units = jnp.where(stays, most, room)
        drawn = jnp.stack([jnp.ceil(found / 2), units])
        over = evidence.step >= self.until
        return jnp.where(over, jnp.stack([found, found]), drawn)


def _check_trim(trim: Any, until: Any, every: int) -> None:
    if not (isinstance(trim, tuple | list) and len(trim) == 2):
        raise ValueError(f"trim={trim!r}; two training steps, (start, stop), or None")
    start, stop = trim
    known = all(isinstance(n, int | float) for n in (start, stop, until))
    if known and not until + every <= start < stop:
        raise ValueError(
            f"trim={trim!r}; it begins a decision after the search, at {until + every} "
            "or later, and ends after that"
        )


def _silent(name: str, evidence: gn.Evidence) -> Any:
    """The held-out loss without any unit of a width."""
    return evidence.valid_at({name: jnp.zeros(evidence.open[name].size)})


def _places(capacity: int, like: Any) -> Any:
    return jnp.arange(capacity, dtype=like.dtype)
