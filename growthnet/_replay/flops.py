"""What running a program costs, in floating point operations: counted on its jaxpr as
it stands, or on its tape, as a function of the sizes of widths."""

import functools as ft
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.extend.core as jexc

from .._edits.statics import fitting
from .._exactness.tape import Step, Tape
from .._reading.anatomy import Anatomy, measure
from .._reading.programs import traced
from .._reading.trace import record, Source
from .counts import as_count, Count, largest, real
from .replayed import shapes_at


def flops(jaxpr: jexc.Jaxpr, convolution: float = 1.0) -> float:
    """Multiplications and additions of contractions, and one for every entry that
    anything else reads or makes. Infinite for a `while`, whose rounds nobody knows.
    Those of convolutions count `convolution` times."""
    total = 0.0
    for eqn in jaxpr.eqns:
        ins, outs = ([_shape(v) for v in side] for side in (eqn.invars, eqn.outvars))
        inside = [flops(body, convolution) for body in _bodies(eqn)]
        total = total + _work(eqn, ins, outs, inside, convolution)
    return total


def _work(
    eqn: Any, ins: list[Any], outs: list[Any], inside: Sequence[Any], convolution: float
) -> Any:
    """Of one equation, from the shapes of what goes in and comes out, and the work of
    the programs inside. Sizes are numbers or `Count`s."""
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        return math.inf
    if name == "scan":
        return _rounds(params, ins, outs) * sum(inside)
    if name == "cond":
        return largest(inside)
    if inside:
        return sum(inside)
    # What prints makes nothing.
    made = largest(math.prod(shape) for shape in outs) if outs else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * made * math.prod(ins[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        features = params["dimension_numbers"].rhs_spec[0]
        each = math.prod(n for axis, n in enumerate(ins[1]) if axis != features)
        return convolution * 2.0 * made * each
    return 1.0 * largest([made, *(math.prod(shape) for shape in ins)])


def _rounds(params: Mapping[str, Any], ins: list[Any], outs: list[Any]) -> Any:
    """How often a scan's body runs: what it goes along tells."""
    along = ins[params["num_consts"] + params["num_carry"] :]
    along = [*along, *outs[params["num_carry"] :]]
    return along[0][0] if along else params["length"]


_BY_ENTRY = ("scatter", "reduce", "select_and_scatter")
"""Primitives whose programs say what becomes of two entries."""


def _bodies(eqn: Any) -> Iterator[jexc.Jaxpr]:
    if eqn.primitive.name.startswith(_BY_ENTRY):
        return
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, jexc.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, jexc.Jaxpr):
                yield one


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(getattr(variable.aval, "shape", ()))


# --- at other sizes


def flops_at(anatomy: Anatomy, sizes: Mapping[str, Any] | None, which: int) -> Any:
    """As `Anatomy.flops`."""
    if anatomy.source is None:
        raise ValueError(
            "this anatomy doesn't know its network; take the one that `trace` or an "
            "edit gave"
        )
    if not 0 <= which < len(anatomy.source.calls):
        raise ValueError(
            f"which={which!r}, but {len(anatomy.source.calls)} calls were traced; 0 is "
            "`call`, 1 the first of `also`"
        )
    count = _counted(anatomy, anatomy.source, which)
    given = {anatomy.widths[n].id: real(size) for n, size in (sizes or {}).items()}
    return count.at({**{w.id: real(w.size) for w in anatomy.all_widths}, **given})


@ft.lru_cache(maxsize=64)
def _counted(anatomy: Anatomy, source: Source, which: int) -> Count:
    """The work of a call as a function of the sizes of the anatomy's widths.

    **Raises:** `ValueError` if the work can't be told.
    """
    recording = record(source)[which]
    shapes = shapes_at(recording, anatomy)
    ids = {w.id: Count.size(w.id) for w in anatomy.all_widths}
    length = ft.cache(lambda node: measure(shapes.layout(node), ids))
    count = as_count(_on_tape(recording.tape, length))
    if any(not math.isfinite(times) for _, times in count.terms):
        raise ValueError(
            "nobody knows how many operations this call executes: it has a "
            "`while_loop`, whose rounds depend on numbers; use `lax.scan`, or a budget "
            "of parameters or units"
        )
    _check_count(anatomy, source, which, count)
    return count


def _on_tape(tape: Tape, length: Callable[[Any], Any]) -> Any:
    total: Any = 0.0
    for step in tape.steps:
        total = total + _of_step(step, length)
    return total


def _of_step(step: Step, length: Callable[[Any], Any]) -> Any:
    ins, outs = (
        [tuple(map(length, v.dims)) for v in side] for side in (step.ins, step.outs)
    )
    bodies = list(_bodies(step.eqn))
    if len(bodies) == len(step.bodies):
        inside = [_on_tape(body, length) for body in step.bodies]
    else:  # Read as a whole: then its axes don't change.
        inside = [flops(body) for body in bodies]
    return _work(step.eqn, ins, outs, inside, 1.0)


def _check_count(anatomy: Anatomy, source: Source, which: int, count: Count) -> None:
    """Counts the network's own program at other sizes.

    **Raises:** `ValueError` if there the count says something else.
    """
    names = [w.name for w in anatomy.all_widths if w.growable]
    wanted = {n: 2 * anatomy.widths[n].size + 1 + i for i, n in enumerate(names)}
    wanted = fitting(source.skeleton, anatomy, wanted)
    other = source.at(anatomy, wanted)
    call, args = other.calls[which]
    found = flops(traced(other.skeleton, call, args).closed.jaxpr)
    sizes = {w.id: float(wanted.get(w.name, w.size)) for w in anatomy.all_widths}
    said = count.at(sizes)
    if said != found:
        told = ", ".join(f"{name} {size}" for name, size in wanted.items())
        raise ValueError(
            f"operations can't be told from sizes: at {told} this call executes "
            f"{found:.0f}, and its axes say {said:.0f}; use a budget of parameters or "
            "units"
        )
