"""How the state of an optimizer hangs together with the parameters.

Nothing records that, so it is read off a trace of `init`, which is never run:

- Traced with one symbol per parameter axis, the symbols in the shapes that come out say
  which axis of which parameter each axis of the state follows, for all sizes at once.
- An `init` that looks at sizes (adafactor at 128, GaLore) can't be traced so. It is
  traced at its true sizes, and made-up sizes that all differ serve as symbols.
"""

import dataclasses
import functools as ft
import itertools as it
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from jax import export
from jax.extend import core

from .._paths import named_leaves


Shape: TypeAlias = tuple[Any, ...]
Symbols: TypeAlias = dict[Any, tuple[int, int]]
"""What a size in a trace stands for: a parameter and one of its axes."""


def cached(function: Callable) -> Callable:
    """A small cache that lets unhashable arguments through."""
    # Small, since every growth of a long run makes new traces.
    remembering = ft.lru_cache(maxsize=64)(function)

    @ft.wraps(function)
    def call(*args: Any) -> Any:
        try:
            hash(args)
        except TypeError:
            return function(*args)
        return remembering(*args)

    return call


def skeleton(treedef: Any) -> tuple[Any, ...]:
    """Node types and dictionary keys. Static fields of modules aren't in it: they
    change with every resize, and optimizers don't read them."""
    node = treedef.node_data()
    kind, data = (None, None) if node is None else node
    keys = tuple(data or ()) if kind is dict else ()
    return kind, keys, tuple(map(skeleton, treedef.children()))


@dataclasses.dataclass(frozen=True)
class Case:
    """Everything that a trace depends on: a key of the caches, which must not hold on
    to any array.

    `sizes` are the shapes of the parameters, or only their ranks if the trace is to
    hold for all sizes; then `tree` leaves out what changes with the sizes.
    """

    function: Callable
    tree: Any
    sizes: tuple[Any, ...]
    types: tuple[tuple[Any, bool], ...]
    x64: bool
    treedef: Any = dataclasses.field(compare=False)

    def structs(self, shapes: Sequence[Shape]) -> Any:
        """Descriptions of parameters with the given shapes."""
        typed = zip(shapes, self.types, strict=True)
        return self.treedef.unflatten(
            jax.ShapeDtypeStruct(s, t, weak_type=weak) for s, (t, weak) in typed
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Params:
    """A parameter tree, taken apart once."""

    leaves: list[Any]
    treedef: Any

    @ft.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(tuple(np.shape(x)) for x in self.leaves)

    @ft.cached_property
    def types(self) -> tuple[tuple[Any, bool], ...]:
        """Dtype and weakness of each leaf."""
        return tuple(
            (jax.dtypes.result_type(x), bool(getattr(x, "weak_type", False)))
            for x in self.leaves
        )

    def case(self, function: Callable, *, exact: bool) -> Case:
        tree = self.treedef if exact else skeleton(self.treedef)
        sizes = self.shapes if exact else tuple(map(len, self.shapes))
        x64 = jax.config.read("jax_enable_x64")
        return Case(function, tree, sizes, self.types, x64, self.treedef)


# --- traces, and what they say about shapes


@dataclasses.dataclass(frozen=True)
class Link:
    """How one leaf of a state is laid out.

    - `param`: the index of the parameter that it follows, or `None`.
    - `axes`: per axis of the leaf, the axis of the parameter that it runs along, or
        `None`. `axes=None` altogether if nobody knows.
    - `kind`: `untouched` (follows no parameter), `moment` (laid out like one), `copy`
        (the same, and `init` copies the parameter), `stacked` (several, along leading
        axes, as in L-BFGS), `factored` (runs along some axes only, as in adafactor or
        SM3), `reset` (depends on the sizes in a way that can't be told).
    """

    param: int | None
    axes: tuple[int | None, ...] | None
    kind: str


UNTOUCHED = Link(None, (), "untouched")
UNKNOWN = Link(None, None, "reset")


def _kind(axes: tuple[int | None, ...], rank: int) -> str:
    lead = len(axes) - rank
    if lead < 0 or axes != (None,) * lead + tuple(range(rank)):
        return "factored"
    return "stacked" if lead else "moment"


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """`init`, as traced for parameters of some shapes."""

    closed: Any
    treedef: Any
    shapes: tuple[Shape, ...]

    @ft.cached_property
    def skeleton(self) -> tuple[Any, ...]:
        return skeleton(self.treedef)

    def link(self, k: int, symbols: Symbols) -> Link:
        """How leaf `k` is laid out, given what the sizes stand for."""
        jaxpr = self.closed.jaxpr
        atom = _origin(jaxpr, jaxpr.outvars[k])
        if atom in jaxpr.invars:
            axes = tuple(range(len(self.shapes[k])))
            return Link(jaxpr.invars.index(atom), axes, "copy")
        found = [symbols.get(size) for size in self.shapes[k]]
        params = {hit[0] for hit in found if hit is not None}
        if len(params) != 1:
            return UNKNOWN if params else UNTOUCHED
        axes = tuple(None if hit is None else hit[1] for hit in found)
        (param,) = params
        return Link(param, axes, _kind(axes, len(jaxpr.invars[param].aval.shape)))


def _origin(jaxpr: Any, atom: Any) -> Any:
    """Follows copies and casts back to where they come from."""
    while not isinstance(atom, core.Literal):
        eqn = next((e for e in jaxpr.eqns if atom in e.outvars), None)
        if eqn is None:
            return atom
        if eqn.primitive.name in ("copy", "copy_p", "convert_element_type"):
            atom = eqn.invars[0]
            continue
        if eqn.primitive.name not in ("jit", "pjit"):
            return None
        inner = eqn.params["jaxpr"].jaxpr
        found = _origin(inner, inner.outvars[eqn.outvars.index(atom)])
        if found not in inner.invars:
            return None
        atom = eqn.invars[inner.invars.index(found)]
    return None


def _trace(case: Case, shapes: Sequence[Shape]) -> Program:
    closed, out = jax.make_jaxpr(case.function, return_shape=True)(case.structs(shapes))
    leaves, treedef = jax.tree.flatten(out)
    return Program(closed, treedef, tuple(tuple(x.shape) for x in leaves))


@cached
def traced(case: Case) -> Program:
    return _trace(case, case.sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class AnySize:
    """An `init` that treats all sizes alike: one trace with symbols does for all.

    `params` is the structure of the parameters that it was traced with.
    """

    program: Program
    params: Any
    symbols: Symbols
    links: tuple[Link, ...]

    @ft.cached_property
    def outer(self) -> tuple[Any, tuple[list[Any] | None, ...]] | None:
        """The state's structure around whole parameter trees, and per leaf of it what
        stands in place of the parameters (leaves; tuples of them in SM3), or `None` for
        no such tree. `None` altogether if the state holds parts, as under a mask."""
        own = self.params
        partial = _types(own) - _PLAIN | {optax.MaskedNode}

        def inner(x: Any) -> list[Any] | None:
            try:
                trees = [jax.tree.structure(y) for y in own.flatten_up_to(x)]
            except (ValueError, TypeError):
                return None
            return None if any(_types(tree) & partial for tree in trees) else trees

        numbered = self.program.treedef.unflatten(range(len(self.links)))
        nodes, outer = jax.tree.flatten(numbered, lambda x: inner(x) is not None)
        inners = tuple(map(inner, nodes))
        inside = sum(tree.num_leaves for trees in inners for tree in trees or ())
        linked = sum(link.param is not None for link in self.links)
        if inside < linked or _types(outer) & partial:
            return None
        return outer, inners


_PLAIN = {tuple, list, dict, type(None), None}


def _types(treedef: Any) -> set[Any]:
    return set(node_types(skeleton(treedef)))


def node_types(tree: tuple[Any, ...]) -> Iterator[Any]:
    """The types in a skeleton, outermost first; `None` for leaves."""
    yield tree[0]
    for child in tree[2]:
        yield from node_types(child)


@cached
def any_size(case: Case) -> AnySize | None:
    names = ",".join(f"d{i}" for i in range(sum(case.sizes)))
    every = iter(export.symbolic_shape(names))
    shapes = [tuple(next(every) for _ in range(rank)) for rank in case.sizes]
    try:
        program = _trace(case, shapes)
    except Exception:
        # Most likely it compared sizes. At the true ones it either works, or fails
        # again with a message of its own.
        return None
    symbols = {s: (i, a) for i, shape in enumerate(shapes) for a, s in enumerate(shape)}
    sizes = {size for shape in program.shapes for size in shape}
    links = tuple(program.link(k, symbols) for k in range(len(program.shapes)))
    plain = all(isinstance(size, int) or size in symbols for size in sizes)
    if UNKNOWN in links or not plain:
        return None
    return AnySize(program, case.treedef, symbols, links)


# --- an `init` that looks at sizes


def _probes(
    shapes: Sequence[Shape], ties: int
) -> Iterator[tuple[tuple[Shape, ...], Symbols]]:
    """Made-up sizes that name their axes: first large ones, then small ones for a few
    leaves at a time.

    Within a leaf they are in the order of the true sizes, which is what a choice
    between axes goes by; `ties` tells which of two equal axes counts as the larger.
    """
    # optax breaks ties by `np.argsort`, whatever that does to them on this machine.
    order = lambda s: np.argsort(s) if ties > 0 else np.lexsort((-np.arange(len(s)), s))
    orders = [order(shape).tolist() for shape in shapes]
    yield _made_up(orders, range(len(shapes)), 1009)
    batch: list[int] = []
    for i in range(len(shapes)):
        if sum(len(shapes[j]) for j in [*batch, i]) > 120:
            yield _made_up(orders, batch, 3)
            batch = []
        batch.append(i)
    yield _made_up(orders, batch, 3)


def _made_up(
    orders: Sequence[Sequence[int]], batch: Sequence[int], first: int
) -> tuple[tuple[Shape, ...], Symbols]:
    probe, symbols = [[1] * len(order) for order in orders], {}
    for i in batch:
        for axis in orders[i]:
            probe[i][axis] = first + len(symbols)
            symbols[probe[i][axis]] = (i, axis)
    return tuple(map(tuple, probe)), symbols


def _explain(case: Case, actual: Program, ties: int) -> list[Link]:
    """For each leaf, the first probe whose reading predicts its true shape."""
    links: list[Link | None] = [None] * len(actual.shapes)
    for probe, symbols in _probes(case.sizes, ties):
        tree = skeleton(case.treedef)
        program = traced(dataclasses.replace(case, tree=tree, sizes=probe))
        if program.skeleton != actual.skeleton:
            continue
        for k, shape in enumerate(program.shapes):
            link = program.link(k, symbols)
            true = lambda size, symbols=symbols: (
                case.sizes[symbols[size][0]][symbols[size][1]]
                if size in symbols
                else size
            )
            if links[k] is None and tuple(map(true, shape)) == actual.shapes[k]:
                links[k] = link
        if None not in links:
            break
    # A single number has no layout, whatever it is about.
    rest = [UNKNOWN if shape else UNTOUCHED for shape in actual.shapes]
    return [link or other for link, other in zip(links, rest, strict=True)]


@cached
def links_at(case: Case) -> tuple[Link, ...]:
    """The links at given sizes."""
    actual = traced(case)
    links = _explain(case, actual, +1)
    if all(len(set(shape)) == len(shape) for shape in case.sizes):
        return tuple(links)
    # Between equal axes only adafactor's choice is known; others lose the leaf.
    known = adafactor_leaves(actual.treedef)
    for k, other in enumerate(_explain(case, actual, -1)):
        if other != links[k] and k not in known:
            same = other.param == links[k].param
            links[k] = Link(other.param, None, "reset") if same else UNKNOWN
    return tuple(links)


def adafactor_leaves(treedef: Any) -> dict[int, int]:
    """The leaves of a state that belong to adafactor, and to which of them."""
    numbered = treedef.unflatten(range(treedef.num_leaves))
    factored = lambda x: isinstance(x, optax.FactoredState)
    nodes = filter(factored, jax.tree.leaves(numbered, is_leaf=factored))
    return {k: n for n, node in enumerate(nodes) for k in jax.tree.leaves(node)}


def state_groups(treedef: Any, params: Any) -> list[int]:
    """Which leaves make up one state, as mu and nu of Adam do: per leaf, the number of
    the innermost named tuple that isn't part of the parameters."""
    groups: list[int] = []
    own = _types(params)

    def walk(tree: Any, group: int) -> None:
        node = tree.node_data()
        if node is None:
            groups.append(group)
        elif hasattr(node[0], "_fields") and node[0] not in own:
            group = len(groups)
        for child in tree.children():
            walk(child, group)

    walk(treedef, -1)
    return groups


# --- does a state belong to these parameters?


def leaf_paths(tree: Any) -> list[str]:
    """The leaves of a tree by name."""
    return [name for name, _ in named_leaves(tree)]


def checked_leaves(
    program: Program, shapes: tuple[Shape, ...], opt_state: Any
) -> list[Any]:
    """The leaves of a state that has the structure and the shapes that it should."""
    leaves, treedef = jax.tree.flatten(opt_state)
    given, own = skeleton(treedef), program.skeleton
    sizes = tuple(tuple(np.shape(x)) for x in leaves)
    if given == own and sizes == shapes:
        return leaves
    wanted = leaf_paths(program.treedef.unflatten(range(len(shapes))))
    here = [f"{p} {s}" for p, s in zip(leaf_paths(opt_state), sizes, strict=True)]
    there = [f"{p} {s}" for p, s in zip(wanted, shapes, strict=True)]
    types = [[getattr(t, "__name__", "") for t in node_types(x)] for x in (given, own)]
    pairs = [
        *it.zip_longest(here, there, fillvalue="nothing"),
        *it.zip_longest(*types, fillvalue="nothing"),
        ("a dictionary", "another"),
    ]
    found, expected = next(pair for pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"the optimizer state doesn't belong to these parameters: it has {found} where "
        f"optimizer.init(params) gives {expected}"
    )
