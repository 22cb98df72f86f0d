"""How a width grows without changing the function, if it can: two recipes per width.

*Silent* growth (`zero_out`, and everything that opens and closes) zeroes a cover, so
that new units say nothing wherever somebody sums over them or looks at them together.
*Copied* growth (`clone`) shares the consumers of copies out. Where a number of the
program or a sum goes with the size, both may need some members to be scaled: see
`degrees`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from .._reading.events import Contraction, Kind, Number, Reduction, Role, Value
from .._reading.facts import Facts, Key, located
from .._reading.widths import Recipe, Width
from .degrees import Degrees, Inexact
from .readers import Readers, sides_of, TIED
from .silence import any_of, Cause, size_of_way


Powers = Mapping[int, Fraction | None]
"""For the numbers that go with a width's size, by the identity of their value: the
power of new/old, or `None` if it isn't one."""

_KEPT_BY_ZEROS = ("reduce_sum", "psum", "reduce_or")
_KEPT_BY_COPIES = (
    "reduce_sum",
    "psum",
    "reduce_max",
    "reduce_min",
    "reduce_or",
    "reduce_and",
    "undefined",
)


def with_recipes(
    width: Width, facts: Facts, powers: Powers, numbers: Sequence[Number]
) -> Width:
    """The width with its recipes, and with what may gate it."""
    if not width.growable:
        return width
    analysis = _Analysis(width, facts, powers, numbers)
    silent, copied = analysis.silent(), analysis.copied()
    width = dataclasses.replace(width, silent=silent, copied=copied)
    gateable = "any" if analysis.gates_linearly(silent) else "binary"
    if silent.exactness != "exact" or silent.drift:
        gateable = "no"
    return dataclasses.replace(width, gateable=gateable)


class _Analysis(Readers):
    """Both recipes of one width."""

    def __init__(
        self, width: Width, facts: Facts, powers: Powers, numbers: Sequence[Number]
    ):
        super().__init__(facts, width.id)
        self.powers, self.numbers = powers, numbers
        self.keys = [(m.leaf, m.axis, m.place) for m in width.members]

    # --- what both need

    def indices(self, keys: Iterable[Key]) -> tuple[int, ...]:
        return tuple(sorted(self.keys.index(k) for k in keys))

    @property
    def baked(self) -> list[str]:
        """The numbers that go with the size."""
        return [
            located(f"a number depends on the size: in `{n.name}`", n.line)
            for n in self.numbers
            if id(n.value) in self.powers
        ]

    def gates_linearly(self, recipe: Recipe) -> bool:
        """Does a gate on the cover enter every contraction once?"""
        cover = frozenset(self.keys[i] for i in recipe.cover)
        return not any(
            self.unshared(e, cover) == TIED
            for e in self.fact.contractions
            if self.said(e, cover)
        )

    # --- zeros

    def silent(self) -> Recipe:
        if self.fact.stacks:
            return self._layers()
        cover, why = self._cover()
        indices = self.indices(cover)
        events = [r for r in self.fact.reductions if r.how != "singular"]
        drift = [*(located(r.what, r.line) for r in events), *self.baked]
        drift = list(dict.fromkeys(drift))
        if why:
            return Recipe("not preserving", why, indices, drift=tuple(drift) or (why,))
        # A weight over its own norm: new units have one, closed ones don't.
        singular = [r for r in self.fact.reductions if r.how == "singular"]
        whys = tuple(dict.fromkeys(located(r.what, r.line) for r in singular))
        if any(self._everywhere(r.value) & cover for r in singular):
            return Recipe("not preserving", whys[0], indices, drift=whys)
        if not self.powers:
            return Recipe("exact", cover=indices, drift=whys)
        norms = self._norms()
        makers = cover - self._consumers()
        everyone = frozenset(self.keys)
        for unknowns in (frozenset(), norms, norms | makers, norms | cover, everyone):
            found = self._scales(unknowns, frozenset(), copies=False)
            if found is not None:
                return Recipe("exact", "", indices, *found, drift=(*drift, *whys))
        return Recipe("not preserving", drift[0], indices, drift=tuple(drift))

    def _everywhere(self, value: Value) -> frozenset[Key]:
        """The members that a value made of leaves has along any axis."""
        return self.members(value, range(len(value.dims)))

    def _layers(self) -> Recipe:
        """New layers that pass on what they are given."""
        cover: set[Key] = set()
        whys = [located(s.why, s.line) for s in self.fact.stacks if s.cover is None]
        for stack in self.fact.stacks:
            for leaf in stack.cover or ():
                cover.update(k for k in self.keys if k[0] == leaf)
        others = [located(r.what, r.line) for r in self.fact.reductions] + self.baked
        whys = list(dict.fromkeys([*whys, *others]))
        exact = "not preserving" if whys else "exact"
        why = whys[0] if whys else ""
        return Recipe(exact, why, self.indices(cover), drift=tuple(whys))

    def _cover(self) -> tuple[frozenset[Key], str]:
        """Members to zero so that new units are silent in every reduction and in every
        contraction, and why that can't be where it can't.

        In a contraction of weights with activations the weight has to be zero. Where
        two weights meet (a low-rank factor), the later one is. Where activations meet
        (queries and keys), the leaves that make one side.
        """
        cover: frozenset[Key] = frozenset()
        reason = ""
        for event in self.fact.reductions:
            if event.how == "singular":
                continue
            ways = self._reduced(event)
            if not ways:
                reason = reason or located(event.what, event.line)
            elif not any(way <= cover for way in ways):
                cover |= ways[0]
        events = [e for e in self.fact.contractions if not self.said(e, cover)]
        for event in events:
            cover |= self._offsets(event, cover)
        events = [e for e in events if not self.said(e, cover)]
        cover |= self.readers(events)
        for event in events:
            if self.said(event, cover):
                continue
            ways = any_of([self.silence.of(v, [d]).zeros for v, d in sides_of(event)])
            if ways:
                cover |= ways[0]
            else:
                reason = reason or located(_uncovered(event), event.line)
        return (cover if reason else self._pruned(cover)), reason

    def _pruned(self, cover: frozenset[Key]) -> frozenset[Key]:
        """The cover without what the rest of it silences as well: zeros on both sides
        of a contraction would never learn."""
        for key in sorted(cover & self._consumers()):
            rest = cover - {key}
            silent = all(self.said(e, rest) for e in self.fact.contractions)
            reduced = all(
                any(way <= rest for way in self._reduced(r))
                for r in self.fact.reductions
                if r.how != "singular"
            )
            if silent and reduced:
                cover = rest
        return cover

    def _offsets(self, event: Contraction, cover: frozenset[Key]) -> frozenset[Key]:
        """The offsets that alone keep a stream from being silent (a norm's): they are
        born at zero anyway, and what reads the stream may then be random."""
        if not cover:
            return cover
        rests = [
            way - cover
            for value, dim in sides_of(event)
            for way in self.silence.of(value, [dim]).zeros
        ]
        fits = [r for r in rests if all(self.fact.roles[k] == {Role.OFFSET} for k in r)]
        return min(fits, key=size_of_way, default=frozenset())

    def _reduced(self, event: Reduction) -> Cause:
        kept = event.how in _KEPT_BY_ZEROS
        kept = kept or (event.how == "reduce_max" and event.value.nonnegative)
        return self.silence.of(event.value).zeros if kept else ()

    def _consumers(self) -> frozenset[Key]:
        return frozenset(k for k in self.keys if Role.CONSUMER in self.fact.roles[k])

    def _norms(self) -> frozenset[Key]:
        """Gains: what a norm over the width is scaled by."""
        leaves = self.facts.layouts
        gains = {
            k
            for k in self.keys
            if Role.SCALE in self.fact.roles[k] and len(leaves[k[0]]) == 1
        }
        return frozenset(gains)

    # --- copies

    def copied(self) -> Recipe:
        if self.fact.stacks:
            return Recipe("not preserving", "a layer twice isn't the layer once")
        reductions = [
            r for r in self.fact.reductions if r.how not in ("undefined", "singular")
        ]
        for r in reductions:
            if r.how not in _KEPT_BY_COPIES:
                return Recipe("not preserving", located(r.what, r.line))
        sharers, alone = self._sharers()
        indices = self.indices(sharers)
        if not (self.powers or reductions or alone) and self.only_read(sharers):
            return Recipe("exact", cover=indices)
        texts = [*(located(r.what, r.line) for r in reductions), *self.baked, *alone]
        if sharers:
            makers = sharers - self._consumers()
            vectors = {k for k in self.keys if len(self.facts.layouts[k[0]]) == 1}
            norms = self._norms()
            one = (frozenset(), norms, frozenset(vectors), norms | makers, sharers)
            for unknowns in (*one, frozenset(self.keys)):
                found = self._scales(unknowns, sharers, copies=True)
                if found is not None:
                    whole = bool(texts)
                    return Recipe("exact", "", indices, *found, whole=whole)
        text = next(iter(alone or texts), "its copies can't share what reads them")
        return Recipe("not preserving", text, indices)

    def _sharers(self) -> tuple[frozenset[Key], list[str]]:
        """Members that copies share out, and the contractions where nobody can, whose
        sums grow with the copies."""
        readers = self.readers(self.fact.contractions)
        if not self.fits(readers):
            readers = frozenset(k for k in readers if self.only_read(frozenset({k})))
        if not self.fits(readers):
            readers = frozenset()
        sharers, alone = readers, []
        for event in self.fact.contractions:
            if any(event is e for e in self.depending(sharers)):
                continue
            text, ways = _uncovered(event), ()
            if weights := self.weights(event):
                text = self.unshared(event, max(weights, key=min)) or TIED
            else:
                ways = any_of([self._makers(v, d) for v, d in sides_of(event)])
            if ways:
                sharers |= ways[0]
            else:
                alone.append(located(text, event.line))
        return sharers, alone

    def _makers(self, value: Value, dim: int) -> Cause:
        """The members that make one side of a contraction of activations, if their
        copies can have shares: nothing is reduced over what they make, and every other
        contraction of it (another branch's) goes linearly with them too."""
        reduced = [self.silence.of(r.value).depends for r in self.fact.reductions]
        used = frozenset().union(*reduced)
        ways = self.silence.of(value, [dim]).shares
        return tuple(way for way in ways if not way & used and self.fits(way))

    # --- scales

    def _scales(
        self, unknowns: frozenset[Key], sharers: frozenset[Key], *, copies: bool
    ) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]] | None:
        """The members and the epsilons to scale, with their powers of new/old."""
        degrees = Degrees(
            self.count,
            self.degree,
            self.members,
            self.silence,
            self.powers,
            copies=copies,
            sharers=sharers,
            unknowns=unknowns,
            blanks=self.facts.blanks,
            steps=self.steps,
        )
        try:
            solution = degrees.solve(self.facts.reading.tapes)
        except Inexact:
            return None
        places = {id(n.value): i for i, n in enumerate(self.numbers)}
        scales, epsilons = [], []
        for unknown, power in solution.items():
            if unknown[0] == "eps":
                epsilons.append((places[unknown[1]], float(power)))
            else:
                scales.append((self.keys.index(unknown), float(power)))
        return tuple(sorted(scales)), tuple(sorted(epsilons))


def _uncovered(event: Contraction) -> str:
    kinds = {value.kind for value in event.values}
    if kinds == {Kind.ACT}:
        return "activations are contracted with activations"
    if Kind.PARAM in kinds:
        return "its weights are a function of leaves that isn't zero at zero"
    return "it is contracted with numbers of the program"
