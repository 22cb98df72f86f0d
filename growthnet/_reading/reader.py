"""Reading a program: which axes of which leaves share their units.

`read` interprets a jaxpr with abstract values. A value carries one `Node` per axis and,
as long as it is made of parameters only, its *origins*: which index of which leaf axis
each of its entries comes from. Rules (see `rules`) unify nodes and record *events*
(somebody produces these units, somebody reduces over them). Events keep nodes, not
atoms, and are resolved after the whole program was read: so it doesn't matter that an
axis is refined after the event happened.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jexc
import jax.numpy as jnp
import numpy as np

from .._exactness.tape import Step, Tape
from .events import (
    Contraction,
    Event,
    Kind,
    Number,
    Reduction,
    Rigid,
    Role,
    Spot,
    Touch,
    Value,
)
from .unify import Node, Solver


_HERE = os.path.dirname(os.path.dirname(__file__)).replace(os.sep, "/") + "/"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read: nodes per leaf axis, the events, the numbers in the programs,
    the leaves that are used, and the programs themselves."""

    solver: Solver
    leaves: tuple[tuple[Node, ...], ...]
    events: tuple[Event, ...]
    numbers: tuple[Number, ...]
    unknown: tuple[str, ...]
    used: frozenset[int]
    tapes: tuple[Tape, ...]


Rule = Callable[["Reader", Any, tuple[Value, ...]], Sequence[Value] | Value]


class Reader:
    """Interprets a program, collecting nodes and events."""

    def __init__(self, rules: dict[str, Rule]):
        self.rules = rules
        self.events: list[Event] = []
        self.numbers: list[Number] = []
        self.unknown: dict[str, None] = {}
        self.solver = Solver(lambda node, why: self.rigid(node, why))
        self._stack: list[Any] = []
        self._bodies: list[list[Tape]] = [[]]

    # --- what rules use

    def dims(self, shape: Sequence[int]) -> tuple[Node, ...]:
        """Fresh nodes: axes of which nothing is known yet."""
        return tuple(Node(int(n)) for n in shape)

    def out(self, i: int = 0) -> tuple[int, ...]:
        """The shape of the equation's i-th result."""
        return tuple(self._stack[-1].outvars[i].aval.shape)

    @property
    def tapes(self) -> tuple[Tape, ...]:
        """The programs that were read."""
        return tuple(self._bodies[0])

    @property
    def latest(self) -> Tape:
        """The body of the current equation that was read last."""
        return self._bodies[-1][-1]

    @property
    def outputs(self) -> Sequence[Any]:
        """The variables that the current equation binds."""
        return self._stack[-1].outvars

    def rigid(self, node: Node, reason: str) -> None:
        self.events.append(Rigid(node, reason, self.line))

    def touch(self, value: Value, dim: int, role: Role) -> None:
        """A leaf's axis does something to the units of `value`'s axis `dim`."""
        found = spots(value, dim)
        if found:
            self.events.append(Touch(value.dims[dim], role, found))

    def untouch(self, value: Value, dim: int, role: Role) -> None:
        """Takes a `touch` back: what followed showed that it was something else."""
        gone = (value.dims[dim], role, spots(value, dim))
        self.events = [
            e
            for e in self.events
            if not (isinstance(e, Touch) and (e.node, e.role, e.spots) == gone)
        ]

    def contract(self, a: Value, i: int, b: Value, j: int) -> None:
        """Axis `i` of `a` is summed against axis `j` of `b`."""
        self.solver.unify(a.dims[i], b.dims[j])
        self.events.append(Contraction(a.dims[i], (a, b), (i, j), self.line))

    def reduce(self, value: Value, dim: int, what: str, how: str = "") -> None:
        """The units of `value`'s axis `dim` are looked at together. `how` names the
        primitive if it is one of the usual reductions; `"undefined"` says that a
        function needn't be finite for units whose numbers are random, `"singular"`
        that it isn't for those that hold zeros."""
        self.events.append(Reduction(value.dims[dim], value, what, how, self.line))

    def absorb(self, value: Value) -> None:
        """A value of parameters becomes part of an activation."""
        if value.kind in (Kind.PARAM, Kind.ROWS):
            for dim in range(len(value.dims)):
                self.touch(value, dim, Role.PRODUCER)

    def rehearse(self, run: Callable[[], list[Value]]) -> list[Value]:
        """Reads a body whose inputs aren't settled yet: nodes stay unified and rigid
        axes rigid, everything else that was noted is forgotten."""
        events, numbers = len(self.events), len(self.numbers)
        bodies = len(self._bodies[-1])
        values = run()
        rigid = [e for e in self.events[events:] if isinstance(e, Rigid)]
        self.events[events:] = rigid
        del self.numbers[numbers:]
        del self._bodies[-1][bodies:]
        return values

    @property
    def line(self) -> str:
        """The user's line."""
        return user_line(self._stack)

    # --- running

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]):
        """Interprets an open jaxpr; returns the values of its outputs."""
        tape = Tape(jaxpr, tuple(consts), tuple(args), [], [])
        self._bodies[-1].append(tape)
        env: dict[Any, Value] = {}
        env.update(zip(jaxpr.constvars, map(self._const, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def look(atom: Any) -> Value:
            if isinstance(atom, jexc.Literal):
                return self._const(atom.val)
            return env[atom]

        for eqn in jaxpr.eqns:
            self._stack.append(eqn)
            self._bodies.append([])
            values = tuple(look(v) for v in eqn.invars)
            rule = self.rules.get(eqn.primitive.name, unknown_primitive)
            results = rule(self, eqn, values)
            if isinstance(results, Value):
                results = [results]
            for var, value in zip(eqn.outvars, results, strict=True):
                shape = tuple(getattr(var.aval, "shape", ()))
                assert value.shape == shape, eqn.primitive.name
                env[var] = value
            bodies = tuple(self._bodies.pop())
            tape.steps.append(Step(eqn, values, tuple(results), bodies))
            self._stack.pop()
        tape.outs.extend(look(v) for v in jaxpr.outvars)
        return tape.outs

    def _const(self, constant: Any) -> Value:
        shape = np.shape(constant)
        if shape == ():
            literal = constant if isinstance(constant, bool | int | float) else None
            if literal is None and isinstance(constant, np.generic | np.ndarray):
                literal = np.asarray(constant).item()
            value = Value((), Kind.CONST, literal=literal)
            self._note_number(value, constant)
            return value
        value = Value(self.dims(shape), Kind.CONST)
        try:
            flat = np.asarray(constant).reshape(-1)
            uniform = flat.size == 0 or bool((flat == flat[0]).all())
            if uniform and flat.size:
                self._note_number(value, flat[0])
        except Exception:  # typed keys and the like
            uniform = True
        if not uniform:
            for node in value.dims:
                self.rigid(node, "a constant array of the program has this axis")
        return value

    def _note_number(self, value: Value, x: Any) -> None:
        """Remembers the inexact numbers: those that change with a width are baked."""
        dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
        if jnp.issubdtype(dtype, jnp.inexact):
            name = self._stack[-1].primitive.name if self._stack else "a constant"
            self.numbers.append(Number(value, name, float(np.real(x)), self.line))


def unknown_primitive(reader: Reader, eqn: Any, values: tuple[Value, ...]):
    """No rule: every axis in and out is rigid, with the primitive's name."""
    name = eqn.primitive.name
    reader.unknown[name] = None
    return opaque(reader, values, f"`{name}` isn't understood")


def opaque(reader: Reader, values: Sequence[Value], reason: str) -> list[Value]:
    """Every axis in and out of the current equation is rigid."""
    kind = max((v.kind for v in values), default=Kind.CONST)
    shapes = [getattr(v.aval, "shape", ()) for v in reader.outputs]  # tokens have none
    results = [Value(reader.dims(shape), kind) for shape in shapes]
    for value in (*values, *results):
        for node in value.dims:
            reader.rigid(node, reason)
    for value in values:
        reader.absorb(value)
    return results


def spots(value: Value, dim: int) -> tuple[Spot, ...]:
    """The leaf axes (and which of their indices) that vary along a value's axis."""
    found = []
    for origin in value.origins:
        if dim not in origin.along:
            continue
        if origin.along == {dim}:
            indices = origin.grid.reshape(-1)
        else:
            indices = np.unique(origin.grid)
        indices = indices[indices >= 0]
        found.append(Spot(origin.leaf, origin.axis, _run(indices)))
    return tuple(found)


def _run(indices: np.ndarray) -> range | tuple[int, ...]:
    if indices.size and (np.diff(indices) == 1).all():
        return range(int(indices[0]), int(indices[-1]) + 1)
    return tuple(indices.tolist())


def user_line(stack: Sequence[Any]) -> str:
    """The user's line of an equation inside others, outermost first; inside cached
    library programs, that of their caller."""
    lines = [source_line(eqn) for eqn in reversed(stack)]
    own = [text for text, inside in lines if text and not inside]
    return next(iter(own), next((text for text, _ in lines if text), ""))


def source_line(eqn: Any) -> tuple[str, bool]:
    """Where an equation was made, as `file.py:31 (forward)`, and whether that is inside
    an installed package: the innermost frame outside one, else outside JAX."""
    made = getattr(getattr(eqn, "source_info", None), "traceback", None)
    library = ""
    for frame in made.frames if made is not None else ():
        path = frame.file_name.replace(os.sep, "/")
        if "/site-packages/jax/" in path or path.startswith((_HERE, "<")):
            continue
        text = f"{os.path.basename(path)}:{frame.line_num} ({frame.function_name})"
        if "/site-packages/" not in path:
            return text, False
        library = library or text
    return library, True


def error_line(error: BaseException) -> str:
    """The user's line that raised: the innermost frame outside installed packages."""
    line = ""
    # By hand: `traceback.extract_tb` looks at every source file.
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        path = code.co_filename.replace(os.sep, "/")
        if "/site-packages/" not in path and not path.startswith((_HERE, "<")):
            line = f"{os.path.basename(path)}:{frame.tb_lineno} ({code.co_name})"
        frame = frame.tb_next
    return line
