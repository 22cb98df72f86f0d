"""Convolutions that are fast inside a loop on a processor.

XLA's compiler for processors has a fast convolution for one order of axes: examples,
places, channels; the kernel's places, its inputs, its outputs. It brings others into
that order by itself, but only outside of loops (jax-ml/jax issue 12868), and a run is a
loop. So the order is changed here, in the program of the loop's body, where those of
the gradient are seen too. Numbers are those of the same sums, to rounding.
"""

import functools as ft
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import jax.tree_util as jtu


CONVOLUTION = "conv_general_dilated"


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays with all convolutions of its program, and of programs inside
    it, in the order that is fast; the function itself where it has none, and on other
    devices than processors."""

    @ft.wraps(function)
    def rewritten(*args: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*args)
        leaves, tree = jtu.tree_flatten(args)
        flat = lambda *leaves: function(*jtu.tree_unflatten(tree, leaves))
        program, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        if not any(_slow(program.jaxpr)):
            return function(*args)
        outs = jexc.jaxpr_as_fun(_closed(program))(*leaves)
        return jtu.tree_unflatten(jtu.tree_structure(shapes), outs)

    return rewritten


def _slow(jaxpr: Any) -> Iterator[bool]:
    """Of every convolution: is its order another?"""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == CONVOLUTION:
            rank = eqn.outvars[0].aval.ndim
            yield eqn.params["dimension_numbers"] != _fast(rank)
        for inner in _programs(eqn.params):
            yield from _slow(inner)


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """Those that are parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, jexc.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jexc.Jaxpr):
                yield item


def _closed(program: Any) -> Any:
    return program.replace(jaxpr=_rewritten(program.jaxpr))


def _rewritten(jaxpr: Any) -> Any:
    """The program with all its convolutions, and those inside it, in the fast order."""
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == CONVOLUTION:
            eqns += _turned(eqn)
        else:
            params = {name: _program(value) for name, value in eqn.params.items()}
            eqns.append(eqn.replace(params=params))
    return jaxpr.replace(eqns=eqns)


def _program(value: Any) -> Any:
    if isinstance(value, jexc.ClosedJaxpr):
        return _closed(value)
    if isinstance(value, jexc.Jaxpr):
        return _rewritten(value)
    if type(value) is tuple:
        return tuple(map(_program, value))
    return value


def _turned(eqn: Any) -> list[Any]:
    """Equations in place of a convolution: axes are moved, it is made, and moved
    back."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    convolve = ft.partial(_convolved, **eqn.params)
    inner = jax.make_jaxpr(convolve)(*shapes).jaxpr
    known = dict(zip(inner.invars, eqn.invars, strict=True))
    known |= dict(zip(inner.outvars, eqn.outvars, strict=True))
    name = lambda v: v if isinstance(v, jexc.Literal) else known.get(v, v)
    return [
        e.replace(
            invars=[*map(name, e.invars)],
            outvars=[*map(name, e.outvars)],
            source_info=eqn.source_info,
        )
        for e in inner.eqns
    ]


def _convolved(lhs: Any, rhs: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    ins, kernel, outs = dimension_numbers
    first = lambda spec: (spec[0], *spec[2:], spec[1])
    lhs = jnp.transpose(lhs, first(ins))
    rhs = jnp.transpose(rhs, (*kernel[2:], kernel[1], kernel[0]))
    primitive = jax.lax.conv_general_dilated_p
    out = primitive.bind(lhs, rhs, dimension_numbers=_fast(lhs.ndim), **params)
    order = first(outs)
    return jnp.transpose(out, tuple(order.index(i) for i in range(out.ndim)))


def _fast(rank: int) -> Any:
    places = tuple(range(1, rank - 1))
    examples = (0, rank - 1, *places)
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return jax.lax.ConvDimensionNumbers(examples, kernel, examples)
