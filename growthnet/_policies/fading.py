"""Soft removal: units that are to go are turned down before they are closed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .chain import side_by_side
from .faults import asked
from .growing import replaced
from .policy import AbstractPolicy, Change, Decision, PerUnit


class _Fading(AbstractPolicy):
    """See `fading`. Its `trainable` is that of the policy and the gates, which nothing
    trains: they are there because gates see no memory."""

    policy: AbstractPolicy
    turns: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    on_host: bool = eqx.field(static=True)
    optimizer: Any

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        trainable, memory = self.policy.init(anatomy, key=key)
        gates = {
            name: PerUnit(jnp.ones(width.size), name, fill=1.0)
            for name, width in anatomy.widths.items()
        }
        return (trainable, gates), memory

    def gates(
        self, trainable: Any, anatomy: Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        own, ours = trainable
        total = {name: gate.array for name, gate in ours.items()}
        for name, gate in self.policy.gates(own, anatomy, key=key, train=train).items():
            total[name] = total[name] * gate.astype(total[name].dtype)
        return total

    def penalty(self, trainable: Any, net: Any, cost: Any) -> Any:
        return self.policy.penalty(trainable[0], net, cost)

    def rates(self, memory: Any, anatomy: Anatomy, open: Any) -> dict[str, Any]:
        return self.policy.rates(memory, anatomy, open)

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        return self.policy.forecast(anatomy, steps)

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        own, gates = trainable
        # Units that are fading have gone, as far as the policy is concerned.
        stay = {n: m & (gates[n].array >= 1) for n, m in evidence.open.items()}
        decision, own, memory, info = asked(
            self.policy, own, memory, replaced(evidence, open=stay), key=key
        )
        changes, new = {}, {}
        for name, mask in evidence.open.items():
            change = decision.widths.get(name, Change(stay[name], 0))
            self._check(name, change)
            gate = gates[name].array
            kept = _not_nobody(stay[name], change)
            goes = mask & ~kept
            lower = gate - 1 / self.turns
            lower = jnp.where(lower < 0.5 / self.turns, 0, lower)
            new[name] = replaced(gates[name], array=jnp.where(goes, lower, 1))
            # A unit that said nothing in the last turn is missed by nobody.
            keep = mask & ~(goes & (gate <= 0))
            changes[name] = replaced(change, keep=keep)
            info = {**info, f"fading/{name}": jnp.sum(keep & goes)}
        return Decision(changes), (own, new), memory, info

    def _check(self, name: str, change: Change) -> None:
        for field, what in (("values", "newborns"), ("rewrite", "survivors")):
            if getattr(change, field):
                who = type(self.policy).__name__
                raise ValueError(
                    f"fading: {who} brings `{field}` for {what} of {name!r}, which "
                    "count on units that go at once; put `fading` around a policy that "
                    'only closes units (for pruning, removal="silence")'
                )


def _not_nobody(stay: Any, change: Change) -> Any:
    """Which units are kept; at least the first, where nobody would be left."""
    kept = stay & change.keep
    first = stay & (jnp.cumsum(stay) == 1)
    somebody = jnp.any(kept) | (jnp.asarray(change.add) > 0)
    return jnp.where(somebody, kept, first)


def refuse_fading(policy: AbstractPolicy, who: str) -> None:
    """**Raises:** `ValueError` for a policy that fades units, or holds one that does:
    its gates would fall where its decisions don't count."""
    inside = jax.tree.leaves(policy, is_leaf=lambda node: isinstance(node, _Fading))
    if any(isinstance(node, _Fading) for node in inside):
        raise ValueError(
            f"{who} around `fading`: gates would fall while decisions don't count; put "
            f"`fading` outside, gn.fading(gn.{who}(...), turns)"
        )


def fading(policy: AbstractPolicy, turns: int) -> AbstractPolicy:
    """A policy whose removals are soft: the gate of a unit that is to go falls from 1
    to 0 in `turns` equal steps, one at every decision, while everything is trained on;
    at the decision after that it is closed, and no output changes. The policy itself
    sees the units that stay.

    **Arguments:**

    - `policy`: one that closes units and rewrites none (`Pruning` by `"silence"`).
    - `turns`: decisions that the fall takes, so `turns * policy.every` training steps.

    **Raises:** `ValueError` for a number of turns below 1; for a policy that counts the
    units of a width in order (`GradientSizeWeight`, `NestedSize`), whose gates do the
    same; when it decides, for one that brings values or a rewrite; and where a width
    can't be gated by halves.

    !!! example

        ```python
        prunes = Pruning("taylor", ratio=0.5, start=500, end=1_500, every=20)
        run = gn.fit(net, loss, data, policy=gn.fading(prunes, turns=10), ...)
        ```
    """
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 1:
        raise ValueError(f"fading(turns={turns!r}); a whole number from 1 up")
    if policy.ordered:
        raise ValueError(
            f"{type(policy).__name__} counts the units of a width in order and turns "
            "them down by itself; `fading` is for policies that close units"
        )
    own = policy.optimizer
    return _Fading(
        policy=policy,
        turns=turns,
        every=policy.every,
        needs=policy.needs,
        on_host=policy.on_host,
        optimizer=None if own is None else side_by_side([own, None]),
    )
