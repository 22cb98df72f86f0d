"""From what was read to an anatomy: events find their atoms, atoms become widths."""

import dataclasses
from collections.abc import Mapping, Sequence

from .._paths import container_of, within
from .anatomy import Anatomy, Fixed
from .events import LOOKED_UP, Role
from .facts import Fact, Facts, Key, located
from .layout import span
from .widths import Leaf, Member, Recipe, Width


def resolve(facts: Facts, paths: Sequence[str], dtypes: Sequence[str]) -> Anatomy:
    """Builds the anatomy of what was read; its widths don't have recipes yet."""
    reading = facts.reading
    leaves = tuple(
        Leaf(
            path,
            tuple(n.size for n in nodes),
            dtype,
            axes,
            _axes(facts, i, Role.CONSUMER),
            _axes(facts, i, Role.STACK),
            _is_gain(facts, i),
            reached=not nodes or i in reading.used,
        )
        for i, (path, nodes, dtype, axes) in enumerate(
            zip(paths, reading.leaves, dtypes, facts.layouts, strict=True)
        )
    )
    widths, fixed = _classify(facts.atoms, leaves)
    unreached = [
        f"the trace doesn't reach {leaf.path}" for leaf in leaves if not leaf.reached
    ]
    unknown = [f"the primitive `{p}` isn't understood" for p in reading.unknown]
    tables = _tables(facts.atoms, leaves)
    named = {axis.id: axis.name for axis in (*fixed, *widths)}
    taken = {table.name for table in tables}
    heads = [h for h in _heads(facts.atoms, named, leaves) if h.name not in taken]
    warnings = (*unreached, *unknown)
    return Anatomy(
        leaves, widths, fixed, warnings, all_tables=tables, all_heads=tuple(heads)
    )


def _axes(facts: Facts, leaf: int, role: Role) -> tuple[int, ...]:
    return tuple(sorted(axis for i, axis in facts.touched(role) if i == leaf))


def _is_gain(facts: Facts, leaf: int) -> bool:
    """Does it multiply what comes in, and do nothing else?"""
    roles = [r for r in Role if any(i == leaf for i, _ in facts.touched(r))]
    return Role.SCALE in roles and set(roles) <= {Role.SCALE, Role.STACK}


def _classify(
    facts: list[Fact], leaves: tuple[Leaf, ...]
) -> tuple[tuple[Width, ...], tuple[Fixed, ...]]:
    """Splits the atoms into hidden widths and axes that are fixed.

    A hidden width is produced by somebody and goes somewhere, and isn't an input or an
    output. Widths are named first, so that they don't share a name with what is fixed.
    """
    names = _Names(leaves)
    ordered = sorted(facts, key=_first)
    # Single indices that the program cuts out don't take the plain names.
    hidden = sorted(
        (f for f in ordered if _is_hidden(f) and not _is_table(f)),
        key=lambda f: f.size == 1 and bool(f.rigid),
    )
    widths = tuple(_width(f, names.of(f), leaves) for f in hidden)
    fixed = []
    for fact in ordered:
        if _is_hidden(fact) or not (fact.produced or fact.interface):
            continue
        leaf, axis, _ = _first(fact)
        name = names.free(_first(fact)) if fact.produced else None
        reason = next(iter(fact.interface), "nothing consumes its units")
        name = name or f"{leaves[leaf].path}:{axis}"
        fixed.append(Fixed(name, fact.size, reason, fact.id))
    return widths, tuple(fixed)


def _is_table(fact: Fact) -> bool:
    """A whole axis of which data picks entries. It is no hidden width, whatever else is
    done to it: so a width has the same name, be it read through the loss or not."""
    looked_up = any(Role.LOOKUP in roles for roles in fact.roles.values())
    plain = not any(place for _, _, place in fact.roles)
    return looked_up and plain and not fact.stacks


def _tables(facts: list[Fact], leaves: tuple[Leaf, ...]) -> tuple[Width, ...]:
    """The tables, with what else becomes of their units: outputs, as in a tied head
    (the reasons), or what goes over all of them, as a softmax (the recipe)."""
    names = _Names(leaves)
    found = []
    tables = [f for f in facts if f.roles and _is_table(f)]
    for fact in sorted(tables, key=lambda f: min(f.roles)):
        first = min(k for k, roles in fact.roles.items() if Role.LOOKUP in roles)
        found.append(_numbered(fact, names.name(first), leaves))
    return tuple(found)


def _is_head(fact: Fact) -> bool:
    """What the network ends with: a leaf makes it, and none reads it. It goes out, or
    data pick its entries, as labels do in a loss."""
    ends = {Role.PRODUCER, Role.OFFSET}
    plain = not any(place for _, _, place in fact.roles)
    alone = all(roles and roles <= ends for roles in fact.roles.values())
    goes_on = fact.contractions or fact.stacks or fact.given
    picked = all(reason.startswith(LOOKED_UP) for reason in fact.rigid)
    ending = bool(fact.interface or fact.rigid) and picked and not goes_on
    return fact.produced and plain and alone and ending


def _heads(
    facts: list[Fact], named: Mapping[int, str], leaves: tuple[Leaf, ...]
) -> list[Width]:
    return [_numbered(f, named[f.id], leaves) for f in facts if _is_head(f)]


def _numbered(fact: Fact, name: str, leaves: tuple[Leaf, ...]) -> Width:
    """An axis whose units have numbers."""
    axis = _width(fact, name, leaves)
    # An output of several calls is one output: the first says it.
    once: dict[str, str] = {}
    for reason in fact.interface:
        once.setdefault(reason.partition(" of `also[")[0], reason)
    reasons = tuple(once.values()) or axis.reasons
    drift = tuple(dict.fromkeys(located(r.what, r.line) for r in fact.reductions))
    recipe = Recipe("not preserving", drift[0]) if drift else Recipe("exact")
    return dataclasses.replace(axis, growable=False, reasons=reasons, silent=recipe)


def _goes_on(fact: Fact) -> bool:
    return bool(fact.contractions or fact.reductions or fact.rigid or fact.stacks)


def _is_hidden(fact: Fact) -> bool:
    return fact.produced and _goes_on(fact) and not fact.interface


def _width(fact: Fact, name: str, leaves: tuple[Leaf, ...]) -> Width:
    members = tuple(
        Member(
            leaf,
            leaves[leaf].path,
            axis,
            place,
            span(leaves[leaf].layouts[axis], place),
            tuple(sorted(r.value for r in roles)),
        )
        for (leaf, axis, place), roles in fact.roles.items()
    )
    rigid = tuple(dict.fromkeys(fact.rigid))
    return Width(
        name=name,
        id=fact.id,
        size=fact.size,
        growable=not rigid,
        gateable="no",
        reasons=rigid,
        members=members,
        ordered=bool(fact.stacks),
    )


def _first(fact: Fact) -> Key:
    """The first producer in leaf order names a width; without one, the first member."""
    producers = [k for k, roles in fact.roles.items() if Role.PRODUCER in roles]
    return min(producers or list(fact.roles))


class _Names:
    """Width names, from the leaves' paths alone.

    A width is called after the container of its first producer if that leaf is the
    container's main array (`layers[0]` for `layers[0].weight`), else after the leaf.
    The main array is the first of those with the most axes: where leaves are sorted by
    name, `bias` comes before `kernel`. A second width of one leaf axis gets `/1`, and
    so on. Stacked layers are called after what holds all of them (`blocks.depth`).
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self._leaves = leaves
        self._main: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        for i in sorted(range(len(leaves)), key=lambda i: -len(leaves[i].shape)):
            self._main.setdefault(container_of(leaves[i].path), i)

    def of(self, fact: Fact) -> str:
        """The name of a hidden width."""
        if not fact.stacks:
            return self.name(_first(fact))
        paths = [container_of(self._leaves[leaf].path) for leaf, _, _ in fact.roles]
        common = paths[0]
        while common and not all(within(p, common) for p in paths):
            common = container_of(common)
        return self._numbered(f"{common}.depth" if common else "depth")

    def name(self, key: Key) -> str:
        path = self._leaves[key[0]].path
        container = container_of(path)
        main = container and self._main[container] == key[0]
        return self._numbered(container if main else path)

    def _numbered(self, base: str) -> str:
        count = self._taken.get(base, 0)
        self._taken[base] = count + 1
        return f"{base}/{count}" if count else base

    def free(self, key: Key) -> str | None:
        """The name, unless it is taken."""
        name = self.name(key)
        return None if "/" in name else name
