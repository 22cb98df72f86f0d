"""Running a program that was read, at other sizes.

A reading keeps its tape: every equation with one node per axis of what went in and out.
Give the layouts behind these nodes new sizes, and every shape in the program is known,
so each equation can be bound anew, its shape parameters (the shape of a broadcast, the
bounds of a slice) recomputed. No line of the network's own code runs. What every
equation gives is held against the shape that the layouts predict.

What shapes can't tell is read off a *twin*: the same program as the network's own code
makes it at the new sizes. It lends its numbers and arrays (the n of a mean), and the
sizes of axes that no leaf has. Where no code could make one, a program is its own twin
and numbers stay as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jexc
import jax.extend.source_info_util as jexs
import jax.numpy as jnp
import numpy as np

from .._exactness.tape import Step, Tape
from .._reading.events import Value
from .._reading.layout import Atom, Layout, resized, size_of
from .._reading.reader import user_line
from .._reading.unify import Node, Solver
from .replay_derivatives import DERIVATIVES
from .replay_rules import as_it_is, PARAMETERS, PROGRAMS, Stuck


class ReplayError(ValueError):
    """An equation that can't be bound at these sizes; `line` is where."""

    def __init__(self, text: str, line: str):
        super().__init__(f"{text}, at {line}" if line else text)
        self.text, self.line = text, line


class Shapes:
    """Every axis of a program at new sizes.

    `ids` numbers atoms, `sizes` gives new sizes by number. Atoms that have no number
    yet get the next ones.
    """

    def __init__(self, solver: Solver, ids: dict[Node, int], sizes: dict[int, int]):
        self._solver = solver
        self._ids = ids
        self.sizes = sizes
        self._next = max([*ids.values(), *sizes], default=-1) + 1
        self._layouts: dict[Node, Layout] = {}
        self._known: dict[Node, int] = {}

    def layout(self, node: Node) -> Layout:
        """The layout as it was read."""
        if node not in self._layouts:
            self._layouts[node] = self._solver.layout(node, self._identify)
        return self._layouts[node]

    def _identify(self, atom: Node) -> int:
        if atom not in self._ids:
            self._ids[atom] = self._next
            self._next += 1
        return self._ids[atom]

    def resized(self, node: Node) -> Layout:
        return resized(self.layout(node), self.sizes)

    def size(self, node: Node) -> int:
        if node not in self._known:
            self._known[node] = size_of(self.resized(node))
        return self._known[node]

    def of(self, value: Value) -> tuple[int, ...]:
        """The new shape of a value."""
        return tuple(map(self.size, value.dims))

    def stays(self, *values: Value) -> bool:
        return all(self.size(d) == d.size for v in values for d in v.dims)

    def learn(self, node: Node, size: int) -> None:
        """Takes the size of an axis of which nothing is known."""
        layout = self.layout(node)
        if isinstance(layout, Atom):
            self.sizes.setdefault(layout.id, size)


class Replay:
    """Interprets a tape with arrays of the new shapes."""

    def __init__(self, shapes: Shapes, stack: Sequence[Any] = ()):
        self.shapes = shapes
        self._stack = list(stack)

    @property
    def stack(self) -> tuple[Any, ...]:
        """The equations that are being bound, outermost first."""
        return tuple(self._stack)

    def stuck(self, why: str) -> ReplayError:
        name = self._stack[-1].primitive.name
        text = f"the program can't be replayed at these sizes: `{name}`: {why}"
        return ReplayError(text, user_line(self._stack))

    def run(self, tape: Tape, twin: Tape, args: Sequence[Any]) -> list[Any]:
        """The outputs of the taped program."""
        env: dict[Any, Any] = dict(zip(tape.jaxpr.invars, args, strict=True))
        consts = zip(tape.consts, twin.consts, strict=True)
        known = dict(zip(tape.jaxpr.constvars, consts, strict=True))

        def look(atom: Any, other: Any, value: Value) -> Any:
            if isinstance(atom, jexc.Literal):
                return self._constant(atom.val, other.val, value)
            if atom in known:
                return self._constant(*known[atom], value)
            return env[atom]

        for step, other in zip(tape.steps, twin.steps, strict=True):
            self._stack.append(step.eqn)
            ins = zip(step.eqn.invars, other.eqn.invars, step.ins, strict=True)
            results = self._step(step, other, [look(*i) for i in ins])
            env.update(zip(step.eqn.outvars, results, strict=True))
            self._stack.pop()
        outs = zip(tape.jaxpr.outvars, twin.jaxpr.outvars, tape.outs, strict=True)
        return [look(*out) for out in outs]

    def _constant(self, constant: Any, other: Any, value: Value) -> Any:
        """A number or array of the program at its new shape."""
        shape = self.shapes.of(value)
        if np.shape(other) == shape:
            return other
        flat = np.asarray(constant).reshape(-1)
        if flat.size == 0 or not (flat == flat[0]).all():
            text = (
                "the program can't be replayed at these sizes: it holds an array of "
                f"shape {np.shape(constant)}, which can't be made again as {shape}"
            )
            raise ReplayError(text, user_line(self._stack))
        return jnp.full(shape, flat[0], flat.dtype)

    def _step(self, step: Step, twin: Step, args: list[Any]) -> list[Any]:
        eqn, name = step.eqn, step.eqn.primitive.name
        names = jexs.current_name_stack() + eqn.source_info.name_stack
        made = jexs.user_context(eqn.source_info.traceback, name_stack=names)
        with made, eqn.ctx.manager:
            try:
                if self._untouched(step, twin):
                    results = self.bind(step, args)
                elif name in DERIVATIVES:
                    results = DERIVATIVES[name](self, step, twin, args)
                elif name in PARAMETERS:
                    changed = PARAMETERS[name](self.shapes, step, args)
                    results = self.bind(step, args, **changed)
                elif name in PROGRAMS:
                    results = self.bind(step, args, **self._rebuilt(step, twin))
                elif as_it_is(name):
                    results = self.bind(step, args)
                else:
                    raise Stuck("replay has no rule for it")
            except ReplayError:
                raise
            except Stuck as why:
                raise self.stuck(str(why)) from None
            except Exception as error:
                raise self.stuck(str(error).strip().splitlines()[0]) from error
        self._check(step, results)
        return results

    def bind(self, step: Step, args: Sequence[Any], **changed: Any) -> list[Any]:
        """The equation's results, with some parameters changed."""
        primitive = step.eqn.primitive
        params = primitive.get_bind_params({**step.eqn.params, **changed})
        results = primitive.bind(*args, **params)
        return list(results) if primitive.multiple_results else [results]

    def _check(self, step: Step, results: Sequence[Any]) -> None:
        for var, value, result in zip(
            step.eqn.outvars, step.outs, results, strict=True
        ):
            shape = self.shapes.of(value)
            if np.shape(result) != shape or result.dtype != var.aval.dtype:
                raise self.stuck(
                    f"it gives {np.shape(result)} of {result.dtype} where the layouts "
                    f"say {shape} of {var.aval.dtype}"
                )

    # --- programs inside programs

    def body(self, tape: Tape, twin: Tape) -> Any:
        """A program inside the current equation as a closed jaxpr at the new shapes."""
        avals = [
            jax.ShapeDtypeStruct(
                self.shapes.of(value),
                var.aval.dtype,
                weak_type=getattr(var.aval, "weak_type", False),
            )
            for var, value in zip(tape.jaxpr.invars, tape.args, strict=True)
        ]
        return jax.make_jaxpr(self.function(tape, twin))(*avals)

    def function(self, tape: Tape, twin: Tape) -> Callable[..., list[Any]]:
        """The same as a function of arrays."""
        stack = self.stack

        def run(*args: Any) -> list[Any]:
            return Replay(self.shapes, stack).run(tape, twin, args)

        return run

    def _rebuilt(self, step: Step, twin: Step) -> dict[str, Any]:
        """The equation's parameters that are programs, at the new shapes."""
        waiting = list(zip(step.bodies, twin.bodies, strict=True))

        def rebuild(jaxpr: Any) -> Any:
            closed = isinstance(jaxpr, jexc.ClosedJaxpr)
            inner = jaxpr.jaxpr if closed else jaxpr
            for i, (tape, other) in enumerate(waiting):
                if tape.jaxpr is inner:
                    del waiting[i]
                    new = self.body(tape, other)
                    return new if closed else new.jaxpr
            raise Stuck("the program inside it wasn't read")

        programs = (jexc.Jaxpr, jexc.ClosedJaxpr)
        changed: dict[str, Any] = {}
        for key, value in step.eqn.params.items():
            if isinstance(value, programs):
                changed[key] = rebuild(value)
            elif isinstance(value, tuple) and value:
                if all(isinstance(v, programs) for v in value):
                    changed[key] = tuple(map(rebuild, value))
        if waiting:
            raise Stuck("one of the programs inside it isn't a parameter")
        if "length" in step.eqn.params:
            changed["length"] = self._length(step)
        return changed

    def _length(self, step: Step) -> int:
        """How often a scan runs: as often as its stacked inputs or outputs say."""
        params = step.eqn.params
        first = params["num_consts"] + params["num_carry"]
        stacked = (*step.ins[first:], *step.outs[params["num_carry"] :])
        lengths = {self.shapes.size(value.dims[0]) for value in stacked}
        if len(lengths) > 1:
            raise Stuck("its stacked inputs and outputs have different lengths")
        return lengths.pop() if lengths else params["length"]

    # --- what needn't be changed

    def _untouched(self, step: Step, twin: Step) -> bool:
        """Do all its shapes stay, and all numbers inside it?"""
        return self.shapes.stays(*step.ins, *step.outs) and all(
            self._same(tape, other)
            for tape, other in zip(step.bodies, twin.bodies, strict=True)
        )

    def _same(self, tape: Tape, twin: Tape) -> bool:
        if not self.shapes.stays(*tape.args, *tape.outs):
            return False
        steps = zip(tape.steps, twin.steps, strict=True)
        return all(self._untouched(*pair) for pair in steps) and (
            tape is twin or same_numbers(tape, twin)
        )


def same_numbers(tape: Tape, twin: Tape) -> bool:
    """Do two programs of the same equations hold the same numbers and arrays?"""
    for a, b in zip(numbers_of(tape), numbers_of(twin), strict=True):
        if np.shape(a) != np.shape(b) or not np.array_equal(a, b):
            return False
    return True


def numbers_of(tape: Tape) -> list[Any]:
    """The numbers and arrays that a program itself holds, without those inside it."""
    atoms = [v for step in tape.steps for v in step.eqn.invars]
    atoms += tape.jaxpr.outvars
    return [
        *tape.consts,
        *(v.val for v in atoms if isinstance(v, jexc.Literal)),
    ]
