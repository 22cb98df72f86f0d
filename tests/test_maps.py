"""Unit maps against dense matrices, and gradients against calculus."""

import functools as ft
import math
import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given, settings

from growthnet._edits.maps import axis_edit, AxisEdit, LeafEdit, MapPair, UnitMap
from growthnet._reading.layout import Atom, Layout, Place, Prod, size_of, Sum


MANY = settings(max_examples=60, deadline=None)
DTYPES = [
    np.dtype(d)
    for d in (
        np.float16,
        ml_dtypes.bfloat16,
        np.float32,
        np.float64,
        np.int8,
        np.uint32,
        np.int64,
        np.bool_,
        np.complex64,
    )
]
REAL = [d for d in DTYPES if d.kind in "fV"]
H, D, FREE = Atom(0, 2), Atom(1, 3), Atom(7, 2)
LAYOUTS: list[Layout] = [
    H,
    D,
    FREE,
    Prod((H, D)),
    Prod((H, H)),
    Sum((H, H, D)),
    Prod((D, Sum((H, FREE)))),
    Sum((Prod((H, D)), FREE, D)),
]

# Large int64 entries don't survive a detour through float64.
SCALED_BETWEEN = UnitMap.weighted(3, np.arange(3), np.array([1.0, 2.0, 1.0]))
MERGED_BESIDE = UnitMap(2, 2, np.array([0, 0, 1]), np.array([0, 1, 1]), np.ones(3))

seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(DTYPES)
sizes = st.sampled_from([1, 2, 3, 5])


P = ParamSpec("P")
T = TypeVar("T")


def without_randomness(build: Callable[P, T]) -> Callable[P, T]:
    """Run-time type checks look at random items of a sequence; Hypothesis would blame
    the strategy that calls a checked function."""

    @ft.wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        state = random.getstate()
        try:
            return build(*args, **kwargs)
        finally:
            random.setstate(state)

    return call


def dense(unit_map: UnitMap) -> np.ndarray:
    """The matrix of a map."""
    matrix = np.zeros((unit_map.new, unit_map.old))
    for row, col, weight in zip(
        unit_map.rows, unit_map.cols, unit_map.weights, strict=True
    ):
        matrix[row, col] += weight
    return matrix


def moved(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """The matrix times one axis of the array."""
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def any_bits(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Entries of arbitrary bits: also NaN with payload, -0.0, infinities."""
    generator = np.random.default_rng(seed)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(bool)
    raw = generator.bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def modest(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Small whole numbers, which every dtype can hold."""
    whole = np.random.default_rng(seed).integers(0, 5, shape)
    if dtype.kind == "c":
        return (whole + 1j * whole[::-1]).astype(dtype)
    return whole.astype(dtype)


@st.composite
@without_randomness
def takes(draw) -> UnitMap:
    """Plain copies and newborns."""
    old = draw(sizes | st.just(0))
    index = st.integers(-1, old - 1)
    return UnitMap.take(old, draw(st.lists(index, max_size=6)))


@st.composite
@without_randomness
def scalings(draw) -> UnitMap:
    """At most one parent per new unit; whole and half weights."""
    old = draw(sizes)
    indices = np.array(draw(st.lists(st.integers(-1, old - 1), max_size=6)), int)
    weights = st.sampled_from([1.0, 0.5, 2.0, -1.0, 0.0])
    some = st.lists(weights, min_size=indices.size, max_size=indices.size)
    return UnitMap.weighted(old, indices, np.array(draw(some)))


@st.composite
@without_randomness
def merges(draw) -> UnitMap:
    """Any sparse matrix, rows in any order."""
    old, new = draw(sizes), draw(sizes)
    entry = st.tuples(
        st.integers(0, new - 1),
        st.integers(0, old - 1),
        st.sampled_from([1.0, 1.0, 2.0, -1.0]),
    )
    entries = draw(st.lists(entry, max_size=8))
    rows, cols, weights = zip(*entries, strict=True) if entries else ((), (), ())
    return UnitMap(
        old, new, np.array(rows, int), np.array(cols, int), np.array(weights, float)
    )


unit_maps = takes() | scalings() | merges()


def shape_with(size: int, axis: int) -> tuple[int, ...]:
    shape = [2, 3, 2]
    shape[axis] = size
    return tuple(shape)


@given(takes(), dtypes, st.integers(0, 2), seeds)
@example(UnitMap.take(0, [-1, -1]), np.dtype(np.float32), 0, 0)
@example(UnitMap.take(3, []), np.dtype(ml_dtypes.bfloat16), 1, 0)
@MANY
def test_plain_copies_are_bit_for_bit(
    taken: UnitMap, dtype: np.dtype, axis: int, seed: int
):
    array = any_bits(dtype, shape_with(taken.old, axis), seed)
    out = taken.apply(array, axis)
    assert out.dtype == dtype and out.shape == shape_with(taken.new, axis)
    parents = dict(zip(taken.rows, taken.cols, strict=True))
    for unit in range(taken.new):
        row = out.take(unit, axis)
        old = array.take(parents[unit], axis) if unit in parents else 0 * row
        if unit not in parents:
            old = np.zeros(row.shape, dtype)
        assert bits(row) == bits(old)


@given(unit_maps, dtypes, st.integers(0, 2), seeds)
@MANY
def test_a_map_is_its_matrix(unit_map: UnitMap, dtype: np.dtype, axis: int, seed: int):
    """Whole numbers: exact, whatever the order of the sums."""
    array = modest(dtype, shape_with(unit_map.old, axis), seed)
    before = array.copy()
    out = unit_map.apply(array, axis)
    wide = array.astype(complex if dtype.kind == "c" else float)
    expected = moved(dense(unit_map), wide, axis)
    if dtype.kind in "uib":
        assume((expected >= 0).all())
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, expected.astype(dtype))
    np.testing.assert_array_equal(array, before)


@given(unit_maps, dtypes, seeds)
@example(SCALED_BETWEEN, np.dtype(np.int64), 0)
@example(MERGED_BESIDE, np.dtype(np.int64), 0)
@example(MERGED_BESIDE, np.dtype(np.complex64), 0)
@MANY
def test_plain_rows_among_others_are_bit_for_bit(
    unit_map: UnitMap, dtype: np.dtype, seed: int
):
    array = any_bits(dtype, (unit_map.old, 2), seed)
    with np.errstate(all="ignore"):
        out = unit_map.apply(array, 0)
    plain = ~unit_map.scaled & ~unit_map.born
    for unit in np.flatnonzero(plain):
        (parent,) = unit_map.cols[unit_map.rows == unit]
        assert bits(out[unit]) == bits(array[parent])
    assert bits(out[unit_map.born]) == bits(np.zeros((unit_map.born.sum(), 2), dtype))


@given(st.lists(st.tuples(st.integers(-1, 2), st.sampled_from([1.0, 0.5, 3.0]))))
@MANY
def test_take_and_weighted_mean_what_they_say(units: list[tuple[int, float]]):
    """`new[j] = weights[j] * old[indices[j]]`, and nothing where that is -1."""
    old = np.array([2.0, 4.0, 6.0])
    indices = np.array([i for i, _ in units], int)
    weights = np.array([w for _, w in units], float)
    copied = [old[i] if i >= 0 else 0.0 for i in indices]
    taken = UnitMap.take(3, indices)
    assert (taken.old, taken.new) == (3, len(units))
    assert taken.apply(old, 0).tolist() == copied
    scaled = UnitMap.weighted(3, indices, weights)
    assert scaled.apply(old, 0).tolist() == (weights * copied).tolist()


@given(unit_maps)
@MANY
def test_born_and_scaled_are_told_by_the_parents(unit_map: UnitMap):
    for unit in range(unit_map.new):
        weights = unit_map.weights[unit_map.rows == unit].tolist()
        assert unit_map.born[unit] == (weights == [])
        assert unit_map.scaled[unit] == (weights not in ([], [1.0]))


@given(unit_maps)
@example(UnitMap.take(3, [0, 1, 2]))
@example(UnitMap.take(3, [0, 2, 1]))
@example(UnitMap.take(3, [0, 1]))
@example(UnitMap.take(2, [0, 1, -1]))
@example(UnitMap.weighted(2, np.array([0, 1]), np.array([1.0, 2.0])))
@example(UnitMap.take(0, []))
@example(UnitMap(2, 2, np.array([1, 0]), np.array([0, 1]), np.ones(2)))
@MANY
def test_the_identity_is_recognised(unit_map: UnitMap):
    parents = list(zip(unit_map.rows, unit_map.cols, unit_map.weights, strict=True))
    plain = [(i, i, 1.0) for i in range(unit_map.old)]
    assert unit_map.is_identity == (parents == plain and unit_map.new == unit_map.old)


@given(unit_maps, st.sampled_from([1, 2]))
@MANY
def test_power_raises_every_weight(unit_map: UnitMap, power: int):
    raised = unit_map.power(power)
    assert raised.weights.tolist() == (unit_map.weights**power).tolist()
    assert raised.rows is unit_map.rows and raised.cols is unit_map.cols


def test_scaled_halves_are_rounded_once():
    """`1/3` in float64, not in the dtype of the array."""
    for dtype in REAL:
        array = modest(dtype, (4, 3), 1)
        thirds = UnitMap.weighted(4, np.arange(4), np.full(4, 1 / 3))
        once = (array.astype(float) / 3).astype(dtype)
        assert thirds.apply(array, 0).dtype == dtype
        np.testing.assert_allclose(
            thirds.apply(array, 0).astype(float), once.astype(float), rtol=1e-15
        )


# --- edits of axes and leaves


def along(layout: Layout, matrices: dict[Place, np.ndarray], place: Place = ()):
    """The matrix of a whole axis: Kronecker products and diagonal blocks."""
    match layout:
        case Atom(size=size):
            return matrices.get(place, np.eye(size))
        case Prod(factors=children) | Sum(segments=children):
            parts = [along(c, matrices, (*place, i)) for i, c in enumerate(children)]
            return ft.reduce(np.kron if isinstance(layout, Prod) else _blocks, parts)


def _blocks(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    out = np.zeros(tuple(np.add(first.shape, second.shape)))
    out[: len(first), : first.shape[1]] = first
    out[len(first) :, first.shape[1] :] = second
    return out


@st.composite
@without_randomness
def pairs(draw, old: int) -> MapPair:
    """Two maps of one shape with the same newborns, unlike in all else."""
    new = draw(st.integers(1, 4))
    born = np.array(draw(st.lists(st.booleans(), min_size=new, max_size=new)))
    maps = []
    for _ in range(2):
        generator = np.random.default_rng(draw(seeds))
        entries = [
            (row, col, generator.choice([1.0, 2.0, -1.0]))
            for row in np.flatnonzero(~born)
            for col in generator.permutation(old)[: generator.integers(1, old + 1)]
        ]
        table = np.array(entries, float).reshape(-1, 3)
        rows, cols = table[:, :2].astype(int).T
        maps.append(UnitMap(old, new, rows, cols, table[:, 2]))
    return MapPair(*maps)


@st.composite
@without_randomness
def leaf_edits(draw) -> LeafEdit:
    known = {atom.id: draw(pairs(atom.size)) for atom in (H, D)}
    edits = []
    for _ in range(draw(st.integers(1, 2))):
        layout = draw(st.sampled_from(LAYOUTS))
        places = [p.place for p in axis_edit(layout, known, frozenset()).places]
        consumers = frozenset(p for p in places if draw(st.booleans()))
        edits.append(axis_edit(layout, known, consumers))
    return LeafEdit(tuple(edits))


def matrix_of(edit: AxisEdit, *, gradient: bool, power: int) -> np.ndarray:
    matrices = {}
    for part in edit.places:
        place, pair, consumer = part.place, part.pair, part.consumer
        chosen = pair.consume if consumer != gradient else pair.produce
        powered = UnitMap(
            chosen.old, chosen.new, chosen.rows, chosen.cols, chosen.weights**power
        )
        matrices[place] = dense(powered)
    return along(edit.layout, matrices)


@given(leaf_edits(), st.sampled_from([(False, 1), (True, 1), (True, 2)]), seeds)
@MANY
def test_leaf_edits_are_matrices_along_each_axis(
    edit: LeafEdit, kind: tuple[bool, int], seed: int
):
    gradient, power = kind
    array = modest(np.dtype(np.float32), edit.old_shape, seed)
    expected = array.astype(float)
    for axis, part in enumerate(edit.axes):
        matrix = matrix_of(part, gradient=gradient, power=power)
        expected = moved(matrix, expected, axis)
    out = edit.gradients(array, power) if gradient else edit.values(array)
    assert out.dtype == np.float32 and out.shape == edit.new_shape
    np.testing.assert_array_equal(out, expected)


@given(leaf_edits())
@MANY
def test_leaf_marks_join_the_marks_of_units(edit: LeafEdit):
    """An entry is newborn, or scaled, where any of its units is."""

    def marked(what: str, gradient: bool) -> np.ndarray:
        unmarked = np.ones(())
        for part in edit.axes:
            vectors = {}
            for member in part.places:
                pair = member.pair
                consumes = member.consumer != gradient
                chosen = pair.consume if consumes else pair.produce
                vectors[member.place] = 1.0 - getattr(chosen, what)
            unmarked = np.multiply.outer(unmarked, _ones(part.layout, vectors))
        return unmarked == 0

    np.testing.assert_array_equal(edit.born(), marked("born", False))
    for gradient in (False, True):
        found = edit.scaled(gradient=gradient)
        np.testing.assert_array_equal(found, marked("scaled", gradient))


def _ones(layout: Layout, vectors: dict[Place, np.ndarray], place: Place = ()):
    match layout:
        case Atom(size=size):
            return vectors.get(place, np.ones(size))
        case Prod(factors=children) | Sum(segments=children):
            parts = [_ones(c, vectors, (*place, i)) for i, c in enumerate(children)]
            join = np.kron if isinstance(layout, Prod) else lambda a, b: np.append(a, b)
            return ft.reduce(join, parts)


@given(leaf_edits(), seeds)
@MANY
def test_unmarked_entries_are_copies_bit_for_bit(edit: LeafEdit, seed: int):
    """What isn't newborn and isn't scaled has one parent: the optimizer's law."""
    array = any_bits(np.dtype(np.float32), edit.old_shape, seed)
    numbers = np.arange(array.size, dtype=float).reshape(array.shape) + 1
    for gradient in (False, True):
        apply = edit.gradients if gradient else edit.values
        plain = ~edit.born() & ~edit.scaled(gradient=gradient)
        with np.errstate(all="ignore"):
            out = apply(array)
        parents = apply(numbers)[plain].astype(int) - 1
        assert bits(out[plain]) == bits(array.reshape(-1)[parents])


@given(leaf_edits())
@MANY
def test_touched_means_that_something_changes(edit: LeafEdit):
    changes = [
        not np.array_equal(matrix, np.eye(*matrix.shape))
        for part in edit.axes
        for gradient in (False, True)
        for matrix in [matrix_of(part, gradient=gradient, power=1)]
    ]
    assert edit.touched or not any(changes)


@pytest.mark.parametrize("produce", [[0, 1], [1, 0]])
@pytest.mark.parametrize("consume", [[0, 1], [1, 0]])
def test_either_side_of_a_pair_touches(produce: list[int], consume: list[int]):
    pair = MapPair(UnitMap.take(2, produce), UnitMap.take(2, consume))
    edit = LeafEdit((AxisEdit(FREE), axis_edit(H, {0: pair}, frozenset())))
    assert edit.touched == ([0, 1] != produce or [0, 1] != consume)


@given(leaf_edits(), seeds)
@MANY
def test_leading_axes_and_kept_axes(edit: LeafEdit, seed: int):
    array = modest(np.dtype(np.float32), (3, *edit.old_shape), seed)
    led = edit.lead([3])
    assert led.old_shape == array.shape and led.new_shape == (3, *edit.new_shape)
    stacked = np.stack([edit.gradients(part) for part in array])
    np.testing.assert_array_equal(led.gradients(array), stacked)
    turned = list(range(len(edit.axes)))[::-1]
    assert edit.keep_axes(turned).axes == edit.axes[::-1]
    assert edit.keep_axes([]).values(np.array(2)) == 2


# --- gradients


@st.composite
@without_randomness
def preserving(draw, old: int, kind: str) -> MapPair:
    """`consume.T @ produce` is the identity: consumers undo what producers do."""
    order = draw(st.permutations(range(old)))
    copies = draw(st.lists(st.integers(0, old - 1), max_size=3))
    indices = np.array([*order, *copies], int)
    generator = np.random.default_rng(draw(seeds))
    if kind == "split":
        shares = generator.uniform(0.1, 1, indices.size)
        shares /= np.bincount(indices, shares)[indices]
        return MapPair(
            UnitMap.take(old, indices), UnitMap.weighted(old, indices, shares)
        )
    produce = generator.normal(size=(indices.size, old))
    consume = np.linalg.pinv(produce).T
    rows, cols = map(np.ravel, np.indices(produce.shape))
    return MapPair(
        *(
            UnitMap(old, indices.size, rows, cols, matrix.ravel())
            for matrix in (produce, consume)
        )
    )


def loss_gradients(first: np.ndarray, second: np.ndarray, x: np.ndarray):
    """Output and gradients of `sum(sin(W2 W1 x))`."""
    hidden = first @ x
    y = second @ hidden
    slope = np.cos(y)
    return y, np.outer(second.T @ slope, x), np.outer(slope, hidden)


@given(st.data(), st.sampled_from(LAYOUTS), st.sampled_from(["split", "mix"]), seeds)
@settings(max_examples=40, deadline=None)
def test_gradients_of_the_new_network_are_the_mapped_gradients(
    data: st.DataObject, layout: Layout, kind: str, seed: int
):
    known = {atom.id: data.draw(preserving(atom.size, kind)) for atom in (H, D)}
    writes = axis_edit(layout, known, frozenset())
    reads = axis_edit(layout, known, frozenset(p.place for p in writes.places))
    inputs, outputs = AxisEdit(Atom(8, 3)), AxisEdit(Atom(9, 2))
    first, second = LeafEdit((writes, inputs)), LeafEdit((outputs, reads))
    generator = np.random.default_rng(seed)
    w1 = generator.normal(size=(size_of(layout), 3))
    w2 = generator.normal(size=(2, size_of(layout)))
    x = generator.normal(size=3)
    y, g1, g2 = loss_gradients(w1, w2, x)
    new_y, new_g1, new_g2 = loss_gradients(first.values(w1), second.values(w2), x)
    close = ft.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    close(new_y, y)
    close(first.gradients(g1), new_g1)
    close(second.gradients(g2), new_g2)
