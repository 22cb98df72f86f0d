"""Which program runs a network at which sizes, and where its numbers come from."""

import functools as ft
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._edits.plan import targets_of
from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.layout import Layout, occurrences, resized, size_of
from .._reading.reader import error_line
from .._reading.trace import record, Source
from .replayed import Replayed


def program(
    anatomy: Anatomy, sizes: Mapping[str, int] | None, which: int, allow_drift: bool
) -> Replayed:
    """As `Anatomy.program`."""
    source = anatomy.source
    if source is None:
        raise ValueError(
            "this anatomy doesn't know its network; take the one that `trace` or an "
            "edit gave"
        )
    targets = targets_of(anatomy, sizes or {})
    after = anatomy.resized(targets)
    call = _called(source, which)
    if isinstance(call, Replayed):
        result = call.at(after)
        if not (allow_drift or result.renewable):
            _refuse_drift(result, after)
    else:
        recording, twin = record(source)[which], None
        # Numbers that may have drifted aren't taken for those of the code.
        renewed = None if allow_drift else ft.partial(_again, anatomy, which)
        try:
            if not targets.items() <= anatomy.sizes.items():
                twin = record(source.at(anatomy, targets))[which]
            result = Replayed(recording, after, call, twin, renewed)
        except Exception as error:
            if not allow_drift:
                raise ValueError(_no_numbers(error)) from error
            result = Replayed(recording, after, call)
    result.check()
    return result


def _again(anatomy: Anatomy, which: int, other: Anatomy) -> Replayed:
    return program(anatomy, other.sizes, which, allow_drift=False)


def _called(source: Source, which: int) -> Callable[..., Any]:
    if not 0 <= which < len(source.calls):
        raise ValueError(
            f"which={which!r}, but {len(source.calls)} calls were traced; 0 is `call`, "
            "1 the first of `also`"
        )
    return source.calls[which][0]


def _refuse_drift(program: Replayed, after: Anatomy) -> None:
    """No code says which numbers follow a size. They often stand beside a sum of
    activations: the n of a mean, the d of `1/sqrt(d)`."""
    names = {w.id: w.name for w in after.all_widths}
    for id, old, new, what in program.sums():
        name = names.get(id, "an axis")
        raise ValueError(
            f"the program at {name!r} {new} would keep the numbers that it "
            f"was traced with at {old}, and some may depend on that size: {what}. Pass "
            "allow_drift=True to run it so, or build the network anew with this size"
        )


def _no_numbers(error: Exception) -> str:
    line = error_line(error)
    where = f", at {line}" if line else ""
    return (
        "the numbers of the program at these sizes can't be read off the network's "
        f"code: {error}{where}. Pass allow_drift=True to keep those that it was traced "
        "with"
    )


class AnySize:
    """A program at whatever sizes the network has that it is called with."""

    def __init__(self, anatomy: Anatomy, which: int, allow_drift: bool):
        program(anatomy, None, which, allow_drift)
        self._anatomy, self._rest = anatomy, (which, allow_drift)
        self._made: dict[tuple[int, ...], Replayed] = {}
        self.__wrapped__ = _called(anatomy.source, which)

    def __repr__(self) -> str:
        return f"AnySize({', '.join(self._anatomy.sizes)})"

    def at(self, net: Any) -> Replayed:
        """The program at the sizes of this network."""
        sizes = sizes_of(self._anatomy, net)
        key = tuple(sizes.values())
        if key not in self._made:
            self._made[key] = program(self._anatomy, sizes, *self._rest)
        return self._made[key]

    def __call__(self, net: Any, *args: Any) -> Any:
        return self.at(net)(net, *args)


def sizes_of(anatomy: Anatomy, net: Any) -> dict[str, int]:
    """The size of every width, as the shapes of a network's leaves tell.

    Where shapes don't tell (16 may be 4 heads of 4 or 8 of 2), an axis of the size that
    the anatomy gives it keeps its widths.

    **Raises:** `ValueError` where shapes fit no sizes, or several.
    """
    arrays = array_leaves(net)
    open_ = {w.id for w in anatomy.all_widths if w.growable}
    axes = [
        (layout, size, leaf.path)
        for leaf in anatomy.leaves
        if leaf.path in arrays and len(arrays[leaf.path].shape) == len(leaf.layouts)
        for layout, size in zip(leaf.layouts, arrays[leaf.path].shape, strict=True)
    ]
    sizes: dict[int, int] = {}
    waiting = axes
    while waiting:
        later = []
        for layout, size, path in waiting:
            unknown = {a.id for _, a in occurrences(layout)} & open_ - sizes.keys()
            if len(unknown) > 1:
                later.append((layout, size, path))
            elif unknown:
                (id,) = unknown
                sizes[id] = _solved(layout, sizes, id, size)
        if len(later) == len(waiting):
            _keep_or_refuse(anatomy, later, sizes, open_)
            break
        waiting = later
    # What doesn't fit is for the check of shapes to tell.
    return {w.name: sizes.get(w.id, w.size) for w in anatomy.all_widths}


def _solved(layout: Layout, sizes: Mapping[int, int], id: int, size: int) -> int:
    """The least number of units with which the axis reaches its size."""
    low, high = 1, max(size, 1)
    while low < high:
        middle = (low + high) // 2
        if size_of(resized(layout, {**sizes, id: middle})) < size:
            low = middle + 1
        else:
            high = middle
    return low


def _keep_or_refuse(
    anatomy: Anatomy,
    axes: Sequence[tuple[Layout, int, str]],
    sizes: dict[int, int],
    open_: set[int],
) -> None:
    names = {w.id: w.name for w in anatomy.all_widths}
    for layout, size, path in axes:
        if size_of(resized(layout, sizes)) != size:
            unknown = {a.id for _, a in occurrences(layout)} & open_ - sizes.keys()
            raise ValueError(
                f"an axis of {size} in leaf {path!r} doesn't tell the sizes of "
                f"{' and '.join(sorted(names[i] for i in unknown))}; give them: "
                "anatomy.program(sizes)"
            )
