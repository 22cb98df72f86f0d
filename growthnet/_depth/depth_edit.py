"""A depth edit, ready to be applied: what `Edit` is for widths."""

import dataclasses
import functools as ft
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer

from .._devices.placement import put_like
from .._edits.maps import LeafEdit
from .._edits.statics import unowned_ints, untrue_fields
from .._optimizer.optimizer import move_state
from .._paths import array_leaves, map_arrays
from .._reading.anatomy import Anatomy
from .._reading.widths import Exactness, Member, Width
from .drafts import Draft, rows_of
from .splice import node_at


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DepthEdit:
    """A planned change of depth. Call it on the network and on any tree shaped like it;
    `transfer` moves the optimizer state.

    - `before`, `after`: the anatomies. `after` equals a fresh trace of the result.
    - `exactness`, `why`: does the function stay as it is?
    - `at`: where, by the name that the first new (or removed) entry has.
    """

    before: Anatomy
    after: Anatomy
    exactness: Exactness
    why: str
    draft: Draft

    @property
    def at(self) -> str:
        return self.draft.splice.entry(self.draft.splice.index)

    def __repr__(self) -> str:
        splice = self.draft.splice
        new = splice.size + splice.born - splice.drop
        name = splice.name or "the network"
        return (
            f"DepthEdit({name} {splice.size} -> {new}, at {self.at}: {self.exactness})"
        )

    @ft.cached_property
    def origins(self) -> dict[str, str]:
        """Leaves that were there before: the old path by the new one."""
        assert self.before.source is not None and self.after.source is not None
        skeletons = self.before.source.skeleton, self.after.source.skeleton
        return self.draft.origins(*skeletons)

    @ft.cached_property
    def renames(self) -> dict[str, str]:
        """New names of widths, by old name, where these differ."""
        return {old: new for old, new in self._names.items() if old != new}

    @ft.cached_property
    def _names(self) -> dict[str, str]:
        """For every width that is still there, its name."""
        moved = {old: new for new, old in self.origins.items()}
        known = {
            (m.path, m.axis, m.place): w.name
            for w in self.after.all_widths
            for m in w.members
        }
        names = {}
        for width in self.before.all_widths:
            first = _namesake(width)
            new = known.get((moved.get(first.path, ""), first.axis, first.place))
            if new is not None:
                names[width.name] = new
        return names

    def __call__(self, tree: Any, *, key: Any = None, zeros: bool = False) -> Any:
        """The tree with the new depth.

        **Arguments:**

        - `tree`: the network, or a tree shaped like it; leaves may be missing (`None`).
        - `key`: seeds what is drawn; the same key gives the same block, as an average
            of the weights wants it. Needed if anything is drawn.
        - `zeros`: what is new is zero, as gradients want it.

        **Returns:** a new tree. Leaves that were there are the same objects; static
        fields that count layers are mended.

        **Raises:** `ValueError` if a leaf doesn't fit, or the key is missing.
        """
        arrays = self.before.check(tree)
        if any(isinstance(x, Tracer) for x in (key, *arrays.values())):
            raise ValueError(
                "a depth edit makes a new structure, so it can't run under jit or "
                "vmap; apply it between steps"
            )
        block = self.draft.block
        described = all(isinstance(x, jax.ShapeDtypeStruct) for x in arrays.values())
        draws = block is not None and block.draws and not (zeros or described)
        if draws and key is None:
            raise ValueError(f"the block at {self.at} draws its numbers: pass `key=`")
        made = self.draft.apply(tree, self.after, key, zeros)
        return map_arrays(made, self._placed(arrays, array_leaves(made)))

    def _placed(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        """New arrays as arrays of their own, where their models are; numpy ones stay
        numpy ones."""
        parts = self.draft.block.parts if self.draft.block else ()
        models = {part.path: part.source for part in parts}
        models |= {row.path: row.path for row in self.draft.rows}
        plain = bool(old) and all(isinstance(x, np.ndarray) for x in old.values())
        placed = {}
        for path, source in models.items():
            model, array = old.get(source), new.get(path)
            if array is None or isinstance(array, jax.ShapeDtypeStruct):
                continue
            if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                placed[path] = jr.clone(array)
            elif isinstance(model, np.ndarray) or model is None and plain:
                placed[path] = np.array(array)
            else:
                placed[path] = put_like(np.array(array), model)
        return placed

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

        **Arguments:** as of `Edit.transfer`.

        **Returns:** the state, with the structure of `optimizer.init(params2)`. What
        belongs to leaves that were there stays bit for bit; new leaves get what `init`
        gives. With `report`, also the `TransferReport`.

        **Raises:** `ValueError` if the trees don't fit the edit or the state.
        """
        self.before.check(params, "params")
        self.after.check(params2, "params2")
        rows = {row.path: row.edit for row in self.draft.rows}
        edits: dict[int, LeafEdit] = {
            i: rows[path]
            for i, path in enumerate(array_leaves(params2))
            if path in rows
        }
        matched = self.draft.splice.matched
        state, what = move_state(
            optimizer, opt_state, params, params2, edits, matched=matched
        )
        return (state, what) if report else state

    def inverse(self) -> "DepthEdit":
        """The edit that takes the inserted block out again.

        **Raises:** `ValueError` for a removal: what the block held is gone.
        """
        draft, skeleton = self.draft, self.draft.skeleton
        if draft.splice.drop:
            raise ValueError(
                f"the removal of {self.at} has no inverse: its weights are gone; "
                "insert a block with `gn.deepen`"
            )
        fields = {
            level: {name: getattr(_above(skeleton, draft, level), name) for name in new}
            for level, new in draft.fields.items()
        }
        assert self.after.source is not None
        back, grown = draft.splice.inverse, self.after.source.skeleton
        undo = Draft(back, None, rows_of(grown, back), fields, grown)
        why = "undoes an insertion"
        return DepthEdit(self.after, self.before, "exact", why, undo)

    def explain(self) -> str:
        """What will happen, in words: the place, the new leaves, sizes, names."""
        splice, block = self.draft.splice, self.draft.block
        size = splice.size + splice.born - splice.drop
        what = f"{block.what} comes in" if block else "removed"
        why = f" ({self.why})" if self.why else ""
        name = splice.name or "the network"
        lines = [f"{name}: {splice.size} -> {size} entries"]
        lines.append(f"{self.at}: {what}: {self.exactness}{why}")
        lines += [f"    {part}" for part in (block.parts if block else ())]
        lines += [
            f"    {r.path} {r.shape} -> {r.edit.new_shape}" for r in self.draft.rows
        ]
        lines.append(f"parameters: {self.before.params()} -> {self.after.params()}")
        kept = set(self._names.values())
        born = [w for w in self.after.all_widths if w.name not in kept]
        lines += [f"new width: {w.name} ({w.size})" for w in born]
        gone = self.before.widths.keys() - self._names.keys()
        lines += [f"width that is gone: {name}" for name in sorted(gone)]
        lines += [f"renamed: {old} -> {new}" for old, new in self.renames.items()]
        assert self.after.source is not None
        for text in untrue_fields(self.after.source.skeleton):
            lines.append(f"no single true value any more: {text}")
        lines += [
            f"perhaps no longer true: {text}" for text in _unread_counts(self.draft)
        ]
        return "\n".join(lines)


def _namesake(width: Width) -> Member:
    """The member that a width is named after."""
    makers = (m for m in width.members if "producer" in m.roles)
    return next(makers, width.members[0])


def _above(skeleton: Any, draft: Draft, level: int) -> Any:
    return node_at(skeleton, draft.splice.keys[:level])


def _unread_counts(draft: Draft) -> Iterator[str]:
    """Static integers beside the sequence that were its length, and that the forward
    pass doesn't read: whether they count layers can't be told."""
    for level in range(len(draft.splice.keys)):
        module = _above(draft.skeleton, draft, level)
        if isinstance(module, eqx.Module):
            for field, index, value in unowned_ints(module):
                mended = field in draft.fields.get(level, {})
                if index is None and value == draft.splice.size and not mended:
                    yield f"{type(module).__name__}.{field} = {value}"
