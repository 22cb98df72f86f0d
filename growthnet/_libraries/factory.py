"""Constructors by their differences: which argument of a factory sets which widths.

A factory is run abstractly at its sizes and with one argument changed; axes whose
length differs are the ones that it sets.
"""

import dataclasses
import functools as ft
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu

from .._paths import array_leaves, is_array, join
from .._reading.anatomy import Anatomy, measure
from .._reading.layout import occurrences


Sizes: TypeAlias = int | tuple[int, ...]
Arguments: TypeAlias = tuple[tuple[str, Sizes], ...]
"""The arguments of a factory that are sizes, by name."""

Entry: TypeAlias = tuple[str, int | None]
"""One number among them: an argument, and the place in it if it is a tuple."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of leaves by name."""


@dataclasses.dataclass(frozen=True)
class Factory:
    """A function that builds modules, and what its modules are initialised with."""

    make: Callable[..., Any]
    treedef: Any
    leaves: tuple[Any, ...]
    first: Arguments = dataclasses.field(compare=False)

    @staticmethod
    def of(
        make: Callable[..., Any], sizes: Mapping[str, Any], args: Any, kwargs: Any
    ) -> "Factory":
        leaves, treedef = jtu.tree_flatten((args, kwargs))
        describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
        known = tuple(describe(x) if is_array(x) else x for x in leaves)
        return Factory(make, treedef, known, tuple(sizes.items()))

    def shapes(self, sizes: Arguments) -> Shapes:
        """The shapes of the variables at some sizes."""
        return _shapes(self, sizes)

    def slopes(self, sizes: Arguments, entry: Entry) -> dict[tuple[str, int], Fraction]:
        """How fast each axis of each leaf grows with one number; axes that don't are
        left out."""
        return _slopes(self, sizes, entry)

    def moves(
        self, sizes: Arguments, anatomy: Anatomy, path: str
    ) -> dict[str, dict[str, Fraction]]:
        """How fast each width grows with each number, by its name."""
        return _moves(self, sizes, anatomy, path)


def entries(sizes: Arguments) -> Iterator[tuple[Entry, int]]:
    """Every number among the arguments."""
    for name, value in sizes:
        if isinstance(value, tuple):
            yield from (((name, i), n) for i, n in enumerate(value))
        else:
            yield (name, None), value


def entry_name(entry: Entry) -> str:
    """`hidden`, or `features[0]`."""
    name, index = entry
    return name if index is None else f"{name}[{index}]"


def changed(sizes: Arguments, entry: Entry, value: int) -> Arguments:
    """The arguments with another number."""
    name, index = entry

    def new(old: Any) -> Any:
        if index is None:
            return value
        return (*old[:index], value, *old[index + 1 :])

    return tuple((n, new(x) if n == name else x) for n, x in sizes)


@ft.lru_cache(maxsize=256)
def _shapes(factory: Factory, sizes: Arguments) -> Shapes:
    made = jax.eval_shape(ft.partial(_init, factory, sizes))
    return {name: tuple(x.shape) for name, x in array_leaves(made).items()}


def _init(factory: Factory, sizes: Arguments) -> Any:
    """The variables for some input."""
    zero = lambda x: jnp.zeros(x.shape, x.dtype) if is_array(x) else x
    args, kwargs = jtu.tree_unflatten(factory.treedef, map(zero, factory.leaves))
    return factory.make(**dict(sizes)).init(jr.key(0), *args, **kwargs)


@ft.lru_cache(maxsize=64)
def initials(factory: Factory) -> dict[str, float]:
    """What collections other than `params` hold at first, where that is one number."""
    if all(name.startswith("params.") for name in factory.shapes(factory.first)):
        return {}

    def others() -> Any:
        made = dict(_init(factory, factory.first))
        return {name: x for name, x in made.items() if name != "params"}

    arrays = array_leaves(jax.device_get(jax.jit(others)()))
    return {
        name: float(x.flat[0])
        for name, x in arrays.items()
        if x.size and (x == x.flat[0]).all()
    }


@ft.lru_cache(maxsize=256)
def _slopes(
    factory: Factory, sizes: Arguments, entry: Entry
) -> dict[tuple[str, int], Fraction]:
    old = dict(entries(sizes))[entry]
    before = factory.shapes(sizes)
    # Doubled, a size still divides what it did; the others are for what must not.
    for new in (2 * old, old + 1, old + 2, 3 * old):
        try:
            after = factory.shapes(changed(sizes, entry, new))
        except Exception:
            continue
        return {
            (name, axis): Fraction(b - a, new - old)
            for name, shape in before.items()
            if len(after.get(name, ())) == len(shape)
            for axis, (a, b) in enumerate(zip(shape, after[name], strict=True))
            if a != b
        }
    return {}


# --- from shapes to sizes


def sizes_for(factory: Factory, sizes: Arguments, shapes: Shapes) -> Arguments:
    """The arguments at which the factory makes these shapes, starting from others.

    **Raises:** `ValueError` if there are none, naming axes that one argument sets
    together.
    """
    now = factory.shapes(sizes)
    if all(now.get(name) == shape for name, shape in shapes.items()):
        return sizes
    for entry, old in entries(sizes):
        wanted: dict[Fraction, str] = {}
        for (name, axis), slope in factory.slopes(sizes, entry).items():
            if name in shapes and not _of_others(factory, sizes, entry, (name, axis)):
                n = shapes[name][axis]
                value = old + (n - now[name][axis]) / slope
                wanted.setdefault(value, f"{name}:{axis} ({n})")
        if len(wanted) > 1 or any(v.denominator > 1 or v < 1 for v in wanted):
            raise ValueError(
                f"the factory's argument {entry_name(entry)!r} sets "
                f"{' and '.join(wanted.values())} together; no value of it fits. "
                "Change them alike, or give the factory an argument for each"
            )
        for value in wanted:
            sizes = changed(sizes, entry, int(value))
    made = factory.shapes(sizes)
    for name, shape in shapes.items():
        if made.get(name) != shape:
            raise ValueError(
                f"no argument of the factory gives {name!r} the shape {shape}; "
                f"with {dict(sizes)} it has {made.get(name)}"
            )
    return sizes


def _of_others(
    factory: Factory, sizes: Arguments, entry: Entry, axis: tuple[str, int]
) -> bool:
    """Does another argument change this axis too (as in heads times dim)?"""
    others = (e for e, _ in entries(sizes) if e != entry)
    return any(axis in factory.slopes(sizes, other) for other in others)


# --- arguments and widths


@ft.lru_cache(maxsize=64)
def _moves(
    factory: Factory, sizes: Arguments, anatomy: Anatomy, path: str
) -> dict[str, dict[str, Fraction]]:
    found = {}
    for entry, _ in entries(sizes):
        slopes = factory.slopes(sizes, entry)
        named = {(join((path, name)), axis): x for (name, axis), x in slopes.items()}
        rates = _rates(anatomy, named)
        found[entry_name(entry)] = {
            w.name: rates[w.id] for w in anatomy.all_widths if rates.get(w.id)
        }
    return found


def _rates(
    anatomy: Anatomy, slopes: Mapping[tuple[str, int], Fraction]
) -> dict[int, Fraction]:
    """How fast units must grow, by atom, for the axes to grow so fast. An axis is a
    product or sum of several; those that stand alone are known first."""
    rates: dict[int, Fraction] = {}
    axes = [
        (layout, slopes.get((leaf.path, axis), Fraction(0)))
        for leaf in anatomy.leaves
        for axis, layout in enumerate(leaf.layouts)
    ]
    for layout, slope in axes:
        if not slope:
            rates.update({atom.id: Fraction(0) for _, atom in occurrences(layout)})
    for _ in axes:
        before = len(rates)
        for layout, slope in axes:
            atoms = {atom.id: atom.size for _, atom in occurrences(layout)}
            step = {
                id: measure(layout, {id: size + 1}) - measure(layout, {})
                for id, size in atoms.items()
            }
            unknown = [id for id in atoms if id not in rates]
            if len(unknown) == 1:
                rest = sum(step[id] * rates[id] for id in atoms if id in rates)
                rates[unknown[0]] = (slope - rest) / step[unknown[0]]
        if len(rates) == before:
            break
    return rates


def fitting(
    factory: Factory,
    sizes: Arguments,
    path: str,
    anatomy: Anatomy,
    wanted: Mapping[str, int],
) -> dict[str, int]:
    """The wanted sizes of widths, together with those that the same arguments set; a
    size that no value of the argument gives is rounded up."""
    found = dict(wanted)
    settled: set[str] = set()
    numbers = {entry_name(entry): old for entry, old in entries(sizes)}
    for name, size in wanted.items():
        if name in settled:
            continue
        for argument, rates in factory.moves(sizes, anatomy, path).items():
            if rates.get(name):
                steps = math.ceil((size - anatomy.widths[name].size) / rates[name])
                steps = max(steps, 1 - numbers[argument])
                new = {n: anatomy.widths[n].size + r * steps for n, r in rates.items()}
                found.update({n: int(x) for n, x in new.items()})
                settled.update(rates)
                break
    return found
