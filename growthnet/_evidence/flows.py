"""Where the entries of an array are in a flat program, as long as they only move.

A *label* is an integer array beside a value: which entry of the array it came from is
each of its entries? Reshapes and transposes move labels as they move values; functions
of single entries keep them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax.extend.core as jexc
import numpy as np

from .._reading.rules.elementwise import ELEMENTWISE
from .flat import CALLS


Label = np.ndarray

_ALONE = frozenset(
    "convert_element_type copy copy_p reduce_precision name sharding_constraint "
    "device_put".split()
)


def _split(label: Label, params: dict[str, Any]) -> list[Label]:
    cuts = np.cumsum(params["sizes"])[:-1].tolist()
    return np.split(label, cuts, axis=params["axis"])


def _broadcast(label: Label, params: dict[str, Any]) -> list[Label]:
    shape, dims = params["shape"], params["broadcast_dimensions"]
    where = dict(zip(dims, label.shape, strict=True))
    lifted = label.reshape([where.get(d, 1) for d in range(len(shape))])
    return [np.broadcast_to(lifted, shape)]


def _sliced(label: Label, params: dict[str, Any]) -> list[Label]:
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return [label[tuple(map(slice, starts, stops, strides))]]


_MOVES: dict[str, Callable[[Label, dict[str, Any]], list[Label]]] = {
    "transpose": lambda x, p: [x.transpose(p["permutation"])],
    "reshape": lambda x, p: [x.reshape(p["new_sizes"])],
    "squeeze": lambda x, p: [x.squeeze(p["dimensions"])],
    "expand_dims": lambda x, p: [np.expand_dims(x, p["dimensions"])],
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "split": _split,
    **{name: lambda x, p: [x] for name in _ALONE},
}


def moved(eqn: Any, label: Label) -> list[Label] | None:
    """The labels of an equation's results, if all that it does is to move entries."""
    move = _MOVES.get(eqn.primitive.name)
    operands = [v for v in eqn.invars if not isinstance(v, jexc.Literal)]
    # A reshape names dimensions where it transposes as well.
    turned = (
        move is not None and eqn.params.get("dimensions") and "new_sizes" in eqn.params
    )
    if move is None or turned or len(operands) != 1:
        return None
    return move(label, eqn.params)


def entrywise(eqn: Any) -> bool:
    """Is every entry of the results a function of the entries at its place?"""
    bodies = list(_bodies(eqn))
    known = eqn.primitive.name in ELEMENTWISE
    if bodies:
        calls = eqn.primitive.name in CALLS or "custom_" in eqn.primitive.name
        known = calls and all(entrywise(e) for body in bodies for e in body.eqns)
    shapes = {getattr(v.aval, "shape", None) for v in eqn.outvars}
    inputs = {getattr(v.aval, "shape", None) for v in eqn.invars} - {()}
    return known and len(shapes) == 1 and all(_fits(i, *shapes) for i in inputs)


def _fits(shape: Any, result: Any) -> bool:
    """May the shape be stretched to the result's?"""
    if shape is None or result is None or len(shape) != len(result):
        return False
    return all(a in (1, b) for a, b in zip(shape, result, strict=True))


def _bodies(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        body = getattr(value, "jaxpr", value)
        if isinstance(body, jexc.Jaxpr):
            yield body


def follow(jaxpr: Any, variable: Any, *, entries: bool = False) -> dict[Any, Label]:
    """Labels of everything that a variable's entries move to; with `entries`, through
    functions of one of its entries, and of nothing else that depends on it."""
    count = int(np.prod(variable.aval.shape, dtype=np.int64))
    labels = {variable: np.arange(count).reshape(variable.aval.shape)}
    depends = {variable}
    for eqn in jaxpr.eqns:
        mine = [v for v in eqn.invars if not isinstance(v, jexc.Literal)]
        mine = [v for v in mine if v in depends]
        if not mine:
            continue
        depends.update(eqn.outvars)
        found = [labels[v] for v in mine if v in labels]
        if len(found) < len(mine):
            continue
        new = moved(eqn, found[0])
        if new is None and entries and entrywise(eqn):
            alike = all(np.array_equal(found[0], other) for other in found[1:])
            if alike and found[0].shape == eqn.outvars[0].aval.shape:
                new = [found[0]] * len(eqn.outvars)
        if new is not None:
            labels.update(zip(eqn.outvars, new, strict=True))
    return labels


def along_one_axis(numbers: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The only axis along which an array varies, and what it is there."""
    for axis in range(numbers.ndim):
        first = [slice(None) if d == axis else slice(0, 1) for d in range(numbers.ndim)]
        line = numbers[tuple(first)]
        if line.size > 1 and (line.reshape(-1) != line.reshape(-1)[0]).any():
            same = np.array_equal(numbers, np.broadcast_to(line, numbers.shape))
            return (axis, line.reshape(-1)) if same else None
    return None


def table_of(line: np.ndarray, units: int) -> np.ndarray | None:
    """Per unit, at which indices of an axis it is: `[units, as many for each]`."""
    rows = [np.flatnonzero(line == unit) for unit in range(units)]
    counts = {row.size for row in rows}
    return np.stack(rows) if len(counts) == 1 and 0 not in counts else None
