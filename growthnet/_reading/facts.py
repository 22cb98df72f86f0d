"""Facts: what the events of a reading say of each atom."""

import dataclasses
import functools as ft
from collections.abc import Iterable, Sequence

import numpy as np

from .._exactness.degrees import blanks
from .._exactness.tape import Step
from .events import (
    Contraction,
    Interface,
    Reduction,
    Rigid,
    Role,
    Spot,
    Stack,
    Touch,
    Value,
)
from .layout import Layout, occurrences, Place, positions
from .reader import Reading, spots
from .unify import Node


Key = tuple[int, int, Place]
"""A member's identity: leaf, axis, place."""


@dataclasses.dataclass
class Fact:
    """What the events say of one atom."""

    id: int
    size: int
    rigid: list[str] = dataclasses.field(default_factory=list)
    interface: list[str] = dataclasses.field(default_factory=list)
    given: bool = False
    roles: dict[Key, set[Role]] = dataclasses.field(default_factory=dict)
    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    reductions: list[Reduction] = dataclasses.field(default_factory=list)
    stacks: list[Stack] = dataclasses.field(default_factory=list)

    @property
    def produced(self) -> bool:
        """Does a leaf make these units?"""
        made = {Role.PRODUCER, Role.FACTOR, Role.STACK}
        return any(roles & made for roles in self.roles.values())


class Facts:
    """All atoms of a reading, and which values they occur in."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self._ids: dict[Node, int] = {}
        self._inside: dict[Node, tuple[int | None, ...]] = {}
        self._mentioned: dict[Value, frozenset[int | None]] = {}
        self._covered: dict[Key, np.ndarray] = {}
        self.layouts: list[tuple[Layout, ...]] = [
            tuple(
                reading.solver.layout(
                    node, lambda n: self._ids.setdefault(n, len(self._ids))
                )
                for node in nodes
            )
            for nodes in reading.leaves
        ]
        self.atoms = [Fact(id, node.size) for node, id in self._ids.items()]
        for leaf, axes in enumerate(self.layouts):
            for axis, layout in enumerate(axes):
                for place, atom in occurrences(layout):
                    self.atoms[atom.id].roles[leaf, axis, place] = set()
        self._attribute()
        self._promote_tables()
        self._promote_vectors()

    def _promote_tables(self) -> None:
        """Rows of a table offset or scale what others produced, as an expert's bias
        does. Where nobody did (an embedding under dropout) the table is what produces.
        """
        tables = {leaf for leaf, _ in self.touched(Role.LOOKUP)}
        for fact in self.atoms:
            if not fact.produced:
                for (leaf, _, _), roles in fact.roles.items():
                    if leaf in tables and roles & {Role.OFFSET, Role.SCALE}:
                        roles.add(Role.PRODUCER)

    def _promote_vectors(self) -> None:
        """Where units are read and no contraction makes them, a vector does that
        spreads a number over them: `x * w + b` for a number x."""
        for fact in self.atoms:
            read = any(Role.CONSUMER in roles for roles in fact.roles.values())
            if fact.produced or fact.interface or not read:
                continue
            for role in (Role.SCALE, Role.OFFSET):
                makers = [k for k, roles in fact.roles.items() if role in roles]
                if makers:
                    fact.roles[min(makers)] ^= {role, Role.PRODUCER}
                    break

    def _attribute(self) -> None:
        """Hands every event to the atoms of its node."""
        for event in self.reading.events:
            for fact in [
                self.atoms[i]
                for i in dict.fromkeys(self.inside(event.node))
                if i is not None
            ]:
                match event:
                    case Rigid(reason=reason, line=line):
                        fact.rigid.append(located(reason, line))
                    case Interface(text=text, given=given):
                        fact.interface.append(text)
                        fact.given |= given
                    case Touch(role=role, spots=touched):
                        for key in self.members_at(fact, touched):
                            fact.roles[key].add(role)
                    case Contraction():
                        fact.contractions.append(event)
                    case Reduction():
                        fact.reductions.append(event)
                    case Stack():
                        fact.stacks.append(event)

    @ft.cached_property
    def blanks(self) -> frozenset[int]:
        """The values of which `degrees` finds that any power fits them."""
        return blanks(self.reading.tapes)

    @ft.cached_property
    def _touches(self) -> dict[Role, set[tuple[int, int]]]:
        found: dict[Role, set[tuple[int, int]]] = {role: set() for role in Role}
        for event in self.reading.events:
            if isinstance(event, Touch):
                found[event.role].update((s.leaf, s.axis) for s in event.spots)
        return found

    def touched(self, role: Role) -> set[tuple[int, int]]:
        """The leaf axes `(leaf, axis)` that have a role anywhere."""
        return self._touches[role]

    def inside(self, node: Node) -> tuple[int | None, ...]:
        """The atoms in an axis, as often as they occur; `None` for axes of no leaf."""
        node = self.reading.solver.find(node)
        found = self._inside.get(node)
        if found is None:
            parts = self.reading.solver.parts(node)
            found = tuple(i for part in parts for i in self.inside(part))
            found = found if parts else (self._ids.get(node),)
            self._inside[node] = found
        return found

    def mentioned(self, value: Value) -> frozenset[int | None]:
        """The atoms in a value's axes."""
        found = self._mentioned.get(value)
        if found is None:
            found = frozenset(i for node in value.dims for i in self.inside(node))
            self._mentioned[value] = found
        return found

    @ft.cached_property
    def steps(self) -> dict[int | None, set[Step]]:
        """By atom, the steps where it occurs in what goes in, or comes out."""
        found: dict[int | None, set[Step]] = {fact.id: set() for fact in self.atoms}
        found[None] = set()
        tapes = list(self.reading.tapes)
        while tapes:
            for step in tapes.pop().steps:
                tapes += step.bodies
                for value in (*step.ins, *step.outs):
                    for id in self.mentioned(value):
                        found[id].add(step)
        return found

    def count(self, id: int, value: Value, dims: Sequence[int]) -> int:
        """How often an atom occurs in some axes of a value."""
        if id not in self.mentioned(value):
            return 0
        return sum(self.inside(value.dims[d]).count(id) for d in dims)

    def degree(self, id: int, value: Value, dims: Sequence[int]) -> int | None:
        """The power of an atom's size that the number of entries along some axes goes
        with; `None` if it goes with no power, as in an axis of units beside others."""
        if id not in self.mentioned(value):
            return 0
        return _total([self._degree(id, value.dims[d]) for d in dims])

    def _degree(self, id: int, node: Node) -> int | None:
        solver = self.reading.solver
        parts = [self._degree(id, part) for part in solver.parts(node)]
        if not parts:
            return int(self._ids.get(solver.find(node)) == id)
        if len(solver.segments(node)) > 1:
            return parts[0] if len(set(parts)) == 1 else None
        return _total(parts)

    def members(self, fact: Fact, value: Value, dims: Sequence[int]) -> frozenset[Key]:
        """The members of an atom that a value made of leaves has along some axes."""
        touched = [
            s for d in dims if self.count(fact.id, value, [d]) for s in spots(value, d)
        ]
        return frozenset(self.members_at(fact, touched))

    def _positions(self, key: Key) -> np.ndarray:
        """The axis indices of a member."""
        found = self._covered.get(key)
        if found is None:
            leaf, axis, place = key
            found = self._covered[key] = positions(self.layouts[leaf][axis], place)
        return found

    def members_at(self, fact: Fact, touched: Iterable[Spot]) -> list[Key]:
        """The members of an atom that the given leaf indices touch."""
        found = []
        for spot in touched:
            keys = [k for k in fact.roles if k[:2] == (spot.leaf, spot.axis)]
            if len(keys) > 1:
                keys = [k for k in keys if _any_in(spot.indices, self._positions(k))]
            found += keys
        return found


def _total(powers: Sequence[int | None]) -> int | None:
    known = [p for p in powers if p is not None]
    return sum(known) if len(known) == len(powers) else None


def _any_in(indices: range | tuple[int, ...], positions: np.ndarray) -> bool:
    """Is one of these indices among the positions?"""
    if isinstance(indices, range):
        first, last = np.searchsorted(positions, [indices.start, indices.stop])
        return bool(first < last)
    return bool(np.isin(indices, positions).any())


def located(text: str, line: str) -> str:
    return f"{text}, at {line}" if line else text
