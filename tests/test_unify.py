"""The solver of layouts under random programs, against labels written index by index.

A label says what one index of an axis is: a tuple of (atom, unit). Whatever the solver
was told must hold between the labels at the end, for the sizes that it saw and for
others, except where it reported that it doesn't understand.
"""

import itertools as it
import time
from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from growthnet._reading.layout import Atom, Layout, Prod, resized, size_of, spread, Sum
from growthnet._reading.unify import Node, Solver, Unalignable


Label = tuple[tuple[int, int], ...]
Op = tuple[str, int, int, int]
Shape = tuple  # ("atom", name, size) | ("prod" | "sum", Shape, Shape)

Program = tuple[list[Shape], list[Op]]

MENU = (4, 2, 3, 6, 8, 12, 1, 0)
LARGEST = 72


class World:
    """A solver, and what a reader of programs would remember beside it."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.sizes: list[int] = []
        self.rigid: list[tuple[Node, str]] = []
        self.claims: list[tuple[str, Node, Sequence[Node]]] = []
        self.refused: list[Node] = []
        self.solver = Solver(lambda node, why: self.rigid.append((node, why)))
        self._names: dict[Node, int] = {}

    def add(self, *nodes: Node) -> Node:
        self.nodes += nodes
        self.sizes += [node.size for node in nodes]
        return nodes[0]

    def axis(self, size: int) -> Node:
        return self.add(Node(size))

    def prod(self, *factors: Node) -> Node:
        whole = self.add(self.solver.prod(factors))
        self.claims.append(("prod", whole, factors))
        return whole

    def sum(self, *segments: Node) -> Node:
        whole = self.add(self.solver.sum(segments))
        self.claims.append(("sum", whole, segments))
        return whole

    def split_prod(self, node: Node, outer: int) -> list[Node]:
        """`[outer, inner]`, or nothing where the solver refuses."""
        return self._split("prod", node, lambda: self.solver.split_prod(node, outer))

    def split_sum(self, node: Node, first: int) -> list[Node]:
        return self._split("sum", node, lambda: self.solver.split_sum(node, first))

    def _split(
        self, kind: str, node: Node, cut: Callable[[], tuple[Node, Node]]
    ) -> list[Node]:
        parts = self.solver.guarded(node, lambda: list(cut()))
        if parts:
            self.add(*parts)
            self.claims.append((kind, node, parts))
        else:
            self.refused.append(node)
        return parts

    def unify(self, a: Node, b: Node) -> bool:
        done = self.solver.unify(a, b)
        if done:
            self.claims.append(("same", a, [b]))
        else:
            self.refused += [a, b]
        return done

    def run(self, op: Op) -> None:
        """One operation of a random program; impossible ones do nothing."""
        name, i, j, k = op
        if name == "axis":
            self.axis(MENU[i % len(MENU)])
            return
        a, b = self.nodes[i % len(self.nodes)], self.nodes[j % len(self.nodes)]
        if name == "prod" and a.size * b.size <= LARGEST:
            self.prod(a, b)
        elif name == "sum" and a.size + b.size <= LARGEST:
            self.sum(a, b)
        elif name == "split_prod":
            divisors = [d for d in range(1, a.size + 1) if a.size % d == 0] or [0, 2]
            self.split_prod(a, divisors[k % len(divisors)])
        elif name == "split_sum" and a.size > 1:
            self.split_sum(a, 1 + k % (a.size - 1))
        elif name == "unify":
            find = self.solver.find
            others = [
                n for n in self.nodes if n.size == a.size and find(n) is not find(a)
            ]
            if others:
                self.unify(a, others[j % len(others)])
        assert self.solver._steps <= self.solver.budget + 1

    # --- looking at the result

    def layout(self, node: Node) -> Layout:
        return self.solver.layout(
            node, lambda atom: self._names.setdefault(atom, len(self._names))
        )

    def atoms(self, node: Node) -> set[Atom]:
        names = self._names
        return {
            Atom(names.setdefault(atom, len(names)), atom.size)
            for atom in self.solver.atoms(node)
        }

    def fixed(self) -> set[int]:
        """The atoms that were reported."""
        return {atom.id for node, _ in self.rigid for atom in self.atoms(node)}

    def free(self) -> dict[int, int]:
        """All other atoms with their sizes."""
        fixed = self.fixed()
        atoms = {atom for node in self.nodes for atom in self.atoms(node)}
        return {atom.id: atom.size for atom in atoms if atom.id not in fixed}

    def labels(
        self,
        node: Node,
        sizes: dict[int, int] | None = None,
        silent: set[int] | None = None,
    ) -> list[Label]:
        """Single units that can't change say nothing: `1+1+1` rows of h are h+h+h."""
        silent = self.fixed() if silent is None else silent

        def names(_, atom: Atom) -> np.ndarray:
            vector = np.empty(atom.size, object)
            unit = atom.size == 1 and atom.id in silent
            vector[:] = [() if unit else ((atom.id, u),) for u in range(atom.size)]
            return vector

        layout = resized(self.layout(node), sizes or {})
        return spread(layout, names, times=lambda outer, inner: outer + inner).tolist()

    def check_everything(self, step: int = 0) -> None:
        """What holds for the sizes seen holds for others of the free atoms."""
        for node, size in zip(self.nodes, self.sizes, strict=True):
            assert node.size == size == size_of(self.layout(node))
        for node in self.refused:
            assert {atom.id for atom in self.atoms(node)} <= self.fixed()
        self._check({})
        self._check({id: n + 1 + (id + step) % 3 for id, n in self.free().items()})

    def _check(self, sizes: dict[int, int]) -> None:
        for kind, whole, parts in self.claims:
            found = [self.labels(part, sizes) for part in parts]
            if kind == "prod":
                expected = [sum(choice, ()) for choice in it.product(*found)]
            else:
                expected = [label for part in found for label in part]
            assert self.labels(whole, sizes) == expected, kind

    def reasons(self) -> set[str]:
        return {why for _, why in self.rigid}


@st.composite
def shapes(draw, size: int, depth: int = 3) -> Shape:
    """An axis of a given size; equal atoms (name, size) are one node."""
    kinds = ["atom"]
    divisors = [d for d in range(2, size) if size % d == 0]
    if depth and divisors:
        kinds.append("prod")
    if depth and size > 2:
        kinds.append("sum")
    kind = draw(st.sampled_from(kinds[::-1]))
    if kind == "atom":
        return kind, draw(st.integers(0, 5)), size
    if kind == "prod":
        first = draw(st.sampled_from(divisors))
        rest = size // first
    else:
        first = draw(st.integers(1, size - 1))
        rest = size - first
    return kind, draw(shapes(first, depth - 1)), draw(shapes(rest, depth - 1))


def built(world: World, shape: Shape, known: dict[Shape, Node]) -> Node:
    if shape[0] == "atom":
        if shape not in known:
            known[shape] = world.axis(shape[2])
        return known[shape]
    parts = [built(world, part, known) for part in shape[1:]]
    return getattr(world, shape[0])(*parts)


counts = st.integers(0, 59)
names = ["axis", "prod", "sum", "split_prod", "split_sum", "unify", "unify", "unify"]
programs = st.tuples(
    st.sampled_from([4, 6, 8, 12, 16, 24]).flatmap(
        lambda size: st.lists(shapes(size), min_size=2, max_size=4)
    ),
    st.lists(
        st.tuples(st.sampled_from(names), counts, counts, counts),
        min_size=8,
        max_size=20,
    ),
)


def ran(program: Program) -> World:
    """A few axes of one size, then operations on them and on what comes of them."""
    world = World()
    known: dict[Shape, Node] = {}
    for shape in program[0]:
        built(world, shape, known)
    for op in program[1]:
        world.run(op)
    return world


@given(programs, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_what_was_not_reported_holds_at_every_size(program: Program, step: int):
    ran(program).check_everything(step)


@given(programs)
@settings(max_examples=100, deadline=None)
def test_saying_it_again_changes_nothing(program: Program):
    world = ran(program)
    before = [world.labels(node) for node in world.nodes]
    fixed = world.fixed()
    for kind, a, (b, *_) in list(world.claims):
        if kind == "same":
            assert world.unify(a, b)
    assert [world.labels(node) for node in world.nodes] == before
    assert world.fixed() == fixed


def renamed(labels: list[list[Label]]) -> list[list[Label]]:
    """The same with atoms numbered in order of appearance."""
    names: dict[int, int] = {}
    return [
        [tuple((names.setdefault(a, len(names)), u) for a, u in one) for one in axis]
        for axis in labels
    ]


def A(size: int) -> Shape:
    return "atom", 0, size


def B(size: int) -> Shape:
    return "atom", 1, size


HALVES = ("sum", ("sum", A(3), B(3)), ("sum", A(3), B(3)))
ORDERS = [
    ((0, 1), (1, 2)),
    ((2, 1), (0, 1)),
    ((1, 2), (2, 0)),
    ((0, 2), (0, 1)),
    ((2, 0), (1, 0)),
]
triples = st.sampled_from([4, 6, 8, 12]).flatmap(
    lambda size: st.tuples(shapes(size), shapes(size), shapes(size))
)


@given(triples)
@example(
    (("sum", A(1), A(3)), ("sum", A(1), ("sum", B(1), A(2))), ("prod", B(2), A(2)))
)
@example((("prod", A(2), A(6)), ("sum", A(6), B(6)), HALVES))
@settings(max_examples=75, deadline=None)
def test_the_order_of_equations_is_of_no_matter(triple: tuple[Shape, ...]):
    """Where one order isn't understood, another may be; both are sound."""
    outcomes = []
    for order in ORDERS:
        world = World()
        known: dict[Shape, Node] = {}
        nodes = [built(world, shape, known) for shape in triple]
        understood = [world.unify(nodes[i], nodes[j]) for i, j in order]
        world.check_everything()
        if all(understood):
            # Whether a single unit counts as a row of its own depends on the order.
            units = {a.id for n in nodes for a in world.atoms(n) if a.size == 1}
            outcomes.append(renamed([world.labels(n, silent=units) for n in nodes]))
    assert all(outcome == outcomes[0] for outcome in outcomes)


# --- what real programs do


def free_sizes(world: World, *nodes: Node) -> list[int]:
    free = world.free()
    atoms = set().union(*(world.atoms(node) for node in nodes))
    return sorted(free[atom.id] for atom in atoms if atom.id in free)


def test_halves_of_a_gated_unit_are_one_width():
    world = World()
    fused = world.axis(10)
    value, gate = world.split_sum(fused, 5)
    assert world.unify(value, gate)
    layout = world.layout(fused)
    assert isinstance(layout, Sum) and len(set(layout.segments)) == 1
    assert free_sizes(world, fused) == [5]
    assert not world.rigid


@pytest.mark.parametrize("order", ["3hd", "h3d", "hd3"])
def test_fused_qkv_keeps_heads_and_head_width(order: str):
    """`w` is cut into q, k and v by index; q meets k, head by head."""
    h, d = 4, 5
    sizes = [{"3": 3, "h": h, "d": d}[letter] for letter in order]
    world = World()
    fused = world.axis(3 * h * d)
    first, rest = world.split_prod(fused, sizes[0])
    second, third = world.split_prod(rest, sizes[1])
    axes = dict(zip(order, (first, second, third), strict=True))
    world.split_sum(world.split_sum(axes["3"], 1)[1], 1)
    assert world.unify(axes["h"], world.axis(h))
    layout = world.layout(fused)
    assert isinstance(layout, Prod) and [size_of(f) for f in layout.factors] == sizes
    assert free_sizes(world, fused) == [h, d]
    assert world.reasons() == {"one index is cut out by a constant"}
    world.check_everything()


def test_flattened_channels_stay_a_width():
    world = World()
    channels, height, width = map(world.axis, (8, 5, 4))
    flat = world.prod(channels, height, width)
    weight = world.axis(160)
    assert world.unify(weight, flat)
    assert world.layout(weight) == world.layout(flat)
    assert world.unify(world.split_prod(weight, 8)[0], channels)
    assert free_sizes(world, weight) == [4, 5, 8]
    assert not world.rigid


@pytest.mark.parametrize("swap", [False, True])
def test_three_rows_meet_a_run_of_three(swap: bool):
    world = World()
    row, three = world.axis(7), world.axis(3)
    a, b, c = (world.axis(7) for _ in range(3))
    pair = world.prod(three, row), world.sum(a, b, c)
    assert world.unify(*(pair[::-1] if swap else pair))
    assert world.layout(a) == world.layout(b) == world.layout(c) == world.layout(row)
    assert (
        world.layout(pair[0]) == world.layout(pair[1]) == Sum((world.layout(row),) * 3)
    )
    assert free_sizes(world, *pair) == [7]
    assert world.atoms(three) and not free_sizes(world, three)
    world.check_everything()


def test_rows_may_consist_of_several_segments():
    """Four gates of a cell, read as two rows of two."""
    world = World()
    gates = [world.axis(size) for size in (3, 5, 3, 5)]
    outer, inner = world.split_prod(world.sum(*gates), 2)
    assert world.layout(gates[0]) == world.layout(gates[2])
    assert world.layout(gates[1]) == world.layout(gates[3])
    assert free_sizes(world, inner) == [3, 5]
    assert not free_sizes(world, outer)
    world.check_everything()


@pytest.mark.parametrize("outer", [d for d in range(1, 49) if 48 % d == 0])
def test_a_product_may_be_cut_inside_a_factor(outer: int):
    world = World()
    whole = world.prod(*map(world.axis, (4, 6, 2)))
    parts = world.split_prod(whole, outer)
    assert bool(parts) == (outer not in {3, 6, 16})
    assert [part.size for part in parts] == ([outer, 48 // outer] if parts else [])
    world.check_everything()


def test_a_reshape_across_factors_is_rigid_and_says_so():
    world = World()
    a, b = world.axis(4), world.axis(3)
    assert world.split_prod(world.prod(a, b), 6) == []
    assert world.reasons() == {"a reshape mixes 4*3 into 6*2"}
    assert not world.free()


def test_products_that_do_not_align_are_rigid_and_say_so():
    world = World()
    left = world.prod(world.axis(4), world.axis(3))
    right = world.prod(world.axis(6), world.axis(2))
    assert not world.unify(left, right)
    assert world.reasons() == {"an axis of 6 isn't a multiple of 4"}
    assert not free_sizes(world, left, right)


def test_other_refusals_say_what_does_not_fit():
    world = World()
    rows, run = world.prod(world.axis(2), world.axis(6)), world.axis(12)
    assert world.split_sum(rows, 3) == []
    world.split_sum(run, 5)
    assert world.split_prod(run, 2) == []
    assert world.split_prod(world.sum(world.axis(9), world.axis(3)), 2) == []
    assert not world.unify(world.axis(5), world.axis(6))
    assert world.reasons() == {
        "a cut at 3 falls inside a row of 6",
        "segments 5+7 don't make rows of 6",
        "segments 9+3 don't make rows of 6",
        "axes of 5 and 6 are combined",
    }
    with pytest.raises(AssertionError, match="strictly inside"):
        world.solver.split_sum(run, 12)
    with pytest.raises(Unalignable, match="isn't a multiple of 5"):
        world.solver.split_prod(rows, 5)


def test_a_shifted_copy_is_noticed_quickly():
    """Without deep recursion too: who traces may stand deep in a stack already."""
    world = World()
    axis = Node(2048)
    started = time.perf_counter()
    later = world.solver.split_sum(axis, 1)[1]
    earlier = world.solver.split_sum(axis, 2047)[0]
    assert not world.solver.unify(later, earlier)
    assert time.perf_counter() - started < 0.2
    world.add(axis)
    assert not world.free()
    assert any("shifted" in why for why in world.reasons())
    # The steps are counted anew for whatever comes next.
    assert world.unify(world.axis(6), world.axis(6))
    assert not world.unify(later, earlier)
    assert world.split_prod(world.sum(world.axis(6), world.axis(6)), 4)


def test_many_cuts_of_one_axis_nest_without_recursion():
    """Shifts by one to eight, then an unrolled loop that takes off index by index."""
    solver = World().solver
    axis = Node(1500)
    for shift in range(1, 9):
        later = solver.split_sum(axis, shift)[1]
        earlier = solver.split_sum(axis, 1500 - shift)[0]
        assert not solver.unify(later, earlier)
    unrolled = Node(1200)
    rest = unrolled
    for _ in range(1199):
        rest = solver.split_sum(rest, 1)[1]
    assert len(solver.segments(unrolled)) == len(solver.atoms(unrolled)) == 1200
    layout = solver.layout(unrolled, lambda _: 0)
    assert layout == Sum((Atom(0, 1),) * 1200)


def test_an_axis_may_meet_a_product_of_itself():
    """The split of the run refines the factors that it is compared with."""
    world = World()
    x, y, z = world.axis(4), world.axis(2), world.axis(4)
    assert world.unify(world.prod(x, y), world.sum(x, z))
    world.check_everything()


def test_axes_without_units_are_rigid():
    """Size 1 and size 0 can't carry a width through a reshape."""
    world = World()
    one, none, some = world.axis(1), world.axis(0), world.axis(6)
    assert world.layout(world.prod(one, some)) == world.layout(some)
    assert world.layout(world.sum(none, some)) == world.layout(some)
    assert free_sizes(world, one, none, some) == [6]
    outer, same = world.split_prod(some, 1)
    assert same is some and not free_sizes(world, outer)
    assert not free_sizes(world, world.sum(none, world.axis(0)))
    empty = world.prod(none, some)
    assert isinstance(world.layout(empty), Atom)
    assert world.unify(empty, none) and empty.size == 0
    assert world.split_prod(empty, 0) == world.split_prod(empty, 2) == []
    assert not world.free()


def test_a_single_unit_at_the_end_of_a_run_is_cut_out_too():
    world = World()
    one, rest = world.axis(1), world.axis(5)
    world.split_sum(world.sum(one, rest), 1)
    assert free_sizes(world, one, rest) == [5]


def test_a_single_unit_that_no_constant_names_stays_free():
    """Where runs of other lengths meet, and between two longer slices."""
    world = World()
    left = world.sum(world.axis(1), world.axis(3))
    right = world.sum(world.axis(3), world.axis(1))
    assert world.unify(left, right)
    assert free_sizes(world, left) == [1, 1, 2]
    run = world.sum(world.axis(3), world.axis(5))
    world.split_sum(run, 4)
    assert free_sizes(world, run) == [1, 3, 4]
    world.check_everything()
