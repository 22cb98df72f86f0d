"""What running a program costs, in floating point operations, counted on its jaxpr."""

import math
from collections.abc import Iterator
from typing import Any

import jax.extend.core as jexc
import numpy as np


def flops(jaxpr: jexc.Jaxpr, convolution: float = 1.0) -> float:
    """Multiplications and additions of contractions, and one for every entry that
    anything else reads or makes. Infinite for a `while`, whose rounds nobody knows.
    Those of convolutions count `convolution` times."""
    return sum((_flops(eqn, convolution) for eqn in jaxpr.eqns), 0.0)


def _flops(eqn: Any, convolution: float) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        return math.inf
    inside = [flops(body, convolution) for body in _bodies(params)]
    if name == "scan":
        return params["length"] * sum(inside)
    if name == "cond":
        return max(inside)
    if inside:
        return sum(inside)
    made = max(_size(v) for v in eqn.outvars)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * made * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        makes = kernel[params["dimension_numbers"].rhs_spec[0]]
        return convolution * 2.0 * made * math.prod(kernel) / makes
    return float(max([made, *map(_size, eqn.invars)]))


def _bodies(params: dict[str, Any]) -> Iterator[jexc.Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, jexc.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, jexc.Jaxpr):
                yield one


def _size(variable: Any) -> int:
    return int(np.prod(getattr(variable.aval, "shape", ()), dtype=np.int64))
