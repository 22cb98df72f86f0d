"""One pass over memory against one axis after the other."""

import math

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from growthnet._edits import moves


rows = st.integers(1, 5).flatmap(
    lambda old: st.tuples(
        st.just(old),
        st.none() | st.lists(st.integers(-1, old - 1), max_size=7),
    )
)


@pytest.mark.parametrize("blocks", [0, 64])
@given(axes=st.lists(rows, min_size=1, max_size=3), seed=st.integers(0, 2**16))
@settings(max_examples=60)
def test_entries_are_moved(blocks, axes, seed):
    """In blocks and entry by entry, bit for bit."""
    rng = np.random.default_rng(seed)
    array = np.frombuffer(rng.bytes(4 * math.prod(n for n, _ in axes)), np.float32)
    array = array.reshape([n for n, _ in axes])
    sources = [None if s is None else np.array(s, int) for _, s in axes]
    wanted = array.view(np.uint32)
    for axis, source in enumerate(sources):
        if source is not None:
            end = np.zeros_like(wanted.take([0], axis))
            padded = np.concatenate([wanted, end], axis)
            wanted = padded.take(source, axis)  # -1: the zeros at the end.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "BLOCKS", blocks)
        found = moves.moved(
            array, [s if s is None else moves.Sources(s) for s in sources]
        )
    assert np.array_equal(found.view(np.uint32), wanted)
    assert found is not array and not np.shares_memory(found, array)


def test_runs_are_stretches_of_neighbours():
    sources = np.array([-1, -1, 0, 1, 2, -1, 5, 4, 5])
    wanted = [(0, -1, 2), (2, 0, 3), (5, -1, 1), (6, 5, 1), (7, 4, 2)]
    assert moves.runs(sources) == wanted
    assert moves.runs(np.array([], int)) == []


@given(
    axis=st.integers(0, 2), seed=st.integers(0, 2**16), chunk=st.sampled_from([1, 64])
)
@settings(max_examples=40)
def test_scaling_touches_nothing_else(axis, seed, chunk):
    rng = np.random.default_rng(seed)
    array = rng.integers(2**60, 2**62, (3, 4, 5))  # Float64 can't hold these.
    weights = rng.choice([1.0, 0.0], array.shape[axis])
    along = weights.reshape([-1 if a == axis else 1 for a in range(3)])
    wanted = np.where(along == 1, array, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "CHUNK", chunk)
        moves.scale(array, axis, weights)
    assert np.array_equal(array, wanted)


@pytest.mark.parametrize("shape", [(3,), (1000, 7), (0, 4), ()])
def test_arrays_are_taken_over_as_they_are(shape):
    array = moves.empty(shape, np.dtype(np.float32))
    assert array.shape == shape and (not array.size or array.ctypes.data % 64 == 0)
    array[...] = 1
    if array.size > 1:
        device = jax.device_put(array)
        assert device.unsafe_buffer_pointer() == array.ctypes.data
        # A program that takes the array as its own leaves numpy's alone.
        jax.jit(lambda x: x + 1, donate_argnums=0)(device).block_until_ready()
        assert (array == 1).all()
