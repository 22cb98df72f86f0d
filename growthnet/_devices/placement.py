"""From devices to numpy and back to the same places.

Edits run in numpy. What they make goes where the array was that it comes from: to its
device, or in the pieces that its sharding says.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding


LARGE = 2**22
"""Bytes from which on an array goes to its device at once: so large ones don't all
exist twice for a while. The small ones share one transfer, which costs less."""


def to_host(array: Any) -> np.ndarray:
    """All of an array in numpy; what other processes hold of it comes from them, so all
    of them have to ask."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if not array.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        array = array.addressable_data(0)
    return np.asarray(array)


def put_like(values: np.ndarray, old: Any) -> jax.Array:
    """A numpy array where an old one of JAX's is; its mesh has to divide the shape.
    With fewer axes than that has (a single number) it goes to all of the devices."""
    if not (isinstance(old, jax.Array) and old.committed):
        return jax.device_put(values)
    sharding = old.sharding
    if isinstance(sharding, NamedSharding) and values.ndim < len(sharding.spec):
        sharding = sharding.update(spec=PartitionSpec())
    return put_at(values, sharding)


def put_at(values: Any, sharding: Sharding) -> jax.Array:
    """What every process has all of, at a place that may be spread over them."""
    if sharding.is_fully_addressable:
        return jax.device_put(values, sharding)
    if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
        data = put_at(jr.key_data(values), sharding)
        return jr.wrap_key_data(data, impl=jr.key_impl(values))
    whole = np.asarray(values)
    return jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])


def put_large(new: Any, old: Any) -> Any:
    """What has a place of its own, or is large, goes there; what isn't numpy's, and the
    old array itself, stay as they are."""
    if not isinstance(new, np.ndarray) or new is old:
        return new
    placed = isinstance(old, jax.Array) and old.committed
    return put_like(new, old) if placed or new.nbytes > LARGE else new


def put_rest(news: Sequence[Any], olds: Sequence[Any]) -> list[Any]:
    """The other arrays of numpy, in one transfer."""
    pairs = enumerate(zip(news, olds, strict=True))
    rest = [k for k, (x, old) in pairs if isinstance(x, np.ndarray) and x is not old]
    placed = dict(zip(rest, jax.device_put([news[k] for k in rest]), strict=True))
    return [placed.get(k, new) for k, new in enumerate(news)]


# --- batches, one after the other along a new first axis


def stack_batches(batches: Sequence[Any]) -> Any:
    """Arrays of one shape as one; on a mesh they stay in the pieces that they are in,
    of which every process has its own."""
    first = batches[0]
    if not spread(first):
        return np.stack([np.asarray(batch) for batch in batches])
    sharding = first.sharding.update(spec=PartitionSpec(None, *first.sharding.spec))
    stack = lambda i: np.stack([np.asarray(b.addressable_data(i)) for b in batches])
    return _pieced((len(batches), *first.shape), sharding, first, stack)


def batch_of(stack: Any, i: int) -> Any:
    """One of the arrays that were stacked."""
    if not spread(stack):
        return stack[i]
    sharding = stack.sharding.update(spec=PartitionSpec(*stack.sharding.spec[1:]))
    one = lambda k: np.asarray(stack.addressable_data(k))[i]
    return _pieced(stack.shape[1:], sharding, stack, one)


def spread(array: Any) -> bool:
    """Is it an array on a mesh of several devices?"""
    if not isinstance(array, jax.Array) or isinstance(array, Tracer):
        return False
    sharding = array.sharding
    return isinstance(sharding, NamedSharding) and sharding.num_devices > 1


def _pieced(shape: Sequence[int], sharding: Any, like: jax.Array, piece: Any) -> Any:
    """An array of pieces on the devices that have those of another one."""
    devices = [shard.device for shard in like.addressable_shards]
    parts = [jax.device_put(piece(i), device) for i, device in enumerate(devices)]
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, parts)
