"""Edits: look at one, apply it to every tree that is shaped like the network."""

import dataclasses
import functools as ft
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._devices.placement import put_large, put_rest, to_host
from .._devices.shards import check_shards
from .._optimizer.optimizer import move_state
from .._paths import array_leaves, map_arrays
from .._reading.anatomy import Anatomy
from .._reading.layout import Place
from .._reading.trace import fields_at
from .._reading.widths import Exactness, Width
from .inits import Clone, Init, inverse_pair, Rows
from .maps import axis_edit, LeafEdit, MapPair
from .moves import gathered
from .newborns import newborn_entries
from .statics import modules, retuned, untrue_fields


Key = tuple[int, int, Place]
"""A member: leaf, axis, place."""


@dataclasses.dataclass(frozen=True)
class WidthChange:
    """What an edit does to one width."""

    name: str
    old: int
    new: int
    kept: tuple[int, ...]
    exactness: Exactness
    why: str

    @property
    def born(self) -> int:
        return self.new - len(self.kept)

    @property
    def dropped(self) -> int:
        return self.old - len(self.kept)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """A planned change of sizes. Call it on the network and on any tree shaped like it
    (an average of its weights, its gradients); `transfer` moves the optimizer state.

    - `before`, `after`: the anatomies. `after` equals a fresh trace of the result.
    - `changes`: per width, what happens and whether the function stays as it is.
    - `factors`, `fields`: members and static numbers that are multiplied so that the
        function stays, by `(leaf, axis, place)` and by `(module path, field)`.
    - `renames`: names that changed; empty for widths, depth edits fill it.
    """

    before: Anatomy
    after: Anatomy
    init: Init | Rows
    changes: tuple[WidthChange, ...]
    pairs: Mapping[int, MapPair]
    factors: Mapping[Key, float] = dataclasses.field(default_factory=dict)
    fields: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def groups(self, anatomy: Anatomy) -> Mapping[str, Width]:
        """What the changes are changes of: the anatomy's widths, or its rows."""
        return anatomy.rows if isinstance(self.init, Rows) else anatomy.widths

    def __repr__(self) -> str:
        sizes = ", ".join(f"{c.name} {c.old} -> {c.new}" for c in self.changes)
        return f"Edit({sizes or 'nothing'}: {self.exactness})"

    @property
    def exactness(self) -> Exactness:
        """The weakest promise of all widths."""
        found = {c.exactness for c in self.changes}
        if "not preserving" in found:
            return "not preserving"
        return "approximate" if "approximate" in found else "exact"

    @ft.cached_property
    def leaf_edits(self) -> dict[str, LeafEdit]:
        """What happens to each leaf that the edit touches, by path."""
        consumers: dict[tuple[int, int], set] = {}
        for width in self.before.groups:
            for i in width.copied.cover:
                m = width.members[i]
                consumers.setdefault((m.leaf, m.axis), set()).add(m.place)
        factors: dict[tuple[int, int], dict[Place, float]] = {}
        for (leaf, axis, place), factor in self.factors.items():
            factors.setdefault((leaf, axis), {})[place] = factor
        edits = {}
        touched = {
            m.leaf for w in self.before.groups if w.id in self.pairs for m in w.members
        }
        for i in sorted(touched):
            leaf = self.before.leaves[i]
            edits[leaf.path] = LeafEdit(
                tuple(
                    axis_edit(
                        layout,
                        dict(self.pairs),
                        frozenset(consumers.get((i, axis), ())),
                        factors.get((i, axis), {}),
                    )
                    for axis, layout in enumerate(leaf.layouts)
                )
            )
        return edits

    def __call__(self, tree: Any, *, key: Any = None) -> Any:
        """The tree at the new sizes.

        **Arguments:**

        - `tree`: the network, or a tree shaped like it; leaves may be missing (`None`).
        - `key`: seeds the newborns; the same key gives the same newborns. Needed where
            units are born from random draws.

        **Returns:** a new tree. Dtypes stay, and so do devices and shardings; leaves
        that aren't touched are the same objects; static fields that the sizes determine
        are mended.

        **Raises:** `ValueError` if a leaf doesn't fit, or the key is missing; if a mesh
        doesn't divide a new size.
        """
        arrays = self.before.check(tree)
        traced = any(isinstance(x, Tracer) for x in (key, *arrays.values()))
        if traced and not self.only_moves:
            raise ValueError(
                "an edit that draws newborns or scales units runs in numpy, not under "
                "jit or vmap; reserve capacity (init='closed') and open units there "
                "instead"
            )
        if not arrays:
            raise ValueError(
                f"there are no arrays in the tree ({type(tree).__name__}); an edit "
                "takes the network, or a tree shaped like it"
            )
        for path, edit in self.leaf_edits.items():
            if path in arrays:
                whose = ft.partial(self._whose, path)
                check_shards(path, arrays[path], edit.new_shape, whose)
        newborns = newborn_entries(self, key)
        new: dict[str, Any] = {}
        for path, edit in self.leaf_edits.items():
            array = arrays.get(path)
            if array is None:
                continue
            if isinstance(array, jax.ShapeDtypeStruct):
                new[path] = array.update(shape=edit.new_shape)
                continue
            writes = newborns.get(path, ())
            if isinstance(array, Tracer):
                new[path] = _gathered(array, edit, writes)
                continue
            values = edit.values(to_host(array))
            for entries in writes:
                values = entries.write(values)
            # Numpy leaves stay numpy leaves (and keep their 64 bits).
            plain = isinstance(array, np.ndarray)
            new[path] = values if plain else put_large(values, array)
        put = [p for p in new if not isinstance(arrays[p], np.ndarray)]
        placed = put_rest([new[p] for p in put], [arrays[p] for p in put])
        new.update(zip(put, placed, strict=True))
        fields = self._static_fields(tree)
        whole = len(arrays) == len(self.before.leaves)
        return retuned(tree, map_arrays(tree, new), fields, check=whole)

    @property
    def only_moves(self) -> bool:
        """Do all entries stay what they are, beside closed slots? Then it can be done
        inside a program: `reserve` under `vmap` is."""
        maps = [m for p in self.pairs.values() for m in (p.produce, p.consume)]
        plain = not (self.factors or self.fields or any(m.scaled.any() for m in maps))
        born = any(c.born for c in self.changes)
        return plain and (self.init == "closed" or not born)

    def _whose(self, path: str, axis: int) -> str:
        """The widths along an axis of a leaf and their sizes, for messages."""
        found = [
            f"{c.name!r} ({c.old} -> {c.new})"
            for c in self.changes
            for m in self.groups(self.before)[c.name].members
            if (m.path, m.axis) == (path, axis)
        ]
        return " and ".join(dict.fromkeys(found)) or repr(path)

    def _static_fields(self, tree: Any) -> dict[str, dict[str, Any]]:
        """What no rule mends: integers found by search, and numbers that are scaled."""
        source = self.before.source
        fields = fields_at(source.skeleton, source.found, self.after) if source else {}
        known = dict(modules(tree)) if self.fields else {}
        for (path, field), factor in self.fields.items():
            if path in known and isinstance(getattr(known[path], field), float):
                value = getattr(known[path], field) * factor
                fields.setdefault(path, {})[field] = value
        return fields

    def transfer(
        self,
        optimizer: Any,
        opt_state: Any,
        params: Any,
        params2: Any,
        *,
        report: bool = False,
    ) -> Any:
        """Moves an optimizer state along.

        **Arguments:**

        - `optimizer`: the `optax.GradientTransformation` that made the state.
        - `opt_state`: its state before the edit.
        - `params`, `params2`: the trees that it was initialised with, before and after;
            usually `eqx.filter(net, eqx.is_inexact_array)`. Under `jit` and `vmap`
            all three may be traced, unless the edit splits or scales units.
        - `report`: also return what happened to every leaf of the state.

        **Returns:** the state, with the structure of `optimizer.init(params2)`. Entries
        that the edit leaves alone keep their values bit for bit, newborn entries hold
        what `init` gives, moments of split units follow their gradients. What can't be
        mapped is reset, and the `TransferReport` says so.

        **Raises:** `ValueError` if the trees don't fit the edit or the state.
        """
        self.before.check(params, "params")
        self.after.check(params2, "params2")
        paths = list(array_leaves(params))
        edits = {
            i: self.leaf_edits[path]
            for i, path in enumerate(paths)
            if path in self.leaf_edits
        }
        state, what = move_state(
            optimizer, opt_state, params, params2, edits, whose=self._whose
        )
        return (state, what) if report else state

    def inverse(self) -> "Edit":
        """The edit that undoes this growth: newborns go, copies are merged.

        **Raises:** `ValueError` if units were dropped or reordered.
        """
        for c in self.changes:
            if c.kept != tuple(range(c.old)):
                raise ValueError(
                    f"{c.name!r} lost or reordered units ({c.old} -> {c.new}); only "
                    "growth that keeps all units in order has an inverse"
                )
        changes = tuple(
            WidthChange(
                c.name, c.new, c.old, tuple(range(c.old)), "exact", "undoes a growth"
            )
            for c in self.changes
        )
        pairs = {id: inverse_pair(pair) for id, pair in self.pairs.items()}
        factors = {key: 1 / factor for key, factor in self.factors.items()}
        fields = {key: 1 / factor for key, factor in self.fields.items()}
        init = self.init if isinstance(self.init, Rows) else "closed"
        return Edit(self.after, self.before, init, changes, pairs, factors, fields)

    def explain(self) -> str:
        """What will happen, in words: a line per width, members, sizes, fields."""
        lines = []
        for c in self.changes:
            parts = [f"{c.dropped} removed"] if c.dropped else []
            parts += [f"{c.born} born by {init_name(self.init)}"] if c.born else []
            why = f" ({c.why})" if c.why else ""
            what = ", ".join(parts) or "reordered"
            lines.append(f"{c.name}: {c.old} -> {c.new}, {what}: {c.exactness}{why}")
            for member in self.groups(self.before)[c.name].members:
                lines.append(f"    {member}")
        for (leaf, axis, _), factor in self.factors.items():
            path = self.before.leaves[leaf].path
            lines.append(f"multiplied by {factor:.6g}: {path} along axis {axis}")
        for (path, field), factor in self.fields.items():
            name = f"{path}.{field}" if path else field
            lines.append(f"multiplied by {factor:.6g}: {name}")
        before, after = self.before.params(), self.after.params()
        lines.append(f"parameters: {before} -> {after}")
        if isinstance(self.init, Clone) and not self.init.separates:
            lines.append("equal copies get equal gradients: they never separate")
        if self.after.source is not None:
            for text in untrue_fields(self.after.source.skeleton):
                lines.append(f"no single true value any more: {text}")
        lines += _left_alone(self.before, self.changes)
        lines += [f"renamed: {a} -> {b}" for a, b in self.renames.items()]
        return "\n".join(lines)


def _gathered(array: Any, edit: LeafEdit, writes: Any) -> Any:
    """What an edit that only moves entries does to a traced array."""
    filled = np.zeros(edit.new_shape, np.float32)
    for entries in writes:
        filled = entries.write(filled)
    return gathered(array, edit.values, jnp.asarray(filled, array.dtype))


def _left_alone(anatomy: Anatomy, changes: tuple[WidthChange, ...]) -> list[str]:
    """Leaves that look as if they belonged to a width, but no traced call uses them."""
    return [
        f"the trace doesn't reach {leaf.path}: it keeps its shape {leaf.shape}, though "
        f"{c.name} was {c.old} too; if it belongs there, trace a call that uses it "
        "(`also=`)"
        for leaf in anatomy.leaves
        if not leaf.reached
        for c in changes
        if c.old in leaf.shape
    ]


def init_name(init: Init | Rows) -> str:
    if isinstance(init, Clone):
        return f"clone ({init.split} split)"
    if isinstance(init, Rows):
        return "the mean of the old" if init.how == "mean" else "draws like the old"
    return init if isinstance(init, str) else getattr(init, "__name__", "a function")
