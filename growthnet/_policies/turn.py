"""The policy's turn: it decides, and what fits is written. All inside the program."""

from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._capacity.capacity import change_openings, newly_open, Openings
from .._edits.draws import key_words
from .._evidence.evidence import Evidence
from .._evidence.wide import wide_type, widened
from .._optimizer.resets import reset_entries
from .._paths import array_leaves, map_arrays
from .faults import check_decision, check_result
from .growing import GrowerState, Growing, on_device, replaced
from .policy import Change, Decision, free_slots, name_of, reborn_units
from .policy_state import reborn_state
from .rewrite import differ, rewritten


if TYPE_CHECKING:
    from .grower import Grower


def decide(
    growing: Growing, state: GrowerState, evidence: Evidence
) -> tuple[Growing, GrowerState, dict[str, Any]]:
    """Asks the policy. Its decision waits in the state until it is applied; the third
    result is the policy's `info`."""
    key = jr.fold_in(jr.fold_in(state.key, 2), state.step)
    name = name_of(growing.policy)
    try:
        result = growing.policy.step(growing.trainable, state.memory, evidence, key=key)
    except Exception as error:
        error.add_note(_advice(growing.policy))
        raise
    decision, trainable, memory, info = check_result(name, result)
    trainable = _like(f"{name}.step: trainable", trainable, growing.trainable)
    memory = _like(f"{name}.step: memory", memory, state.memory)
    full = _complete(growing, decision)
    full = within(growing, full, state.held)
    changes = [
        jnp.any(growing.open[n] & ~c.keep) | (c.add > 0) for n, c in full.widths.items()
    ]
    arrays, kept = array_leaves(growing.net), _kept(growing, full)
    changes.append(differ(arrays, _rewritten(growing, arrays, full, kept)[0]))
    waiting = jnp.any(jnp.stack(changes))
    if any(change.values for change in full.widths.values()):
        # Where there is no room, this turn won't have been: the policy is asked again
        # when there is, since what it offers has to have slots.
        counts = fits(growing.open, full) | ~waiting
        before = growing.trainable, state.memory
        trainable, memory = _chosen(counts, (trainable, memory), before)
    growing = replaced(growing, trainable=trainable)
    state = replaced(state, memory=memory, decision=full, waiting=waiting)
    return growing, state, info


def _chosen(flag: Any, new: Any, old: Any) -> Any:
    pick = lambda a, b: jnp.where(flag, a, b) if eqx.is_array(b) else b
    return jax.tree.map(pick, new, old)


def _advice(policy: Any) -> str:
    """What most often is behind a `step` that fails."""
    given = ", ".join(sorted(policy.needs)) or "none"
    advice = (
        f"{name_of(policy)}.step failed. The evidence named in its `needs`: "
        f"{given}; every other kind is None."
    )
    if policy.on_host:
        return advice
    return (
        f"{advice} It is traced: decide with `jnp.where`, not with `if`, or say "
        "`on_host = True` in the class."
    )


def within(growing: Growing, decision: Decision, held: Any = True) -> Decision:
    """The decision, and where capacities are held, no more births than fit. A change
    that rewrites survivors is done as a whole or not at all."""
    widths, arrays = {}, array_leaves(growing.net)
    for name, change in decision.widths.items():
        free = jnp.sum(free_slots(growing.open[name], change)).astype(change.add.dtype)
        add = jnp.where(held, jnp.minimum(change.add, free), change.add)
        if change.rewrite:
            cut = add < change.add
            add = jnp.where(cut, 0, add)
            keep = jnp.where(cut, growing.open[name], change.keep)
            rewrite = {
                path: jnp.where(cut, arrays[path], value)
                for path, value in change.rewrite.items()
            }
            change = replaced(change, keep=keep, rewrite=rewrite)
        widths[name] = replaced(change, add=add)
    return Decision(widths)


def _kept(growing: Growing, decision: Decision) -> Openings:
    return {n: growing.open[n] & c.keep for n, c in decision.widths.items()}


def _rewritten(
    growing: Growing, arrays: dict[str, Any], decision: Decision, kept: Openings
) -> tuple[dict[str, Any], dict[str, Any]]:
    rewrites = {n: c.rewrite for n, c in decision.widths.items()}
    return rewritten(growing.anatomy, arrays, rewrites, kept)


def _like(what: str, new: Any, old: Any) -> Any:
    """The new tree, with the types of the old one; refused if it has another form."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise ValueError(
            f"{what} changed its structure from {jax.tree.structure(old)} to "
            f"{jax.tree.structure(new)}; it stays as `init` made it"
        )

    def same(a: Any, b: Any) -> Any:
        if not eqx.is_array(b):
            return a
        a = jnp.asarray(a)
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"{what} changed a leaf from {b.dtype}{b.shape} to {a.dtype}{a.shape}; "
                "it stays as `init` made it"
            )
        return a

    return jax.tree.map(same, new, old)


def fits(open_: Openings, decision: Decision) -> Any:
    """Does a decision fit the capacity? A traced boolean, or one of numpy: where the
    host asks, every operation on arrays of JAX would be compiled by itself."""
    good = np.ones((), bool)
    for name, change in decision.widths.items():
        free = free_slots(open_[name], change).sum(dtype=np.int32)
        good = good & (change.add <= free)
    return good


def apply(
    grower: "Grower", growing: Growing, state: GrowerState
) -> tuple[Growing, GrowerState]:
    """Writes the waiting decision: masked writes, no new shapes.

    Survivors are rewritten first, where newborns don't overwrite them. Closings come
    before births, so that a birth may take a slot that has just become free.
    """
    changes, kept = state.decision.widths, _kept(growing, state.decision)
    arrays = array_leaves(growing.net)
    new, written = _rewritten(growing, arrays, state.decision, kept)
    free = {n: free_slots(growing.open[n], c) for n, c in changes.items()}
    born = {n: newly_open(~free[n], c.add) for n, c in changes.items()}
    after = {n: kept[n] | born[n] for n in changes}
    drawn = frozenset(n for n, c in changes.items() if c.init == "drawn")
    values = {n: c.values or {} for n, c in changes.items()}
    valued = {n: c.valued or {} for n, c in changes.items()}
    words = key_words(jr.fold_in(jr.fold_in(state.key, 3), state.step))
    net, changed = change_openings(
        map_arrays(growing.net, new),
        growing.anatomy,
        growing.open,
        kept,
        after,
        words,
        drawn,
        values,
        valued,
    )
    params = grower.trainable.of(net)
    paths = list(array_leaves(params))
    masks, copies = (
        {i: marks[path] for i, path in enumerate(paths) if path in marks}
        for marks in (changed, written)
    )
    opt_state = reset_entries(grower.optimizer, state.opt_state, params, masks, copies)
    trainable = reborn_units(growing.trainable, born)
    own = growing.policy.optimizer, state.policy_opt_state
    growing = replaced(
        growing, net=net, open={**growing.open, **after}, trainable=trainable
    )
    state = replaced(
        state,
        opt_state=opt_state,
        policy_opt_state=reborn_state(*own, trainable, born),
        memory=reborn_units(state.memory, born),
        waiting=jnp.zeros((), bool),
        roomy=_roomy(grower, growing, state.step) & ~state.held,
    )
    return growing, state


def fates(growing: Growing, decision: Decision) -> tuple[dict[str, Any], ...]:
    """By width: how many units a decision closes, and whether it rewrites others."""
    arrays, kept = array_leaves(growing.net), _kept(growing, decision)
    closed = {n: jnp.sum(growing.open[n] & ~keep) for n, keep in kept.items()}
    moved = {}
    for name, change in decision.widths.items():
        alone = rewritten(growing.anatomy, arrays, {name: change.rewrite}, kept)[0]
        moved[name] = differ(arrays, alone)
    return closed, moved


def propose(
    grower: "Grower", growing: Growing, state: GrowerState, decision: Decision
) -> Growing:
    """The network if a decision were taken; nothing is committed."""
    full = _complete(growing, decision)
    return apply(grower, growing, replaced(state, decision=full))[0]


def no_decision(grower: "Grower", growing: Growing, state: GrowerState) -> Decision:
    """A decision to change nothing, in the structure that the policy's have (on the
    host that isn't known beforehand: the plainest, then)."""
    look = grower.look

    def ask(growing: Growing, state: GrowerState, batch: Any) -> Decision:
        if look is None:
            evidence = _dummy_evidence(growing)
        else:
            evidence = look.first(grower, growing, state, batch)
        if growing.policy.on_host:
            return _complete(growing, Decision())
        return decide(growing, state, evidence)[1].decision

    example = None if look is None else look.example
    shapes = eqx.filter_eval_shape(ask, growing, state, example)
    empty = jax.tree.map(
        lambda leaf: (
            on_device(np.zeros(leaf.shape, leaf.dtype))
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        shapes,
    )
    # Masks of its own: a program that takes the run as its own (donation) can't be
    # given one array twice.
    everyone = lambda change: on_device(np.ones(change.keep.shape, bool))
    return Decision({n: replaced(c, keep=everyone(c)) for n, c in empty.widths.items()})


def _dummy_evidence(growing: Growing) -> Evidence:
    """What your own loop can give, to learn a decision's structure from."""
    wide = wide_type(growing.net)
    scalar, net = jnp.zeros((), wide), widened(growing.net, wide)
    made = {"loss": scalar, "valid_loss": scalar, "network": net, "gradients": net}
    wanted = {k: v for k, v in made.items() if k in growing.policy.needs}
    step = jnp.zeros((), jnp.int32)
    return Evidence(step, growing.open, anatomy=growing.anatomy, **wanted)


def _complete(growing: Growing, decision: Any) -> Decision:
    """The decision with every width named and its arrays in one form.

    The faults of a policy are named here. A width never loses its last unit: where
    nothing would be left, the first open unit stays.
    """
    check_decision(name_of(growing.policy), decision, growing.open, growing.anatomy)
    widths, arrays = {}, array_leaves(growing.net)
    for width, mask in growing.open.items():
        change = decision.widths.get(width, Change(mask, 0))
        keep, add = jnp.asarray(change.keep), jnp.asarray(change.add)
        add = jnp.maximum(add.astype(jnp.int32), 0)
        first = mask & (jnp.cumsum(mask) == 1)
        nothing = ~jnp.any(mask & keep) & (add == 0)
        kept = jnp.where(nothing, first, mask & keep)
        rewrite = change.rewrite and {
            path: jnp.asarray(value).astype(arrays[path].dtype)
            for path, value in change.rewrite.items()
        }
        widths[width] = Change(
            kept, add, change.init, change.values, rewrite, change.slots, change.valued
        )
    return Decision(widths)


def _roomy(grower: "Grower", growing: Growing, step: Any) -> Any:
    """Has any width so much spare capacity that it should move down?"""
    capacities = grower.capacities

    def roomy(early: bool) -> Any:
        found = jnp.zeros((), bool)
        least = capacities.least(growing.anatomy, early)
        for name, mask in growing.open.items():
            lower = [
                capacities.buckets.lowered(mask.size, units, least.get(name, 0))
                < mask.size
                for units in range(mask.size + 1)
            ]
            found = found | jnp.asarray(lower)[jnp.sum(mask)]
        return found

    if capacities.ahead is None:
        return roomy(False)
    return jnp.where(step < capacities.ahead.until, roomy(True), roomy(False))
