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
    - `against`: what the tolerance is a part of: of the best held-out `"loss"`, or of
        `"both"` that loss and what was won over a silent width.

    Room above isn't taken away before it is `headroom` times too much, so a found size
    that hovers changes nothing. Needs `valid=`; other widths are at full size when one
    is judged.

    **Raises:** `ValueError` for numbers out of range.

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
    ):
        for name, value, least in (
            ("until", until, 1),
            ("tolerance", tolerance, 0),
            ("headroom", headroom, 1),
            ("extra", extra, 1),
            ("maximum", maximum, 1),
            ("every", every, 1),
            ("candidates", candidates, 2),
        ):
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise ValueError(f"{name}={value}; it is {least} or more")
        if against not in get_args(Against):
            allowed = ", ".join(map(repr, get_args(Against)))
            raise ValueError(f"against={against!r}; one of {allowed}")
        self.until = until
        self.tolerance = tolerance
        self.headroom = headroom
        self.extra = extra
        self.maximum = maximum
        self.every = every
        self.candidates = candidates
        self.against = against
        self.needs = frozenset({"valid_at"})

    def init(
        self, anatomy: gn.Anatomy, *, key: Any
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Per width the least and the largest size that training draws; memory, if
        asked for: the least loss without the width."""
        del key
        full = {name: width.size for name, width in anatomy.widths.items()}
        ranges = {n: jnp.array([(s + 1) // 2, s], float) for n, s in full.items()}
        both = self.against == "both"
        return ranges, {n: jnp.asarray(jnp.inf) for n in full} if both else None

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
        settled = evidence.step >= self.until + self.every
        memory, ranges = jax.lax.cond(
            settled,
            lambda: (memory, trainable),
            lambda: self._found(trainable, memory, evidence),
        )
        changes = {}
        for name, (_, most) in ranges.items():
            mask = evidence.open[name]
            keep = mask & (_places(mask.size, most) < most)
            add = most.astype(jnp.int32) - jnp.sum(keep, dtype=jnp.int32)
            changes[name] = gn.Change(keep, add)
        return gn.Decision(changes), ranges, memory, {}

    def _found(
        self, trainable: Any, memory: Any, evidence: gn.Evidence
    ) -> tuple[Any, dict[str, Any]]:
        silent = dict.fromkeys(trainable, jnp.inf)
        if self.against == "both":
            least = lambda n: jnp.minimum(memory[n], _silent(n, evidence))
            memory = silent = {n: least(n) for n in memory}
        ranges = {n: self._range(n, trainable, silent[n], evidence) for n in trainable}
        return memory, ranges

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
        # With "loss", the silent one is infinite.
        part = self.tolerance * jnp.clip(1 - best / silent, 0, 1)
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


def _silent(name: str, evidence: gn.Evidence) -> Any:
    """The held-out loss without any unit of a width."""
    return evidence.valid_at({name: jnp.zeros(evidence.open[name].size)})


def _places(capacity: int, like: Any) -> Any:
    return jnp.arange(capacity, dtype=like.dtype)
