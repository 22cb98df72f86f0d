"""Net2Net's widening: newborns are copies of units that are there.

Unit j becomes c units of the same incoming weights, and what read j with the weights w
reads these with shares s_1 w, ..., s_c w, where s_1 + ... + s_c = 1. So the function
stays as it is. Copies of equal shares have equal gradients and never separate. Here
shares are of different signs (3/2 and -1/2 for two) unless `split="equal"`; the source
has equal ones, and separates copies by dropout or by a little noise on their weights.

All widths are widened at once: a leaf that lies between two of them is copied along one
axis and shared out along the other, in turn.

Source: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge
Transfer", ICLR 2016, arXiv 1511.05641, section 2.2.
"""

from typing import Any, get_args

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._arguments import at_least
from ._copies import copied, Split, widened
from ._newborns import arrays_of, regular, room_for
from ._scores import Score, score_of
from ._splits import refuse, why_not_copied


class Net2Net(gn.AbstractPolicy):
    """Adds copies of units, at regular times; the function stays.

    **Arguments:**

    - `add`: how many units each width gets at a time.
    - `every`: training steps between births.
    - `until`: no width gets more units than this; `None` for no limit.
    - `choose`: which units are copied: `"random"` ones, as in the paper, each as often
        as it is drawn; or those of highest score, one copy each in turn, by a name out
        of `SCORES` or a `Score`.
    - `split`: `"unequal"` shares tell copies apart; `"equal"` ones don't.
    - `noise`: what newborns' incoming weights differ from those of the original, times
        what a fresh unit would be drawn with. With it the function changes a little,
        so it isn't promised to stay.

    Optimizer moments of the originals stay, those of newborns start at 0.

    Works on widths that copies can share out exactly, recurrent ones too: not where a
    norm or a mean goes over the width.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = Net2Net(add=16, every=500, until=128)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    noise: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    choose: Score | None = eqx.field(static=True)
    split: Split = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 500,
        until: int | None = None,
        choose: str | Score = "random",
        split: Split = "unequal",
        noise: Any = None,
    ):
        at_least("add", add, 1)
        at_least("every", every, 1)
        if split not in get_args(Split):
            raise ValueError(f"split={split!r}; 'unequal' or 'equal'")
        if isinstance(noise, int | float) and not noise >= 0:
            raise ValueError(f"noise={noise}; a number from 0 up, or None")
        self.add, self.every, self.until = add, every, until
        self.split, self.noise = split, noise
        self.choose = None if choose == "random" else score_of(choose)
        kinds = {"network"} | (set() if noise is None else {"candidates"})
        self.needs = frozenset(kinds | (self.choose.needs if self.choose else set()))
        self.optimizer = None

    @property
    def preserves(self) -> bool:
        return self.noise is None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, None]:
        del key
        for width in anatomy.widths.values():
            refuse(self, width, "copy", why_not_copied(anatomy, width))
        return None, None

    def forecast(self, anatomy: gn.Anatomy, steps: int) -> dict[str, Any]:
        return regular(self, anatomy, steps)

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        first = arrays_of(evidence)
        arrays, moved, births = dict(first), {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            keys = jr.split(jr.fold_in(key, i))
            births[name] = room_for(self, mask)
            # What has no slots yet isn't done, so others mustn't count on it: room is
            # made, and the policy asked again.
            now = jnp.where(births[name] <= jnp.sum(~mask), births[name], 0)
            sources = self._sources(evidence, name, keys[0])
            copies = copied(mask, sources, now, self.split)
            before = dict(arrays)
            fresh = self._fresh(evidence, name, keys[1])
            for member in evidence.anatomy.widths[name].members:
                arrays |= widened(evidence.anatomy, name, member, arrays, copies, fresh)
            # Moves of several widths add up, so each is its own alone.
            moved[name] = {
                path: first[path] + (arrays[path] - before[path])
                for path in _shared(evidence.anatomy.widths[name])
            }
        changes = {}
        for name, mask in evidence.open.items():
            paths = {m.path for m in evidence.anatomy.widths[name].members}
            values = {p: arrays[p] for p in sorted(paths)}
            changes[name] = gn.Change(
                mask, births[name], values=values, rewrite=moved[name]
            )
        return gn.Decision(changes), trainable, memory, {}

    def _sources(self, evidence: gn.Evidence, name: str, key: Any) -> Any:
        """The slots of the units that are copied, by birth."""
        mask = evidence.open[name]
        size = jnp.sum(mask)
        if self.choose is None:
            order = jnp.argsort(~mask, stable=True)
            return order[jr.randint(key, (self.add,), 0, size)]
        score = self.choose.of(evidence, name, key)
        order = jnp.argsort(jnp.where(mask, -score, jnp.inf), stable=True)
        return order[jnp.arange(self.add) % size]

    def _fresh(self, evidence: gn.Evidence, name: str, key: Any) -> dict[str, Any]:
        """What newborns would be drawn with, times the noise: arrays by leaf path."""
        if self.noise is None:
            return {}
        candidates = evidence.candidates[name]
        change = candidates.change(candidates.drawn(self.add, key))
        return {p: self.noise * v for p, v in (change.values or {}).items()}


def _shared(width: gn.Width) -> list[str]:
    return sorted({width.members[i].path for i in width.copied.cover})
