"""Windows that slide: pooling, its gradients, and sums along an axis.

An axis along which the window has one entry and moves in steps of one passes through;
along all others positions matter.
"""

from collections.abc import Sequence
from typing import Any

from ..events import combined, Value
from ..reader import Reader, Rule
from .moves import through


def _untouched(params: dict[str, Any], rank: int) -> dict[int, int]:
    ones, none = (1,) * rank, ((0, 0),) * rank
    settings = zip(
        params["window_dimensions"],
        params.get("window_strides") or ones,
        params.get("base_dilation") or ones,
        params.get("padding") or none,
        strict=True,
    )
    return {
        d: d
        for d, (size, stride, dilation, padding) in enumerate(settings)
        if size == stride == dilation == 1 and tuple(padding) == (0, 0)
    }


def pooling(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Several arrays may be pooled at once; what follows them are initial values."""
    name = eqn.primitive.name
    why = f"`{name}` slides a window along it"
    arrays = values[: len(eqn.outvars)]
    to = _untouched(eqn.params, len(arrays[0].dims))
    _share(reader, arrays, to)
    kind = combined(values)
    # A window that is all padding holds the initial value, which is 0 for sums alone.
    sums = name in ("reduce_window_sum", "reduce_window")
    return [
        through(
            reader,
            value,
            to,
            reader.out(i),
            why,
            kind=kind,
            zeroable=name == "reduce_window_sum",
            linear=sums and name != "reduce_window",
        )
        for i, value in enumerate(arrays)
    ]


def selection(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """The gradients of pooling: a second array says which entry of a window counts."""
    why = f"`{eqn.primitive.name}` slides a window along it"
    arrays = [v for v in values if v.dims]
    to = _untouched(eqn.params, len(arrays[0].dims))
    _share(reader, arrays, to)
    kind = combined(values)
    results = [through(reader, v, to, reader.out(), why, kind=kind) for v in arrays]
    return results[0]


def _share(reader: Reader, arrays: Sequence[Value], axes: dict[int, int]) -> None:
    for value in arrays[1:]:
        for d in axes:
            reader.solver.unify(arrays[0].dims[d], value.dims[d])


WINDOWS: dict[str, Rule] = {
    **dict.fromkeys(
        "reduce_window reduce_window_max reduce_window_min reduce_window_sum".split(),
        pooling,
    ),
    **dict.fromkeys(
        "select_and_scatter select_and_scatter_add select_and_gather_add".split(),
        selection,
    ),
}
