"""Law 7: the optimizer follows. Here stands its own account of where state goes."""

import dataclasses
import functools as ft
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._edits.edit import Edit
from .._paths import join, key_names, named_leaves
from .._reading.anatomy import Anatomy
from .._reading.layout import Atom, Place, spread
from .._reading.widths import Width
from ._measure import broken, clonable, told
from ._networks import Case
from ._ops import OPS, Ops, read
from ._optimizers import make_optimizer, Optimizer
from ._resizes import Resize


_STEPS = 3


def optimizer_follows(
    case: Case,
    resize: Resize,
    optimizer: Optimizer | None = None,
    *,
    ops: Ops = OPS,
) -> None:
    """Law 7. After a few steps, the moved state has the structure of
    `optimizer.init(params2)`; survivors' entries are the same bits; newborns' are what
    `init` gives; under `clone`, moments follow the gradients. The next update runs.

    **Arguments:** as of every law, and `optimizer`, by default Adam.
    """
    optimizer = optimizer or make_optimizer("adam")
    anatomy = read(case, ops)
    cloned = clonable(anatomy, resize.sizes)
    for init, sizes in (("zero_out", resize.sizes), ("clone", cloned)):
        if not sizes or init == "clone" and not resize.grown(anatomy):
            continue
        keep = {name: resize.survivors(anatomy, name) for name in sizes}
        edit = ops.plan(anatomy, sizes, init=init, keep=keep, allow_drift=True)
        # optax counts on the promotion of dtypes and ranks that JAX has by default.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            complaint = _moving(case, edit, optimizer, resize.seed, ops)
        if complaint:
            what = f"{optimizer}, {told(anatomy, sizes)} by {init}: {complaint}"
            raise broken("optimizer_follows", case, what)


def _moving(case: Case, edit: Edit, optimizer: Optimizer, seed: int, ops: Ops) -> str:
    """What goes wrong when a state is moved; empty if nothing does."""
    transform = optimizer.transform
    params = eqx.filter(case.net, eqx.is_inexact_array)
    old = _trained(transform)(params, _gradients(params, seed))
    net = ops.apply(edit, case.net, key=jr.key(seed))
    params2 = eqx.filter(net, eqx.is_inexact_array)
    moved = ops.transfer(edit, transform, old, params, params2)
    fresh = jax.jit(transform.init)(params2)
    return _complaint(optimizer, edit, params, (old, moved, fresh)) or _next_update(
        transform, params2, moved, seed
    )


def _gradients(params: Any, seed: int) -> Any:
    """Random gradients for a few steps, stacked."""
    rng = np.random.default_rng([seed, 4])
    draw = lambda p: rng.standard_normal((_STEPS, *p.shape)).astype(p.dtype)
    return jtu.tree_map(lambda p: jnp.asarray(draw(p)), params)


@ft.lru_cache(maxsize=32)
def _trained(transform: Any) -> Any:
    """The state after a few steps from the start."""

    @jax.jit
    def trained(params: Any, gradients: Any) -> Any:
        step = lambda state, g: (transform.update(g, state, params)[1], None)
        return jax.lax.scan(step, transform.init(params), gradients)[0]

    return trained


@ft.lru_cache(maxsize=32)
def _updating(transform: Any) -> Any:
    return jax.jit(transform.update)


def _next_update(transform: Any, params: Any, state: Any, seed: int) -> str:
    gradients = jtu.tree_map(lambda g: g[0], _gradients(params, seed))
    try:
        updates, after = _updating(transform)(gradients, state, params)
    except Exception as error:
        return f"the next update fails: {error}"
    if _shapes(after) != _shapes(state):
        return "the next update changes the state's shapes or dtypes"
    if not all(np.isfinite(np.asarray(u)).all() for u in jtu.tree_leaves(updates)):
        return "the next update isn't finite"
    return ""


def _shapes(tree: Any) -> Any:
    leaves = jtu.tree_leaves(tree)
    return jtu.tree_structure(tree), [(x.shape, x.dtype) for x in leaves]


# --- where each leaf of the state goes


def _complaint(
    optimizer: Optimizer, edit: Edit, params: Any, states: tuple[Any, Any, Any]
) -> str:
    """What is wrong with the moved one of three states: old, moved, fresh."""
    old, moved, fresh = states
    if jtu.tree_structure(moved) != jtu.tree_structure(fresh):
        return (
            f"the state's structure is {jtu.tree_structure(moved)}, `init` gives "
            f"{jtu.tree_structure(fresh)}"
        )
    owners = {path: leaf.shape for path, leaf in _with_paths(params)}
    names = dict(zip(owners, (name for name, _ in named_leaves(params)), strict=True))
    fates = {}
    for (path, x), (_, y), (_, z) in zip(*map(_with_paths, states), strict=True):
        if (y.shape, y.dtype) != (z.shape, z.dtype):
            return f"{_told(path)} is {y.dtype}{y.shape}, `init` has {z.dtype}{z.shape}"
        own, axis = _owner(path, x.shape, owners)
        if own is None:
            if np.asarray(x).tobytes() != np.asarray(y).tobytes():
                return f"{_told(path)} follows no parameter, and changed"
            continue
        if own not in fates:
            fates[own] = _fate(edit, names[own])
        fate, end = fates[own], path
        if axis is not None:
            fate, end = fate.along(axis), path[:-1]
        power = optimizer.powers[_field(end[: -len(own)])]
        wrong = fate.complaint(*map(np.asarray, (x, y, z)), power)
        if wrong:
            return f"{_told(path)}: {wrong}"
    return ""


def _owner(
    path: Any, shape: tuple[int, ...], owners: Mapping[Any, tuple[int, ...]]
) -> tuple[Any, int | None]:
    """The parameter that a leaf of the state follows: as a whole, or, where its path
    goes on with a number, along that axis."""
    last: Any = path[-1] if path else None
    ends: list[tuple[int, Any, int | None]] = []
    for own, sizes in owners.items():
        rank = len(own)
        if path[-rank:] == own and sizes == shape:
            ends.append((rank, own, None))
        if path[-rank - 1 : -1] == own and isinstance(last, jtu.SequenceKey):
            if shape == sizes[last.idx : last.idx + 1]:
                ends.append((rank + 1, own, last.idx))
    return max(ends, key=lambda end: end[0], default=(0, None, None))[1:]


def _with_paths(tree: Any) -> list[tuple[Any, Any]]:
    return [(tuple(p), x) for p, x in jtu.tree_flatten_with_path(tree)[0]]


def _told(path: Any) -> str:
    return join(key_names(path))


def _field(path: Any) -> str:
    return next(k.name for k in reversed(path) if isinstance(k, jtu.GetAttrKey))


@dataclasses.dataclass(frozen=True)
class _Fate:
    """For each entry of a new leaf, the old entry that it comes from, and the factor of
    its gradient; per axis."""

    sources: tuple[np.ndarray, ...]
    factors: tuple[np.ndarray, ...]

    def along(self, axis: int) -> "_Fate":
        """Of a leaf that has one number per index of an axis."""
        return _Fate((self.sources[axis],), (self.factors[axis],))

    def complaint(
        self, old: np.ndarray, moved: np.ndarray, fresh: np.ndarray, power: int
    ) -> str:
        """What is wrong with the moved leaf of a state; empty if nothing is."""
        born = np.zeros(moved.shape, bool)
        factor = np.ones(moved.shape)
        for axis, (source, along) in enumerate(
            zip(self.sources, self.factors, strict=True)
        ):
            shape = [-1 if a == axis else 1 for a in range(moved.ndim)]
            born |= (source < 0).reshape(shape)
            factor *= along.reshape(shape)
        taken = old[np.ix_(*self.sources)] if old.ndim else old
        plain = ~born & (factor == 1)
        if not _same(moved, taken, plain):
            return "entries that the edit leaves alone have changed"
        if not _same(moved, fresh, born):
            return "newborn entries aren't what `init` gives"
        wanted = taken.astype(np.float64) * factor**power
        exact = jnp.issubdtype(moved.dtype, jnp.integer)
        eps = 0.0 if exact else float(jnp.finfo(moved.dtype).eps)
        off = np.abs(moved.astype(np.float64) - wanted)
        if np.any((off > 4 * eps * np.abs(wanted)) & ~born):
            worst = float(np.max(np.where(born, 0, off)))
            return (
                "entries whose gradients are scaled by c should be scaled by "
                f"c**{power}; they are off by up to {worst:.3g}"
            )
        return ""


def _same(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> bool:
    return np.where(where, a, 0).tobytes() == np.where(where, b, 0).tobytes()


def _fate(edit: Edit, path: str) -> _Fate:
    """Follows every index of every axis of a parameter through the edit."""
    number = next(i for i, leaf in enumerate(edit.after.leaves) if leaf.path == path)
    sources, factors = [], []
    for axis in range(len(edit.after.leaves[number].layouts)):
        before = _coordinates(edit.before, number, axis)
        old = {units: i for i, units in enumerate(before)}
        source, factor = [], []
        for units in _coordinates(edit.after, number, axis):
            parents, scale = _followed(edit, number, axis, units)
            source.append(-1 if parents is None else old[parents])
            factor.append(scale)
        sources.append(np.asarray(source, np.int64))
        factors.append(np.asarray(factor, np.float64))
    return _Fate(tuple(sources), tuple(factors))


Units = tuple[tuple[Place, int], ...]
"""The units that an index of an axis belongs to, each with its place."""


def _coordinates(anatomy: Anatomy, number: int, axis: int) -> list[Units]:
    def at(place: Place, atom: Atom) -> np.ndarray:
        column = np.empty(atom.size, object)
        for unit in range(atom.size):
            column[unit] = ((place, unit),)
        return column

    layout = anatomy.leaves[number].layouts[axis]
    return list(spread(layout, at, times=lambda outer, inner: outer + inner))


def _followed(
    edit: Edit, number: int, axis: int, units: Units
) -> tuple[Units | None, float]:
    """Where the units come from (`None` if one of them is newborn), and by what the
    gradient of an entry of them is scaled."""
    parents, scale = [], 1.0
    places = _members(edit.before, number, axis)
    for place, unit in units:
        width, consumes = places.get(place, (None, False))
        if width is None or width.id not in edit.pairs:
            parents.append((place, unit))
            continue
        pair = edit.pairs[width.id]
        rows = pair.produce.rows.tolist()
        if unit not in rows:
            return None, 1.0
        parents.append((place, int(pair.produce.cols[rows.index(unit)])))
        # A consumer's value is scaled; its gradient is the producer's business.
        if not consumes:
            scale *= float(pair.consume.weights[rows.index(unit)])
        # Where an entry is multiplied and the function stays, its gradient is divided.
        scale /= edit.factors.get((number, axis, place), 1.0)
    return tuple(parents), scale


def _members(
    anatomy: Anatomy, number: int, axis: int
) -> Mapping[Place, tuple[Width, bool]]:
    return {
        member.place: (width, i in width.copied.cover)
        for width in anatomy.all_widths
        for i, member in enumerate(width.members)
        if (member.leaf, member.axis) == (number, axis)
    }
