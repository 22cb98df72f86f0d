"""Recycling: units that do nothing, or little, start anew or go.

**Dormant units** (`threshold`). A unit is dormant if its mean absolute activation is at
most tau times the mean over its layer:

    s_i = E|h_i| / mean_k E|h_k|  <=  tau

Every so often all of them are replaced. Source: Sokar, Agarwal, Castro, Evci, "The
Dormant Neuron Phenomenon in Deep Reinforcement Learning" (ReDo), arXiv 2302.12902.

**Continual backprop** (`rate`). A unit's utility is a running mean of what it
contributes,

    u <- decay u + (1 - decay) E|h| sum |w_out|

and a unit is mature once it is `maturity` steps old. A fraction `rate` of the mature
units of each layer is replaced at every step, those of the lowest utility first;
fractions add up until there is a whole unit. Source: Dohare, Hernandez-Garcia, Lan,
Rahman, Mahmood, Sutton, "Loss of plasticity in deep continual learning", Nature 632,
768-774 (2024).

A replaced unit gets random incoming and zero outgoing weights, and what the optimizer
holds about it starts over: a closing and a birth in the same slot.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least
from ._newborns import arrays_of, rows_of
from ._removals import moments, NEEDS, Removal, rewrite
from ._selection import best


class Recycling(gn.AbstractPolicy):
    """Replaces units that do nothing, or removes them.

    **Arguments:** one of the first two.

    - `threshold`: the dormancy at or below which units are replaced (ReDo; 0.1 and
        0.025 in the paper).
    - `rate`: the fraction of mature units that is replaced per training step (continual
        backprop; 1e-4 in the paper).
    - `maturity`: steps that a unit lives at least, with `rate`.
    - `decay`: of the running mean of utilities per decision, with `rate`.
    - `refill`: are units born in the place of those that go? Otherwise widths shrink.
    - `removal`: what becomes of the units that go: `"silence"`, or `"absorb"`, their
        mean activation goes to the biases of what reads them.
    - `every`: training steps between decisions (ReDo: 1,000; continual backprop: 1).

    Without `refill` a width keeps its last unit. `info["replaced/NAME"]` counts, and so
    do events of the history (`kind="replaced"`).

    **Raises:** `ValueError` for numbers out of range, and neither or both of
        `threshold` and `rate`.

    !!! example

        ```python
        policy = Recycling(threshold=0.05, every=1_000)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=10_000, key=jax.random.key(0))
        ```
    """

    threshold: Any
    rate: Any
    maturity: Any
    decay: Any
    refill: bool = eqx.field(static=True)
    removal: Removal = eqx.field(static=True)
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        threshold: Any = None,
        *,
        rate: Any = None,
        maturity: Any = 100,
        decay: Any = 0.99,
        refill: bool = True,
        removal: Removal = "silence",
        every: int = 100,
    ):
        if (threshold is None) == (rate is None):
            raise ValueError(
                f"threshold={threshold}, rate={rate}; give one of them: dormant units "
                "below a threshold, or a rate of the least useful"
            )
        for name, value in {
            "threshold": threshold,
            "rate": rate,
            "decay": decay,
        }.items():
            if isinstance(value, int | float) and not 0 <= value < 1:
                raise ValueError(f"{name}={value}; it is in [0, 1)")
        if removal not in ("silence", "absorb"):
            raise ValueError(f"removal={removal!r}; 'silence' or 'absorb'")
        at_least("every", every, 1)
        self.threshold, self.rate = threshold, rate
        self.maturity, self.decay, self.refill = maturity, decay, refill
        self.removal, self.every = removal, every
        self.needs = frozenset({"activations", "network"}) | NEEDS[removal]
        self.optimizer = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, dict[str, Any]]:
        """Memory, by width: ages in steps and utilities by unit, and the fraction of a
        unit that is due."""
        del key
        if self.rate is None:
            return None, {}
        memory = {}
        for name, width in anatomy.widths.items():
            zeros = jnp.zeros(width.size)
            memory[name] = {
                "age": gn.PerUnit(zeros, name),
                "utility": gn.PerUnit(zeros, name),
                "due": jnp.zeros(()),
            }
        return None, memory

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        changes, info, new = {}, {}, {}
        for name, mask in evidence.open.items():
            if self.rate is None:
                goes = self._dormant(evidence, name)
            else:
                goes, new[name] = self._useless(evidence, name, memory[name])
            count = jnp.sum(goes)
            if not self.refill:  # Its consumers need something to read.
                count = jnp.minimum(count, jnp.sum(mask) - 1)
            goes = goes & best(-self._loudness(evidence, name), goes, count)
            keep = mask & ~goes
            seen = moments(evidence, name, self.removal)
            who = type(self).__name__
            changes[name] = gn.Change(
                keep,
                count if self.refill else 0,
                rewrite=rewrite(evidence, name, keep, seen, self.removal, 0, who),
            )
            info[f"replaced/{name}"] = count
        return gn.Decision(changes), trainable, new, info

    def _loudness(self, evidence: gn.Evidence, name: str) -> Any:
        return jnp.mean(jnp.abs(evidence.units[name].activations), axis=0)

    def _dormant(self, evidence: gn.Evidence, name: str) -> Any:
        mask, loudness = evidence.open[name], self._loudness(evidence, name)
        return mask & (loudness <= self.threshold * jnp.mean(loudness, where=mask))

    def _useless(
        self, evidence: gn.Evidence, name: str, memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The least useful mature units, as many as are due; and the memory."""
        mask, consumers = evidence.open[name], evidence.units[name].consumers
        rows = rows_of(consumers, arrays_of(evidence).__getitem__)
        gives = self._loudness(evidence, name) * jnp.sum(jnp.abs(rows), axis=1)
        utility = self.decay * memory["utility"].array + (1 - self.decay) * gives
        age = memory["age"].array + self.every
        # A young unit's running mean is still near its start, 0.
        decisions = age / self.every
        unbiased = utility / (1 - self.decay**decisions)
        mature = mask & (age > self.maturity)
        due = memory["due"] + self.rate * self.every * jnp.sum(mature.astype(age.dtype))
        whole = jnp.floor(due)
        goes = best(-unbiased, mature, whole.astype(jnp.int32))
        memory = {
            "age": gn.PerUnit(age, name),
            "utility": gn.PerUnit(utility, name),
            "due": due - whole,
        }
        return goes, memory
