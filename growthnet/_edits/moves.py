"""Arrays made of other arrays' entries, in one pass over memory.

An edit of a large network is as fast as memory is. So what goes along is copied once,
in blocks, into arrays that JAX takes over as they are.
"""

import dataclasses
import functools as ft
import itertools as it
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


ALIGNED = 64
"""On a processor, `device_put` doesn't copy an array of numpy at such an address."""
BLOCKS = 64
"""Beyond so many blocks it is quicker to take entry by entry."""
CHUNK = 2**16
"""So many numbers stay in a processor's cache between two operations on them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """For each new index of an axis the old one, or -1 for none."""

    index: np.ndarray

    @ft.cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        return runs(self.index)


def empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Like `np.empty`, at an address that is `ALIGNED`."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)


def moved(array: np.ndarray, sources: Sequence[Sources | None]) -> np.ndarray:
    """A new array of the old one's entries, per axis as `sources` says (`None`: as it
    is); what has no source is zero."""
    pairs = list(zip(array.shape, sources, strict=True))
    shape = [n if source is None else source.index.size for n, source in pairs]
    cuts = [[(0, 0, n)] if source is None else source.runs for n, source in pairs]
    out = empty(shape, array.dtype)
    if math.prod(map(len, cuts)) > BLOCKS:
        return _taken(array, sources, out)
    for block in it.product(*cuts):
        here = tuple(slice(new, new + n) for new, _, n in block)
        there = tuple(slice(old, old + n) for _, old, n in block)
        born = any(old < 0 for _, old, _ in block)
        out[here] = 0 if born else array[there]
    return out


def runs(sources: np.ndarray) -> list[tuple[int, int, int]]:
    """Stretches of neighbours that stay neighbours: `(new, old, length)`; where there
    is nothing, `old` is -1."""
    if not sources.size:
        return []
    born = sources < 0
    steps = np.diff(sources)
    joined = np.where(born[1:], born[:-1], (steps == 1) & ~born[:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~joined]))
    lengths = np.diff(np.append(starts, sources.size))
    found = zip(starts, sources[starts], lengths, strict=True)
    return [(int(new), int(old), int(n)) for new, old, n in found]


def _taken(
    array: np.ndarray, sources: Sequence[Sources | None], out: np.ndarray
) -> np.ndarray:
    """The same, one axis after the other; the last one into `out`."""
    changed = [axis for axis, source in enumerate(sources) if source is not None]
    if not changed:
        out[...] = array
        return out
    for axis in changed:
        found = sources[axis]
        assert found is not None
        source = found.index
        into = out if axis == changed[-1] else None
        array = np.take(array, np.maximum(source, 0), axis, into, mode="clip")
        array[(slice(None),) * axis + (source < 0,)] = 0
    return array


def scale(array: np.ndarray, axis: int, weights: np.ndarray) -> None:
    """Multiplies along an axis, in place, in double precision; what is multiplied by 1
    isn't touched."""
    touched = np.flatnonzero(weights != 1)
    if not touched.size:
        return
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    along = weights.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    # Only as far as anything changes.
    span = (slice(None),) * axis + (slice(touched[0], touched[-1] + 1),)
    array, along = array[span], along[span]
    for rows in chunks(array.shape):
        part = array[rows]
        own = along[rows] if axis == 0 else along
        product = (part.astype(wide) * own).astype(array.dtype)
        np.copyto(part, product, where=np.broadcast_to(own != 1, part.shape))


def chunks(shape: Sequence[int]) -> Iterator[slice]:
    """Stretches of rows with about `CHUNK` numbers each."""
    count = max(1, CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], count):
        yield slice(start, start + count)


def gathered(array: Any, move: Callable[[np.ndarray], np.ndarray], filled: Any) -> Any:
    """A traced array after a move that only takes its entries elsewhere: a gather, by
    the places that the move gives to a table of places. What no entry goes to holds
    that of `filled`."""
    sources = move(np.arange(1, array.size + 1).reshape(array.shape))
    taken = array.reshape(-1)[np.maximum(sources, 1) - 1]
    return jnp.where(sources > 0, taken, filled)
