"""The second reading: what a network is at other sizes, rather than what it looks like.

The network is rebuilt abstractly with every growable width more than doubled, each by
another amount. If it then reads as the layouts predict, no size was hard-coded on the
way. Where it doesn't, static integers that follow a width are searched, and widths for
which that doesn't help are rigid, with the reason. The numbers that changed (the d of a
`1/sqrt(d)`, the n of a mean) are told apart by the powers with which they changed.
"""

import dataclasses
import itertools as it
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from ._anatomy import Anatomy, Recipe, Width
from ._events import Number
from ._exact import Powers, with_recipes
from ._facts import Facts
from ._reader import error_line
from ._statics import (
    fitting,
    Found,
    guesses,
    modules,
    retuned,
    static_floats,
    unowned_ints,
)


@dataclasses.dataclass(frozen=True, eq=False)
class First:
    """One reading of a network: its anatomy (no recipes yet), and what that is from."""

    source: Any
    anatomy: Anatomy
    facts: Facts

    @property
    def numbers(self) -> tuple[Number, ...]:
        return self.facts.reading.numbers


Read: TypeAlias = Callable[[Any], First]


def certified(first: First, read: Read) -> Anatomy:
    """The anatomy of a network, after it was read at other sizes."""
    certifier = _Certifier(first, read)
    certifier.settle()
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


FIXED = "a size is fixed in the code (the axes don't come out as they should)"


def what_failed(error: Exception) -> str:
    """Why a network can't be called at other sizes."""
    # A replayed program says itself what failed, and where.
    text = getattr(error, "text", str(error))
    text = (text.strip().splitlines() or [""])[0][:200]
    # Without its numbers, which are those of the second reading.
    text = f"{type(error).__name__}: {re.sub(r'[0-9]+', 'n', text)}"
    line = getattr(error, "line", error_line(error))
    return f"{text}, at {line}" if line else text


class _Certifier:
    def __init__(self, first: First, read: Read):
        self._first, self._read = first, read
        self._anatomy = first.anatomy
        self.source = first.source
        self._stuck: dict[str, str] = {}
        self._readings: dict[tuple[str, ...], First | str] = {}

    # --- reading at other sizes

    def _sizes(self, names: Sequence[str]) -> dict[str, int]:
        # More than doubled, and each by another step: a size that the code computes
        # from others (`n // 2`, `n // 16`) can't come out right by chance.
        widths = self._anatomy.widths
        sizes = {n: 2 * widths[n].size + 1 + 3 * i for i, n in enumerate(names)}
        return fitting(self.source.skeleton, self._anatomy, sizes)

    def _probe(self, names: Sequence[str], source: Any = None) -> First | str:
        """The network with these widths larger, or why it doesn't read."""
        if source is not None:
            return self._reading(names, source)
        key = tuple(names)
        if key not in self._readings:
            self._readings[key] = self._reading(names, self.source)
        return self._readings[key]

    def _reading(self, names: Sequence[str], source: Any) -> First | str:
        sizes = self._sizes(names)
        try:
            again = self._read(source.at(self._anatomy, sizes))
        except Exception as error:
            return what_failed(error)
        return again if again.anatomy == self._anatomy.resized(sizes) else FIXED

    def _names(self) -> list[str]:
        """The widths that can grow, as far as is known."""
        return [
            w.name
            for w in self._anatomy.all_widths
            if w.growable and w.name not in self._stuck
        ]

    # --- static fields

    def settle(self) -> None:
        """Finds the static fields that follow widths, and the widths that are stuck."""
        if self._works(self._names()):
            return
        self._guess()
        for name in self._failing(self._names()):
            if self._works([name]):  # since a field was found for another width
                continue
            found = self._search(self._anatomy.widths[name])
            if found:
                self._adopt(found)
            else:
                self._stuck[name] = str(self._probe([name]))

    def _works(self, names: Sequence[str]) -> bool:
        return not names or not isinstance(self._probe(names), str)

    def _failing(self, names: list[str]) -> list[str]:
        """The widths that don't grow alone."""
        if self._works(names):
            return []
        if len(names) == 1:
            return names
        middle = len(names) // 2
        return self._failing(names[:middle]) + self._failing(names[middle:])

    def _adopt(self, found: Sequence[Found]) -> None:
        self.source = self._with(found)
        self._readings.clear()

    def _with(self, found: Sequence[Found]) -> Any:
        return dataclasses.replace(self.source, found=(*self.source.found, *found))

    def _guess(self) -> None:
        """Integers that equal just one width among their module's own leaves, if with
        them everything works; without those that aren't needed for it."""
        if self.source.replayed:
            return  # No code runs that could read them.
        names = self._names()
        guessed = guesses(self.source.skeleton, self._anatomy)
        if not guessed or isinstance(self._probe(names, self._with(guessed)), str):
            return
        known = dict(modules(self.source.skeleton))
        kind = lambda f: (type(known[f[0]]).__name__, f[1], f[2])
        for what in dict.fromkeys(map(kind, guessed)):
            fewer = [f for f in guessed if kind(f) != what]
            if not isinstance(self._probe(names, self._with(fewer)), str):
                guessed = fewer
        self._adopt(guessed)

    def _search(self, width: Width) -> list[Found] | None:
        """Static integers that follow this width: all that equal its size, then each.

        Accepted only where the network then reads as predicted, so a field that equals
        the size by chance (the number of spatial dimensions, a kernel size) is put
        back.
        """
        if self.source.replayed:
            return None
        taken = {f[:3] for f in self.source.found}
        candidates: list[Found] = [
            (path, field, index, width.id)
            for path, module in modules(self.source.skeleton)
            for field, index, value in unowned_ints(module)
            if value == width.size and (path, field, index) not in taken
        ]
        for attempt in [candidates, *([c] for c in candidates)]:
            if attempt and not isinstance(
                self._probe([width.name], self._with(attempt)), str
            ):
                return attempt
        return None

    def widths(self) -> list[Width]:
        """The widths, with those that are stuck."""
        return [
            dataclasses.replace(
                w,
                growable=False,
                reasons=(
                    *w.reasons,
                    "the program doesn't work with another size: "
                    f"{self._stuck[w.name]}",
                ),
            )
            if w.name in self._stuck
            else w
            for w in self._anatomy.all_widths
        ]

    # --- numbers

    def powers(self) -> tuple[Mapping[str, Powers], set[str]]:
        """Per width, the numbers that go with its size; and the widths with which the
        program itself changes."""
        powers: dict[str, dict[int, Fraction | None]] = {
            w.name: {} for w in self._anatomy.all_widths
        }
        names = self._names()
        together = self._probe(names) if names else self._first
        alike = isinstance(together, First) and self._same_program(together)
        unexplained = None
        if alike and isinstance(together, First):
            unexplained = _explained(self._pairs(together), self._ratios(names), powers)
        if unexplained == []:
            return powers, set()
        changing = set()
        for name in names:
            alone = self._probe([name])
            if isinstance(alone, str) or not self._same_program(alone):
                changing.add(name)
                continue
            rest = self._pairs(alone)
            if unexplained is not None:
                rest = [p for p in rest if any(p[0] is n for n in unexplained)]
            else:
                powers[name].clear()
            ratios = self._ratios([name])
            for number in _explained(rest, ratios, powers):
                powers[name][id(number.value)] = None
        return powers, changing

    def _ratios(self, names: Sequence[str]) -> dict[str, float]:
        sizes = self._sizes(names)
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
    powers: dict[str, dict[int, Fraction | None]],
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
