"""Functions with derivatives of their own, at other sizes.

The derivative of a `jax.custom_jvp` or `jax.custom_vjp` isn't that of its body (a
straight-through estimator, the slope of relu at 0), so a body that changes takes its
derivative along: the derivative at the old sizes is traced, read like any program with
the axes of the function's inputs, and replayed where it is asked for.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any, TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._exactness.tape import Step, Tape
from .._reading.events import Kind, Value
from .._reading.layout import Atom, Layout, Prod
from .._reading.reader import Reader
from .._reading.rules import RULES
from .._reading.unify import Node
from .replay_rules import Stuck


if TYPE_CHECKING:
    from .replay import Replay, Shapes


def _custom_jvp(replay: "Replay", step: Step, twin: Step, args: list[Any]) -> list[Any]:
    function = jax.custom_jvp(_body(replay, step, twin))
    dotted = _inexact(step.eqn.invars)
    derivative = _Derivative(replay, step, twin, _jvp_of, dotted)
    outs = _inexact(step.eqn.outvars)

    @function.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        results = derivative(*primals, *(tangents[i] for i in dotted))
        values, dots = results[: len(step.outs)], iter(results[len(step.outs) :])
        all_dots = [
            next(dots) if i in outs else _no_tangent(value)
            for i, value in enumerate(values)
        ]
        return tuple(values), tuple(all_dots)

    return list(function(*args))


def _custom_vjp(replay: "Replay", step: Step, twin: Step, args: list[Any]) -> list[Any]:
    body = _body(replay, step, twin)
    function = jax.custom_vjp(body)
    derivative = _Derivative(replay, step, twin, _vjp_of, _inexact(step.eqn.outvars))
    dotted, outs = _pulled(step), _inexact(step.eqn.outvars)
    closed_over, stuck = step.eqn.params["num_consts"], replay.stuck

    def forward(*primals: Any) -> Any:
        if any(p.perturbed for p in primals[:closed_over]):
            raise stuck("a value that it closes over has no derivative")
        values = tuple(p.value for p in primals)
        return body(*values), values

    def backward(primals: Any, cotangents: Any) -> Any:
        dots = [_instantiated(cotangents[i]) for i in outs]
        found = iter(derivative(*primals, *dots))
        return tuple(next(found) if i in dotted else None for i in range(len(primals)))

    function.defvjp(forward, backward, symbolic_zeros=True)
    return list(function(*args))


def _pulled(step: Step) -> list[int]:
    """The inputs that cotangents come back for: not those that it closes over."""
    first = step.eqn.params["num_consts"]
    return [i for i in _inexact(step.eqn.invars) if i >= first]


def _instantiated(cotangent: Any) -> Any:
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        aval: Any = cotangent
        return jnp.zeros(aval.shape, aval.dtype)
    return cotangent


def _body(replay: "Replay", step: Step, twin: Step) -> Callable[..., Any]:
    if len(step.bodies) != 1:
        raise Stuck("the program inside it wasn't read")
    run = replay.function(step.bodies[0], twin.bodies[0])
    return lambda *args: tuple(run(*args))


class _Derivative:
    """The derivative of an equation as a program of its own, replayed when called.

    `make` gives, from the equation as a function, a function of its inputs and of one
    tangent (or cotangent) for each of the inexact inputs (or outputs).
    """

    def __init__(
        self,
        replay: "Replay",
        step: Step,
        twin: Step,
        make: Callable[[Step], Callable[..., Any]],
        dotted: Sequence[int],
    ):
        self._shapes, self._stack = replay.shapes, replay.stack
        self._new = type(replay)
        self._step, self._twin = step, twin
        self._make, self._dotted = make, dotted

    def __call__(self, *args: Any) -> list[Any]:
        try:
            tape, shapes = self._read(self._step, self._shapes.layout)
            other = tape
            if self._twin is not self._step:
                other, _ = self._read(self._twin, None)
            if not matches(tape, other):
                raise Stuck("its derivative is another program at these sizes")
        except Stuck as why:
            raise self._new(self._shapes, self._stack).stuck(str(why)) from None
        return self._new(shapes, self._stack).run(tape, other, args)

    def _read(
        self, step: Step, layout: Callable[[Node], Layout] | None
    ) -> tuple[Tape, "Shapes"]:
        """The derivative's tape, its axes those of the equation."""
        primals = list(zip(step.eqn.invars, step.ins, strict=True))
        others = primals
        if self._make is _vjp_of:
            others = list(zip(step.eqn.outvars, step.outs, strict=True))
        inputs = [*primals, *(others[i] for i in self._dotted)]
        avals = [
            jax.ShapeDtypeStruct(value.shape, var.aval.dtype) for var, value in inputs
        ]
        closed = jax.make_jaxpr(self._make(step))(*avals)
        if any(isinstance(c, Tracer) for c in closed.consts):
            raise Stuck(
                "its derivative closes over a value of the program; give it that as an "
                "argument"
            )
        reader = Reader(RULES)
        atoms: dict[int, Node] = {}

        def node(tree: Layout) -> Node:
            if isinstance(tree, Atom):
                return atoms.setdefault(tree.id, Node(tree.size))
            if isinstance(tree, Prod):
                return reader.solver.prod([node(f) for f in tree.factors])
            return reader.solver.sum([node(s) for s in tree.segments])

        def dims(value: Value) -> tuple[Node, ...]:
            if layout is None:
                return reader.dims(value.shape)
            return tuple(node(layout(d)) for d in value.dims)

        args = [Value(dims(v), Kind.ACT, literal=v.literal) for _, v in inputs]
        reader.run(closed.jaxpr, closed.consts, args)
        return reader.tapes[0], _inherited(self._shapes, reader, atoms)


def _inherited(parent: "Shapes", reader: Reader, atoms: dict[int, Node]) -> "Shapes":
    """The new sizes of atoms that come from outside. Where the derivative tells more
    of such an axis than the program did, it has to be one that stays."""
    ids: dict[Node, int] = {}
    for id, node in atoms.items():
        root = reader.solver.find(node)
        new = parent.sizes.get(id, node.size)
        if root.form is None:
            known = ids.setdefault(root, id)
            if parent.sizes.get(known, node.size) == new:
                continue
        if new != node.size:
            raise Stuck("its derivative takes apart units that change")
    return type(parent)(reader.solver, ids, dict(parent.sizes))


def _jvp_of(step: Step) -> Callable[..., Any]:
    dotted, outs = _inexact(step.eqn.invars), _inexact(step.eqn.outvars)
    function = ft.partial(_bound, step)

    def program(*inputs: Any) -> Any:
        primals = inputs[: len(step.ins)]
        given = dict(zip(dotted, inputs[len(step.ins) :], strict=True))
        dots = [given.get(i, _no_tangent(p)) for i, p in enumerate(primals)]
        values, dots = jax.jvp(function, primals, tuple(dots))
        return [*values, *(dots[i] for i in outs)]

    return program


def _vjp_of(step: Step) -> Callable[..., Any]:
    dotted, outs = _pulled(step), _inexact(step.eqn.outvars)
    first = step.eqn.params["num_consts"]

    def program(*inputs: Any) -> Any:
        function = ft.partial(_bound, step, *inputs[:first])
        values, pull = jax.vjp(function, *inputs[first : len(step.ins)])
        given = dict(zip(outs, inputs[len(step.ins) :], strict=True))
        found = pull(
            tuple(given.get(i, _no_tangent(value)) for i, value in enumerate(values))
        )
        return [found[i - first] for i in dotted]

    return program


def _bound(step: Step, *args: Any) -> tuple[Any, ...]:
    """The equation as a function, at the sizes that it was read with."""
    primitive = step.eqn.primitive
    return tuple(primitive.bind(*args, **primitive.get_bind_params(step.eqn.params)))


def _inexact(variables: Sequence[Any]) -> list[int]:
    """Those that have a derivative."""
    return [
        i
        for i, var in enumerate(variables)
        if jnp.issubdtype(var.aval.dtype, jnp.inexact)
    ]


def _no_tangent(value: Any) -> Any:
    return np.zeros(np.shape(value), jax.dtypes.float0)


def matches(tape: Tape, twin: Tape) -> bool:
    """Are these the same equations, whatever their shapes and numbers?"""
    if tape is twin:
        return True
    alike = len(tape.steps) == len(twin.steps) and all(
        map(_alike, tape.steps, twin.steps)
    )
    counts = [(len(t.consts), len(t.args), len(t.outs)) for t in (tape, twin)]
    kinds = [[type(v) for v in t.jaxpr.outvars] for t in (tape, twin)]
    return alike and counts[0] == counts[1] and kinds[0] == kinds[1]


def _alike(step: Step, twin: Step) -> bool:
    a, b = step.eqn, twin.eqn
    return (
        a.primitive is b.primitive
        and [type(v) for v in a.invars] == [type(v) for v in b.invars]
        and len(a.outvars) == len(b.outvars)
        and len(step.bodies) == len(twin.bodies)
        and all(map(matches, step.bodies, twin.bodies))
    )


DERIVATIVES: dict[str, Callable[["Replay", Step, Step, list[Any]], list[Any]]] = {
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "custom_vjp_call_jaxpr": _custom_vjp,
}
