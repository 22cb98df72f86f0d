"""Layouts against a brute-force listing of an axis, index by index."""

import itertools as it
import math
from collections.abc import Iterator

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from growthnet._reading.layout import (
    Atom,
    describe,
    edit_axis,
    Layout,
    moved_cut,
    occurrences,
    Place,
    positions,
    Prod,
    relabelled,
    resized,
    size_of,
    span,
    spread,
    Sum,
)


Cell = tuple[tuple[Place, int], ...]
"""What one index of an axis is: the unit that it takes at each of its places."""

AXES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
SIZES = {0: 2, 1: 3, 2: 1, 3: 4, 4: 0}
MANY = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**16)

H, D = Atom(0, 2), Atom(1, 3)
LSTM = Sum((H, H, H, H))
FLATTENED = Prod((H, Atom(3, 4), Atom(3, 4)))
HEADS_OF_HALVES = Prod((Atom(2, 1), Sum((D, D)), H))
EMPTY_SEGMENT = Sum((D, Prod((H, Atom(4, 0))), H))


def cells(layout: Layout, place: Place = ()) -> Iterator[Cell]:
    """Every index of an axis in order, spelt out."""
    match layout:
        case Atom(size=size):
            yield from (((place, unit),) for unit in range(size))
        case Prod(factors=factors):
            parts = [list(cells(f, (*place, i))) for i, f in enumerate(factors)]
            yield from (sum(choice, ()) for choice in it.product(*parts))
        case Sum(segments=segments):
            for i, segment in enumerate(segments):
                yield from cells(segment, (*place, i))


def layouts() -> st.SearchStrategy[Layout]:
    """Small layouts; equal ids have equal sizes, and one width is empty."""
    atoms = st.sampled_from([Atom(id, size) for id, size in SIZES.items()])

    def deeper(parts: st.SearchStrategy[Layout]) -> st.SearchStrategy[Layout]:
        some = st.lists(parts, min_size=1, max_size=3).map(tuple)
        return some.map(Prod) | some.map(Sum)

    return st.recursive(atoms, deeper, max_leaves=6).filter(lambda l: size_of(l) < 300)


def numbered(layout: Layout, axis: int, ndim: int, other: int = 2) -> np.ndarray:
    """Distinct numbers in an array with the given axis; other axes have `other`."""
    shape = [other] * ndim
    shape[axis] = size_of(layout)
    return np.arange(math.prod(shape)).reshape(shape)


@given(layouts())
@MANY
def test_size_is_the_number_of_cells(layout: Layout):
    listed = list(cells(layout))
    assert size_of(layout) == len(listed) == len(set(listed))


@given(layouts())
@MANY
def test_occurrences_are_the_atoms_from_left_to_right(layout: Layout):
    found = list(occurrences(layout))
    assert [p for p, _ in found] == sorted(p for p, _ in found)
    for place, atom in found:
        inner = layout
        for child in place:
            assert not isinstance(inner, Atom)
            inner = (inner.factors if isinstance(inner, Prod) else inner.segments)[
                child
            ]
        assert inner is atom
    places = {place for place, _ in found}
    assert {place for cell in cells(layout) for place, _ in cell} <= places


@given(layouts())
@MANY
def test_description_evaluates_to_the_size(layout: Layout):
    assert eval(describe(layout, lambda atom: str(atom.size))) == size_of(layout)


def test_description_in_words():
    names = {0: "h", 1: "d", 2: "g"}
    said = describe(HEADS_OF_HALVES, lambda atom: names[atom.id])
    assert said == "g*(d+d)*h"
    assert describe(Sum((Prod((H, D)), H)), lambda atom: names[atom.id]) == "h*d+h"


@given(layouts())
@example(Prod((H, EMPTY_SEGMENT)))
def test_a_span_goes_from_the_first_position_to_the_last(layout):
    for place, _ in occurrences(layout):
        start, stop = span(layout, place)
        here = positions(layout, place)
        assert start == stop or here.size
        if here.size:
            assert (start, stop) == (here[0], here[-1] + 1)


@given(layouts(), st.permutations(range(10, 15)))
@MANY
def test_relabelling_changes_ids_only(layout: Layout, names: list[int]):
    new = relabelled(layout, dict(enumerate(names)))
    before, after = list(occurrences(layout)), list(occurrences(new))
    assert [(p, names[a.id], a.size) for p, a in before] == [
        (p, a.id, a.size) for p, a in after
    ]
    assert list(cells(new)) == list(cells(layout))


@given(layouts(), st.sampled_from(AXES))
@example(EMPTY_SEGMENT, (0, 1))
@MANY
def test_an_identity_edit_changes_nothing(layout: Layout, at: tuple[int, int]):
    axis, ndim = at
    array = numbered(layout, axis, ndim)
    same = edit_axis(array, axis, layout, lambda *_: lambda part, ax: part.copy())
    np.testing.assert_array_equal(same, array)
    assert edit_axis(array, axis, layout, lambda *_: None) is array


@given(layouts(), seeds)
@example(LSTM, 0)
@example(FLATTENED, 0)
@example(HEADS_OF_HALVES, 0)
@example(EMPTY_SEGMENT, 0)
@MANY
def test_an_edit_rewrites_each_place_by_itself(layout: Layout, seed: int):
    """Every place keeps units of its own choice, some of them twice, or none."""
    generator = np.random.default_rng(seed)
    chosen = {place: np.arange(atom.size) for place, atom in occurrences(layout)}
    edited_places = [p for p, v in chosen.items() if v.size and generator.integers(2)]
    for place in edited_places:
        chosen[place] = generator.choice(chosen[place], generator.integers(5))
    axis, ndim = AXES[seed % len(AXES)]
    # An axis of length 0 beside the edited one must not confuse the arithmetic.
    array = numbered(layout, axis, ndim, other=seed % 3)
    edited = edit_axis(
        array,
        axis,
        layout,
        lambda p, _: (
            (lambda part, ax: part.take(chosen[p], ax)) if p in edited_places else None
        ),
    )
    at = {cell: i for i, cell in enumerate(cells(layout))}
    taken = [at[cell] for cell in _edited_cells(layout, chosen)]
    np.testing.assert_array_equal(edited, array.take(np.array(taken, int), axis))


def _edited_cells(
    layout: Layout, chosen: dict[Place, np.ndarray], place: Place = ()
) -> Iterator[Cell]:
    """The old cells that make up the new axis, in its order."""
    match layout:
        case Atom():
            yield from (((place, unit),) for unit in chosen[place])
        case Prod(factors=factors):
            parts = [
                list(_edited_cells(f, chosen, (*place, i)))
                for i, f in enumerate(factors)
            ]
            yield from (sum(choice, ()) for choice in it.product(*parts))
        case Sum(segments=segments):
            for i, segment in enumerate(segments):
                yield from _edited_cells(segment, chosen, (*place, i))


@given(layouts(), seeds)
@MANY
def test_permuting_back_restores_the_array(layout: Layout, seed: int):
    generator = np.random.default_rng(seed)
    orders = {p: generator.permutation(atom.size) for p, atom in occurrences(layout)}
    axis, ndim = AXES[seed % len(AXES)]
    array = numbered(layout, axis, ndim)
    there = edit_axis(
        array, axis, layout, lambda p, _: lambda part, ax: part.take(orders[p], ax)
    )
    back = edit_axis(
        there,
        axis,
        layout,
        lambda p, _: lambda part, ax: part.take(np.argsort(orders[p]), ax),
    )
    np.testing.assert_array_equal(back, array)


@given(layouts(), st.sampled_from([0, 1, 3]), st.integers(0, 4))
@example(EMPTY_SEGMENT, 4, 2)
@example(FLATTENED, 3, 0)
@MANY
def test_a_resized_layout_has_the_size_that_the_edit_makes(
    layout: Layout, id: int, size: int
):
    def wrap(part: np.ndarray, axis: int) -> np.ndarray:
        return part.take(np.arange(size) % part.shape[axis], axis=axis)

    new = resized(layout, {id: size})
    for other in (2, 0) if SIZES[id] else ():
        edited = edit_axis(
            numbered(layout, 1, 3, other),
            1,
            layout,
            lambda _, atom: wrap if atom.id == id else None,
        )
        assert edited.shape == (other, size_of(new), other)
    sizes = {**SIZES, id: size}
    assert all(sizes[atom.id] == atom.size for _, atom in occurrences(new))
    assert [p for p, _ in occurrences(new)] == [p for p, _ in occurrences(layout)]


@given(layouts(), st.sampled_from([0, 1, 2, 3]), st.integers(1, 5))
@example(LSTM, 0, 5)
@example(HEADS_OF_HALVES, 1, 2)
@MANY
def test_a_cut_moves_with_what_is_before_it(layout: Layout, id: int, size: int):
    """Newborns repeat the last unit, so they lie on the side of the cut where it is."""

    def grow(part: np.ndarray, axis: int) -> np.ndarray:
        return part.take(np.minimum(np.arange(size), SIZES[id] - 1), axis=axis)

    new = resized(layout, {id: size})
    edited = edit_axis(
        numbered(layout, 0, 1), 0, layout, lambda _, a: grow if a.id == id else None
    )
    for at in range(size_of(layout) + 1):
        moved = moved_cut(layout, new, at)
        if moved is not None:
            assert (edited[:moved] < at).all() and (edited[moved:] >= at).all()


def test_a_cut_through_units_that_change_is_nowhere():
    halves = Sum((H, D))
    found = [moved_cut(halves, resized(halves, {1: 9}), at) for at in range(6)]
    assert found == [0, 1, 2, None, None, 11]
    heads = Prod((Sum((H, D)), Atom(3, 4)))
    wider = resized(heads, {3: 5})
    found = [moved_cut(heads, wider, at) for at in (0, 4, 8, 10, 12, 20)]
    assert found == [0, 5, 10, None, 15, 25]


@given(layouts(), seeds)
@MANY
def test_spread_multiplies_the_values_of_each_cell(layout: Layout, seed: int):
    generator = np.random.default_rng(seed)
    values = {p: generator.integers(1, 9, a.size) for p, a in occurrences(layout)}
    product = spread(layout, lambda p, _: values[p])
    assert product.tolist() == [
        math.prod(values[p][unit] for p, unit in cell) for cell in cells(layout)
    ]


@given(layouts())
@MANY
def test_spread_meets_outer_before_inner(layout: Layout):
    """With `+` of tuples, which doesn't commute, the order of the factors shows."""

    def names(place: Place, atom: Atom) -> np.ndarray:
        vector = np.empty(atom.size, object)
        vector[:] = [((place, unit),) for unit in range(atom.size)]
        return vector

    spelt = spread(layout, names, times=lambda outer, inner: outer + inner)
    assert spelt.tolist() == list(cells(layout))


@given(layouts())
@MANY
def test_positions_are_the_cells_that_use_a_place(layout: Layout):
    listed = list(cells(layout))
    for place, _ in occurrences(layout):
        expected = [
            i for i, cell in enumerate(listed) if place in (where for where, _ in cell)
        ]
        assert positions(layout, place).tolist() == expected


@given(layouts())
@MANY
def test_positions_divide_sums_and_fill_products(layout: Layout):
    def covered(inner: Layout, place: Place, start: int) -> None:
        """Checks the part of the axis that begins at `start`."""
        stop = start + size_of(inner)
        if isinstance(inner, Sum):
            for i, segment in enumerate(inner.segments):
                covered(segment, (*place, i), start)
                start += size_of(segment)
            assert start == stop
        elif isinstance(inner, Atom):
            assert positions(layout, place).tolist() == list(range(start, stop))
        elif all(isinstance(f, Atom) for f in inner.factors):
            for i in range(len(inner.factors)):
                found = positions(layout, (*place, i))
                assert found.tolist() == list(range(start, stop))

    covered(layout, (), 0)


def test_the_same_recursion_serves_jax_arrays():
    layout = Sum((Prod((H, D)), D))
    double = lambda part, axis: jnp.concatenate([part, 2 * part], axis)
    new = edit_axis(
        jnp.arange(18.0).reshape(2, 9),
        1,
        layout,
        lambda _, atom: double if atom.id == 1 else None,
        xp=jnp,
    )
    expected = [0, 1, 2, 0, 2, 4, 3, 4, 5, 6, 8, 10, 6, 7, 8, 12, 14, 16]
    assert new.shape == (2, 18)
    assert new[0].tolist() == expected
    gates = spread(layout, lambda _, atom: jnp.ones(atom.size), xp=jnp)
    assert isinstance(gates, jnp.ndarray) and gates.shape == (9,)


def test_a_wrong_layout_is_noticed():
    with pytest.raises(ValueError, match="reshape"):
        edit_axis(np.zeros(5), 0, Prod((H, D)), lambda *_: lambda part, ax: part)
