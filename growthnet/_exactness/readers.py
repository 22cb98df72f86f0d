"""Who reads a width's units: the sides of its contractions, and whether they go
linearly with the weights that are zeroed or shared out there."""

from collections.abc import Sequence

from .._reading.events import Contraction, Kind, Role, Value
from .._reading.facts import Fact, Facts, Key
from .silence import UnitSilence


TIED = "a tied leaf can't share out its copies"
BENT = "its consumers aren't linear in their leaves"


class Readers:
    """The contractions of one width."""

    def __init__(self, facts: Facts, id: int):
        self.facts = facts
        self.fact: Fact = facts.atoms[id]
        self.steps = facts.steps[id]
        self._silence: UnitSilence | None = None
        self._members: dict[tuple[Value, tuple[int, ...]], frozenset[Key]] = {}

    def count(self, value: Value, dims: Sequence[int]) -> int:
        return self.facts.count(self.fact.id, value, dims)

    def degree(self, value: Value, dims: Sequence[int]) -> int | None:
        return self.facts.degree(self.fact.id, value, dims)

    def members(self, value: Value, dims: Sequence[int]) -> frozenset[Key]:
        asked = (value, tuple(dims))
        if asked not in self._members:
            self._members[asked] = self.facts.members(self.fact, value, dims)
        return self._members[asked]

    def zeroed(self, value: Value, dims: Sequence[int]) -> frozenset[Key] | None:
        """The members whose zeros silence a value made of leaves."""
        if value.kind not in (Kind.PARAM, Kind.ROWS) or not value.zeroable:
            return None
        return self.members(value, dims) or None

    @property
    def silence(self) -> UnitSilence:
        """Walked only for widths that need it."""
        if self._silence is None:
            self._silence = UnitSilence(self.count, self.members, self.steps)
            for tape in self.facts.reading.tapes:
                self._silence.walk(tape)
        return self._silence

    def weights(self, event: Contraction) -> list[frozenset[Key]]:
        """The sides of a contraction that are weights: what has to be zero there."""
        kinds = {v.kind for v in event.values}
        return [
            s
            for value, dim in sides_of(event)
            # Rows of a table are what goes into a weight.
            if not (value.kind == Kind.ROWS and Kind.PARAM in kinds)
            if (s := self.zeroed(value, [dim]))
        ]

    def readers(self, events: Sequence[Contraction]) -> frozenset[Key]:
        """The weights that read the units. In a contraction of two weights (a low-rank
        factor) it is the later one. A gradient taken inside the network reads weights
        on the way back as well; then one may do for all contractions."""
        read = [e for e in events if self.weights(e)]
        plain = frozenset().union(*(max(self.weights(e), key=min) for e in read))
        if self.fits(plain):
            return plain
        for chosen in sorted({s for e in read for s in self.weights(e)}, key=min):
            if self.fits(chosen) and all(self.said(e, chosen) for e in events):
                return chosen
        return plain

    def fits(self, members: frozenset[Key]) -> bool:
        """Does everything that depends on these members, unit by unit, go linearly with
        them?"""
        return not any(self.unshared(e, members) for e in self.depending(members))

    def depending(self, members: frozenset[Key]) -> list[Contraction]:
        if self.only_read(members):
            return [e for e in self.fact.contractions if self.own(e, members)]
        return [
            e
            for e in self.fact.contractions
            if any(self.silence.of(v, [d]).depends & members for v, d in sides_of(e))
        ]

    def only_read(self, members: frozenset[Key]) -> bool:
        return all(self.fact.roles[k] == {Role.CONSUMER} for k in members)

    def own(self, event: Contraction, members: frozenset[Key]) -> list[Value]:
        """The sides of a contraction that are weights with some of these members."""
        return [v for v, d in sides_of(event) if self.members(v, [d]) & members]

    def unshared(self, event: Contraction, members: frozenset[Key]) -> str:
        """Why a contraction doesn't go linearly with what scales these members, unit by
        unit; empty if it does."""
        if self.only_read(members):
            linear = all(v.linear for v in self.own(event, members))
            return "" if linear else BENT
        sides = [self.silence.of(v, [d]) for v, d in sides_of(event)]
        scaled = [s for s in sides if s.depends & members]
        if len(scaled) != 1:
            return TIED
        return "" if (scaled[0].depends & members) in scaled[0].shares else BENT

    def said(self, event: Contraction, cover: frozenset[Key]) -> bool:
        """Is one side of a contraction silent already?"""
        sides = [self.silence.of(v, [d]) for v, d in sides_of(event)] if cover else []
        return any(way <= cover for side in sides for way in side.zeros)


def sides_of(event: Contraction) -> list[tuple[Value, int]]:
    return list(zip(event.values, event.dims, strict=True))
