"""Several policies as one: what their decisions come to together."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .combined import combined, if_due, Member
from .faults import asked
from .growing import replaced
from .policy import AbstractPolicy, Decision, free_slots, name_of
from .windows import hold, Windowed, Windows, windows_of


class _Chain(AbstractPolicy, Windowed):
    """See `chain`."""

    policies: tuple[AbstractPolicy, ...]
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: optax.GradientTransformation
    on_host: bool = eqx.field(static=True)
    preserves: bool = eqx.field(static=True)

    @property
    def windows(self) -> Windows:
        return tuple(one for p in self.policies for one in windows_of(p))

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        keys = jr.split(key, len(self.policies))
        pairs = [
            policy.init(anatomy, key=key)
            for policy, key in zip(self.policies, keys, strict=True)
        ]
        return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)

    def gates(
        self, trainable: Any, anatomy: Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        total: dict[str, Any] = {}
        for i, (policy, own) in enumerate(zip(self.policies, trainable, strict=True)):
            one = None if key is None else jr.fold_in(key, i)
            for name, gate in policy.gates(own, anatomy, key=one, train=train).items():
                gate = gate.astype(float)
                total[name] = total[name] * gate if name in total else gate
        return total

    def penalty(self, trainable: Any, net: Any, cost: Callable[..., Any]) -> Any:
        pairs = zip(self.policies, trainable, strict=True)
        return sum((p.penalty(own, net, cost) for p, own in pairs), jnp.zeros(()))

    def rates(self, memory: Any, anatomy: Anatomy, open: Any) -> dict[str, Any]:
        total: dict[str, Any] = {}
        for policy, own in zip(self.policies, memory, strict=True):
            for path, rate in policy.rates(own, anatomy, open).items():
                total[path] = total[path] * rate if path in total else rate
        return total

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        """What all that say something add, one to the other."""
        total: dict[str, Any] = {}
        for policy in self.policies:
            for name, units in policy.forecast(anatomy, steps).items():
                size = anatomy.widths[name].size
                total[name] = max(0, total.get(name, size) + units - size)
        return total

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        decisions, trainables, memories, info = [], [], [], {}
        for i, policy in enumerate(self.policies):
            given = trainable[i], memory[i]
            decision, *after, told = asked(
                policy, *given, evidence, key=jr.fold_in(key, i)
            )
            _refuse_holes(self.policies, i, decision, evidence)
            if policy.every != self.every:
                due = evidence.step % policy.every == 0
                decision = if_due(due, decision, evidence)
                after = jax.tree.map(
                    lambda new, old, due=due: jnp.where(due, new, old), after, [*given]
                )
            decisions.append(_in_own_slots(decision, evidence))
            trainables.append(after[0])
            memories.append(after[1])
            info |= {f"{i}/{name}": value for name, value in told.items()}
        members = [
            Member(name_of(p), windows_of(p), hold(windows_of(p), evidence.step))
            for p in self.policies
        ]
        decision = combined(decisions, members)
        return decision, tuple(trainables), tuple(memories), info


def chain(*policies: AbstractPolicy) -> AbstractPolicy:
    """Several policies as one: each decides in its turn, and the decisions are added.

    Units stay that all of them keep, births add up, gates and rates multiply, penalties
    add up, and every policy's `trainable` has its own optimizer. It decides as often as
    all turns need; the mean losses that a policy then sees are of that many steps.

    Newborn values and a rewrite of one width are brought by one policy at a time:
    several may, in windows (`during`) that have no step in common.

    **Arguments:** two policies or more. Order matters for random numbers alone.

    **Raises:** `ValueError` for what isn't a policy; when it decides, if two of them
    bring values for newborns of one width, or rewrite it, in windows that aren't
    apart, or draw its newborns differently; or if one may close units that another
    counts in order.

    !!! example

        ```python
        policy = gn.chain(
            GradMax(every=100, until=64),
            Pruning("magnitude", ratio=0.5, start=2_000, every=100),
        )
        ```
    """
    if len(policies) < 2 or not all(isinstance(p, AbstractPolicy) for p in policies):
        told = ", ".join(type(policy).__name__ for policy in policies) or "nothing"
        raise ValueError(f"chain({told}); give it two policies or more")
    return _Chain(
        policies=policies,
        every=math.gcd(*(policy.every for policy in policies)),
        needs=frozenset().union(*(policy.needs for policy in policies)),
        optimizer=side_by_side([policy.optimizer for policy in policies]),
        on_host=any(policy.on_host for policy in policies),
        preserves=all(policy.preserves for policy in policies),
    )


def side_by_side(optimizers: list[Any]) -> optax.GradientTransformation:
    """One optimizer of a tuple, of an optimizer for each of its parts."""
    own = [optax.identity() if opt is None else opt for opt in optimizers]

    def init(params: Any) -> Any:
        return tuple(o.init(part) for o, part in zip(own, params, strict=True))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        parts = [None] * len(own) if params is None else params
        rows = zip(own, optimizers, updates, state, parts, strict=True)
        pairs = [
            # Without an optimizer it stays, whatever the slope.
            (jax.tree.map(jnp.zeros_like, u), s) if given is None else o.update(u, s, p)
            for o, given, u, s, p in rows
        ]
        return tuple(u for u, _ in pairs), tuple(s for _, s in pairs)

    return optax.GradientTransformation(init, update)


def _in_own_slots(decision: Decision, evidence: Evidence) -> Decision:
    """Newborn values are for slots that their policy leaves closed, not for those that
    others are about to free."""
    widths = {
        name: replaced(change, slots=free_slots(evidence.open[name], change))
        if change.values
        else change
        for name, change in decision.widths.items()
    }
    return Decision(widths)


def _refuse_holes(
    policies: tuple[AbstractPolicy, ...], i: int, decision: Decision, evidence: Evidence
) -> None:
    """A policy that counts units by slots can't stand beside one that closes some."""
    others = [p for j, p in enumerate(policies) if j != i and p.ordered]
    closes = [
        name
        for name, change in decision.widths.items()
        if change.keep is not evidence.open[name]
    ]
    if others and closes:
        raise ValueError(
            f"{name_of(policies[i])} may close units of {closes[0]!r}, and "
            f"{name_of(others[0])} counts the units of a width in order, so that "
            "none may be missing; chain one of them with a policy of another kind, or "
            "prune in a run of its own, from the first one's network"
        )
