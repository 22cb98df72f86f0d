"""From what was read to an anatomy: events find their atoms, atoms become widths."""

import dataclasses
from collections.abc import Iterable, Sequence

from ._anatomy import Anatomy, Fixed, Leaf, Member, span, Width
from ._events import (
    Contraction,
    Interface,
    Kind,
    Reduction,
    Rigid,
    Role,
    Side,
    Spot,
    Touch,
)
from ._layout import Layout, occurrences, Place, positions
from ._paths import container_of
from ._reader import Reading
from ._unify import Node


Key = tuple[int, int, Place]
"""A member's identity: leaf, axis, place."""


@dataclasses.dataclass
class _Facts:
    """What the events say of one atom."""

    id: int
    size: int
    rigid: list[str] = dataclasses.field(default_factory=list)
    interface: list[str] = dataclasses.field(default_factory=list)
    roles: dict[Key, set[Role]] = dataclasses.field(default_factory=dict)
    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    drift: list[str] = dataclasses.field(default_factory=list)


def resolve(reading: Reading, paths: Sequence[str], dtypes: Sequence[str]) -> Anatomy:
    """Builds the anatomy of what was read."""
    ids: dict[Node, int] = {}
    layouts = [
        tuple(
            reading.solver.layout(node, lambda n: ids.setdefault(n, len(ids)))
            for node in nodes
        )
        for nodes in reading.leaves
    ]
    facts = [_Facts(id, node.size) for node, id in ids.items()]
    for leaf, axes in enumerate(layouts):
        for axis, layout in enumerate(axes):
            for place, atom in occurrences(layout):
                facts[atom.id].roles[leaf, axis, place] = set()
    _attribute(reading, ids, facts, layouts)
    fan_in = {
        (spot.leaf, spot.axis)
        for event in reading.events
        if isinstance(event, Touch) and event.role == Role.CONSUMER
        for spot in event.spots
    }
    leaves = tuple(
        Leaf(
            path,
            tuple(n.size for n in nodes),
            dtype,
            axes,
            tuple(axis for axis in range(len(nodes)) if (i, axis) in fan_in),
            reached=not nodes or i in reading.used,
        )
        for i, (path, nodes, dtype, axes) in enumerate(
            zip(paths, reading.leaves, dtypes, layouts, strict=True)
        )
    )
    widths, fixed = _classify(facts, leaves)
    unreached = [
        f"the trace doesn't reach {leaf.path}" for leaf in leaves if not leaf.reached
    ]
    unknown = [f"the primitive `{p}` isn't understood" for p in reading.unknown]
    return Anatomy(leaves, widths, fixed, (*unreached, *unknown))


def _attribute(
    reading: Reading,
    ids: dict[Node, int],
    facts: list[_Facts],
    layouts: Sequence[tuple[Layout, ...]],
) -> None:
    """Hands every event to the atoms of its node."""
    for event in reading.events:
        atoms = [ids[n] for n in reading.solver.atoms(event.node) if n in ids]
        for fact in (facts[i] for i in atoms):
            match event:
                case Rigid(reason=reason, line=line):
                    fact.rigid.append(_at(reason, line))
                case Interface(text=text):
                    fact.interface.append(text)
                case Touch(role=role, spots=spots):
                    for key in _members_at(fact, spots, layouts):
                        fact.roles[key].add(role)
                case Contraction():
                    fact.contractions.append(event)
                case Reduction(what=what, line=line):
                    fact.drift.append(_at(what, line))


def _at(text: str, line: str) -> str:
    return f"{text}, at {line}" if line else text


def _members_at(
    fact: _Facts, spots: Iterable[Spot], layouts: Sequence[tuple[Layout, ...]]
) -> list[Key]:
    """The members of an atom that the given leaf indices touch."""
    found = []
    for spot in spots:
        keys = [k for k in fact.roles if k[:2] == (spot.leaf, spot.axis)]
        if len(keys) > 1 and spot.indices is not None:
            touched = set(spot.indices)
            layout = layouts[spot.leaf][spot.axis]
            keys = [k for k in keys if touched & set(positions(layout, k[2]).tolist())]
        found += keys
    return found


def _classify(
    facts: list[_Facts], leaves: tuple[Leaf, ...]
) -> tuple[tuple[Width, ...], tuple[Fixed, ...]]:
    """Splits the atoms into hidden widths and axes that are fixed.

    A hidden width is produced by somebody and goes somewhere, and isn't an input or an
    output. Widths are named first, so that they don't share a name with what is fixed.
    """
    names = _Names(leaves)
    ordered = sorted(facts, key=_first)
    hidden = [f for f in ordered if _is_hidden(f)]
    widths = tuple(_width(f, names.name(_first(f)), leaves) for f in hidden)
    fixed = []
    for fact in ordered:
        if _is_hidden(fact) or not (_is_produced(fact) or fact.interface):
            continue
        leaf, axis, _ = _first(fact)
        name = names.free(_first(fact)) if _is_produced(fact) else None
        reason = next(iter(fact.interface), "nothing consumes its units")
        name = name or f"{leaves[leaf].path}:{axis}"
        fixed.append(Fixed(name, fact.size, reason))
    return widths, tuple(fixed)


def _is_produced(fact: _Facts) -> bool:
    made = {Role.PRODUCER, Role.FACTOR}
    return any(roles & made for roles in fact.roles.values())


def _is_hidden(fact: _Facts) -> bool:
    goes_on = bool(fact.contractions or fact.drift or fact.rigid)
    return _is_produced(fact) and goes_on and not fact.interface


def _width(fact: _Facts, name: str, leaves: tuple[Leaf, ...]) -> Width:
    keys = list(fact.roles)
    cover, uncovered = _cover(fact, leaves)
    members = tuple(
        Member(
            leaf,
            leaves[leaf].path,
            axis,
            place,
            span(leaves[leaf].layouts[axis], place),
            tuple(sorted(r.value for r in fact.roles[leaf, axis, place])),
        )
        for leaf, axis, place in keys
    )
    rigid = tuple(dict.fromkeys(fact.rigid))
    covering = [s for e in fact.contractions for s in e.sides if _zeroable(s)]
    width = Width(
        name=name,
        id=fact.id,
        size=fact.size,
        growable=not rigid,
        gateable="any",
        reasons=rigid,
        members=members,
        cover=tuple(i for i, key in enumerate(keys) if key in cover),
        drift=tuple(dict.fromkeys([*fact.drift, *uncovered])),
        divisible=all(side.linear for side in covering),
    )
    return with_gateable(width)


def with_gateable(width: Width) -> Width:
    """Fills in what may gate a width, from its reasons, drift and cover."""
    if not width.growable or width.drift:
        gateable = "no"
    else:
        gateable = "binary" if width.tied else "any"
    return dataclasses.replace(width, gateable=gateable)


def _first(fact: _Facts) -> Key:
    """The first producer in leaf order names a width; without one, the first member."""
    producers = [k for k, roles in fact.roles.items() if Role.PRODUCER in roles]
    return min(producers or list(fact.roles))


def _cover(fact: _Facts, leaves: Sequence[Leaf]) -> tuple[set[Key], list[str]]:
    """Members to zero so that new units are silent in every contraction.

    In a contraction of weights with activations the weight has to be zero. Where two
    weights meet (a low-rank factor), the later one is. What can't be covered (both
    sides are activations, a weight that is a function of leaves with f(0) != 0) is
    returned as a reason.
    """
    layouts = [leaf.layouts for leaf in leaves]
    cover: set[Key] = set()
    uncovered: list[str] = []
    for event in fact.contractions:
        usable = [
            keys
            for side in event.sides
            if _zeroable(side) and (keys := _members_at(fact, side.spots, layouts))
        ]
        if usable:
            cover.update(max(usable, key=lambda keys: min(keys)))
        else:
            sides = {side.kind for side in event.sides}
            why = (
                "activations are contracted with activations"
                if sides == {Kind.ACT}
                else "its weights are a function of leaves that isn't zero at zero"
                if Kind.PARAM in sides
                else "it is contracted with numbers of the program"
            )
            uncovered.append(_at(why, event.line))
    return cover, uncovered


def _zeroable(side: Side) -> bool:
    return side.kind in (Kind.PARAM, Kind.ROWS) and side.zeroable


class _Names:
    """Width names, from the leaves' paths alone.

    A width is called after the container of its first producer if that leaf is the
    container's first array (`layers[0]` for `layers[0].weight`), else after the leaf.
    A second width of one leaf axis gets `/1`, and so on.
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self._leaves = leaves
        self._first: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        for i, leaf in enumerate(leaves):
            self._first.setdefault(container_of(leaf.path), i)

    def name(self, key: Key) -> str:
        path = self._leaves[key[0]].path
        container = container_of(path)
        base = container if container and self._first[container] == key[0] else path
        count = self._taken.get(base, 0)
        self._taken[base] = count + 1
        return f"{base}/{count}" if count else base

    def free(self, key: Key) -> str | None:
        """The name, unless it is taken."""
        name = self.name(key)
        return None if "/" in name else name
