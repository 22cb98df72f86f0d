"""What a policy's own optimizer holds about rows of units follows them, as the state of
the network's optimizer follows its leaves."""

from collections.abc import Mapping
from typing import Any

import jax

from .._edits.maps import AxisEdit, LeafEdit, MapPair, PlaceEdit, UnitMap
from .._optimizer.optimizer import move_state
from .._optimizer.resets import reset_entries
from .._reading.layout import Atom
from .growing import inexact, placed, replaced
from .policy import PerUnit


def moved_state(
    optimizer: Any, state: Any, old: Any, new: Any, maps: Mapping[str, UnitMap]
) -> Any:
    """The state after an edit; `old` and `new` are the trainables around it."""
    params, params2 = inexact(old), inexact(new)
    edits = {
        i: _edit(leaf.shape, maps[width])
        for i, (width, leaf) in enumerate(_rows(params))
        if width in maps
    }
    if optimizer is None or not edits:
        return state
    moved, _ = move_state(optimizer, state, params, params2, edits)
    return jax.tree.map(placed, moved)


def reborn_state(
    optimizer: Any, state: Any, trainable: Any, born: Mapping[str, Any]
) -> Any:
    """The state after an opening: what it holds about newborns is what `init` gives."""
    params = inexact(trainable)
    masks = {
        i: born[width].reshape((-1,) + (1,) * (leaf.ndim - 1))
        for i, (width, leaf) in enumerate(_rows(params))
        if width in born
    }
    if optimizer is None or not masks:
        return state
    return reset_entries(optimizer, state, params, masks)


def _rows(params: Any) -> list[tuple[str, Any]]:
    """Every leaf, with the width whose units its rows belong to; empty for none."""

    def mark(node: Any) -> Any:
        if not isinstance(node, PerUnit):
            return ""
        return node if node.array is None else replaced(node, array=node.width)

    is_rows = lambda node: isinstance(node, PerUnit)
    widths = jax.tree.leaves(jax.tree.map(mark, params, is_leaf=is_rows))
    return list(zip(widths, jax.tree.leaves(params), strict=True))


def _edit(shape: tuple[int, ...], unit_map: UnitMap) -> LeafEdit:
    pair = MapPair(unit_map, unit_map)
    first = AxisEdit(Atom(0, shape[0]), (PlaceEdit((), pair, False),))
    return LeafEdit((first, *(AxisEdit(Atom(-1, n)) for n in shape[1:])))
