"""New capacities, on the host: the one step of a run that makes new shapes."""

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

import jax
import numpy as np

from .._edits.edit import Edit
from .._edits.maps import UnitMap
from .._edits.plan import plan
from .._paths import array_leaves, map_arrays
from .._reading.anatomy import Anatomy
from .growing import GrowerState, Growing, on_device, placed, replaced, settled
from .policy import (
    AbstractPolicy,
    check_rows,
    Decision,
    free_slots,
    moved_units,
    name_of,
)
from .policy_state import moved_state
from .turn import no_decision


if TYPE_CHECKING:
    from .grower import Grower


def begun(
    net: Any,
    own: tuple[Any, Any],
    policy: AbstractPolicy,
    managed: Anatomy,
    capacities: Mapping[str, int],
) -> tuple[Growing, Any, Edit]:
    """A network in growth at its first step, at any capacities, the policy's memory,
    and how the network got its room; `own` is what the policy begins with. Where a
    capacity is below the network's size, units are left out, as in the frame of a run
    that has shrunk."""
    check_rows(name_of(policy), own, managed.sizes)
    trainable, memory = own
    # In numpy, so that it works inside a program.
    open_ = {
        name: np.arange(width.size) < capacities.get(name, width.size)
        for name, width in managed.widths.items()
    }
    small = Growing(net, trainable, open_, policy, managed)
    edit = room_edit(small, capacities)
    return *edited(small, memory, edit), edit


def make_room(
    grower: "Grower", growing: Growing, state: GrowerState
) -> tuple[Growing, GrowerState, bool]:
    """New capacities for the waiting decision, which is left to `apply`.

    A decision that brings newborn values can't be applied to slots that it didn't know:
    there is room for it now, and the policy has to be asked again (the third
    result).
    """
    changes = state.decision.widths
    asked_again = any(change.values for change in changes.values())
    small = {n: replaced(c, values=None, rewrite=None) for n, c in changes.items()}
    asked = {n: (growing.open[n], change) for n, change in small.items()}
    sizes = {}
    for name, (mask, change) in jax.device_get(asked).items():
        units = int(mask.size - free_slots(mask, change).sum() + change.add)
        sizes[name] = max(mask.size, grower.capacities.buckets.capacity(units))
    growing, state = moved(grower, growing, state, room_edit(growing, sizes))
    if asked_again:
        state = replaced(state, waiting=on_device(False))
    return growing, state, asked_again


def give_back(
    grower: "Grower", growing: Growing, state: GrowerState
) -> tuple[Growing, GrowerState]:
    """Lower capacities where the open units leave so much room; closed slots go."""
    sizes = lower(grower, growing, int(state.step))
    growing, state = moved(grower, growing, state, room_edit(growing, sizes))
    return growing, replaced(state, roomy=on_device(False))


def capacities_of(growing: Growing) -> dict[str, int]:
    return {name: mask.size for name, mask in growing.open.items()}


def lower(grower: "Grower", growing: Growing, step: int) -> dict[str, int]:
    """The capacities that would do, by width: present ones, or lower rungs."""
    capacities = grower.capacities
    ahead = capacities.ahead
    early = ahead is not None and step < ahead.until
    least = capacities.least(growing.anatomy, early)
    lowered = capacities.buckets.lowered
    return {
        name: lowered(mask.size, int(mask.sum()), least.get(name, 0))
        for name, mask in jax.device_get(growing.open).items()
    }


def room_edit(growing: Growing, sizes: Mapping[str, int]) -> Edit:
    """To new capacities: more closed slots at the end, or only the open ones."""
    keep, changed = {}, {}
    for name, size in sizes.items():
        mask = np.asarray(growing.open[name])
        if size != mask.size:
            changed[name] = size
            everyone = size > mask.size
            keep[name] = np.arange(mask.size) if everyone else np.flatnonzero(mask)
    return plan(growing.anatomy, changed, init="closed", keep=keep, allow_drift=True)


def moved(
    grower: "Grower", growing: Growing, state: GrowerState, edit: Edit
) -> tuple[Growing, GrowerState]:
    """Everything through one edit: network, optimizer state, masks, policy."""
    bigger, memory = edited(growing, state.memory, edit)
    spec = grower.trainable
    opt_state = edit.transfer(
        grower.optimizer, state.opt_state, spec.of(growing.net), spec.of(bigger.net)
    )
    maps, waiting = _maps(growing, edit), state.decision.widths
    own = growing.policy.optimizer, state.policy_opt_state
    trainables = growing.trainable, bigger.trainable
    state = replaced(state, policy_opt_state=moved_state(*own, *trainables, maps))
    state = undecided(
        grower, bigger, replaced(state, opt_state=opt_state, memory=memory)
    )
    widths = {}
    for n, empty in state.decision.widths.items():
        change = waiting[n]
        keep = _moved_mask(change.keep, maps.get(n))
        rewrite = _moved_rewrite(growing, edit, change.rewrite)
        # Newborn values are for slots that are no more: those of the empty one.
        of_slots = {k: getattr(empty, k) for k in ("values", "slots", "valued")}
        widths[n] = replaced(change, keep=keep, rewrite=rewrite, **of_slots)
    return settled(bigger, replaced(state, decision=Decision(widths)))


def edited(growing: Growing, memory: Any, edit: Edit) -> tuple[Growing, Any]:
    """The network, its masks, and the policy's trees through one edit."""
    maps = _maps(growing, edit)
    bigger = replaced(
        growing,
        net=edit(growing.net),
        open={n: _moved_mask(m, maps.get(n)) for n, m in growing.open.items()},
        anatomy=edit.after,
        trainable=moved_units(growing.trainable, maps),
    )
    return bigger, moved_units(memory, maps)


def undecided(grower: "Grower", growing: Growing, state: GrowerState) -> GrowerState:
    """The state with a decision to change nothing, in the form that decisions have."""
    return replaced(state, decision=no_decision(grower, growing, state))


def _maps(growing: Growing, edit: Edit) -> dict[str, UnitMap]:
    return {
        c.name: edit.pairs[growing.anatomy.widths[c.name].id].produce
        for c in edit.changes
    }


def _moved_mask(mask: Any, unit_map: UnitMap | None) -> Any:
    if unit_map is None:
        return placed(mask)
    return on_device(unit_map.apply(np.asarray(mask), 0))


def _moved_rewrite(
    growing: Growing, edit: Edit, rewrite: dict[str, Any] | None
) -> dict[str, Any] | None:
    """What survivors will take, moved as they are themselves."""
    if not rewrite:
        return rewrite
    moved = array_leaves(edit(map_arrays(growing.net, rewrite)))
    return {path: placed(moved[path]) for path in rewrite}
