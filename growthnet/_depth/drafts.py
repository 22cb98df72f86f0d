"""Drafts of depth edits: applied to trees, and does the network then read?"""

import dataclasses
import functools as ft
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from .._edits.maps import AxisEdit, LeafEdit, MapPair, PlaceEdit, UnitMap
from .._edits.statics import check_invariants, unowned_ints, with_true_fields
from .._paths import array_leaves, is_array, map_arrays, named_leaves, within
from .._reading.anatomy import Anatomy
from .._reading.layout import Atom
from .._reading.reader import error_line
from .._reading.trace import Source
from .blocks import Block, Holds, keeps_state, values
from .likeness import Abstract, read_abstractly
from .splice import node_at, replaced, Splice


Kind = Literal["residual", "identity", "given", "no"]
Fields: TypeAlias = Mapping[int, Mapping[str, Any]]
"""Static fields to set, by level: how many keys lead to the module."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A leaf with an entry per layer along its first axis gains or loses some: those of
    layers take the values of the row before, or `fill`."""

    path: str
    shape: tuple[int, ...]
    index: int
    drop: int
    born: int
    fill: float | None = None

    @ft.cached_property
    def edit(self) -> LeafEdit:
        size, *rest = self.shape
        old = np.arange(size)
        kept = np.delete(old, range(self.index, self.index + self.drop))
        taken = UnitMap.take(size, np.insert(kept, self.index, [-1] * self.born))
        pair = MapPair(taken, taken)
        first = AxisEdit(Atom(-1, size), (PlaceEdit((), pair, False),))
        return LeafEdit((first, *(AxisEdit(Atom(-1, n)) for n in rest)))

    def values(self, array: Any, zeros: bool) -> Any:
        if isinstance(array, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(self.edit.new_shape, array.dtype)
        old = np.asarray(array)
        new = self.edit.values(old)
        if self.born and not zeros:
            row = old[max(self.index - 1, 0)] if self.fill is None else self.fill
            new[self.index : self.index + self.born] = row
        return new


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """An insertion or removal that can be applied to trees."""

    splice: Splice
    block: Block | None
    rows: tuple[Row, ...]
    fields: Fields
    skeleton: Any

    def apply(self, tree: Any, after: Anatomy | None, key: Any, zeros: bool) -> Any:
        """The tree with its new entries, arrays as numpy or as they are."""
        arrays, block, entries = array_leaves(tree), self.block, []
        if block is not None:
            numbers = values(block, tree, after, key, zeros)
            entries = block.build(tree, numbers, Holds(self.skeleton, tree))
        rows = {row.path: row for row in self.rows if row.path in arrays}
        new = {path: row.values(arrays[path], zeros) for path, row in rows.items()}
        return replaced(
            map_arrays(tree, new) if new else tree,
            self.splice.keys,
            lambda node: self.splice.applied(node, entries),
            self._mend,
        )

    def _mend(self, level: int, old: Any, made: Any) -> Any:
        if not isinstance(made, eqx.Module):
            return made
        return with_true_fields(old, made, self.fields.get(level, {}))

    def source(self, before: Source) -> Source:
        """What a trace of the result needs."""
        skeleton = self.apply(before.skeleton, None, None, False)
        return dataclasses.replace(before, skeleton=skeleton, found=())

    def origins(self, before: Any, after: Any) -> dict[str, str]:
        """Old path by new path, for the arrays that were there before."""
        olds, news = named_leaves(before), named_leaves(after)
        structures = jtu.tree_structure(before), jtu.tree_structure(after)
        matches = self.splice.matched(*structures)
        return {
            name: olds[i][0]
            for (name, leaf), i in zip(news, matches, strict=True)
            if i is not None and is_array(leaf)
        }


def rows_of(skeleton: Any, splice: Splice) -> tuple[Row, ...]:
    """The leaves that go with a sequence of layers: an `eqx.nn.MLP` stacks what its
    activations have learned."""
    if not splice.keys:
        return ()
    owner = node_at(skeleton, splice.keys[:-1])
    if not isinstance(owner, eqx.nn.MLP) or splice.name.split(".")[-1] != "layers":
        return ()
    prefix = splice.name.removesuffix("layers") + "activation"
    rows = []
    for path, leaf in array_leaves(skeleton).items():
        if within(path, prefix):
            index = min(splice.index, leaf.shape[0] - splice.drop)
            shape = tuple(leaf.shape)
            rows.append(Row(path, shape, index, splice.drop, splice.born))
    return tuple(rows)


# --- does it read?


@ft.lru_cache(maxsize=64)
def reading(source: Source) -> Abstract:
    """What the program of a network says."""
    return read_abstractly(source)


def drafted(anatomy: Anatomy, splice: Splice, block: Block | None) -> "Draft | str":
    """The draft, or why the network doesn't read with it.

    A number of layers that is fixed in a static field shows in a call that fails or
    doesn't reach all layers; then such fields are tried.
    """
    source = anatomy.source
    if block is not None and keeps_state(block.entries):
        return "it keeps its state in an `eqx.nn.State`, which has no room for it"
    why = ""
    for fields in ({}, *_counting_fields(source.skeleton, splice)):
        rows = rows_of(source.skeleton, splice)
        draft = Draft(splice, block, rows, fields, source.skeleton)
        complaint = _complaint(anatomy, draft)
        if not complaint:
            return draft
        why = why or complaint
    return why


def _counting_fields(skeleton: Any, splice: Splice) -> Iterator[Fields]:
    """Static integers above the sequence that may count its entries."""
    for level in reversed(range(len(splice.keys))):
        module = node_at(skeleton, splice.keys[:level])
        if not isinstance(module, eqx.Module):
            continue
        for field, index, value in unowned_ints(module):
            if index is None and value in (splice.size, splice.size - 1):
                yield {level: {field: value + splice.born - splice.drop}}


def _complaint(anatomy: Anatomy, draft: Draft) -> str:
    before = reading(anatomy.source)
    source = draft.source(anatomy.source)
    try:
        for level in range(len(draft.splice.keys)):
            check_invariants(node_at(source.skeleton, draft.splice.keys[:level]))
        after = read_abstractly(source)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0][:200]
        line = error_line(error)
        where = f", at {line}" if line else ""
        return (
            f"the network can't be called then ({type(error).__name__}: {text}{where})"
        )
    if after.outputs != before.outputs:
        shapes = [tuple(shape for shape, _ in x.outputs) for x in (after, before)]
        return f"the outputs would have the shapes {shapes[0]}, not {shapes[1]}"
    origins = draft.origins(anatomy.source.skeleton, source.skeleton)
    used, was = set(after.order), set(before.order)
    for new, old in origins.items():
        if old in was and new not in used:
            return f"the call doesn't reach {new} any more; is the depth fixed in code?"
    for part in draft.block.parts if draft.block else ():
        if part.path not in used and (not part.source or part.source in was):
            return f"the call doesn't reach {part.path}; is the depth fixed in code?"
    return ""
