"""A call of the network as one flat program, run with taps.

Programs inside a program that run just once (`jit`, `remat`) are written out, so that
every equation stands at one level. Then values can be read off on the way, and zeros
added to them: the gradient with respect to such a tap is the cotangent there.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jexc
import jax.extend.source_info_util as jexs
import jax.numpy as jnp

from .._paths import array_leaves, is_array
from .._reading.aux import split_result
from .._reading.programs import traced
from .._replay.replay_rules import PROGRAMS


CALLS = PROGRAMS - {"scan", "while", "cond"}
"""What runs the program inside it once, and is written out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Flat:
    """The program of a scalar loss: its first inputs are the network's leaves."""

    jaxpr: Any
    consts: tuple[Any, ...]
    leaves: tuple[str, ...]

    def run(
        self,
        inputs: Sequence[Any],
        taps: Mapping[Any, Any],
        wanted: Sequence[Any],
    ) -> tuple[Any, list[Any]]:
        """The loss with `taps` added to the values of some variables, and the values
        of the `wanted` ones (taps included)."""
        seen: dict[Any, Any] = {}

        def meet(variable: Any, value: Any) -> Any:
            if variable in taps:
                value = value + taps[variable]
            seen[variable] = value
            return value

        (loss,) = _run(self.jaxpr, self.consts, inputs, meet)
        return loss, [seen[v] for v in wanted]


def flat_loss(net: Any, loss: Callable[..., Any], args: tuple[Any, ...]) -> Flat:
    """The flat program of `loss(net, *args)`, without what it returns beside."""
    value = lambda net, *args: split_result(loss(net, *args))[0]
    closed = traced(net, value, args).closed
    run = lambda *inputs: _run(closed.jaxpr, closed.consts, inputs)
    flat = jax.make_jaxpr(run)(*(v.aval for v in closed.jaxpr.invars))
    return Flat(flat.jaxpr, tuple(flat.consts), tuple(array_leaves(net)))


def flat_inputs(net: Any, args: tuple[Any, ...]) -> list[Any]:
    """What a flat program is run with: the network's leaves, then those of the
    arguments."""
    return [*array_leaves(net).values(), *filter(is_array, jax.tree.leaves(args))]


def _same(variable: Any, value: Any) -> Any:
    del variable
    return value


def _run(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    meet: Callable[[Any, Any], Any] = _same,
) -> list[Any]:
    """Interprets a program; `meet` may exchange what its equations give."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    for variable, value in zip(jaxpr.invars, inputs, strict=True):
        env[variable] = meet(variable, value)
    look = lambda atom: atom.val if isinstance(atom, jexc.Literal) else env[atom]
    for eqn in jaxpr.eqns:
        names = jexs.current_name_stack() + eqn.source_info.name_stack
        made = jexs.user_context(eqn.source_info.traceback, name_stack=names)
        with made, eqn.ctx.manager:
            args = [look(v) for v in eqn.invars]
            if eqn.primitive.name in CALLS:
                body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                inner = getattr(body, "jaxpr", body)
                results = _run(inner, getattr(body, "consts", ()), args)
            else:
                results = bind(eqn, args)
        for variable, result in zip(eqn.outvars, results, strict=True):
            env[variable] = meet(variable, result)
    return [look(v) for v in jaxpr.outvars]


def bind(eqn: Any, args: Sequence[Any], **changed: Any) -> list[Any]:
    """The equation's results, with some parameters changed."""
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    results = eqn.primitive.bind(*args, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def zeros_at(variable: Any) -> Any:
    """A tap for a variable."""
    return jnp.zeros(variable.aval.shape, variable.aval.dtype)
