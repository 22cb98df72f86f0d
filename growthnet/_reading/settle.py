"""Which static fields follow which width, and which widths can't change at all.

The network is rebuilt abstractly with growable widths more than doubled, each by
another amount. If it then reads as the layouts predict, no size was hard-coded on the
way. Where it doesn't, static integers that follow a width are searched, and widths for
which that doesn't help are stuck, with the reason.
"""

import dataclasses
import itertools as it
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from .._edits.statics import fitting, Found, modules, unowned_ints
from .._paths import within
from .anatomy import Anatomy
from .events import Number
from .facts import Facts
from .layout import Atom, Layout, occurrences, Prod, size_of, Sum
from .reader import error_line
from .widths import Width


@dataclasses.dataclass(frozen=True, eq=False)
class First:
    """One reading of a network: its anatomy, without recipes, and its facts."""

    source: Any
    anatomy: Anatomy
    facts: Facts

    @property
    def numbers(self) -> tuple[Number, ...]:
        return self.facts.reading.numbers


Read: TypeAlias = Callable[[Any], First]

Slot: TypeAlias = tuple[str, str, int | None]
"""A field of all modules of a class: its name, the field, the index in a tuple."""

Ways: TypeAlias = Mapping[Slot, Sequence[Sequence[Found]]]
"""What a field may stand for, for all modules of its class at once."""

TRIALS = 16


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


class Settling:
    """Readings of one network at other sizes.

    - `source`: where the network comes from, with the static fields that were found.
    - `stuck`: the widths that the code doesn't let change, with the reason.
    """

    def __init__(self, first: First, read: Read):
        self._read = read
        self._anatomy = first.anatomy
        self.source = first.source
        self.stuck: dict[str, str] = {}
        self._readings: dict[tuple[Any, ...], First | str] = {}

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """More than doubled, and each another prime: a size that the code computes from
        others (`n // 2`, `n // 16`) can't come out right by chance, and a number that
        goes with a size goes with no other."""
        found: dict[str, int] = {}
        taken: set[int] = set()
        for name in self._in_order(names):
            size = 2 * self._anatomy.widths[name].size + 1
            while size in taken or not _is_prime(size):
                size += 1
            taken.add(size)
            found[name] = size
        return fitting(self.source.skeleton, self._anatomy, found)

    def names(self) -> list[str]:
        """The widths that can grow, as far as is known."""
        return [
            w.name
            for w in self._anatomy.all_widths
            if w.growable and w.name not in self.stuck
        ]

    def probe(self, names: Sequence[str], found: Sequence[Found] = ()) -> First | str:
        """The network with these widths larger (and these fields following), or why it
        doesn't read."""
        source = self._with(found)
        key = (*self._in_order(names), *source.found)
        if key not in self._readings:
            self._readings[key] = self._reading(names, source)
        return self._readings[key]

    def works(self, names: Sequence[str], found: Sequence[Found] = ()) -> bool:
        return not names or not isinstance(self.probe(names, found), str)

    def _in_order(self, names: Sequence[str]) -> list[str]:
        """The same widths always get the same sizes, however they were put together."""
        asked = set(names)
        return [w.name for w in self._anatomy.all_widths if w.name in asked]

    def _with(self, found: Sequence[Found]) -> Any:
        return dataclasses.replace(self.source, found=(*self.source.found, *found))

    def _reading(self, names: Sequence[str], source: Any) -> First | str:
        wanted = self._anatomy.resized(self.sizes(names))
        try:
            again = self._read(source.like(wanted))
        except Exception as error:
            return what_failed(error)
        return again if again.anatomy == wanted else FIXED

    # --- settling

    def settle(self) -> None:
        """Finds the static fields that follow widths, and the widths that are stuck."""
        if self.works(self.names()):
            return
        sure = {s: w for s, w in self._ways(self.names()).items() if len(w) == 1}
        if self._try(self.names(), sure):
            return
        _, failing = self._growing(self._groups(), [])
        for group in failing:
            self._settle(group)

    def _groups(self) -> list[list[str]]:
        """Widths that play the same part in layer after layer, together."""
        groups: dict[Any, list[str]] = {}
        for name in self.names():
            width = self._anatomy.widths[name]
            parts = tuple((_pattern(m.path), m.axis, m.roles) for m in width.members)
            groups.setdefault((_pattern(name), width.size, parts), []).append(name)
        return list(groups.values())

    def _growing(
        self, groups: list[list[str]], good: list[str]
    ) -> tuple[list[str], list[list[str]]]:
        """The widths that grow together with `good` ones, and the groups that don't, by
        halves. Readings that fail are cheap, most stop in the first layer; those that
        don't aren't, so each of them is of more than the one before."""
        more = [*good, *it.chain(*groups)]
        if self.works(more):
            return more, []
        if len(groups) == 1:
            return good, groups
        middle = len(groups) // 2
        good, first = self._growing(groups[:middle], good)
        good, second = self._growing(groups[middle:], good)
        return good, first + second

    def _settle(self, group: list[str]) -> None:
        """Finds the fields behind a group of widths, or else says that it is stuck.
        What stops the first and the last of many layers stops those between them."""
        if self.works(group) or self._search(group):
            return
        reasons = {str(self.probe([name])) for name in (group[0], group[-1])}
        alone = [self.works([name]) for name in (group[0], group[-1])]
        if not any(alone) and len(reasons) == 1:
            self.stuck.update(dict.fromkeys(group, reasons.pop()))
        elif len(group) > 1:
            middle = len(group) // 2
            self._settle(group[:middle])
            self._settle(group[middle:])

    def _search(self, group: Sequence[str]) -> bool:
        """Looks for fields that follow these widths: every field one way or another,
        then each alone."""
        ways = self._ways(group)
        for chosen in it.islice(it.product(*ways.values()), TRIALS):
            tried = {s: [w] for s, w in zip(ways, chosen, strict=True)}
            if self._try(group, tried):
                return True
        alone = [{s: [w]} for s, found in ways.items() for w in found]
        return len(ways) > 1 and any(self._try(group, one) for one in alone)

    def _try(self, names: Sequence[str], ways: Ways) -> bool:
        """Adopts these fields if with them everything works, without those that aren't
        needed for it: such a field equals the size by chance (the number of spatial
        dimensions, a kernel size)."""
        left = {slot: found[0] for slot, found in ways.items()}
        flat = lambda: list(it.chain(*left.values()))
        if not left or not self.works(names, flat()):
            return False
        for slot in list(left):
            needed = left.pop(slot)
            if not self.works(names, flat()):
                left[slot] = needed
        self.source = self._with(flat())
        return True

    def _ways(self, names: Sequence[str]) -> Ways:
        """Integer fields that equal a layout with one of these widths in it, among the
        axes of their module's own leaves."""
        widths = [self._anatomy.widths[n] for n in names]
        taken = {found[:3] for found in self.source.found}
        ways: dict[Slot, dict[int, list[Found]]] = {}
        # A replayed program is no code that could read them.
        skeleton = None if self.source.replayed else self.source.skeleton
        for path, module in modules(skeleton):
            own = _measures(self._anatomy, widths, path)
            for field, index, value in unowned_ints(module):
                if (path, field, index) in taken:
                    continue
                slot = (type(module).__name__, field, index)
                for i, layout in enumerate(own.get(value, ())):
                    found = ways.setdefault(slot, {}).setdefault(i, [])
                    found.append((path, field, index, layout))
        return {slot: list(found.values()) for slot, found in ways.items()}


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _pattern(name: str) -> str:
    return re.sub(r"[0-9]+", "*", name)


def _measures(
    anatomy: Anatomy, widths: Sequence[Width], path: str
) -> dict[int, list[Layout]]:
    """By size, the layouts inside a module that have some of these widths in them."""
    ids = {w.id for w in widths if any(within(m.path, path) for m in w.members)}
    found: dict[int, dict[Layout, None]] = {}
    for leaf in anatomy.leaves if ids else ():
        if within(leaf.path, path):
            for layout in it.chain(*map(_parts, leaf.layouts)):
                if any(atom.id in ids for _, atom in occurrences(layout)):
                    found.setdefault(size_of(layout), {})[layout] = None
    return {size: list(layouts) for size, layouts in found.items()}


def _parts(layout: Layout) -> Iterator[Layout]:
    """A layout, its segments, and its runs of factors."""
    match layout:
        case Atom():
            yield layout
        case Sum(segments=segments):
            yield layout
            for segment in segments:
                yield from _parts(segment)
        case Prod(factors=factors):
            for i, j in it.combinations(range(len(factors) + 1), 2):
                if j == i + 1:
                    yield from _parts(factors[i])
                else:
                    yield Prod(factors[i:j])
