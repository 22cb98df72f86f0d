"""What a growth policy is, and what it decides."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy


class PerUnit(eqx.Module):
    """An array of a policy with one row per unit of a width. Edits move it along; a
    newborn's row is `fill`.

    - `array`: shape `[capacity, ...]`.
    - `width`: the width's name.
    """

    array: jax.Array
    width: str = eqx.field(static=True)
    fill: float = eqx.field(static=True, default=0.0)


class Change(eqx.Module):
    """What a policy decides for one width.

    - `keep`: `bool[capacity]`; open units that aren't kept are closed. A width never
        loses its last unit: where nothing would be left, the first open one stays.
    - `add`: how many units are born, an integer (array); below 0 counts as 0.
    - `init`: `"zero_out"` (silent at once) or `"drawn"` (the policy holds their gates
        at 0).
    - `values`: newborn values by leaf path, each of the leaf's shape; else drawn. They
        are the newborns' of this width alone. An entry may belong to newborns of two
        widths, one that the leaf makes and one that it reads: there the values for the
        one that is read count (0 if it is to be silent and has none).
    - `rewrite`: what survivors take, by leaf path, each of the leaf's shape. In a leaf
        with units of this width, entries of units that stay are rewritten; in one
        without (the bias of what reads the width), all of them. What the optimizer
        holds about a rewritten entry stays, but for copies of the parameter, which
        follow it. An array equal to the leaf asks for nothing. Where the changes of
        several widths rewrite one entry, their moves add up. A change with a rewrite is
        done as a whole or not at all where capacities are held. In your own loop it is
        for the weights that it was decided on: call `Grower.resize` after every step,
        or a decision that waits for room is dropped.
    - `slots`: `bool[capacity]`; the slots that newborns may take, if not all that are
        closed then. `chain` sets it, so that `values` meet the slots that their policy
        knew of.
    - `valued`: booleans by leaf path; where false, `values` of that leaf don't count
        this time, as if they weren't there. `chain` sets it, where policies with values
        for different leaves take turns.
    """

    keep: Any
    add: Any
    init: str = eqx.field(static=True, default="zero_out")
    values: dict[str, Any] | None = None
    rewrite: dict[str, Any] | None = None
    slots: Any = None
    valued: dict[str, Any] | None = None

    def __check_init__(self):
        if self.init not in ("zero_out", "drawn"):
            raise ValueError(
                f"Change(init={self.init!r}): newborns are 'zero_out' or 'drawn'"
            )


def free_slots(open: Any, change: Change) -> Any:
    """The slots that newborns of a change may take: `bool[capacity]`."""
    closed = ~(open & change.keep)
    return closed if change.slots is None else closed & change.slots


class Decision(eqx.Module):
    """Changes by width name. Widths that aren't named stay as they are."""

    widths: dict[str, Change] = eqx.field(default_factory=dict)


class AbstractPolicy(eqx.Module):
    """Decides when, where and how a network grows and shrinks.

    A policy is an immutable module of hyper-parameters: arrays may be mapped over with
    `vmap`, structural fields are static. What changes in a run is kept outside it, in
    `trainable` (real numbers that an optimizer of the policy's own trains on the
    network's objective) and `memory` (anything else). Both keep their structure for the
    whole run; rows per unit are `PerUnit`.

    - `every`: training steps between two calls of `step`.
    - `needs`: names of the evidence that `step` reads (see `Evidence`).
    - `optimizer`: trains `trainable`; `None` if there is nothing to train.

    All methods are pure and traced: `step` runs inside the training program. A policy
    whose `step` can't be traced (it calls a library, it branches on numbers) says so in
    its class, `on_host = True`: then `fit` calls it between programs, at the same
    steps, with numbers for evidence. One whose decisions leave the network's outputs as
    they are promises it with `preserves = True`; `growthnet.testing.check_policy` then
    holds it to that. One whose gates go by the order of slots says `ordered = True`: it
    can't be chained with one that closes units, since the open ones would no longer be
    the first.
    """

    on_host = False
    preserves = False
    ordered = False

    every: eqx.AbstractVar[int]
    needs: eqx.AbstractVar[frozenset[str]]
    optimizer: eqx.AbstractVar[optax.GradientTransformation | None]

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        """The first `(trainable, memory)`, for the widths of `anatomy`."""
        del anatomy, key
        return None, None

    def gates(
        self, trainable: Any, anatomy: Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        """Gates by width name, `[capacity]` each; widths left out have gate 1. May be
        random in training."""
        del trainable, anatomy, key, train
        return {}

    def penalty(
        self, trainable: Any, net: Any, cost: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        """A scalar added to the objective. `cost(sizes)` is the differentiable number
        of parameters at (real) sizes by width name."""
        del trainable, net, cost
        return jnp.zeros(())

    def rates(
        self, memory: Any, anatomy: Anatomy, open: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the optimizer's updates are multiplied by, by leaf path; numbers that
        broadcast against the leaf (`growthnet.entry_masks` makes some). Leaves left out
        have 1; at 0 an entry rests. `open` is `bool[capacity]` by width."""
        del memory, anatomy, open
        return {}

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        """About how many units each width of `anatomy` will have after so many training
        steps, as far as the policy knows without having seen anything: plain numbers by
        width name. `fit` makes room for them at once where that is cheaper than to
        compile for it soon; being wrong costs time and nothing else."""
        del anatomy, steps
        return {}

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        """Decides from evidence: `(decision, trainable, memory, info)`. The middle two
        keep their structure; `info` is for your own diagnosis (`fit` doesn't record it
        yet)."""
        del evidence, key
        return Decision(), trainable, memory, {}


class NoGrowth(AbstractPolicy):
    """Never changes anything: the static control arm, through the same code."""

    every: int = eqx.field(static=True, default=100)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None


def name_of(policy: Any) -> str:
    """For messages: the name of a policy; of those that it is around, if it is."""
    inner, members = getattr(policy, "policy", None), getattr(policy, "policies", ())
    if isinstance(inner, AbstractPolicy):
        return name_of(inner)
    if members and all(isinstance(member, AbstractPolicy) for member in members):
        return f"chain({', '.join(name_of(member) for member in members)})"
    return type(policy).__name__


def never_decides(policy: AbstractPolicy) -> bool:
    """A policy without a `step` of its own needs no room, and is never asked."""
    return type(policy).step is AbstractPolicy.step


def check_rows(who: str, tree: Any, sizes: Mapping[str, int]) -> None:
    """**Raises:** `ValueError` for `PerUnit` rows that aren't those of a width."""
    for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, PerUnit)):
        if not isinstance(leaf, PerUnit):
            continue
        if leaf.width not in sizes:
            known = ", ".join(sizes) or "none"
            raise ValueError(
                f"{who}.init: a PerUnit of {leaf.width!r}; the widths of this run are "
                f"{known}"
            )
        rows = jnp.shape(leaf.array)[:1]
        if rows != (sizes[leaf.width],):
            raise ValueError(
                f"{who}.init: a PerUnit of {leaf.width!r} has the shape "
                f"{jnp.shape(leaf.array)}; its first axis has a row for each of the "
                f"{sizes[leaf.width]} units, `anatomy.widths[name].size`"
            )


def moved_units(tree: Any, maps: Mapping[str, Any]) -> Any:
    """A policy's tree after an edit: `PerUnit` rows follow the `UnitMap` of a width."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, PerUnit) or leaf.width not in maps:
            return leaf
        # By places, since the rows may be traced.
        places = maps[leaf.width].apply(np.arange(1, len(leaf.array) + 1), 0)
        rows = jnp.asarray(leaf.array)[np.maximum(places, 1) - 1]
        born = (places == 0).reshape((-1,) + (1,) * (rows.ndim - 1))
        rows = jnp.where(born, jnp.asarray(leaf.fill, rows.dtype), rows)
        return PerUnit(rows, leaf.width, leaf.fill)

    return jax.tree.map(move, tree, is_leaf=lambda x: isinstance(x, PerUnit))


def reborn_units(tree: Any, born: Mapping[str, Any]) -> Any:
    """A policy's tree after an opening: the rows of newborns hold the fill."""

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, PerUnit) or leaf.width not in born:
            return leaf
        mask = born[leaf.width].reshape((-1,) + (1,) * (leaf.array.ndim - 1))
        value = jnp.asarray(leaf.fill, leaf.array.dtype)
        return PerUnit(jnp.where(mask, value, leaf.array), leaf.width, leaf.fill)

    return jax.tree.map(fill, tree, is_leaf=lambda x: isinstance(x, PerUnit))
