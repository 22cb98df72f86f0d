"""Where batches come from: arrays, sampled inside the program, or any iterable."""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._devices.placement import batch_of, spread, stack_batches, to_host
from .._devices.places import pinned, Places, places_of
from .._devices.shards import pieces
from .._paths import is_array


class ArrayData(eqx.Module):
    """Arrays with a common first axis; batches are drawn inside the program.

    Every epoch is a permutation of its own, from the key and the epoch's number; what
    doesn't fill a batch at its end is left out. Without `batch_size` each batch is
    everything, in order. Batches are spread over a mesh as the arrays are.
    """

    arrays: Any
    size: int = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    places: Places | None = None

    @staticmethod
    def of(arrays: Any, batch_size: int | None) -> "ArrayData":
        """**Raises:** `ValueError` if first axes differ or the batch is too large."""
        leaves = jax.tree.leaves(arrays)
        sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
        if len(sizes) != 1 or 0 in sizes:
            shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves)
            raise ValueError(
                f"the data's arrays have shapes {shapes}; they need one common first "
                "axis (the examples)"
            )
        (size,) = sizes
        whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
        if batch_size is not None and not (whole and 1 <= batch_size <= size):
            raise ValueError(
                f"batch_size={batch_size!r}; with {size} examples it is a whole number "
                f"from 1 to {size}, or None for all of them"
            )
        arrays = jax.tree.map(jnp.asarray, arrays)
        count = math.lcm(*(pieces(leaf).get(0, 1) for leaf in jax.tree.leaves(arrays)))
        if (batch_size or size) % count:
            raise ValueError(
                f"batch_size={batch_size}; the examples are spread over {count} "
                f"devices, which have to divide it: give a multiple of {count}"
            )
        return ArrayData(arrays, size, batch_size, places_of(arrays))

    @property
    def first(self) -> Any:
        """Arrays that are where the batches are."""
        return self.arrays

    @property
    def example(self) -> Any:
        n = self.batch_size or self.size
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), self.arrays
        )

    def orders(self, key: Any, step: Any, steps: int) -> Any:
        """The permutations that `steps` steps from `step` on can touch."""
        if self.batch_size is None:
            return None
        per_epoch = self.size // self.batch_size
        more = jnp.arange((steps - 1) // per_epoch + 2, dtype=jnp.int32)
        epochs = jnp.asarray(step, jnp.int32) // per_epoch + more
        keys = jax.vmap(lambda e: jr.fold_in(key, e))(epochs)
        return jax.vmap(lambda k: jr.permutation(k, self.size))(keys)

    def batch(self, orders: Any, first: Any, step: Any) -> Any:
        """The batch of a step, given the `orders` made at step `first`."""
        if self.batch_size is None:
            return self.arrays
        per_epoch = self.size // self.batch_size
        row = orders[step // per_epoch - first // per_epoch]
        start = (step % per_epoch) * self.batch_size
        rows = jax.lax.dynamic_slice(row, (start,), (self.batch_size,))
        return pinned(jax.tree.map(lambda a: _rows(a, rows), self.arrays), self.places)

    def window(self, key: Any, first: Any, steps: int) -> "Batches":
        """The batches of `steps` steps from `first` on; pure."""
        return Batches(self, self.orders(key, first, steps), first)

    @property
    def step_size(self) -> int:
        """How many numbers a step of a window holds: its part of the orders."""
        return self.batch_size or 0

    def identity(self, batch: Any = None) -> dict[str, Any]:
        """What tells these data from others: a thousand or two examples of them."""
        del batch
        apart = max(1, self.size // 1024)
        crc = checksum(jax.tree.map(lambda a: to_host(a)[::apart], self.arrays))
        return {"examples": self.size, "batch_size": self.batch_size, "crc32": crc}


def _rows(array: Any, rows: Any) -> Any:
    """Rows of an array; an explicit mesh has to be told where they go."""
    own = jax.typeof(array).sharding
    return array.at[rows].get(out_sharding=own) if any(own.spec) else array[rows]


class BatchStream:
    """Batches from an iterable, stacked by the host. An iterable that can start again
    does so at its end; an iterator that ends is an error that says when. What an
    iterator raises is heard of when the batches before have been used."""

    def __init__(self, data: Iterable[Any]):
        self._data = data
        self._iterator: Iterator[Any] = iter(data)
        self._again = self._iterator is not data
        self.first: Any = None  # Batch.
        self._error: Exception | None = None
        self._served = 0
        self._pending = [self._next()]

    @property
    def example(self) -> Any:
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(np.shape(a), jnp.asarray(a).dtype),
            self.first,
        )

    def identity(self, batch: Any) -> dict[str, Any]:
        """What tells these data from others: the last batch that was used."""
        return {"batch": checksum(batch)}

    def skip(self, count: int) -> Any:
        """Goes on behind the first `count` batches; returns the last of them."""
        batch = None
        for _ in range(count):
            batch = self._pending.pop(0) if self._pending else self._next()
        return batch

    def window(
        self, first: int, count: int, length: int, *, multiple: int = 1
    ) -> tuple["Batches", int]:
        """`count` batches stacked along a new first axis, filled up to `length` with
        copies of the last one (so that shapes never change), and how many they are:
        fewer, a multiple, where the data fails.

        **Raises:** what the data raised, if there aren't even so many.
        """
        while len(self._pending) < count and self._error is None:
            try:
                self._pending.append(self._next())
            except Exception as error:
                self._error = error
        if self._error is not None and len(self._pending) < count:
            count = len(self._pending) // multiple * multiple
            if not count:
                raise self._error
        batches, self._pending = self._pending[:count], self._pending[count:]
        filled = batches + [batches[-1]] * (length - count)
        stacked = jax.tree.map(lambda *leaves: stack_batches(leaves), *filled)
        return Batches(stacked, None, jnp.asarray(first)), count

    def put_back(self, batches: "Batches", steps: range) -> None:
        """Takes back the batches of these steps, to be served first."""
        self._pending[:0] = [batches.last(step + 1) for step in steps]

    @property
    def step_size(self) -> int:
        """How many numbers a step of a window holds: a batch."""
        leaves = jax.tree.leaves(self.example)
        return sum(math.prod(leaf.shape) for leaf in leaves)

    def _next(self) -> Any:
        try:
            batch = next(self._iterator)
        except StopIteration:
            batch = self._restart()
        except Exception as error:
            error.add_note(f"the data raised this for batch {self._served + 1}")
            raise
        self._served += 1
        self.first = batch if self.first is None else self.first
        described, expected = _described(batch), _described(self.first)
        if described != expected:
            raise ValueError(
                f"batch {self._served} has shapes {described[0]}, the first had "
                f"{expected[0]}; every batch needs the same (drop the last short one)"
            )
        return batch

    def _restart(self) -> Any:
        self._iterator = iter(self._data)
        batch = next(self._iterator, None) if self._again else None
        if batch is None:
            raise ValueError(
                f"the data ended after {self._served} batches; give an iterable that "
                "can start again (a list, a loader), or one that is long enough"
            )
        return batch


def _described(batch: Any) -> tuple[Any, Any]:
    """Shapes and dtypes, places on a mesh, and the structure around them."""

    def text(a: Any) -> str:
        where = f" {a.sharding.spec}" if spread(a) else ""
        return f"{getattr(a, 'dtype', type(a).__name__)}{list(np.shape(a))}{where}"

    return jax.tree.map(text, batch), jax.tree.structure(batch)


class Batches(eqx.Module):
    """The batches of a stretch of steps, for a program: either arrays and the orders in
    which they are drawn, or batches stacked by the host.

    The orders of the epochs come ready: they don't depend on any size, and so the
    programs of all capacities needn't compile a permutation each.
    """

    data: Any
    orders: Any
    first: Any

    def prepared(self) -> Callable[[Any], Any]:
        """A function from the number of a step to its batch."""
        if isinstance(self.data, ArrayData):
            data = self.data
            return lambda step: data.batch(self.orders, self.first, step)
        return lambda step: jax.tree.map(
            lambda a: jnp.asarray(a)[step - self.first], self.data
        )

    def last(self, step: int) -> Any:
        """The batch before a step as the host stacked it; arrays have none."""
        if isinstance(self.data, ArrayData):
            return None
        at = step - 1 - int(self.first)
        return jax.tree.map(lambda a: batch_of(a, at), self.data)


def checksum(tree: Any) -> int:
    """A CRC-32 of all arrays of a tree, with their shapes and dtypes."""
    crc = 0
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(to_host(leaf)).reshape(np.shape(leaf))
        crc = zlib.crc32(f"{array.dtype}{array.shape}".encode(), crc)
        crc = zlib.crc32(
            array.reshape(-1).view(np.uint8).data if array.size else b"", crc
        )
    return crc


def is_arrays(data: Any) -> bool:
    """Arrays (or a tree of them), as opposed to an iterable of batches: a tuple or dict
    of arrays is data, a list of batches isn't."""
    if is_array(data):
        return True
    if isinstance(data, dict):
        return bool(data) and all(map(is_arrays, data.values()))
    if isinstance(data, tuple):
        return bool(data) and all(map(is_arrays, data))
    return False
