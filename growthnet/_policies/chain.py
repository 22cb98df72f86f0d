"""Several policies as one: what their decisions come to together."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from .._evidence.evidence import Evidence
from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .growing import replaced
from .policy import AbstractPolicy, Change, Decision, free_slots


class _Chain(AbstractPolicy):
    """See `chain`."""

    policies: tuple[AbstractPolicy, ...]
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: optax.GradientTransformation
    on_host: bool = eqx.field(static=True)
    preserves: bool = eqx.field(static=True)

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

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        decisions, trainables, memories, info = [], [], [], {}
        for i, policy in enumerate(self.policies):
            given = trainable[i], memory[i]
            decision, *after, told = policy.step(
                *given, evidence, key=jr.fold_in(key, i)
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
        names = [_name(policy) for policy in self.policies]
        decision = combined(decisions, names)
        return decision, tuple(trainables), tuple(memories), info


def chain(*policies: AbstractPolicy) -> AbstractPolicy:
    """Several policies as one: each decides in its turn, and the decisions are added.

    Units stay that all of them keep, births add up, gates and rates multiply, penalties
    add up, and every policy's `trainable` has its own optimizer. It decides as often as
    all turns need; the mean losses that a policy then sees are of that many steps.

    **Arguments:** two policies or more. Order matters for random numbers alone.

    **Raises:** `ValueError` for what isn't a policy; when it decides, if two of them
    bring values for newborns of one width, or rewrite it, or draw its newborns
    differently; or if one may close units that another counts in order.

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


def combined(decisions: Iterable[Decision], names: Iterable[str]) -> Decision:
    """Decisions as one: kept by AND, born by sum. Newborn values and rewrites of one
    width are refused from more than one; `names` are for the message."""
    total: dict[str, Change] = {}
    authors: dict[str, str] = {}
    for decision, author in zip(decisions, names, strict=True):
        for width, change in decision.widths.items():
            if width in total:
                first = total[width]
                _refuse_both(width, first, change, (authors[width], author))
                same = first.keep is change.keep
                change = replaced(
                    change if _never(first) else first,
                    keep=first.keep if same else first.keep & change.keep,
                    add=first.add + change.add,
                    values=first.values or change.values,
                    rewrite=first.rewrite or change.rewrite,
                    slots=first.slots if first.values else change.slots,
                )
            total[width] = change
            authors[width] = author
    return Decision(total)


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
            f"{_name(policies[i])} may close units of {closes[0]!r}, and "
            f"{_name(others[0])} counts the units of a width in order, so that "
            "none may be missing; chain one of them with a policy of another kind, or "
            "prune in a run of its own, from the first one's network"
        )


def _never(change: Change) -> bool:
    """Are no units born, whatever happens?"""
    return isinstance(change.add, int) and change.add == 0


def _name(policy: AbstractPolicy) -> str:
    """Of the policy that others are around."""
    inner = getattr(policy, "policy", None)
    return type(policy).__name__ if inner is None else _name(inner)


def _refuse_both(
    width: str, first: Change, second: Change, authors: tuple[str, str]
) -> None:
    who = f"{authors[0]} and {authors[1]}"
    for field in ("values", "rewrite"):
        if getattr(first, field) and getattr(second, field):
            raise ValueError(
                f"{who} both bring `{field}` for {width!r}; let one of them decide "
                "about it, or give each a run of its own, one from the other's network"
            )
    born = not (_never(first) or _never(second))
    if born and first.init != second.init:
        raise ValueError(
            f"{who} draw newborns of {width!r} as {first.init!r} and "
            f"{second.init!r}; a width's newborns are of one kind at a time"
        )
    if born and (first.values or second.values):
        raise ValueError(
            f"{who} both add units to {width!r}, and only one brings `values` for "
            "them; let one of them add, or give each a run of its own, one from the "
            "other's network"
        )


def if_due(due: Any, decision: Decision, evidence: Evidence) -> Decision:
    """The decision if it is due, else to change nothing."""
    widths = {}
    for name, change in decision.widths.items():
        keep = change.keep
        if keep is not evidence.open[name]:
            keep = jnp.where(due, keep, evidence.open[name])
        add = change.add if _never(change) else jnp.where(due, change.add, 0)
        rewrite = change.rewrite and {
            path: jnp.where(due, value, _leaf(evidence, path))
            for path, value in change.rewrite.items()
        }
        widths[name] = replaced(change, keep=keep, add=add, rewrite=rewrite)
    return Decision(widths)


def _leaf(evidence: Evidence, path: str) -> Any:
    if evidence.network is None:
        raise ValueError(
            f"a policy that rewrites {path!r} has to name 'network' in `needs` to take "
            "turns with others"
        )
    return array_leaves(evidence.network)[path]
