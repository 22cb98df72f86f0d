"""What the decisions of several policies come to together, and what they can't agree on
is refused."""

import functools as ft
import itertools as it
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from .._evidence.evidence import Evidence
from .._paths import array_leaves
from .growing import replaced
from .policy import Change, Decision
from .windows import apart, told, Windows


class Member(NamedTuple):
    """Who decides: its name, the windows in which its decisions may count, and whether
    it is in them now (traced)."""

    name: str
    windows: Windows
    now: Any


Part = tuple[Change, Member]


def combined(decisions: Iterable[Decision], members: Iterable[Member]) -> Decision:
    """Decisions as one: kept by AND, born by sum. What only one policy can bring at a
    time (newborn values, a rewrite) is that of the one whose window it is.

    **Raises:** `ValueError` where two policies bring such things for one width in
    windows that aren't known to be apart, or make newborns of different kinds.
    """
    parts: dict[str, list[Part]] = {}
    for decision, member in zip(decisions, members, strict=True):
        for width, change in decision.widths.items():
            parts.setdefault(width, []).append((change, member))
    for width, found in parts.items():
        for pair in it.combinations(found, 2):
            _refuse_both(width, *pair)
    return Decision({width: _one(found) for width, found in parts.items()})


def _one(parts: Sequence[Part]) -> Change:
    changes = [change for change, _ in parts]
    born = [part for part in parts if not _never(part[0])]
    both = lambda a, b: a if a is b else a & b
    change = Change(
        ft.reduce(both, [change.keep for change in changes]),
        ft.reduce(operator.add, [change.add for change in changes]),
        (born or parts)[0][0].init,
        rewrite=_picked([(c.rewrite, m) for c, m in parts]),
    )
    if len(born) == 1:
        ((only, _),) = born
        return replaced(
            change, values=only.values, slots=only.slots, valued=only.valued
        )
    values = _picked([(c.values, m) for c, m in born])
    if not values:
        return change
    slots = [c.slots | ~m.now for c, m in born if c.slots is not None]
    return replaced(
        change,
        values=values,
        slots=ft.reduce(operator.and_, slots) if slots else None,
        valued={p: _valued(p, born) for p in values if not _all_bring(p, born)},
    )


def _picked(offers: Sequence[tuple[Any, Member]]) -> dict[str, Any] | None:
    """Of arrays by path those of whose window it is."""
    picked: dict[str, Any] = {}
    for arrays, member in offers:
        for path, array in (arrays or {}).items():
            other = picked.get(path)
            picked[path] = (
                array if other is None else jnp.where(member.now, array, other)
            )
    return picked or None


def _all_bring(path: str, born: Sequence[Part]) -> bool:
    return all(path in (c.values or {}).keys() - (c.valued or {}) for c, _ in born)


def _valued(path: str, born: Sequence[Part]) -> Any:
    """Does the one whose window it is bring values for a path?"""
    brought = [
        m.now & (c.valued or {}).get(path, True)
        for c, m in born
        if path in (c.values or {})
    ]
    return ft.reduce(operator.or_, brought)


def _refuse_both(width: str, first: Part, second: Part) -> None:
    changes, members = [first[0], second[0]], [first[1], second[1]]
    who = " and ".join(member.name for member in members)
    born = not any(_never(change) for change in changes)
    if born and changes[0].init != changes[1].init:
        raise ValueError(
            f"{who} draw newborns of {width!r} as {changes[0].init!r} and "
            f"{changes[1].init!r}; a width's newborns are of one kind, since gates go "
            "on in every part of a run; give each a run of its own, one from the "
            "other's network"
        )
    if apart(members[0].windows, members[1].windows):
        return
    if all(change.rewrite for change in changes):
        what = "both bring `rewrite` for"
    elif born and all(change.values for change in changes):
        what = "both bring `values` for"
    elif born and any(change.values for change in changes):
        what = "both add units to, and only one brings `values` for them,"
    else:
        return
    times = " and ".join(f"{m.name} {told(m.windows)}" for m in members)
    raise ValueError(
        f"{who} {what} {width!r}, at steps that aren't known to be apart ({times}); "
        "let them take turns, as gn.during(a, 0, 1_000) and gn.during(b, 1_000) do, or "
        "let one of them decide about it"
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


def _never(change: Change) -> bool:
    """Are no units born, whatever happens?"""
    return isinstance(change.add, int) and change.add == 0


def _leaf(evidence: Evidence, path: str) -> Any:
    if evidence.network is None:
        raise ValueError(
            f"a policy that rewrites {path!r} has to name 'network' in `needs` to take "
            "turns with others"
        )
    return array_leaves(evidence.network)[path]
