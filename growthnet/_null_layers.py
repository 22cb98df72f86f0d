"""Layers that pass on what they are given: which leaves' zeros make one round of a scan
the identity? The walk is that of `_silence`, over the body of the scan."""

import dataclasses
from typing import Any

from ._events import Kind
from ._silence import (
    ALL_OF,
    all_of,
    ANY_OF,
    any_of,
    arrays_of,
    carries_zeros,
    Cause,
    nothing,
    SILENT,
)
from ._tape import Step, Tape


@dataclasses.dataclass(frozen=True)
class _Plus:
    """Carried value number `carry`, plus something that these leaves silence."""

    carry: int
    rest: Cause


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
            known[id(value)] = _Plus(k - fixed, SILENT)
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
        result = _layer_step(step, ins)
        for out in step.outs:
            # What passes an annotation is the same value, and known.
            if out not in step.ins:
                known[id(out)] = result


def _layer_step(step: Step, ins: list[Any]) -> Any:
    name = step.eqn.primitive.name
    plus = [x for x in ins if isinstance(x, _Plus)]
    if name in ANY_OF:
        return any_of([() if isinstance(x, _Plus) else x for x in ins])
    if plus:
        return _still_carried(step, ins, plus)
    if carries_zeros(step):
        return ins[0]
    return all_of(arrays_of(step, ins)) if name in ALL_OF else ()


def _still_carried(step: Step, ins: list[Any], plus: list[_Plus]) -> Any:
    """Carried values pass through sums and casts that lose nothing."""
    name, first = step.eqn.primitive.name, plus[0]
    if name in ("add", "add_any") or (name == "sub" and ins[0] is first):
        rest = all_of([first.rest, *(x for x in ins if not isinstance(x, _Plus))])
        return _Plus(first.carry, rest) if len(plus) == 1 else ()
    if name == "select_n" and len(plus) == len(ins) - 1:
        same = all(p.carry == first.carry for p in plus)
        return _Plus(first.carry, all_of([p.rest for p in plus])) if same else ()
    if name == "convert_element_type":
        (before,), (after,) = step.eqn.invars, step.eqn.outvars
        widens = after.aval.dtype.itemsize >= before.aval.dtype.itemsize
        # Back to what it was, after it was made wider.
        back = step.eqn.params["new_dtype"] == before.aval.dtype
        return first if widens or back else ()
    passes = ("copy", "copy_p", "optimization_barrier", "name", "sharding_constraint")
    return first if name in passes else ()
