"""Loops and branches: `scan`, `while`, `cond`.

A body is read with abstract inputs, and what comes out of one round goes into the next.
So the carried values are read again and again until nothing about them changes any
more; only the last reading counts (see `Reader.rehearse`).

A scan over leaves with a leading axis runs through stacked layers. That axis is a width
too: its units are layers.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._exactness.null_layers import null_layers
from ..events import Kind, Origin, Role, Stack, Value
from ..reader import Reader, Rule
from ..unify import Node


def scan(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Constants stay, carried values meet themselves, the rest loses or gains the axis
    that the scan runs along."""
    params = eqn.params
    body = params["jaxpr"]
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry = values[:fixed], values[fixed : fixed + carried]
    xs = values[fixed + carried :]
    along = _length(reader, params["length"], xs)
    rows = [_row(x) for x in xs]
    read = lambda now: reader.run(body.jaxpr, body.consts, [*consts, *now, *rows])
    results, outs = _settled(reader, carry, read)
    stacked = [x for x in xs if x.kind == Kind.PARAM]
    if stacked:
        cover, why = null_layers(reader.latest, fixed, carried)
        reader.events.append(Stack(along, cover, why, reader.line))
    for x in stacked:
        reader.touch(x, 0, Role.STACK)
    return [*results, *(_collect(reader, v, along) for v in outs)]


def _length(reader: Reader, length: int, xs: Sequence[Value]) -> Node:
    """The node of the axis that all scanned arrays share."""
    if not xs:
        (along,) = reader.dims((length,))
        reader.rigid(along, "a loop runs a fixed number of times")
        return along
    for x in xs[1:]:
        reader.solver.unify(xs[0].dims[0], x.dims[0])
    return xs[0].dims[0]


def _row(value: Value) -> Value:
    """One round's share of a scanned array."""
    origins = []
    for origin in value.origins:
        if origin.along == {0}:
            continue
        # Layers that were stacked by hand come from different leaves, row by row.
        rows = np.unique(origin.grid, axis=0) if 0 in origin.along else origin.grid[:1]
        along = frozenset(d - 1 for d in origin.along if d > 0)
        origins += [Origin(origin.leaf, origin.axis, row, along) for row in rows]
    return dataclasses.replace(
        value, dims=value.dims[1:], origins=tuple(origins), product=None
    )


def _collect(reader: Reader, value: Value, along: Node) -> Value:
    """What a round gives, lined up along a new first axis."""
    reader.absorb(value)
    kind = Kind.ACT if value.kind > Kind.CONST else Kind.CONST
    return Value(
        (along, *value.dims),
        kind,
        positive=value.positive,
        nonnegative=value.nonnegative,
    )


def _settled(
    reader: Reader,
    carry: Sequence[Value],
    read: Callable[[Sequence[Value]], list[Value]],
) -> tuple[list[Value], list[Value]]:
    """The carried values after a loop, and what else its body gives: from the reading
    whose inputs are settled."""
    now = [_unknown(v) for v in carry]
    while True:
        outs = reader.rehearse(ft.partial(read, now))
        for before, after in zip(now, outs, strict=False):
            _unify(reader, before, after)
        then = [_joined(a, b) for a, b in zip(now, outs, strict=False)]
        if all(a.kind == b.kind for a, b in zip(now, then, strict=True)):
            break
        now = then
    outs = read(now)
    results = []
    for first, inside, after in zip(carry, now, outs, strict=False):
        results.append(first if inside is after else _joined(inside, after))
        for value in (first, after):
            if value.kind < results[-1].kind:
                reader.absorb(value)
    return results, outs[len(carry) :]


def _unknown(value: Value) -> Value:
    """A carried value in any round but the first: its numbers are open."""
    return dataclasses.replace(
        value, literal=None, positive=False, nonnegative=False, product=None
    )


def _joined(before: Value, after: Value) -> Value:
    """What is carried is what came in or what goes out. Made of leaves it stays only if
    the loop doesn't change it."""
    if before is after:
        return before
    kind = max(before.kind, after.kind)
    return Value(before.dims, Kind.CONST if kind == Kind.CONST else Kind.ACT)


def _unify(reader: Reader, a: Value, b: Value) -> None:
    for x, y in zip(a.dims, b.dims, strict=True):
        reader.solver.unify(x, y)


def while_(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """A loop of unknown length; its condition is read as well."""
    params = eqn.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    asked, fixed = values[:first], values[first : first + second]
    carry = values[first + second :]
    cond, body = params["cond_jaxpr"], params["body_jaxpr"]
    read = lambda now: reader.run(body.jaxpr, body.consts, [*fixed, *now])
    results, _ = _settled(reader, carry, read)
    reader.run(cond.jaxpr, cond.consts, [*asked, *results])
    return results


def cond(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """All branches are read; their results are the same arrays."""
    _, *args = values
    branches = [
        reader.run(branch.jaxpr, branch.consts, args)
        for branch in eqn.params["branches"]
    ]
    return [
        _either(reader, alternatives) for alternatives in zip(*branches, strict=True)
    ]


def _either(reader: Reader, values: Sequence[Value]) -> Value:
    first = values[0]
    for other in values[1:]:
        _unify(reader, first, other)
    if all(v is first for v in values):
        return first
    kind = max(v.kind for v in values)
    for value in values:
        reader.absorb(value)
    return Value(
        first.dims,
        Kind.CONST if kind == Kind.CONST else Kind.ACT,
        positive=all(v.positive for v in values),
        nonnegative=all(v.positive or v.nonnegative for v in values),
    )


LOOPS: dict[str, Rule] = {"scan": scan, "while": while_, "cond": cond}
