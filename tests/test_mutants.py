"""Every law notices what it is there for, and nothing else: broken operations, each of
which exactly one law complains about."""

import dataclasses
import functools as ft
import itertools as it
import re

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._optimizer.newborns import AgeState
from growthnet.testing import (
    LAWS,
    make_case,
    make_optimizer,
    OPS,
    Ops,
    optimizer_follows,
    Resize,
    same_training,
)
from growthnet.testing._measure import unit_labels


@ft.cache
def examples(dtype):
    """A tanh says nothing at zero, a softplus does; the second network holds an
    integer."""
    return [
        (
            make_case("mlp", act="tanh", dtype=dtype),
            Resize({"layers[0]": 5, "layers[1]": 2}, {"layers[1]": (2, 0)}),
        ),
        (make_case("counting", dtype=dtype), Resize({"inner": 5})),
        (make_case("counting", dtype=dtype), Resize({"inner": 2}, {"inner": (2, 0)})),
    ]


def growing(edit):
    return any(change.born for change in edit.changes)


def permuting(edit):
    return all(change.old == change.new for change in edit.changes)


def with_newborns(edit, net, values, *, of_cover):
    """The network with other values in the newborn entries of the cover, or of the
    other members."""
    leaves, treedef = jtu.tree_flatten(net)
    at = positions_of_leaves(edit.after, leaves)
    for change in edit.changes:
        width = edit.after.widths[change.name]
        for i, member in enumerate(width.members):
            if (i in width.cover) == of_cover:
                born = unit_labels(edit.after, member) >= len(change.kept)
                array = np.array(leaves[at[member.path]])
                moved = np.moveaxis(array, member.axis, 0)
                moved[born] = values(moved[born].shape)
                leaves[at[member.path]] = jnp.asarray(array)
    return jtu.tree_unflatten(treedef, leaves)


def is_array(leaf):
    return hasattr(leaf, "dtype")


def positions_of_leaves(anatomy, leaves):
    """Where the leaves of an anatomy are among a tree's, by path."""
    arrays = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    return dict(zip([leaf.path for leaf in anatomy.leaves], arrays, strict=True))


# --- broken ways to apply an edit


def loud_cover(edit, tree, *, key=None):
    net = OPS.apply(edit, tree, key=key)
    if edit.init != "zero_out" or not growing(edit):
        return net
    rng = np.random.default_rng(0)
    return with_newborns(edit, net, rng.standard_normal, of_cover=True)


def dead_newborns(edit, tree, *, key=None):
    net = OPS.apply(edit, tree, key=key)
    if edit.init != "zero_out" or not growing(edit):
        return net
    return with_newborns(edit, net, np.zeros, of_cover=False)


def rounded_survivors(edit, tree, *, key=None):
    def touch(x):
        floats = np.issubdtype(x.dtype, np.floating)
        return jnp.asarray(np.nextafter(x, np.inf, dtype=x.dtype) if floats else x)

    net = OPS.apply(edit, tree, key=key)
    if not growing(edit):
        return net
    return jtu.tree_map(lambda x: touch(np.asarray(x)) if is_array(x) else x, net)


def biases_left_behind(edit, tree, *, key=None):
    net = OPS.apply(edit, tree, key=key)
    if not permuting(edit):
        return net
    stay = lambda old, new: old if is_array(old) and old.ndim == 1 else new
    return jtu.tree_map(stay, tree, net)


def stale_statics(edit, tree, *, key=None):
    net = OPS.apply(edit, tree, key=key)
    if not growing(edit):
        return net
    return jtu.tree_unflatten(jtu.tree_structure(tree), jtu.tree_leaves(net))


def unsigned_counters(edit, tree, *, key=None):
    dtype = jnp.uint32 if growing(edit) else jnp.int32
    counts = lambda x: is_array(x) and jnp.issubdtype(x.dtype, jnp.integer)
    return jtu.tree_map(
        lambda x: x.astype(dtype) if counts(x) else x,
        OPS.apply(edit, tree, key=key),
    )


# --- broken ways to plan one


def reckless_plan(anatomy, sizes, **options):
    return OPS.plan(anatomy, sizes, **{**options, "allow_drift": True})


def equal_plan(anatomy, sizes, *, init="zero_out", **options):
    if init in ("clone", gn.Clone()):
        init = gn.Clone(split="equal")
    return OPS.plan(anatomy, sizes, init=init, **options)


def plan_that_keeps_others(anatomy, sizes, *, keep=None, **options):
    old = anatomy.sizes
    shifted = {
        name: (np.asarray(units) + 1) % old[name] if len(units) < old[name] else units
        for name, units in (keep or {}).items()
    }
    return OPS.plan(anatomy, sizes, keep=shifted, **options)


class Quiet(gn.Edit):
    def explain(self):
        lines = super().explain().splitlines()
        return "\n".join(line for line in lines if "width_size" not in line)


def quiet_plan(anatomy, sizes, **options):
    edit = OPS.plan(anatomy, sizes, **options)
    return Quiet(**{f.name: getattr(edit, f.name) for f in dataclasses.fields(edit)})


def forgetful_inverse(edit):
    sizes = {change.name: change.old for change in edit.changes}
    return OPS.plan(edit.after, sizes)


# --- broken silence


def closing_without_cover(reserved, keep):
    """Closes the producers and leaves what reads them."""
    closed, anatomy = OPS.close_units(reserved, keep), reserved.anatomy
    leaves, treedef = jtu.tree_flatten(closed.net)
    before = jtu.tree_leaves(reserved.net)
    at = positions_of_leaves(anatomy, leaves)
    for name in keep:
        width = anatomy.widths[name]
        shut = ~closed.open[name]
        for member in (width.members[i] for i in width.cover):
            labels = unit_labels(anatomy, member)
            mask = shut[labels] & (labels >= 0)
            i = at[member.path]
            mask = jnp.expand_dims(mask, [a for a in (0, 1) if a != member.axis])
            leaves[i] = jnp.where(mask, before[i], leaves[i])
    return dataclasses.replace(closed, net=jtu.tree_unflatten(treedef, leaves))


def timid_gate(net, anatomy, gates):
    """Turns down, but not off."""
    loud = {name: 0.01 + 0.99 * gate for name, gate in gates.items()}
    return OPS.gate(net, anatomy, loud)


# --- broken capacity


def with_another_key(reserved, add, *, key, **options):
    return OPS.open_units(reserved, add, key=jax.random.fold_in(key, 1), **options)


class Leaking(gn.Grower):
    """The loss sees the closed units, whose producers say f(0)."""

    def loss(self, loss_fn, state):
        del state
        return lambda growing, *args: loss_fn(growing.net, *args)

    def update(self, growing, grads, state):
        everyone = {name: jnp.ones_like(mask) for name, mask in growing.open.items()}
        bare = dataclasses.replace(growing, open=everyone)
        bare, state = super().update(bare, grads, state)
        return dataclasses.replace(bare, open=growing.open), state


# --- broken ways to move an optimizer


def zero_padding(edit, optimizer, opt_state, params, params2):
    empty = lambda params: jtu.tree_map(jnp.zeros_like, optimizer.init(params))
    padding = optax.GradientTransformation(empty, optimizer.update)
    return OPS.transfer(edit, padding, opt_state, params, params2)


def unsquared(edit, optimizer, opt_state, params, params2):
    """Adamax has the state of Adam, and its `nu` goes with c, not with c squared."""
    del optimizer
    return OPS.transfer(edit, optax.adamax(1e-2), opt_state, params, params2)


def born_old(edit, optimizer, opt_state, params, params2):
    moved = OPS.transfer(edit, optimizer, opt_state, params, params2)
    aged = lambda x: isinstance(x, AgeState)
    older = lambda x: x._replace(ages=jtu.tree_map(lambda a: a * 0 + 3, x.ages))
    return jtu.tree_map(lambda x: older(x) if aged(x) else x, moved, is_leaf=aged)


def starting_over(edit, optimizer, opt_state, params, params2):
    del edit, opt_state, params
    return optimizer.init(params2)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """Operations of which one is broken, the law that says so, and what it says."""

    law: str
    ops: Ops
    says: str
    optimizer: str = "adam"


def mutant(law, says, *, optimizer="adam", **op):
    return Mutant(law, dataclasses.replace(OPS, **op), says, optimizer)


MUTANTS = {
    "newborns speak at once": mutant(
        "preservation",
        r"layers\[0\] 3 -> 5 by zero_out: outputs differ by \S+, allowed are \S+e-\d+",
        apply=loud_cover,
    ),
    "nothing is refused": mutant(
        "preservation",
        r"layers\[0\] 3 -> 5 by drawn isn't exact, and isn't refused",
        plan=reckless_plan,
    ),
    "both sides of newborns are zero": mutant(
        "alive_newborns",
        r"layers\[0\] 3 -> 5 by zero_out: .* no gradient by the second step",
        apply=dead_newborns,
    ),
    "copies get equal shares": mutant(
        "alive_newborns",
        r"by clone: unit 3 of layers\[0\] copies unit 0, and their gradients differ",
        plan=equal_plan,
    ),
    "other units are removed": mutant(
        "shrink_is_silence",
        r"layers\[1\] 3 -> 2, keeping \[0, 2\] of layers\[1\]: removing isn't closing",
        plan=plan_that_keeps_others,
    ),
    "closed units say f(0)": mutant(
        "shrink_is_silence",
        r"inner 3 -> 2, .*: removing isn't closing them: outputs differ",
        close_units=closing_without_cover,
    ),
    "gates don't shut": mutant(
        "shrink_is_silence",
        r"layers\[1\] 3 -> 2, .*: removing isn't gating them: outputs differ",
        gate=timid_gate,
    ),
    "survivors are off by one bit": mutant(
        "round_trip",
        r"layers\[0\] 3 -> 5 by zero_out, then its inverse: .* differs in \d+ of",
        apply=rounded_survivors,
    ),
    "copies are dropped, not merged": mutant(
        "round_trip",
        r"by Clone\(.*, then its inverse: layers\[1\].weight differs by",
        inverse=forgetful_inverse,
    ),
    "biases don't follow a permutation": mutant(
        "symmetry",
        r"permuting layers\[0\] to \[.*\], layers\[1\] to .*: outputs differ",
        apply=biases_left_behind,
    ),
    "static fields are stale": mutant(
        "truth", r"the structure isn't the constructor's", apply=stale_statics
    ),
    "a dtype changes": mutant(
        "truth",
        r"calls is uint32\(\), and should be int32\(\)",
        apply=unsigned_counters,
    ),
    "an untrue field isn't mentioned": mutant(
        "truth", r"`explain` doesn't say that width_size isn't true", plan=quiet_plan
    ),
    "zeros instead of what init gives": mutant(
        "optimizer_follows",
        r"sum_of_squares.*: newborn entries aren't what `init` gives",
        transfer=zero_padding,
        optimizer="adagrad",
    ),
    "second moments aren't squared": mutant(
        "optimizer_follows", r"nu.*: .* should be scaled by c\*\*2", transfer=unsquared
    ),
    "newborns are born old": mutant(
        "optimizer_follows",
        r"ages.*: newborn entries aren't what `init` gives",
        transfer=born_old,
        optimizer="adam_by_age",
    ),
    "the state starts over": mutant(
        "optimizer_follows",
        r"count follows no parameter, and changed",
        transfer=starting_over,
    ),
    "newborns are others than an edit's": mutant(
        "opening_is_resizing",
        r"layers\[0\] 3 -> 5.* by zero_out: opening isn't resizing: .* differs in",
        open_units=with_another_key,
    ),
    "closed units learn": mutant(
        "same_training",
        r"adamw.*inner 3 -> 5 within capacity: .* differs by",
        grower=Leaking,
    ),
}


def complaints(dtype, ops, optimizer="adam"):
    """Per law that complains, what it says first."""
    said = {}
    with jax.enable_x64(dtype == "float64"):
        for (name, law), (case, resize) in it.product(LAWS.items(), examples(dtype)):
            if law is same_training and ops.grower is OPS.grower:
                continue  # Slow, and it exchanges nothing but this.
            more = [make_optimizer(optimizer)] if law is optimizer_follows else []
            try:
                law(case, resize, *more, ops=ops)
            except AssertionError as error:
                said.setdefault(name, str(error))
    return said


both_precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


def test_every_law_has_a_mutant():
    assert {m.law for m in MUTANTS.values()} == set(LAWS)


@both_precisions
@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "adam_by_age"])
def test_no_law_complains_about_the_originals(optimizer, dtype):
    assert complaints(dtype, OPS, optimizer) == {}


@both_precisions
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_by_its_law_alone(name, dtype):
    mutant = MUTANTS[name]
    if mutant.law == "same_training" and dtype != "float64":
        pytest.skip("the law is about float64")
    said = complaints(dtype, mutant.ops, mutant.optimizer)
    assert list(said) == [mutant.law], said
    text = said[mutant.law]
    assert text.startswith(f"the law {mutant.law!r} doesn't hold for make_case(")
    assert re.search(mutant.says, text, re.DOTALL), text
