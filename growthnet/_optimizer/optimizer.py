"""The optimizer state follows the parameters through edits and openings.

`state_links` tells how each leaf of a state is laid out, `init_values` what newborn
entries hold and what happens where an edit scales gradients. This file applies that in
edits, `resets` in openings.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.core import Tracer

from .._devices.placement import put_large, put_rest, to_host
from .._devices.shards import check_shards
from .._edits.maps import AxisEdit, LeafEdit
from .._edits.moves import gathered
from .._reading.layout import Atom
from .init_values import CONSTANT, GRADIENT, Init, Power, read_init, read_powers
from .state_links import (
    adafactor_leaves,
    checked_leaves,
    leaf_paths,
    Link,
    state_groups,
)
from .transfer_report import TransferReport, TransferRow


Matched: TypeAlias = Callable[[Any, Any], Sequence[int | None]]
"""Which leaf of one tree structure each leaf of another comes from."""


def move_state(
    optimizer: Any,
    opt_state: Any,
    params: Any,
    params2: Any,
    leaf_edits: Mapping[int, LeafEdit],
    *,
    strict: bool = False,
    matched: Matched | None = None,
    whose: Callable[[str, int], str] = lambda path, axis: path,
) -> tuple[Any, TransferReport]:
    """Moves an optimizer state through an edit of the parameters.

    **Arguments:**

    - `optimizer`: has `init` and `update`, as in optax.
    - `opt_state`: its state before the edit.
    - `params`, `params2`: what it was initialised with, before and after the edit.
    - `leaf_edits`: what happens to the parameters, by index in `jax.tree.leaves` of
        `params2`; leaves that aren't touched may be missing.
    - `strict`: raise instead of resetting what can't be mapped.
    - `matched`: tells for two tree structures, before and after, from which old leaf
        each new one comes (`None`: from none). By default no leaf comes or goes.
    - `whose`: names the width along an axis of a parameter, for messages.

    **Returns:** a state with the structure, shapes and dtypes of
    `optimizer.init(params2)`, where the old one is, and the report.

    **Raises:** `ValueError` if the state isn't one of `optimizer` for `params`, if an
    edit doesn't lead from `params` to `params2`, if a mesh doesn't divide a new size,
    or if `strict` forbids a reset.
    """
    before, after = read_init(optimizer, params), read_init(optimizer, params2)
    leaves = checked_leaves(before.program, before.shapes, opt_state)
    structures = before.params.treedef, after.params.treedef
    parents = list(
        matched(*structures) if matched else range(len(before.params.leaves))
    )
    edits = _checked_edits(before, after, leaf_edits, parents)
    names, paths = leaf_paths(params2), leaf_paths(opt_state)
    sources: Sequence[int | None] = range(len(leaves))
    gone: list[str] = []
    if before.program.skeleton != after.program.skeleton:
        old, olds = {path: j for j, path in enumerate(paths)}, paths
        state2 = after.unflatten(range(len(after.links)))
        paths = leaf_paths(state2)
        sources = [old.get(path) for path in paths]
        if matched:
            states = jax.tree.structure(opt_state), jax.tree.structure(state2)
            sources = matched(*states)
        gone = [path for j, path in enumerate(olds) if j not in sources]
    links = _renumbered(before.links, parents)
    born = frozenset(i for i, parent in enumerate(parents) if parent is None)
    mover = _Mover(optimizer, opt_state, leaves, before, links, after, edits, born)
    olds = [None if j is None else leaves[j] for j in sources]
    _check_shards(olds, paths, after, names, whose)
    likes = [_like(after, k, old) for k, old in enumerate(olds)]
    fates = (mover.move(k, j) for k, j in enumerate(sources))
    moved = [(put_large(x[0], y), *x[1:]) for x, y in zip(fates, likes, strict=True)]
    rows = tuple(
        TransferRow(path, "" if link.param is None else names[link.param], *what)
        for path, link, (_, *what) in zip(paths, after.links, moved, strict=True)
    )
    why = "the new state has no such leaf"
    what = "gone" if matched else "reset"
    rows += tuple(TransferRow(path, "", what, why) for path in sorted(gone))
    lost = [row for row in rows if row.action == "reset"]
    if strict and lost:
        raise ValueError(f"{lost[0].path} of the state can't move: {lost[0].reason}")
    news = put_rest([new for new, *_ in moved], likes)
    return after.unflatten(news), TransferReport(rows)


def _check_shards(
    olds: Sequence[Any],
    paths: Sequence[str],
    after: Init,
    names: Sequence[str],
    whose: Callable[[str, int], str],
) -> None:
    rows = zip(olds, paths, after.links, after.shapes, strict=True)
    for old, path, link, shape in rows:
        if old is None or np.ndim(old) != len(shape):
            continue

        def named(axis: int, link: Link = link) -> str:
            own = None if link.axes is None else link.axes[axis]
            if link.param is None or own is None:
                return "the optimizer's state"
            return whose(names[link.param], own)

        check_shards(f"opt_state{path}", old, shape, named)


def _like(after: Init, k: int, old: Any) -> Any:
    """The array whose place a new leaf takes: the old one's, or its parameter's."""
    param = after.links[k].param
    if old is not None or param is None:
        return old
    return after.params.leaves[param]


def _renumbered(
    links: Sequence[Link], parents: Sequence[int | None]
) -> tuple[Link, ...]:
    """Links to the old parameters as links to the new ones; what follows a parameter
    that is gone follows none that there is."""
    new = {parent: i for i, parent in enumerate(parents) if parent is not None}
    number = lambda i: None if i is None else new.get(i, len(parents) + i)
    return tuple(dataclasses.replace(x, param=number(x.param)) for x in links)


def _checked_edits(
    before: Init,
    after: Init,
    leaf_edits: Mapping[int, LeafEdit],
    parents: Sequence[int | None],
) -> dict[int, LeafEdit]:
    """The edits that change anything."""
    old, new = before.params.shapes, after.params.shapes
    if len(parents) != len(new) or not leaf_edits.keys() <= set(range(len(new))):
        raise ValueError(
            f"params has {len(old)} leaves, params2 {len(new)}, and the edits are for "
            f"{sorted(leaf_edits)}; all three must be about the same leaves"
        )
    for i, parent in enumerate(parents):
        if parent is None:
            continue
        shapes, edit = (old[parent], new[i]), leaf_edits.get(i)
        says = (shapes[0],) * 2 if edit is None else (edit.old_shape, edit.new_shape)
        if says != shapes:
            path = leaf_paths(after.params.treedef.unflatten(range(len(new))))[i]
            raise ValueError(
                f"parameter {path} goes from {shapes[0]} to {shapes[1]}, but its edit "
                f"from {says[0]} to {says[1]}"
            )
    return {i: edit for i, edit in leaf_edits.items() if edit.touched}


Fate: TypeAlias = tuple[Any, str, str]
"""The new leaf, the action, the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Mover:
    """One state on its way; a leaf at a time."""

    optimizer: Any
    opt_state: Any
    leaves: list[Any]
    before: Init
    links: tuple[Link, ...]
    after: Init
    edits: dict[int, LeafEdit]
    born: frozenset[int]
    views: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @ft.cached_property
    def scales(self) -> bool:
        """Does any entry become more or less than a copy of another?"""
        either = (True, False)
        edits = self.edits.values()
        return any(_scaling(e, range(len(e.axes)), either) for e in edits)

    def move(self, k: int, j: int | None) -> Fate:
        """New leaf `k`, from old leaf `j`."""
        link = self.after.links[k]
        if j is None:
            fate = self._reset(k, "the old state has no such leaf")
            new = self.born and link.param in {None, *self.born}
            return (fate[0], "born", "") if new else fate
        if link != self.links[j]:
            j = self._swapped(link, j)
        if j is None:
            return self._reset(k, "its layout depends on the sizes, and changed")
        edit = None if link.param is None else self.edits.get(link.param)
        if link.axes is None and (edit or link.param is None and self.edits):
            return self._reset(k, "how its layout depends on the sizes is unknown")
        if edit is None and self.before.shapes[j] != self.after.shapes[k]:
            return self._reset(k, "it has the shape of all parameters together")
        if edit is None or link.axes is None:
            return self.leaves[j], "kept", ""
        view = self._view(edit, link, self.before.shapes[j])
        lost = self._lost.get((self._groups[j], link.param)) if self.scales else None
        if not (view.touched or lost):
            return self.leaves[j], "kept", "it runs along no axis that changes"
        if isinstance(self.leaves[j], Tracer):
            if not self.scales:
                filled = self._begun[k]
                return gathered(self.leaves[j], view.gradients, filled), "moved", ""
            raise ValueError(
                "the optimizer state of units that are split or scaled moves in numpy, "
                "not under jit or vmap"
            )
        array = to_host(self.leaves[j])
        if not self.scales:
            return self._bear(k, view.gradients(array), view), "moved", ""
        power = "value" if link.kind == "copy" else self._powers[j]
        scaled = view.scaled(gradient=power != "value")
        new = self._bear(k, _followed(view, array, power), view)
        if lost and link.kind != "copy":
            hidden = _scaling(edit, _missing(edit, link), lost)
            again = _scaled(view, lost) | hidden
            new = np.where(again, self.after.value(k), new).astype(array.dtype)
            return new, "reset", "in split units: its relation to gradients is unknown"
        return (new, "scaled", _REASONS[power]) if scaled.any() else (new, "moved", "")

    def _swapped(self, link: Link, j: int) -> int | None:
        """Rows and columns of adafactor change places when the longer axis does."""
        which, links = adafactor_leaves(self.before.program.treedef), self.links
        mates = (i for i in which if j in which and which[i] == which[j])
        same = (i for i in mates if links[i] == link and link.kind == "factored")
        return next(same, None)

    def _view(self, edit: LeafEdit, link: Link, shape: tuple[int, ...]) -> LeafEdit:
        """The edit of a leaf that runs along some axes of the parameter."""
        key = (link.param, link.axes)
        if key not in self.views:
            free = lambda size: AxisEdit(Atom(-1, size))
            pairs = zip(link.axes or (), shape, strict=True)
            axes = (free(n) if a is None else edit.axes[a] for a, n in pairs)
            self.views[key] = LeafEdit(tuple(axes))
        return self.views[key]

    def _bear(self, k: int, new: np.ndarray, view: LeafEdit) -> np.ndarray:
        """Newborn entries, zero so far, hold what `init` gives."""
        value = self.after.value(k)
        if value.size and (any(value.strides) or value.flat[0] != 0):
            np.copyto(new, value, where=view.born(), casting="unsafe")
        return new

    @ft.cached_property
    def _begun(self) -> list[Any]:
        """A first state, whose values may be traced."""
        params = self.after.params
        return jax.tree.leaves(
            self.optimizer.init(params.treedef.unflatten(params.leaves))
        )

    def _reset(self, k: int, reason: str) -> Fate:
        return np.array(self.after.value(k)), "reset", reason

    @ft.cached_property
    def _powers(self) -> Sequence[Power]:
        return read_powers(self.optimizer, self.before, self.opt_state)

    @ft.cached_property
    def _groups(self) -> list[int]:
        own = self.before.params.treedef
        return state_groups(jax.tree.structure(self.opt_state), own)

    @ft.cached_property
    def _lost(self) -> dict[Any, tuple[bool, ...]]:
        """Groups and parameters in which some leaf can't follow what is scaled (as
        values, as gradients). The others are reset with it: mu of Adam without its nu
        makes a huge step."""
        lost: dict[Any, tuple[bool, ...]] = {}
        for j, link in enumerate(self.links):
            if link.param in self.edits and link.kind != "copy":
                edit, power = self.edits[link.param], self._powers[j]
                senses = (True, False) if power == "tangled" else (True,)
                every = range(len(edit.axes))
                stuck = power not in _REASONS and _scaling(edit, every, senses)
                summed = power != CONSTANT and _missing(edit, link)
                if stuck or summed and _scaling(edit, summed, (True,)):
                    key = self._groups[j], link.param
                    lost[key] = max(senses, lost.get(key, ()))
        return lost


_REASONS: dict[Power, str] = {
    (0.0, False): "as it is: it doesn't depend on the size of gradients",
    (0.0, True): "by the sign of the gradient's factor",
    (1.0, False): "by the size of the gradient's factor",
    (1.0, True): "as the gradient",
    (2.0, False): "as the square of the gradient",
    "value": "as the parameter",
}
"""The powers that can be followed."""


def _scaled(edit: LeafEdit, senses: Sequence[bool]) -> np.ndarray:
    """Entries that aren't plain copies, as values (`False`) or gradients (`True`)."""
    return ft.reduce(np.logical_or, [edit.scaled(gradient=s) for s in senses])


def _scaling(edit: LeafEdit, axes: Iterable[int], senses: Sequence[bool]) -> bool:
    """Are there such entries along these axes?"""
    marks = (edit.axes[a].marks("scaled", gradient=s) for a in axes for s in senses)
    return any(mark.any() for mark in marks)


def _missing(edit: LeafEdit, link: Link) -> set[int]:
    """The axes of the parameter that a leaf sums over."""
    return set(range(len(edit.axes))).difference(link.axes or ())


def _followed(view: LeafEdit, array: np.ndarray, power: Power) -> np.ndarray:
    if power == "value":
        return view.values(array)
    if power not in _REASONS or isinstance(power, str):
        power = GRADIENT
    degree, odd = power
    new = view.gradients(array, int(degree))
    if degree % 2 != odd:
        new = np.copysign(new, view.gradients(array, int(odd)))
    return new


def state_links(optimizer: Any, opt_state: Any, params: Any) -> tuple[Link, ...]:
    """How each leaf of an optimizer state is laid out.

    Only shapes are looked at, so this works inside `jit`.

    **Arguments:** as in `move_state`.

    **Returns:** a `Link` per leaf of the state.

    **Raises:** `ValueError` if the state isn't one of `optimizer` for `params`.
    """
    init = read_init(optimizer, params)
    checked_leaves(init.program, init.shapes, opt_state)
    return init.links
