"""Newborn values: the same numbers on the host and inside a program.

An edit draws newborns in numpy, for arrays of the new size. An opening draws them
inside a compiled program, for arrays of the capacity. Both must write the same bits, so
a draw depends on a key and on *labels* of the entry (which unit along each axis), never
on a shape; and it uses only operations that are exact in both worlds: the Threefry-2x32
counter generator (Salmon et al., 2011, the one behind `jax.random`), and one rounding.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.random as jr
import numpy as np

from .._paths import container_of
from .._reading.anatomy import Anatomy
from .._reading.layout import Layout, spread
from .._reading.widths import Leaf, Member, Width
from .moves import chunks


_SMALL = 2**14
_ALL: Mapping[int, np.ndarray] = MappingProxyType({})
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D)


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any], xp: Any) -> Any:
    """The first output word of Threefry-2x32 with 20 rounds, elementwise."""
    u32 = xp.uint32
    schedule = (key[0], key[1], key[0] ^ key[1] ^ u32(0x1BD11BDA))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for step in range(5):
        for turn in _ROTATIONS[step % 2]:
            x = x + y
            y = (y << u32(turn)) | (y >> u32(32 - turn))
            y = x ^ y
        x = x + schedule[(step + 1) % 3]
        y = y + schedule[(step + 2) % 3] + u32(step + 1)
    return x


def key_words(key: Any) -> Any:
    """Two 32-bit words of a PRNG key, old style or new."""
    return jr.bits(key, (2,), "uint32")


def axis_labels(layout: Layout, xp: Any) -> Any:
    """A number per index of an axis that doesn't depend on any width's size."""

    def label(place: tuple[int, ...], atom: Any) -> Any:
        salt = zlib.crc32(repr(place).encode())
        units = np.arange(atom.size, dtype=np.uint32) * np.uint32(_ODD[0])
        return units + np.uint32(salt)

    def mix(outer: Any, inner: Any) -> Any:
        return outer * np.uint32(_ODD[1]) + inner

    with np.errstate(over="ignore"):
        return xp.asarray(spread(layout, label, times=mix))


def uniform(words: Any, leaf: Leaf, xp: Any) -> Any:
    """Uniform numbers on [-1, 1) in the shape of a leaf, exact in float32."""
    return uniforms(words, [leaf], xp)[leaf.path]


def uniforms(words: Any, leaves: Sequence[Leaf], xp: Any) -> dict[str, Any]:
    """`uniform` of several leaves, by path. Small ones come from one call of the
    generator: twenty rounds for each of them would fill a program."""
    small = [leaf for leaf in leaves if math.prod(leaf.shape) <= _SMALL]
    large = [leaf for leaf in leaves if math.prod(leaf.shape) > _SMALL]
    groups = [small, *([leaf] for leaf in large)]
    found: dict[str, Any] = {}
    for group in filter(None, groups):
        counters = [_counter(leaf, xp).reshape(-1) for leaf in group]
        salts = [
            xp.full(c.shape, zlib.crc32(leaf.path.encode()), xp.uint32)
            for leaf, c in zip(group, counters, strict=True)
        ]
        pair = (xp.concatenate(counters), xp.concatenate(salts))
        numbers, start = _numbers(words, *pair, xp), 0
        for leaf in group:
            size = math.prod(leaf.shape)
            found[leaf.path] = numbers[start : start + size].reshape(leaf.shape)
            start += size
    return found


def _numbers(words: Any, counter: Any, salt: Any, xp: Any) -> Any:
    with np.errstate(over="ignore"):
        bits = threefry((words[0], words[1]), (counter, salt), xp)
    if not isinstance(bits, np.ndarray):
        # Compilers would repeat the rounds wherever the numbers are read.
        bits = jax.lax.optimization_barrier(bits)
    centred = (bits >> xp.uint32(8)).astype(xp.float32) - xp.float32(2**23)
    return centred * xp.float32(2**-23)


def _counter(leaf: Leaf, xp: Any, at: Mapping[int, np.ndarray] = _ALL) -> Any:
    """A number per entry of a leaf that doesn't depend on any width's size; along some
    axes at some indices only."""
    rank = len(leaf.shape)
    with np.errstate(over="ignore"):
        counter = xp.zeros((1,) * rank, xp.uint32)
        for axis, layout in enumerate(leaf.layouts):
            shape = [1] * rank
            shape[axis] = -1
            odd = xp.uint32(_ODD[axis % len(_ODD)] + 2 * (axis // len(_ODD)))
            labels = axis_labels(layout, xp)
            labels = labels[at[axis]] if axis in at else labels
            counter = counter * odd + labels.reshape(shape)
    return counter


def limit_table(size: int) -> np.ndarray:
    """`1 / sqrt(n)` for `n` up to `size`; a table, since compilers round it freely."""
    return (1 / np.sqrt(np.maximum(np.arange(size + 1), 1))).astype(np.float32)


def fill_value(member: Member, leaf: Leaf) -> float:
    """What a closed slot holds: 1 in scales and variances, else 0."""
    if leaf.initial is not None:
        return leaf.initial
    # One number per unit, also where axes of one make it fit what it multiplies.
    long = [a for a, n in enumerate(leaf.shape) if n > 1 and a not in leaf.stacks]
    scale = leaf.scale and len(long) <= 1
    return 1.0 if scale and {"scale", "stack"} & set(member.roles) else 0.0


def drawn_scale(
    anatomy: Anatomy, width: Width, member: Member
) -> tuple[int, tuple[int, ...]] | None:
    """Which leaf's fan-in sets the range of a member's draw: `(leaf, axes)`.

    `None` means that newborns take the fill value: scales, statistics, and offsets that
    don't sit beside a producer (a normalisation's bias).
    """
    leaf = anatomy.leaves[member.leaf]
    if leaf.initial is not None:
        return None
    if leaf.fan_in:
        return member.leaf, leaf.fan_in
    if {"producer", "factor"} & set(member.roles):
        return member.leaf, ()
    if "scale" in member.roles:
        return None
    if leaf.scale:
        return None
    beside = container_of(leaf.path)
    for other in width.members:
        near = anatomy.leaves[other.leaf]
        makes = {"producer", "stack"} & set(other.roles)
        if makes and container_of(near.path) == beside:
            if near.fan_in:
                return other.leaf, near.fan_in
    return None


def draw_host(
    words: np.ndarray, anatomy: Anatomy, width: Width, member: Member, at: np.ndarray
) -> np.ndarray:
    """Newborn values for some indices along a member's axis: uniform with the limit
    `1/sqrt(fan in)` of Equinox's and PyTorch's layers."""
    leaf = anatomy.leaves[member.leaf]
    scale = drawn_scale(anatomy, width, member)
    if scale is None:
        return np.array(fill_value(member, leaf), np.float32)
    of, axes = scale
    fan_in = math.prod(anatomy.leaves[of].shape[a] for a in axes)
    limit = np.float32(limit_table(fan_in)[fan_in])
    counter = _counter(leaf, np, {member.axis: at})
    drawn = np.empty(counter.shape, np.float32)
    salt = np.uint32(zlib.crc32(leaf.path.encode()))
    # In pieces that stay in the processor's cache: there are a hundred operations.
    for rows in chunks(counter.shape):
        part = counter[rows]
        drawn[rows] = _numbers(words, part, np.full(part.shape, salt), np) * limit
    return drawn


Initializer: TypeAlias = Callable[[Any, Sequence[int], Any], Any]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""
