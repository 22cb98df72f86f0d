"""What has to change in an equation when its shapes do, primitive by primitive.

`PARAMETERS` has a function for every primitive with parameters that speak of sizes:
`(shapes, step, args) -> parameters to change`. It may replace entries of `args`, where
a size is an operand (the start of a slice). Those that `as_it_is` knows have no such
parameters, and those in `PROGRAMS` are bound with their programs replayed. Any other
primitive can't be replayed where its shapes change.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from .._exactness.tape import Step
from .._reading.events import Value
from .._reading.layout import moved_cut
from .._reading.rules.elementwise import ELEMENTWISE
from .._reading.rules.reduce import REDUCTIONS


if TYPE_CHECKING:
    from .replay import Shapes


Parameters = Callable[["Shapes", Step, list[Any]], dict[str, Any]]


class Stuck(Exception):
    """The equation can't be bound at the new sizes; the text says why."""


def _changed(shapes: "Shapes", value: Value) -> list[int]:
    """The axes whose sizes or insides change."""
    return [
        d
        for d, node in enumerate(value.dims)
        if shapes.layout(node) != shapes.resized(node)
    ]


def _cut(shapes: "Shapes", value: Value, axis: int, at: int) -> int:
    """Where index `at` of an axis has moved."""
    node = value.dims[axis]
    new = moved_cut(shapes.layout(node), shapes.resized(node), at)
    if new is None:
        raise Stuck(f"index {at} of axis {axis} cuts through units that change")
    return new


def _unmoved(shapes: "Shapes", value: Value, axes: Sequence[int], what: str) -> None:
    """These axes must stay as they are."""
    for axis in _changed(shapes, value):
        if axis in axes:
            raise Stuck(f"{what} axis {axis}, whose units change")


# --- shapes


def _broadcast(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    del args
    return {"shape": shapes.of(step.outs[0])}


def _reshape(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    del args
    if step.eqn.params.get("dimensions") is not None:
        raise Stuck("it permutes dimensions")
    return {"new_sizes": shapes.of(step.outs[0])}


def _slice(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Bounds follow the cuts that they make."""
    del args
    (value,), params = step.ins, step.eqn.params
    starts, stops = list(params["start_indices"]), list(params["limit_indices"])
    strides = params["strides"] or (1,) * len(starts)
    for d in _changed(shapes, value):
        if strides[d] != 1:
            raise Stuck(f"it takes every {strides[d]}th unit of axis {d}")
        if starts[d] == stops[d]:
            starts[d] = stops[d] = 0
        else:
            starts[d] = _cut(shapes, value, d, int(starts[d]))
            stops[d] = _cut(shapes, value, d, int(stops[d]))
    return {"start_indices": tuple(starts), "limit_indices": tuple(stops)}


def _split(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """The pieces' sizes; their cuts have to be where the layouts have them."""
    del args
    (value,), axis = step.ins, step.eqn.params["axis"]
    sizes, at, last = [], 0, 0
    for size in map(int, step.eqn.params["sizes"]):
        at += size
        cut = _cut(shapes, value, axis, at)
        sizes.append(cut - last)
        last = cut
    return {"sizes": tuple(sizes)}


# --- made anew


def _iota(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    del args
    return {"shape": shapes.of(step.outs[0])}


def _random_bits(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """An array of keys comes first in the shape of the result."""
    del args
    keys = len(step.ins[0].dims)
    return {"shape": shapes.of(step.outs[0])[keys:]}


def _random_split(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    return _random_bits(shapes, step, args)


def _generated(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    del args
    return {"shape": shapes.of(step.outs[-1])}


# --- by index


def _gather(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Windows follow the axes of the result."""
    numbers, sizes = (
        step.eqn.params["dimension_numbers"],
        step.eqn.params["slice_sizes"],
    )
    mapped, batched = numbers.start_index_map, numbers.operand_batching_dims
    _move_indices(shapes, step, args, dict(enumerate(sizes)), mapped, batched)
    dropped = (*numbers.collapsed_slice_dims, *batched)
    kept = [d for d in range(len(sizes)) if d not in dropped]
    new, out = list(sizes), shapes.of(step.outs[0])
    for d, at in zip(kept, numbers.offset_dims, strict=True):
        new[d] = out[at]
    return {"slice_sizes": tuple(new)}


def _scatter(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Windows follow the axes of what is written."""
    operand, _, updates = step.ins[:3]
    numbers = step.eqn.params["dimension_numbers"]
    mapped = numbers.scatter_dims_to_operand_dims
    batched = numbers.operand_batching_dims
    dropped = (*numbers.inserted_window_dims, *batched)
    kept = [d for d in range(len(operand.dims)) if d not in dropped]
    places = zip(kept, numbers.update_window_dims, strict=True)
    sizes = {d: updates.dims[at].size for d, at in places}
    _move_indices(shapes, step, args, sizes, mapped, batched)
    return {}


def _move_indices(
    shapes: "Shapes",
    step: Step,
    args: list[Any],
    sizes: Mapping[int, int],
    mapped: Sequence[int],
    batched: Sequence[int],
) -> None:
    """Where units of an axis change, an index that is known moves with the cut that it
    makes, and an axis that is taken whole needs none; a position that is data would
    mean other units than before."""
    operand, indices = step.ins[:2]
    for d in _changed(shapes, operand):
        size = sizes.get(d, 1)
        if d in batched or size == operand.dims[d].size:
            continue
        start = 0 if d not in mapped else indices.literal
        if start is None or not 0 <= start <= operand.dims[d].size - size:
            raise Stuck(f"it looks up units of axis {d}, and these change")
        moved = _cut(shapes, operand, d, int(start))
        _cut(shapes, operand, d, int(start) + size)
        if moved == start or d not in mapped:
            continue
        if len(mapped) == 1:  # Made so that a reading still sees a known index.
            args[1] = jnp.full(np.shape(args[1]), moved, args[1].dtype)
        else:
            column = np.arange(len(mapped)) == list(mapped).index(d)
            args[1] = jnp.where(column, moved, args[1]).astype(args[1].dtype)


def _dynamic_slice(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Axes that are taken whole follow; known starts move with the cuts they make."""
    sizes = list(step.eqn.params["slice_sizes"])
    _move_starts(shapes, step, args, sizes, 1)
    return {"slice_sizes": shapes.of(step.outs[0])}


def _dynamic_update(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    _move_starts(shapes, step, args, [node.size for node in step.ins[1].dims], 2)
    return {}


def _move_starts(
    shapes: "Shapes", step: Step, args: list[Any], sizes: Sequence[int], first: int
) -> None:
    operand = step.ins[0]
    for d in _changed(shapes, operand):
        last = operand.dims[d].size - sizes[d]
        start = step.ins[first + d].literal if last else 0
        if start is None:
            raise Stuck(f"its start in axis {d} isn't known, and units of it change")
        start = min(max(int(start), 0), last)  # As JAX pushes it inside.
        moved = _cut(shapes, operand, d, start)
        _cut(shapes, operand, d, start + sizes[d])
        args[first + d] = np.asarray(moved, jnp.result_type(args[first + d]))


# --- windows


def _convolution(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Groups are as many as the input has channels for a kernel's."""
    del shapes
    params = step.eqn.params
    if params["feature_group_count"] == 1:
        return {}
    numbers = params["dimension_numbers"]
    channels = args[0].shape[numbers.lhs_spec[1]]
    groups, rest = divmod(channels, args[1].shape[numbers.rhs_spec[1]])
    if rest:
        raise Stuck(f"{channels} channels can't be shared out to its groups")
    return {"feature_group_count": groups}


def _window(shapes: "Shapes", step: Step, args: list[Any]) -> dict[str, Any]:
    """Windows of one index leave an axis alone."""
    del args
    names = ("window_dimensions", "window_strides", "base_dilation", "padding")
    settings = [step.eqn.params.get(name) for name in names]
    rank = len(step.ins[0].dims)
    per_axis = zip(*(s or (1,) * rank for s in settings), strict=True)
    alone = ((1, 1, 1, (0, 0)), (1, 1, 1, 1))
    moving = [d for d, axis in enumerate(per_axis) if axis not in alone]
    _unmoved(shapes, step.ins[0], moving, "a window goes over")
    return {}


PARAMETERS: dict[str, Parameters] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    **dict.fromkeys(("iota", "iota_2x32_shape", "empty"), _iota),
    "random_bits": _random_bits,
    "random_split": _random_split,
    "rng_bit_generator": _generated,
    "rng_uniform": _generated,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    **dict.fromkeys(
        "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split(),
        _scatter,
    ),
    "conv_general_dilated": _convolution,
    **dict.fromkeys(
        "reduce_window reduce_window_sum reduce_window_max reduce_window_min "
        "select_and_scatter select_and_scatter_add select_and_gather_add".split(),
        _window,
    ),
}

PROGRAMS = frozenset(
    "jit pjit closed_call core_call call eval_jaxpr remat remat2 checkpoint remat_opt "
    "scan while cond".split()
)
"""What holds programs, and says nothing else of sizes but how often a scan runs."""

_NAMES = (
    "transpose squeeze expand_dims concatenate pad stack unstack tile",
    "dot_general ragged_dot_general",
    "sort cumsum cumprod cummax cummin cumlogsumexp rev top_k approx_top_k fft",
    "argmax argmin random_seed random_wrap random_unwrap random_fold_in random_clone",
    "random_gamma cholesky cholesky_update eig eigh geqp3 geqrf hessenberg lu ormqr qr",
    "householder_product schur svd symmetric_product triangular_solve tridiagonal",
    "tridiagonal_solve lu_pivots_to_permutation",
    "psum psum_invariant unreduced_psum pmax pmin ppermute pbroadcast pvary preduced",
    "reduced_vary_cast_p vary_unreduced_cast_p all_gather all_gather_invariant",
    "all_gather_reduced reduce_scatter unreduced_reduce_scatter all_to_all axis_index",
    "platform_index unvmap_all unvmap_any unvmap_max maybe_set",
)
_AS_THEY_ARE = frozenset(" ".join(_NAMES).split())


def as_it_is(name: str) -> bool:
    """Do a primitive's parameters speak of axes and dtypes only? Where one speaks of an
    axis that can't change (the k of `top_k`), it stays as well."""
    return name in _AS_THEY_ARE or name in ELEMENTWISE or name in REDUCTIONS
