"""Layers that pass on what they are given: which leaves' zeros make one round of a scan
the identity? The walk is that of `silence`, over the body of the scan."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._reading.events import Kind
from .silence import (
    ALL_OF,
    all_of,
    ANY_OF,
    any_of,
    arrays_of,
    carries_zeros,
    Cause,
    nothing,
    SILENT,
    source_of,
)
from .tape import Step, Tape


_UNCHANGED = set("copy copy_p optimization_barrier name sharding_constraint".split())


@dataclasses.dataclass(frozen=True)
class _Plus:
    """Carried value number `carry`, plus something that these leaves silence. What is
    carried has this `dtype`, whatever it was cast to since."""

    carry: int
    dtype: np.dtype
    rest: Cause

    def held_by(self, dtype: np.dtype) -> bool:
        """Does this dtype have every number that may be carried? Casts from integers to
        floats are left out: NumPy calls some safe that aren't."""
        floats = {jnp.issubdtype(d, np.inexact) for d in (self.dtype, dtype)}
        return len(floats) == 1 and np.can_cast(self.dtype, dtype)


def null_layers(
    tape: Tape, fixed: int, carried: int
) -> tuple[tuple[int, ...] | None, str]:
    """The leaves whose zeros make one round of a scan pass on what it carries.

    **Returns:** the leaves, or `None` and the reason.
    """
    if len(tape.outs) > carried:
        return None, "every layer's result is collected"
    known: dict[int, Cause | _Plus] = {}
    for k, value in enumerate(tape.args):
        if fixed <= k < fixed + carried:
            dtype = tape.jaxpr.invars[k].aval.dtype
            known[id(value)] = _Plus(k - fixed, dtype, SILENT)
        elif k >= fixed + carried and value.kind == Kind.PARAM:
            leaves = frozenset(o.leaf for o in value.origins)
            known[id(value)] = (leaves,) if leaves else ()
    _walk_layer(tape, known)
    cover: frozenset[int] = frozenset()
    for i, out in enumerate(tape.outs):
        found = known.get(id(out))
        if not isinstance(found, _Plus) or found.carry != i or not found.rest:
            return None, "a new layer wouldn't pass on what it is given"
        cover |= found.rest[0]
    return tuple(sorted(cover)), ""


def _walk_layer(tape: Tape, known: dict[int, Any]) -> None:
    for step in tape.steps:
        if len(step.bodies) == 1 and step.eqn.primitive.name not in ("scan", "while"):
            _walk_layer(step.bodies[0], known)
            continue
        ins = [SILENT if nothing(v) else known.get(id(v), ()) for v in step.ins]
        for k, out in enumerate(step.outs):
            # What passes an annotation is the same value, and known.
            if out not in step.ins:
                known[id(out)] = _layer_step(step, k, ins)


def _layer_step(step: Step, k: int, ins: list[Any]) -> Any:
    """What is known of result `k`."""
    name = step.eqn.primitive.name
    if name in ANY_OF:
        return any_of([() if isinstance(x, _Plus) else x for x in ins])
    if name in ALL_OF:
        return _met(name, arrays_of(step, ins))
    source = source_of(step, k)
    found = () if source is None else ins[source]
    if isinstance(found, _Plus):
        return found if _passes(step, k, found) else ()
    return found if carries_zeros(step) else ()


def _met(name: str, values: list[Any]) -> Any:
    """What several values make together: sums of what is carried and something silent,
    and choices between several such sums, still are what is carried."""
    plus = [x for x in values if isinstance(x, _Plus)]
    others = [x for x in values if not isinstance(x, _Plus)]
    if not plus:
        return all_of(others)
    first = plus[0]
    if name == "select_n":
        same = not others and all(p.carry == first.carry for p in plus)
    else:
        summed = name in ("add", "add_any") or (name == "sub" and values[0] is first)
        same = summed and len(plus) == 1
    rest = all_of([*(p.rest for p in plus), *others])
    return dataclasses.replace(first, rest=rest) if same else ()


def _passes(step: Step, k: int, plus: _Plus) -> bool:
    """Does what is carried come through as it is?"""
    name = step.eqn.primitive.name
    if name == "convert_element_type":
        return plus.held_by(step.eqn.outvars[k].aval.dtype)
    return name in _UNCHANGED
