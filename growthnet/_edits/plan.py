"""`plan` and `resize`: from sizes to an edit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._reading.anatomy import Anatomy
from .._reading.widths import Exactness, Width
from .edit import Edit, init_name, Key, WidthChange
from .inits import Clone, Init, kind_of, pair_for, parse
from .statics import check_changed, fitting


def plan(
    anatomy: Anatomy,
    sizes: Mapping[str, int],
    *,
    init: Any = "zero_out",
    keep: Mapping[str, Any] | None = None,
    allow_drift: bool = False,
) -> Edit:
    """Plans a change of sizes: nothing is computed, `explain` tells what would happen.

    **Arguments:**

    - `anatomy`: from `trace`.
    - `sizes`: new size by width name; patterns such as `"layers[*]"` work.
    - `init`: how newborns are made. `"zero_out"`: random producers, zero consumers,
        exact. `"clone"` or `gn.Clone(...)`: copies share their consumers, exact.
        `"drawn"`: everything random. `"closed"`: zeros. A function
        `(key, shape, dtype) -> array` as in `jax.nn.initializers`: `zero_out` with
        producers of its making.
    - `keep`: which units survive, and in which order, by width name: indices, or a
        boolean per unit. By default a shrink keeps the first units.
    - `allow_drift`: accept a growth that changes the function.

    **Returns:** an `Edit`.

    **Raises:** `ValueError` for an unknown or rigid width, an impossible size, wrong
    indices, or a growth that can't be exact (unless `allow_drift`).
    """
    if not isinstance(anatomy, Anatomy):
        raise ValueError(
            f"plan takes an anatomy, not a {type(anatomy).__name__}: gn.trace(net, ...)"
        )
    init = parse(init)
    targets = targets_of(anatomy, sizes)
    kept = _kept(anatomy, targets, keep or {})
    changes, pairs = [], {}
    factors: dict[Key, float] = {}
    fields: dict[tuple[str, str], float] = {}
    for name, new in targets.items():
        width = anatomy.widths[name]
        survivors = kept[name]
        if new == width.size and (survivors == np.arange(new)).all():
            continue
        change = _change(width, new, survivors, init)
        if change.born and change.exactness != "exact" and not allow_drift:
            raise ValueError(_refusal(width, change, init))
        changes.append(change)
        pairs[width.id] = pair_for(width.size, new, survivors, init)
        recipe = width.recipe(kind_of(init))
        for i, power in recipe.scales:
            m = width.members[i]
            factors[m.leaf, m.axis, m.place] = (new / width.size) ** power
        for path, field, power in recipe.fields:
            factor = fields.get((path, field), 1.0) * (new / width.size) ** power
            fields[path, field] = factor
    sizes = {c.name: c.new for c in changes}
    after = anatomy.resized(sizes)
    if anatomy.source is not None:
        _check_together(anatomy, sizes)
        source = anatomy.source.at(anatomy, sizes, fields)
        after = dataclasses.replace(after, source=source)
        _check_invariants(anatomy, after, sizes)
    return Edit(anatomy, after, init, tuple(changes), pairs, factors, fields)


def _check_invariants(
    before: Anatomy, after: Anatomy, sizes: Mapping[str, int]
) -> None:
    """A layer may refuse a size by its own `__check_init__`."""
    try:
        check_changed(before.source.skeleton, after.source.skeleton)
    except Exception as error:
        raise ValueError(
            f"the network itself refuses the sizes {dict(sizes)}: {error}"
        ) from error


def _check_together(anatomy: Anatomy, sizes: Mapping[str, int]) -> None:
    fit = fitting(anatomy.source.skeleton, anatomy, sizes)
    if fit != sizes:
        others = ", ".join(repr(n) for n in fit if n not in sizes)
        raise ValueError(
            f"no network can be built at the sizes {dict(sizes)}: an argument of its "
            f"factory sets several widths{f', here {others} too' if others else ''}. "
            f"Give {fit}, or give the factory an argument for each"
        )


def _change(width: Width, new: int, keep: np.ndarray, init: Init) -> WidthChange:
    kept = tuple(keep.tolist())
    promise: tuple[Exactness, str] = ("exact", "the units change places")
    if len(kept) < width.size:
        promise = ("not preserving", "what the removed units said is lost")
    elif new > len(kept):
        promise = width.exactness(kind_of(init))
        if width.recipe(kind_of(init)).whole and not _equally(width.size, new, init):
            promise = ("not preserving", _WHOLE.format(width.size))
    return WidthChange(width.name, width.size, new, kept, *promise)


_WHOLE = "copies are exact only if every unit gets equally many: a multiple of {}"


def _equally(old: int, new: int, init: Init) -> bool:
    return new % old == 0 and isinstance(init, Clone) and init.sources is None


def _refusal(width: Width, change: WidthChange, init: Init) -> str:
    if change.dropped:
        exact, why = width.exactness(kind_of(init))
        if exact == "exact":
            return (
                f"{width.name!r}: replacing {change.dropped} of its units changes the "
                "function; pass allow_drift=True to do so"
            )
        change = dataclasses.replace(change, why=why)
    return (
        f"growing {width.name!r} from {change.old} to {change.new} by "
        f"{init_name(init)} would change what the network computes: {change.why}. "
        "Pass allow_drift=True to grow all the same"
    )


def targets_of(anatomy: Anatomy, sizes: Mapping[str, int]) -> dict[str, int]:
    """The new size of each width that the patterns of `sizes` match, checked."""
    if not isinstance(sizes, Mapping):
        raise ValueError(
            f"sizes={sizes!r}; give a dict from width name to size, "
            f"such as {dict(list(anatomy.sizes.items())[:1])}"
        )
    targets: dict[str, int] = {}
    for pattern, size in sizes.items():
        for name in anatomy.match(pattern):
            targets[name] = _checked_size(anatomy, anatomy.widths[name], size)
    return targets


def _checked_size(anatomy: Anatomy, width: Width, size: Any) -> int:
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or size < 1:
        raise ValueError(
            f"size {size!r} for width {width.name!r} (now {width.size}); "
            "a size is a whole number from 1 up"
        )
    if not width.growable and size != width.size:
        raise ValueError(
            f"{width.name!r} ({width.size}) can't change: {'; '.join(width.reasons)}"
            f"{anatomy.may_append(width.name)}"
        )
    return int(size)


def _kept(
    anatomy: Anatomy, targets: Mapping[str, int], keep: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    given = {n: k for pattern, k in keep.items() for n in anatomy.match(pattern)}
    for name in given:
        if name not in targets:
            raise ValueError(f"keep names {name!r}, but sizes doesn't; give its size")
    kept = {}
    for name, new in targets.items():
        old = anatomy.widths[name].size
        if name not in given:
            kept[name] = np.arange(min(old, new))
            continue
        indices = np.asarray(given[name])
        if indices.dtype == bool and indices.shape == (old,):
            indices = np.flatnonzero(indices)
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer)
        if not whole or len(set(indices.tolist())) != indices.size:
            raise ValueError(f"keep[{name!r}] must be distinct whole numbers")
        if indices.size > new or ((indices < 0) | (indices >= old)).any():
            raise ValueError(
                f"keep[{name!r}] has {indices.size} indices up to "
                f"{indices.max(initial=-1)}; at most {new} of 0..{old - 1} fit"
            )
        if anatomy.widths[name].ordered and (np.diff(indices) < 0).any():
            raise ValueError(
                f"keep[{name!r}] changes the order of layers; their order matters, so "
                "give increasing indices"
            )
        kept[name] = indices
    return kept


def resize(
    net: Any,
    anatomy: Anatomy,
    sizes: Mapping[str, int],
    *,
    key: Any = None,
    init: Any = "zero_out",
    keep: Mapping[str, Any] | None = None,
    allow_drift: bool = False,
) -> Any:
    """Grows or shrinks a network: `plan(...)` applied to it.

    **Arguments:** as in `plan`; `key` seeds the newborns.

    **Returns:** a new network. Growth leaves its function as it was unless
    `allow_drift` lets it.

    **Raises:** `ValueError`, as `plan`.

    !!! example

        ```python
        wider = gn.resize(mlp, anatomy, {"layers[0]": 32}, key=jax.random.key(1))
        ```
    """
    edit = plan(anatomy, sizes, init=init, keep=keep, allow_drift=allow_drift)
    anatomy.check(net, "the network", whole=True)
    return edit(net, key=key)
