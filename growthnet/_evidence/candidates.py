"""Candidates: units that don't exist, and what would be if they did.

A unit is a row of numbers for every leaf that its width is on. Candidates are such
rows. What they would say is read off the network in which the width has them and nobody
else; what the loss would be, off the network that has them beside everybody else. Both
are the network itself at another size, so nothing depends on the layers it is made of.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from .._capacity.capacity import change_openings
from .._capacity.gates import silence
from .._edits.draws import key_words
from .._edits.plan import plan
from .._paths import array_leaves, map_arrays
from .._policies.growing import Growing
from .._policies.policy import Change
from .._reading.anatomy import Anatomy
from .contractions import unit_line
from .flows import table_of
from .units import units_of
from .wide import widened


Rows: TypeAlias = dict[str, Any]
"""Units by leaf path: `[units, entries]`."""


class Candidates:
    """Units of one width that don't exist, on one batch. Everything here is pure,
    differentiable in the rows, and maps under `vmap`.

    Rows are a dict from leaf path to `[count, entries]`: what the leaf holds for each
    unit, in leaf order. Those of a consumer are its `Consumer.rows`. Masks (leaves of
    booleans) aren't part of it.

    **Raises:** all methods, `ValueError` for rows that are none, and for a width that a
    leaf has along two axes.

    !!! example

        ```python
        # In a policy's `step`: of a hundred random units, the two that say most.
        candidates = evidence.candidates["layers[0]"]
        rows = candidates.drawn(100, key)
        size = jnp.std(candidates.activations(rows), axis=0)
        best = jnp.argsort(-size)[:2]
        change = candidates.change({path: r[best] for path, r in rows.items()})
        ```
    """

    def __init__(
        self,
        growing: Growing,
        name: str,
        loss: Callable[..., Any],
        args: tuple[Any, ...],
        value: Callable[[Any], Any],
        wide: Any,
    ):
        self._growing, self._name, self._wide = growing, name, wide
        self._loss, self._args, self._value = loss, args, value

    def drawn(self, count: int, key: Any) -> Rows:
        """Rows as newborns are drawn by default, with consumers at 0."""
        net, anatomy = self._at(count)
        nobody, all_ = jnp.zeros(count, bool), jnp.ones(count, bool)
        open_ = {**self._growing.open, self._name: nobody}
        after = {**open_, self._name: all_}
        words = key_words(key)
        net, _ = change_openings(net, anatomy, open_, open_, after, words)
        arrays = widened(array_leaves(net), self._wide)
        return {path: place.rows(arrays[path]) for path, place in self._places(anatomy)}

    def activations(self, rows: Rows) -> Any:
        """What they say on the batch, as consumers would read it: `[samples, count]`,
        in the order of `Units.activations`. Rows of consumers may be left out.

        **Raises:** `ValueError` if the units can't be found in the loss's program.
        """
        count = self._count(rows, whole=False)
        net, anatomy = self._at(count)
        net = self._written(net, anatomy, rows, np.arange(count))
        gates = {n: g for n, g in self._growing.gates().items() if n != self._name}
        who = type(self._growing.policy).__name__
        units = units_of(
            silence(net, anatomy, gates),
            anatomy,
            self._loss,
            self._args,
            ["activations"],
            [self._name],
            who,
        )
        return widened(units[self._name].activations, self._wide)

    def rows(self, arrays: Mapping[str, Any]) -> Rows:
        """The present units as rows, `[capacity, entries]`, from arrays of the leaves'
        shapes by path; paths may be left out."""
        places = self._places(self._growing.anatomy)
        return {path: p.rows(arrays[path]) for path, p in places if path in arrays}

    def loss(self, rows: Rows, moved: Rows | None = None) -> Any:
        """The loss on the batch if they were born, beside the present units. No
        capacity is needed for it. `moved` is for rows that the present units take
        first, `[capacity, entries]`; paths may be left out."""
        present, count = self._growing.open[self._name].size, self._count(rows)
        net, anatomy = self._at(present + count)
        net = self._written(net, anatomy, moved or {}, np.arange(present))
        net = self._written(net, anatomy, rows, present + np.arange(count))
        gates = self._growing.gates()
        gate = gates[self._name]
        gates[self._name] = jnp.concatenate([gate, jnp.ones(count, gate.dtype)])
        return self._value(silence(net, anatomy, gates))

    def change(self, rows: Rows, add: Any = None, moved: Rows | None = None) -> Change:
        """The `Change` that they are born by: as many of them as `add` says (all by
        default), the first first. `moved`, as in `loss`, becomes its rewrite."""
        mask, anatomy = self._growing.open[self._name], self._growing.anatomy
        count = self._count(rows)
        # Newborns take the closed slots, lowest first.
        birth = jnp.clip(jnp.cumsum(~mask) - 1, 0, count - 1)
        shapes, every = {x.path: x.shape for x in anatomy.leaves}, np.arange(mask.size)
        values = {}
        for path, place in self._places(anatomy):
            empty = jnp.zeros(shapes[path], rows[path].dtype)
            values[path] = place.write(empty, rows[path][birth], every)
        add = count if add is None else add
        if moved is None:
            return Change(mask, add, values=values)
        places, arrays = dict(self._places(anatomy)), array_leaves(self._growing.net)
        new = {p: places[p].write(arrays[p], moved[p], every) for p in moved}
        return Change(mask, add, values=values, rewrite=new)

    # --- the network at other sizes of the width

    def _at(self, size: int) -> tuple[Any, Anatomy]:
        present = self._growing.open[self._name].size
        edit = plan(
            self._growing.anatomy,
            {self._name: size},
            init="closed",
            keep={self._name: np.arange(min(size, present))},
            allow_drift=True,
        )
        return edit(self._growing.net), edit.after

    def _places(self, anatomy: Anatomy) -> list[tuple[str, "Place"]]:
        return list(places_of(anatomy, self._name).items())

    def _written(self, net: Any, anatomy: Anatomy, rows: Rows, at: Any) -> Any:
        arrays, places = array_leaves(net), dict(self._places(anatomy))
        new = {p: places[p].write(arrays[p], rows[p], at) for p in rows}
        return map_arrays(net, new)

    def _count(self, rows: Rows, whole: bool = True) -> int:
        """**Raises:** `ValueError` for rows that aren't those of some units."""
        places = dict(self._places(self._growing.anatomy))
        shapes = {path: jnp.shape(array) for path, array in rows.items()}
        count = max([shape[0] for shape in shapes.values() if shape], default=0)
        wanted = {path: (count, place.entries) for path, place in places.items()}
        if not whole:
            wanted = {path: wanted[path] for path in wanted if path in rows}
        if count == 0 or shapes != wanted:
            known = ", ".join(f"{p} [count, {q.entries}]" for p, q in places.items())
            raise ValueError(
                f"candidates of {self._name!r} are {shapes}; by leaf path they are "
                f"{known}"
            )
        return count


class Place:
    """Where a leaf of some shape holds the units of a width: unit `u` at the indices
    `table[u]` of one axis."""

    def __init__(self, shape: tuple[int, ...], axis: int, table: np.ndarray):
        self.axis, self.table = axis, table
        others = [n for a, n in enumerate(shape) if a != axis]
        self.entries = math.prod(others) * table.shape[1]

    def rows(self, leaf: Any) -> Any:
        """The leaf by unit, `[units, entries]`."""
        units, each = self.table.shape
        parts = jnp.take(leaf, self.table.reshape(-1), axis=self.axis)
        before, after = leaf.shape[: self.axis], leaf.shape[self.axis + 1 :]
        parts = parts.reshape((*before, units, each, *after))
        return jnp.moveaxis(parts, self.axis, 0).reshape(units, -1)

    def write(self, leaf: Any, rows: Any, at: Any) -> Any:
        """The leaf with the rows of some units."""
        before, after = leaf.shape[: self.axis], leaf.shape[self.axis + 1 :]
        each = self.table.shape[1]
        parts = jnp.moveaxis(rows.reshape((-1, *before, each, *after)), 0, self.axis)
        parts = parts.reshape((*before, -1, *after)).astype(leaf.dtype)
        where = (slice(None),) * self.axis
        return leaf.at[(*where, self.table[at].reshape(-1))].set(parts)


def places_of(anatomy: Anatomy, name: str) -> Mapping[str, Place]:
    """By leaf path, where a width's units are.

    **Raises:** `ValueError` if a leaf has the width along two axes: then an entry isn't
    one unit's.
    """
    found: dict[str, tuple[int, list[Any]]] = {}
    shapes = {leaf.path: leaf.shape for leaf in anatomy.leaves}
    for member in anatomy.widths[name].members:
        if anatomy.leaves[member.leaf].mask:
            continue
        axis, tables = found.setdefault(member.path, (member.axis, []))
        if axis != member.axis:
            raise ValueError(
                f"candidates of {name!r} can't be had: {member.path!r} has its units "
                "along two axes; leave the width out (`widths=`)"
            )
        table = table_of(unit_line(anatomy, member), anatomy.widths[name].size)
        assert table is not None, "a width's units are alike"
        tables.append(table)
    return {
        path: Place(shapes[path], axis, np.sort(np.concatenate(tables, 1), axis=1))
        for path, (axis, tables) in found.items()
    }
