"""What `trace` learned about a network: frozen, hashable, free of arrays."""

import dataclasses
import fnmatch
import functools as ft
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.tree_util as jtu

from .._paths import array_leaves
from .layout import Atom, Layout, Prod, resized, size_of, span
from .table import table
from .widths import Leaf, Width


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An axis with units of its own that isn't a hidden width, and why."""

    name: str
    size: int
    reason: str
    id: int = -1


@jtu.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class Anatomy:
    """Everything that `growthnet.trace` learned about a network.

    Frozen, hashable by content and registered as a static pytree: close over it, pass
    it to `jax.jit`, carry it through a scan. `print(anatomy)` is a readable table.

    - `widths`: mapping from name to `Width`.
    - `fixed`: axes that can't change (inputs, outputs, axes that nothing consumes).
    - `tables`: mapping from name to the axis of a lookup table: a vocabulary, classes,
        positions. `plan_rows` appends to these.
    - `heads`: mapping from name to the axis that the network ends with, which no leaf
        reads: an output per class. `plan_rows` appends to these too.
    - `warnings`: leaves that the trace didn't reach, primitives it didn't understand.
    """

    leaves: tuple[Leaf, ...]
    all_widths: tuple[Width, ...]
    fixed: tuple[Fixed, ...]
    warnings: tuple[str, ...]
    source: Any = dataclasses.field(compare=False, repr=False, default=None)
    all_tables: tuple[Width, ...] = ()
    all_heads: tuple[Width, ...] = ()

    @ft.cached_property
    def widths(self) -> Mapping[str, Width]:
        return MappingProxyType({w.name: w for w in self.all_widths})

    @ft.cached_property
    def tables(self) -> Mapping[str, Width]:
        return MappingProxyType({t.name: t for t in self.all_tables})

    @ft.cached_property
    def heads(self) -> Mapping[str, Width]:
        return MappingProxyType({h.name: h for h in self.all_heads})

    @ft.cached_property
    def rows(self) -> Mapping[str, Width]:
        """Tables and heads: what `plan_rows` appends to."""
        return MappingProxyType({**self.heads, **self.tables})

    @property
    def groups(self) -> tuple[Width, ...]:
        """Widths, tables and heads: every set of axes that change together."""
        return (*self.all_widths, *self.all_tables, *self.all_heads)

    @ft.cached_property
    def _hash(self) -> int:
        parts = (self.leaves, self.groups, self.fixed, self.warnings)
        return hash(parts)

    def __hash__(self) -> int:
        return self._hash

    @property
    def sizes(self) -> dict[str, int]:
        """Units per width."""
        return {w.name: w.size for w in self.all_widths}

    def match(self, patterns: str | Iterable[str]) -> tuple[str, ...]:
        """Names of the widths that a pattern (or any of several) matches.

        Only `*` is special. **Raises:** `ValueError` for a pattern without a match.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        found: dict[str, None] = {}
        for pattern in patterns:
            regex = re.compile(re.escape(pattern).replace(r"\*", ".*"))
            names = [n for n in self.widths if regex.fullmatch(n)]
            if not names:
                raise ValueError(self._unknown(pattern))
            found.update(dict.fromkeys(names))
        return tuple(found)

    def _unknown(self, name: str) -> str:
        if name in self.tables:
            table = self.tables[name]
            return (
                f"{name!r} ({table.size}) is a lookup table, whose rows have numbers; "
                f"to append some: gn.plan_rows(anatomy, {{{name!r}: {table.size + 1}}})"
            )
        for fixed in self.fixed:
            if fnmatch.fnmatchcase(fixed.name, name.replace("[", "[[]")):
                more = self.may_append(fixed.name)
                return (
                    f"{fixed.name!r} ({fixed.size}) can't change: {fixed.reason}{more}."
                )
        if not self.widths:
            return f"unknown width {name!r}; this network has no hidden width"
        known = ", ".join(f"{w.name} ({w.size})" for w in self.all_widths)
        return f"unknown width {name!r}; this network has {known}"

    def may_append(self, name: str) -> str:
        """For messages about an axis that can't change: if it is a head, it can."""
        if name not in self.heads:
            return ""
        more = {name: self.heads[name].size + 1}
        return f" (to append to it: gn.plan_rows(anatomy, {more}))"

    def only(self, patterns: str | Iterable[str]) -> "Anatomy":
        """The same anatomy with just the matching widths that can grow."""
        names = [n for n in self.match(patterns) if self.widths[n].growable]
        kept = tuple(w for w in self.all_widths if w.name in names)
        return dataclasses.replace(self, all_widths=kept)

    def params(self, sizes: Mapping[str, Any] | None = None) -> Any:
        """Number of parameters (entries of inexact leaves), as a function of sizes.

        `sizes` maps width names to numbers; they may be real and traced, so the count
        is a differentiable cost. Widths that aren't named keep their size.
        """
        given = {self.widths[n].id: s for n, s in (sizes or {}).items()}
        total: Any = 0
        for leaf in self.leaves:
            if leaf.inexact:
                count: Any = 1
                for layout in leaf.layouts:
                    count = count * measure(layout, given)
                total = total + count
        return total

    def flops(self, sizes: Mapping[str, Any] | None = None, *, which: int = 0) -> Any:
        """Floating point operations of the traced call, as a function of sizes.

        Counted on the traced program: every multiplication and addition of matrix
        products and convolutions, and one operation for every entry that anything else
        reads or makes. It is one forward pass on the example arguments (of all
        examples, if they are a batch); a training step costs about three.

        **Arguments:**

        - `sizes`: as in `params`; real and traced ones too, in the precision that
            these have.
        - `which`: the call, where several were traced: 0 is `call`, 1 the first of
            `also`, and so on.

        **Raises:** `ValueError` for an unknown width, for an anatomy that doesn't know
            its network, and where operations can't be told: a `while_loop`, or a
            program whose axes don't say all (the count is held against the network's
            own program at other sizes).

        !!! example

            ```python
            anatomy = gn.trace(mlp, x)
            anatomy.flops({"layers[0]": 64}) / anatomy.flops()
            ```
        """
        # This file knows no programs.
        from .._replay.flops import flops_at

        return flops_at(self, sizes, which)

    def check(
        self,
        tree: Any,
        what: str = "the tree",
        *,
        whole: bool = False,
        numbers: bool = False,
    ) -> dict[str, Any]:
        """The arrays of a tree shaped like the network, by leaf path.

        **Raises:** `ValueError` naming the first leaf whose shape differs, and for a
        tree that has other leaves than the network; with `whole`, fewer; with
        `numbers`, descriptions of arrays (`jax.ShapeDtypeStruct`).
        """
        arrays = array_leaves(tree)
        known = {leaf.path: leaf for leaf in self.leaves}
        for path, array in arrays.items():
            if path not in known:
                raise ValueError(
                    f"{what} has a leaf {path!r} that the traced network doesn't have; "
                    "trace the network that you edit"
                )
            if tuple(array.shape) != known[path].shape:
                raise ValueError(
                    f"{what} doesn't fit this anatomy: leaf {path!r} has shape "
                    f"{tuple(array.shape)}, the anatomy says {known[path].shape}; "
                    "use the anatomy of this network (`edit.after`, or trace again)"
                )
            if numbers and isinstance(array, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"leaf {path!r} of {what} is a jax.ShapeDtypeStruct, which holds "
                    "no numbers; this needs the arrays themselves"
                )
        missing = [path for path in known if path not in arrays] if whole else []
        if missing:
            raise ValueError(
                f"{what} has no array {missing[0]!r}, which the anatomy names; give "
                "the whole network that was traced"
            )
        return arrays

    def resized(self, sizes: Mapping[str, int]) -> "Anatomy":
        """The anatomy of the same network at other sizes (without its source)."""
        return self.at({self.widths[n].id: s for n, s in sizes.items()})

    def at(self, by_id: Mapping[int, int]) -> "Anatomy":
        """`resized`, with the sizes by the id of their width or table."""
        leaves = []
        for leaf in self.leaves:
            layouts = tuple(resized(x, by_id) for x in leaf.layouts)
            shape = tuple(map(size_of, layouts))
            leaves.append(dataclasses.replace(leaf, shape=shape, layouts=layouts))

        def sized(w: Width) -> Width:
            members = tuple(
                dataclasses.replace(
                    m, span=span(leaves[m.leaf].layouts[m.axis], m.place)
                )
                for m in w.members
            )
            size = by_id.get(w.id, w.size)
            return dataclasses.replace(w, size=size, members=members)

        return Anatomy(
            tuple(leaves),
            tuple(map(sized, self.all_widths)),
            tuple(
                dataclasses.replace(f, size=by_id.get(f.id, f.size)) for f in self.fixed
            ),
            self.warnings,
            all_tables=tuple(map(sized, self.all_tables)),
            all_heads=tuple(map(sized, self.all_heads)),
        )

    def program(
        self,
        sizes: Mapping[str, int] | None = None,
        *,
        which: int = 0,
        any_size: bool = False,
        allow_drift: bool = False,
    ) -> Any:
        """The traced program at other sizes, without the network's code.

        Shapes come from the layouts. What can depend on a size otherwise (the n of a
        mean, the d of `1/sqrt(d)`) is taken from the network's code, traced once more
        at these sizes; where that fails, or is another program, this is refused. An
        anatomy traced with `replay=True` never asks the code: its numbers stay as they
        were traced, so another size of a width over which activations are summed (a
        mean, the scores of attention) is refused. `allow_drift` keeps the old numbers
        in either case.

        **Arguments:**

        - `sizes`: new size by width name, as in `plan`; by default the sizes as they
            are, so `edit.after.program()` runs what `edit` made.
        - `which`: the call to run, where several were traced: 0 is `call`, 1 the first
            of `also`, and so on.
        - `any_size`: take the sizes from the network's shapes, at every call; for
            networks that change under way, as in `fit`. Where shapes don't tell (16 may
            be 4 heads of 4 or 8 of 2), an axis that has its old size is taken to have
            its old widths.
        - `allow_drift`: accept numbers that don't follow the sizes.

        **Returns:** `program(net, *args)`, which takes the network that an edit to
        these sizes gives, or any tree with its leaf paths, and gives what the traced
        call would. It works under `jit`, `vmap`, `grad` and `jax.export`, and
        derivatives made by hand (`jax.custom_jvp`, `jax.custom_vjp`) hold.

        **Raises:** `ValueError` for an unknown or rigid width or an impossible size,
        for a program that can't be bound at these sizes (with the primitive and the
        line), and for numbers that wouldn't follow.

        !!! example

            ```python
            edit = gn.plan(anatomy, {"layers[0]": 3}, keep={"layers[0]": [0, 2, 5]})
            small, program = edit(mlp), edit.after.program()
            exported = jax.export.export(jax.jit(lambda x: program(small, x)))(x)
            ```
        """
        # This file knows no networks; what traces them knows it.
        from .._replay.at_sizes import AnySize, program

        if not any_size:
            return program(self, sizes, which, allow_drift)
        if sizes is not None:
            raise ValueError("sizes and any_size=True exclude each other; give one")
        return AnySize(self, which, allow_drift)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{w.name} {w.size}" for w in self.all_widths)
        return f"Anatomy({sizes or 'no hidden width'})"

    def __str__(self) -> str:
        return table(self)


def measure(layout: Layout, sizes: Mapping[int, Any]) -> Any:
    """The length of an axis at some sizes, by atom; they may be real and traced."""
    if isinstance(layout, Atom):
        return sizes.get(layout.id, layout.size)
    if isinstance(layout, Prod):
        total: Any = 1
        for factor in layout.factors:
            total = total * measure(factor, sizes)
        return total
    return sum(measure(s, sizes) for s in layout.segments)
