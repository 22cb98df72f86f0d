"""The second reading: what a network is at other sizes, rather than what it looks like.

`settle` rebuilds the network with every growable width larger. The numbers that
changed with that (the d of a `1/sqrt(d)`, the n of a mean) are told apart here, by the
powers with which they changed, and recipes are made of them.
"""

import dataclasses
import itertools as it
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from .._edits.statics import modules, retuned, static_floats
from .._exactness.exact import Powers, with_recipes
from .anatomy import Anatomy
from .events import Number
from .settle import First, Read, Settling
from .widths import Recipe, Width


def certified(first: First, read: Read) -> Anatomy:
    """The anatomy of a network, after it was read at other sizes."""
    certifier = _Certifier(first, read)
    powers, changing = certifier.powers()
    widths = []
    for width in certifier.widths():
        width = with_recipes(width, first.facts, powers[width.name], first.numbers)
        if width.name in changing:
            why = "the program itself changes with the size"
            recipe = Recipe(why=why, cover=width.cover, drift=(why,))
            width = dataclasses.replace(
                width, gateable="no", silent=recipe, copied=recipe
            )
        widths.append(width)
    widths = _with_fields(widths, certifier.source, first, read)
    return dataclasses.replace(
        first.anatomy, all_widths=tuple(widths), source=certifier.source
    )


AllPowers: TypeAlias = dict[str, dict[int, Fraction | None]]


class _Certifier:
    def __init__(self, first: First, read: Read):
        self._first = first
        self._anatomy = first.anatomy
        self._settling = Settling(first, read)
        self._settling.settle()

    @property
    def source(self) -> Any:
        return self._settling.source

    def widths(self) -> list[Width]:
        """The widths, with those that are stuck."""
        stuck = self._settling.stuck
        why = "the program doesn't work with another size: "
        return [
            dataclasses.replace(
                w, growable=False, reasons=(*w.reasons, why + stuck[w.name])
            )
            if w.name in stuck
            else w
            for w in self._anatomy.all_widths
        ]

    # --- numbers

    def powers(self) -> tuple[Mapping[str, Powers], set[str]]:
        """Per width, the numbers that go with its size; and the widths with which the
        program itself changes."""
        powers: AllPowers = {w.name: {} for w in self._anatomy.all_widths}
        changing: set[str] = set()
        self._account(self._settling.names(), None, powers, changing)
        return powers, changing

    def _account(
        self,
        names: Sequence[str],
        among: Sequence[Number] | None,
        powers: AllPowers,
        changing: set[str],
    ) -> None:
        """Accounts for the numbers (all, or those `among`) that go with these widths:
        together where their powers tell which goes with which, else by halves."""
        if not names:
            return
        reading = self._settling.probe(names)
        rest = among
        if isinstance(reading, First) and self._same_program(reading):
            pairs = self._pairs(reading)
            if among is not None:
                pairs = [p for p in pairs if any(p[0] is n for n in among)]
            rest = _explained(pairs, self._ratios(names), powers)
            if len(names) == 1:
                powers[names[0]].update((id(n.value), None) for n in rest)
            if len(names) == 1 or not rest:
                return
        elif len(names) == 1:
            changing.add(names[0])
            return
        middle = len(names) // 2
        for half in (names[:middle], names[middle:]):
            self._account(half, rest, powers, changing)

    def _ratios(self, names: Sequence[str]) -> dict[str, float]:
        sizes = self._settling.sizes(names)
        return {n: s / self._anatomy.widths[n].size for n, s in sizes.items()}

    def _same_program(self, other: First) -> bool:
        what = lambda first: [(n.name, n.line) for n in first.numbers]
        return what(self._first) == what(other)

    def _pairs(self, other: First) -> list[tuple[Number, float]]:
        """The numbers that changed, and by which factor."""
        return [
            (a, b.x / a.x if a.x else math.nan)
            for a, b in zip(self._first.numbers, other.numbers, strict=True)
            if a.x != b.x and not (math.isnan(a.x) and math.isnan(b.x))
        ]


def _explained(
    pairs: Sequence[tuple[Number, float]],
    ratios: Mapping[str, float],
    powers: AllPowers,
) -> list[Number]:
    """Fills in powers; the numbers that stay unexplained are returned."""
    rest = []
    for number, factor in pairs:
        hits = [
            {name: p} for name, ratio in ratios.items() if (p := _power(factor, ratio))
        ]
        if not hits:
            hits = [
                {a: Fraction(sign), b: p}
                for a, b in it.permutations(ratios, 2)
                for sign in (1, -1)
                if (p := _power(factor / ratios[a] ** sign, ratios[b])) in (1, -1)
                and p is not None
                and a < b
            ]
        if len(hits) == 1:
            for name, power in hits[0].items():
                powers[name][id(number.value)] = power
        else:
            rest.append(number)
    return rest


def _power(factor: float, ratio: float) -> Fraction | None:
    """p, if factor is ratio ** p for a p of quarters."""
    if not factor > 0 or not math.isfinite(factor):
        return None
    quarters = round(4 * math.log(factor) / math.log(ratio))
    power = Fraction(quarters, 4)
    fits = abs(ratio ** float(power) / factor - 1) < 1e-5
    return power if fits and 0 < abs(power) <= 3 else None


# --- epsilons


def _with_fields(
    widths: Sequence[Width], source: Any, first: First, read: Read
) -> list[Width]:
    """Finds the static fields behind the epsilons that recipes scale. An epsilon that
    no field holds stays as it is, and the recipe is only nearly exact."""
    wanted = {
        place
        for w in widths
        for recipe in (w.silent, w.copied)
        for place, _ in recipe.epsilons
    }
    if not wanted:
        return list(widths)
    fields = _fields_behind(wanted, source, first, read)
    return [
        dataclasses.replace(
            w, silent=_completed(w.silent, fields), copied=_completed(w.copied, fields)
        )
        for w in widths
    ]


def _completed(recipe: Recipe, fields: Mapping[int, tuple[str, str]]) -> Recipe:
    if not recipe.epsilons:
        return recipe
    found = {(*fields[i], power) for i, power in recipe.epsilons if i in fields}
    if any(i not in fields for i, _ in recipe.epsilons):
        recipe = dataclasses.replace(
            recipe,
            exactness="approximate",
            why="an epsilon of the program stays as it is",
        )
    return dataclasses.replace(recipe, epsilons=(), fields=tuple(sorted(found)))


def _fields_behind(
    wanted: set[int], source: Any, first: First, read: Read
) -> dict[int, tuple[str, str]]:
    """Per place in the list of numbers, the static field that it comes from: all
    candidates are changed, each by another factor, and the network is read again."""
    values = {first.numbers[i].x for i in wanted}
    candidates = [
        (path, field, value)
        for path, module in modules(source.skeleton)
        for field, value in static_floats(module)
        if any(math.isclose(value, x, rel_tol=1e-6) for x in values)
    ]
    if not candidates:
        return {}
    factors = [1 + (i + 1) / 997 for i in range(len(candidates))]
    changed: dict[str, dict[str, float]] = {}
    for (path, field, value), factor in zip(candidates, factors, strict=True):
        changed.setdefault(path, {})[field] = value * factor
    skeleton = retuned(source.skeleton, source.skeleton, changed)
    try:
        again = read(dataclasses.replace(source, skeleton=skeleton))
    except Exception:
        return {}
    found = {}
    for i in wanted:
        factor = again.numbers[i].x / first.numbers[i].x
        for (path, field, _), given in zip(candidates, factors, strict=True):
            if math.isclose(factor, given, rel_tol=1e-5):
                found[i] = (path, field)
    return found
