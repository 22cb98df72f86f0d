"""Several devices, or several entries of a `vmap` with an axis name.

An axis that is spread over devices is rigid: its pieces belong to devices. A collective
over a mesh axis leaves the shape alone or makes it of pieces; one over a position is a
reduction.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ..events import Kind, Value
from ..reader import Reader, Rule
from .moves import rearranged, through
from .reduce import reduced
from .shape import tiled, with_axis


def across(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """`psum` and its like: over positions a reduction, over devices entry by entry."""
    name = eqn.primitive.name
    axes = eqn.params["axes"]
    positions = [int(axis) for axis in axes if isinstance(axis, int | np.integer)]
    if positions:
        return [reduced(reader, v, positions, name) for v in values]
    sums = name not in ("pmax", "pmin")
    return [
        dataclasses.replace(v, literal=None, product=None, linear=v.linear and sums)
        for v in values
    ]


def shifted(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """From device to device, or none at all."""
    del reader, eqn
    return [
        v if v.literal is None else dataclasses.replace(v, literal=None) for v in values
    ]


def all_gather(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """The devices' pieces side by side, along a new axis or along an old one."""
    axis, size = eqn.params["all_gather_dimension"], eqn.params["axis_size"]
    why = "it counts devices"
    results = []
    for value in values:
        if eqn.params["tiled"]:
            reps = [size if d == axis else 1 for d in range(len(value.dims))]
            results.append(tiled(reader, value, reps, why))
            continue
        counter = reader.dims((size,))[0]
        reader.rigid(counter, why)
        results.append(with_axis(value, axis, counter))
    return results


def reduce_scatter(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Each device keeps its piece of the sum."""
    axis, why = eqn.params["scatter_dimension"], "each device keeps a piece of it"
    keeps = eqn.params["tiled"]
    results = []
    for i, value in enumerate(values):
        rest = [d for d in range(len(value.dims)) if d != axis]
        to = {d: d if keeps or d < axis else d - 1 for d in rest}
        results.append(through(reader, value, to, reader.out(i), why))
    return results


def all_to_all(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """One axis is cut into pieces for the devices, another is put together of them."""
    (value,) = values
    cut, joined = eqn.params["split_axis"], eqn.params["concat_axis"]
    rank = len(value.dims)
    if eqn.params["tiled"]:
        to = {d: d for d in range(rank) if d not in (cut, joined)}
    else:
        rest = [d for d in range(rank) if d != cut]
        places = [d for d in range(rank) if d != joined]
        to = dict(zip(rest, places, strict=True))
    return through(reader, value, to, reader.out(), "devices exchange pieces of it")


def axis_index(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    del reader, eqn, values
    return Value((), Kind.CONST)


def shard_map(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """The body sees one device's piece of each array."""
    params = eqn.params
    body, mesh = params["jaxpr"], params["mesh"]
    specs = params["in_specs"]
    local = [
        _local(reader, value, _spread(spec, len(value.dims), mesh))
        for value, spec in zip(values, specs, strict=True)
    ]
    results = reader.run(body, (), local)
    return [
        _whole(reader, value, _spread(spec, len(value.dims), mesh))
        for value, spec in zip(results, params["out_specs"], strict=True)
    ]


def _spread(spec: Any, rank: int, mesh: Any) -> list[tuple[int, str]]:
    """Per axis: over how many devices, and the reason to give."""
    found = []
    for entry in (*spec, *(None,) * (rank - len(spec))):
        names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
        count = math.prod(mesh.shape[name] for name in names)
        found.append((count, f"sharded over mesh axis {', '.join(map(repr, names))}"))
    return found


def _local(reader: Reader, value: Value, spread: list[tuple[int, str]]) -> Value:
    dims, sizes = [], []
    for node, (count, why) in zip(value.dims, spread, strict=True):
        sizes.append(node.size // count)
        if count > 1:
            reader.rigid(node, why)
            node = _piece(reader, node, count)
            reader.rigid(node, why)
        dims.append(node)

    def grid(g: Any) -> Any:
        return g[tuple(slice(n) for n in sizes)]

    # The first device stands for all: where pieces differ, the axis is rigid anyway.
    return rearranged(value, dims, grid, lambda d: (d,))


def _piece(reader: Reader, node: Any, count: int) -> Any:
    solver = reader.solver
    parts = solver.guarded(node, lambda: list(solver.split_prod(node, count)))
    return parts[1] if parts else reader.dims((node.size // count,))[0]


def _whole(reader: Reader, value: Value, spread: list[tuple[int, str]]) -> Value:
    for d, (count, why) in enumerate(spread):
        if count > 1:
            reader.rigid(value.dims[d], why)
            reps = [count if i == d else 1 for i in range(len(spread))]
            value = tiled(reader, value, reps, why)
    return value


COLLECTIVES: dict[str, Rule] = {
    **dict.fromkeys("psum psum_invariant unreduced_psum pmax pmin".split(), across),
    **dict.fromkeys(
        "ppermute pbroadcast pvary preduced reduced_vary_cast_p "
        "vary_unreduced_cast_p".split(),
        shifted,
    ),
    **dict.fromkeys(
        "all_gather all_gather_invariant all_gather_reduced".split(), all_gather
    ),
    **dict.fromkeys("reduce_scatter unreduced_reduce_scatter".split(), reduce_scatter),
    "all_to_all": all_to_all,
    **dict.fromkeys("axis_index platform_index dim_as_value".split(), axis_index),
    "shard_map": shard_map,
}
