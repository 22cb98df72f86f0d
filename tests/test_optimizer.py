"""Law 7: the optimizer state follows the parameters."""

import gc
import operator as op
import weakref
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from optax import contrib

from growthnet._edits.maps import AxisEdit, LeafEdit, MapPair, PlaceEdit, UnitMap
from growthnet._optimizer import optimizer as _optimizer, state_links as _state_links
from growthnet._optimizer.first_state import initial_state
from growthnet._optimizer.optimizer import move_state, state_links
from growthnet._optimizer.resets import reset_entries
from growthnet._reading.layout import Atom

from .helpers import counting_compiles
from .optimizer_cases import CASES, CHANGES, CLONE, FAST, mlp, moved_mlp, UNITS


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Some of optax mixes dtypes and ranks, which the strict settings forbid."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def each(names, fast=FAST):
    """Optimizers by name; those that aren't fast are for the slow suite."""
    marks = lambda name: () if name in fast else pytest.mark.slow
    return [pytest.param(name, marks=marks(name)) for name in names]


class Handmade(NamedTuple):
    """An optimizer that isn't optax's."""

    init: Any
    update: Any


class HandmadeState(NamedTuple):
    trace: Any


def keep_state(grads, state, params=None):
    return grads, state


def paths(tree):
    return [jtu.keystr(path) for path, _ in jtu.tree_flatten_with_path(tree)[0]]


def is_key(x):
    return jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def filled(state, seed=0):
    """The state with other values everywhere, so that whatever stays can be seen."""
    rng = np.random.default_rng(seed)

    def fill(x):
        if is_key(x):
            return jr.wrap_key_data(jnp.full_like(jr.key_data(x), 7))
        if getattr(x, "weak_type", False):
            return jnp.asarray(x.dtype.type(3).item())
        if np.issubdtype(x.dtype, np.floating):
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape).astype(x.dtype))
        return jnp.full_like(x, 3)

    return jax.tree.map(fill, state)


def bits(x):
    return np.asarray(jr.key_data(x) if is_key(x) else x)


def expected_leaf(old, fresh, change):
    """Survivors as they were, the rest as `init` has it. Axes of size 8 are the width,
    since no other axis has that size."""
    width = [axis for axis, size in enumerate(old.shape) if size == UNITS]
    if not width:
        return bits(old)
    out, old = bits(fresh).copy(), bits(old)
    new_index, old_index = change.survivors
    new = [new_index if a in width else np.arange(n) for a, n in enumerate(out.shape)]
    was = [old_index if a in width else np.arange(n) for a, n in enumerate(old.shape)]
    out[np.ix_(*new)] = old[np.ix_(*was)]
    return out


def check_law_7(name, change):
    case = CASES[name]
    optimizer, small = case.make(), mlp(UNITS)
    params, params2 = case.wrap(small), case.wrap(moved_mlp(small, change))
    state, fresh = filled(optimizer.init(params)), optimizer.init(params2)
    moved, report = move_state(optimizer, state, params, params2, case.edits(change))
    assert jax.tree.structure(moved) == jax.tree.structure(fresh), "structure"
    assert [row.path for row in report.rows] == _state_links.leaf_paths(fresh)
    leaves = zip(*map(jax.tree.leaves, (state, fresh, moved)), strict=True)
    for path, row, (old, new, got) in zip(
        paths(fresh), report.rows, leaves, strict=True
    ):
        assert jax.typeof(got) == jax.typeof(new), f"type of {path}"
        want = expected_leaf(old, new, change)
        np.testing.assert_array_equal(bits(got), want, f"value of {path}")
        assert row.action == ("moved" if UNITS in old.shape else "kept"), path
        if row.action == "kept":
            assert got is old, path
    again = jax.eval_shape(lambda s, p: case.update(optimizer, s, p)[1], moved, params2)
    assert jax.tree.structure(again) == jax.tree.structure(fresh)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", each(CASES))
def test_survivors_keep_their_state_and_newborns_get_what_init_gives(name, change):
    check_law_7(name, CHANGES[change])


@pytest.mark.parametrize("name", each(CASES))
def test_an_update_runs_after_the_move(name):
    case, change = CASES[name], CHANGES["grow"]
    optimizer, small = case.make(), mlp(UNITS)
    params, params2 = case.wrap(small), case.wrap(moved_mlp(small, change))
    state = optimizer.init(params)
    moved, _ = move_state(optimizer, state, params, params2, case.edits(change))
    step = jax.jit(lambda s, p: case.update(optimizer, s, p))
    updates, after = step(moved, params2)
    assert all(np.isfinite(bits(x)).all() for x in jax.tree.leaves(updates))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, moved)


# --- split units: moving the state and then training is training and then moving


def trained(optimizer, case, params, grads, count):
    """The state after some gradients, the parameters standing still."""
    step = jax.jit(
        lambda g, s, p: optimizer.update(g, s, p, **case.extra(p, g))[1],
    )
    state = optimizer.init(params)
    for n in range(count):
        state = step(jax.tree.map(op.itemgetter(n), grads), state, params)
    return state


def moved_gradients(grads, change):
    leaves = [np.asarray(g) for g in jax.tree.leaves(grads)]
    for i, edit in change.edits.items():
        leaves[i] = np.stack([edit.gradients(g) for g in leaves[i]])
    return jax.tree.unflatten(jax.tree.structure(grads), map(jnp.asarray, leaves))


def cloned(name):
    """A state moved through a split, the state that training after the split gives, and
    the report. Gradients are large, so that no epsilon matters."""
    case = CASES[name]
    optimizer, params = case.make(), mlp(UNITS)
    params2 = moved_mlp(params, CLONE)
    rng = np.random.default_rng(1)
    grads = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(3, *x.shape)).astype(np.float32) * 1e4),
        params,
    )
    state = trained(optimizer, case, params, grads, 3)
    moved, report = move_state(optimizer, state, params, params2, CLONE.edits)
    after = trained(optimizer, case, params2, moved_gradients(grads, CLONE), 3)
    links = state_links(optimizer, state, params)
    leaves = zip(*map(jax.tree.leaves, (state, moved, after)), strict=True)
    return list(zip(report.rows, links, leaves, strict=True))


def check_split(name):
    for row, link, (old, got, want) in cloned(name):
        assert row.action != "reset", row
        if link.kind == "copy":
            edit = CLONE.edits.get(-1 if link.param is None else link.param)
            want = old if edit is None else edit.values(np.asarray(old))
        got, want = bits(got), bits(want)
        size = np.abs(want).max(initial=0.0)
        np.testing.assert_allclose(got, want, 2e-5, 2e-6 * size, err_msg=row.path)


# Optimizers whose state treats every entry by itself.
ELEMENTWISE = (
    "adabelief adadelta adagrad adam adamax adamaxw adamw adan amsgrad "
    "apply_if_finite conditionally_mask ema inject_hyperparams lamb lion masked "
    "multi_steps nadam nadamw optimistic_adam optimistic_gradient_descent partition "
    "radam rmsprop rmsprop_centered rmsprop_momentum rprop sgd_momentum yogi "
    "zero_nans contrib.acprop contrib.ademamix contrib.muon contrib.schedule_free "
    "contrib.schedule_free_sgd gn.debias_by_age gn.scale_by_age "
    "gn.scale_by_stage_norm"
).split()


@pytest.mark.parametrize("name", each(ELEMENTWISE))
def test_moments_of_split_units_follow_their_gradients(name):
    check_split(name)


def check_untouched_by_split(name):
    """Other units stay; split ones are scaled, copied, or as `init` gives."""
    case = CASES[name]
    optimizer, small = case.make(), mlp(UNITS)
    params, params2 = case.wrap(small), case.wrap(moved_mlp(small, CLONE))
    state, fresh = filled(optimizer.init(params)), optimizer.init(params2)
    moved, report = move_state(optimizer, state, params, params2, case.edits(CLONE))
    assert jax.tree.structure(moved) == jax.tree.structure(fresh)
    split = np.asarray(CLONE.weights) != 1
    leaves = zip(*map(jax.tree.leaves, (state, fresh, moved)), strict=True)
    for row, (old, new, got) in zip(report.rows, leaves, strict=True):
        assert jax.typeof(got) == jax.typeof(new), row.path
        if UNITS not in old.shape:
            want = bits(new if row.action == "reset" else old)
            np.testing.assert_array_equal(bits(got), want, row.path)
            continue
        axis, copied = old.shape.index(UNITS), expected_leaf(old, new, CLONE)
        whole = lambda x, which, axis=axis: np.compress(which, bits(x), axis)
        np.testing.assert_array_equal(whole(got, ~split), whole(copied, ~split))
        if row.action in ("reset", "moved"):
            source = new if row.action == "reset" else copied
            np.testing.assert_array_equal(whole(got, split), whole(source, split))
    return report


@pytest.mark.parametrize("name", each(CASES))
def test_a_split_leaves_other_units_alone(name):
    check_untouched_by_split(name)


def test_moments_that_belong_together_are_reset_together():
    # Split rows of `w1` are scaled in `v_row`, which could be followed, and hidden in
    # the sums of `v_col`, which can't: one without the other would mean nothing.
    rows = check_untouched_by_split("adafactor").rows
    lost = {row.path for row in rows if row.action == "reset"}
    assert lost == {"[0].v_row.w1", "[0].v_col.w1"}
    assert all("split units" in row.reason for row in rows if row.action == "reset")


def test_what_cannot_be_followed_is_reset_no_further_than_needed():
    # Split units of `w1` get scaled gradients; those of `w2` get other values, and the
    # same gradients. Only decay ties the two together.
    clip = optax.chain(optax.clip(1.0), optax.adam(0.1))
    decay = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9))
    params, params2 = mlp(UNITS), moved_mlp(mlp(UNITS), CLONE)
    for optimizer, names in ((clip, {"b1", "w1"}), (decay, {"b1", "w1", "w2"})):
        state = optimizer.init(params)
        _, report = move_state(optimizer, state, params, params2, CLONE.edits)
        lost = {row.param for row in report.rows if row.action == "reset"}
        assert lost == names


def test_strict_refuses_to_reset():
    optimizer, params = CASES["adafactor"].make(), mlp(UNITS)
    params2, state = moved_mlp(params, CLONE), optimizer.init(params)
    with pytest.raises(ValueError, match=r"\[0\].v_row.w1 of the state can't move"):
        move_state(optimizer, state, params, params2, CLONE.edits, strict=True)


# --- mutants: each must be caught


def test_padding_with_zeros_is_caught(monkeypatch):
    monkeypatch.setattr(_optimizer._Mover, "_bear", lambda self, k, new, view: new)
    check_law_7("adam", CHANGES["grow"])
    for name in ("adagrad", "yogi", "rprop", "contrib.schedule_free"):
        with pytest.raises(AssertionError, match="value of"):
            check_law_7(name, CHANGES["grow"])


def test_treating_copies_as_moments_is_caught(monkeypatch):
    link = _state_links.Program.link

    def forgetful(self, k, symbols):
        seen = link(self, k, symbols)
        kind = "moment" if seen.kind == "copy" else seen.kind
        return _state_links.Link(seen.param, seen.axes, kind)

    monkeypatch.setattr(_state_links.Program, "link", forgetful)
    # Another optimizer than in other tests: what is known of those is remembered.
    with pytest.raises(AssertionError, match="z.b1"):
        check_copies(contrib.schedule_free_sgd(0.2))


def check_copies(optimizer):
    params = mlp(UNITS)
    params2 = moved_mlp(params, CLONE)
    state = optimizer.init(params)
    moved, report = move_state(optimizer, state, params, params2, CLONE.edits)
    leaves = zip(report.rows, *map(jax.tree.leaves, (moved,)), strict=True)
    rows = {row.path: (row.action, leaf) for row, leaf in leaves}
    for name in params:
        action, leaf = rows[f"z.{name}"]
        assert action in ("kept", "moved", "scaled"), f"z.{name} {action}"
        np.testing.assert_array_equal(leaf, params2[name], f"z.{name}")


def test_copies_of_parameters_follow_the_parameters():
    check_copies(contrib.schedule_free_sgd(0.3))


def test_forgetting_the_square_is_caught(monkeypatch):
    monkeypatch.setattr(
        _optimizer, "read_powers", lambda o, init, s: [(1.0, True)] * len(init.links)
    )
    check_split("sgd_momentum")
    for name in ("adam", "adamax", "rmsprop_momentum"):
        with pytest.raises(AssertionError, match=r"nu|trace"):
            check_split(name)


# --- parameter trees of other kinds


def linear_edits(change, leaves):
    """Edits for networks whose leaves are w1, b1, w2, b2 in this order, or fewer."""
    edits = change.edits
    return {i: e for i, e in enumerate([edits[2], edits[0], edits[3]]) if i < leaves}


def mlp_module(units):
    net = eqx.nn.MLP(4, 3, units, 1, key=jr.key(0))
    return eqx.filter(net, eqx.is_inexact_array)


MODULE_OPTIMIZERS = {
    "adam": lambda: optax.adam(0.1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=3),
    "masked": lambda: nest_of_modules(),
    "schedule_free": lambda: contrib.schedule_free_adamw(0.1),
    "sm3": lambda: optax.sm3(0.1),
}


def nest_of_modules():
    label = lambda tree: jax.tree.map(lambda x: "a" if x.ndim > 1 else "b", tree)
    return optax.partition({"a": optax.adam(0.1), "b": optax.adagrad(0.1)}, label)


@pytest.mark.parametrize("name", MODULE_OPTIMIZERS)
def test_modules_keep_true_static_fields(name):
    optimizer, change = MODULE_OPTIMIZERS[name](), CHANGES["grow"]
    sizes, units = (UNITS, len(change.source), len(change.source)), change.edits
    params, params2, _ = map(mlp_module, sizes)
    state, fresh = filled(optimizer.init(params)), optimizer.init(params2)
    edits = {0: units[2], 1: units[0], 2: units[3]}
    moved, _ = move_state(optimizer, state, params, params2, edits)
    assert jax.tree.structure(moved) == jax.tree.structure(fresh)
    for old, new, got in zip(*map(jax.tree.leaves, (state, fresh, moved)), strict=True):
        np.testing.assert_array_equal(got, expected_leaf(old, new, change))


@pytest.mark.parametrize("kind", ["list", "tuple", "single"])
@pytest.mark.parametrize("name", ["adam", "lbfgs", "sm3", "contrib.mechanic"])
def test_containers_without_names(name, kind):
    # With bare lists and arrays a path such as `[0].mu[0][1]` says nothing.
    case, change = CASES[name], CHANGES["grow"]
    make = {
        "list": lambda p: [p["w1"], p["b1"]],
        "tuple": lambda p: (p["w1"], p["b1"]),
        "single": lambda p: p["w1"],
    }[kind]
    small = mlp(UNITS)
    params, params2 = make(small), make(moved_mlp(small, change))
    edits = {0: change.edits[2], 1: change.edits[0]}
    edits = {0: edits[0]} if kind == "single" else edits
    optimizer = case.make()
    state, fresh = filled(optimizer.init(params)), optimizer.init(params2)
    moved, _ = move_state(optimizer, state, params, params2, edits)
    assert jax.tree.structure(moved) == jax.tree.structure(fresh)
    for old, new, got in zip(*map(jax.tree.leaves, (state, fresh, moved)), strict=True):
        np.testing.assert_array_equal(bits(got), expected_leaf(old, new, change))


def test_dtypes_stay():
    optimizer = optax.adam(0.1, mu_dtype=jnp.bfloat16)
    change, half = CHANGES["grow"], lambda tree: jax.tree.map(jnp.bfloat16, tree)
    params = half(mlp(UNITS))
    params2 = half(moved_mlp(mlp(UNITS), change))
    state = filled(optimizer.init(params))
    moved, _ = move_state(optimizer, state, params, params2, change.edits)
    assert {str(x.dtype) for x in jax.tree.leaves(moved)} == {"bfloat16", "int32"}
    np.testing.assert_array_equal(moved[0].mu["b1"][:UNITS], state[0].mu["b1"])
    np.testing.assert_array_equal(moved[0].nu["w2"][:, UNITS:], 0)


def test_arrays_stay_on_their_devices():
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((1,), ("x",)), jax.sharding.PartitionSpec("x")
    )
    optimizer, change = optax.adam(0.1), CHANGES["grow"]
    params = jax.device_put(mlp(UNITS), sharding)
    params2 = jax.device_put(moved_mlp(mlp(UNITS), change), sharding)
    state = optimizer.init(params)
    state = jax.tree.map(lambda x: jax.device_put(x, sharding) if x.ndim else x, state)
    moved, _ = move_state(optimizer, state, params, params2, change.edits)
    assert moved[0].mu["w1"].shape == (12, 4)
    assert moved[0].mu["w1"].sharding == sharding


# --- layouts that depend on the sizes


def weight_edit(old, new):
    """Grows a matrix `[rows, columns]` along both axes."""
    axes = []
    for axis, (n, m) in enumerate(zip(old, new, strict=True)):
        pair = MapPair(*[UnitMap.take(n, [*range(n), *[-1] * (m - n)])] * 2)
        axes.append(AxisEdit(Atom(axis, n), (PlaceEdit((), pair, axis == 1),)))
    return {0: LeafEdit(tuple(axes))}


def grown_matrix(optimizer, old, new):
    params, params2 = jnp.ones(old), jnp.ones(new)
    state, fresh = filled(optimizer.init(params)), optimizer.init(params2)
    moved, report = move_state(optimizer, state, params, params2, weight_edit(old, new))
    assert jax.tree.map(jax.typeof, moved) == jax.tree.map(jax.typeof, fresh)
    actions = {row.path.split(".")[-1]: row for row in report.rows}
    return state[0], fresh[0], moved[0], actions


def test_adafactor_across_its_threshold_is_reset():
    optimizer = optax.adafactor(0.1)
    state, fresh, moved, rows = grown_matrix(optimizer, (120, 200), (136, 200))
    assert (state.v.shape, moved.v.shape) == ((120, 200), (1,))
    for field in ("v", "v_row", "v_col"):
        assert rows[field].action == "reset"
        assert "depends on the sizes, and changed" in rows[field].reason
        np.testing.assert_array_equal(getattr(moved, field), getattr(fresh, field))
    assert rows["count"].action == "kept"


@pytest.mark.parametrize("new", [(130, 200), (140, 210)])
def test_adafactor_above_its_threshold_moves(new):
    state, _, moved, rows = grown_matrix(optax.adafactor(0.1), (128, 200), new)
    for field, old in (("v_row", 128), ("v_col", 200)):
        got = getattr(moved, field)
        np.testing.assert_array_equal(got[:old], getattr(state, field))
        np.testing.assert_array_equal(got[old:], 0)
        changes = old not in new
        assert rows[field].action == ("moved" if changes else "kept")


@pytest.mark.parametrize("old, new", [((6, 6), (9, 6)), ((6, 7), (8, 7))])
def test_adafactor_rows_and_columns_change_places(old, new):
    # What was summed over the longer axis has another name when that axis is another.
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=3)
    state, _, moved, _ = grown_matrix(optimizer, old, new)
    along = {axis: (state.v_row, state.v_col)[axis] for axis in (0, 1)}
    assert (moved.v_row.shape, moved.v_col.shape) == ((new[1],), (new[0],))
    np.testing.assert_array_equal(moved.v_row, along[1])
    np.testing.assert_array_equal(moved.v_col[: old[0]], along[0])
    np.testing.assert_array_equal(moved.v_col[old[0] :], 0)


def longest_axis_only():
    """A home-made optimizer that keeps one number per index of the longest axis."""

    def init(params):
        longest = lambda x: x.shape[0] if x.shape[0] > x.shape[1] else x.shape[1]
        return HandmadeState(jax.tree.map(lambda x: jnp.ones(longest(x)), params))

    return Handmade(init, keep_state)


def test_a_tie_that_nobody_can_break_is_reset():
    params, params2 = {"w": jnp.ones((6, 6))}, {"w": jnp.ones((9, 6))}
    optimizer = longest_axis_only()
    (link,) = state_links(optimizer, optimizer.init(params), params)
    assert (link.kind, link.param) == ("reset", 0)
    state = filled(optimizer.init(params))
    edit = weight_edit((6, 6), (9, 6))
    moved, report = move_state(optimizer, state, params, params2, edit)
    assert [row.action for row in report.rows] == ["reset"]
    np.testing.assert_array_equal(moved.trace["w"], 1)


def test_a_flattened_state_is_reset():
    optimizer, change = optax.flatten(optax.adam(0.1)), CHANGES["replace"]
    params = mlp(UNITS)
    params2, state = moved_mlp(params, change), filled(optimizer.init(params))
    moved, report = move_state(optimizer, state, params, params2, change.edits)
    assert [row.action for row in report.rows] == ["kept", "reset", "reset"]
    assert "unknown" in report.rows[1].reason
    np.testing.assert_array_equal(moved[0].mu, 0)
    same, report = move_state(optimizer, state, params, params, {})
    assert {row.action for row in report.rows} == {"kept"}
    assert same[0].mu is state[0].mu


def test_leaves_that_come_and_go_with_the_sizes():
    wide = lambda tree: jax.tree.map(lambda x: x.shape[0] > 10, tree)
    optimizer, change = optax.masked(optax.adam(0.1), wide), CHANGES["grow"]
    params = mlp(UNITS)
    params2, state = moved_mlp(params, change), optimizer.init(params)
    moved, report = move_state(optimizer, state, params, params2, change.edits)
    fresh = optimizer.init(params2)
    assert jax.tree.structure(moved) == jax.tree.structure(fresh)
    assert len(jax.tree.leaves(moved)) > len(jax.tree.leaves(state))
    reasons = {row.reason for row in report.rows if row.action == "reset"}
    assert reasons == {"the old state has no such leaf"}


@pytest.mark.parametrize("name", each(CASES))
def test_a_first_state_is_what_init_gives(name):
    case = CASES[name]
    optimizer, params = case.make(), case.wrap(mlp(5))
    read, run = initial_state(optimizer, params), optimizer.init(params)
    assert jax.tree.structure(read) == jax.tree.structure(run)
    for path, x, y in zip(paths(run), *map(jax.tree.leaves, (read, run)), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y)
        np.testing.assert_array_equal(bits(x), bits(y), path)


def test_a_first_state_compiles_nothing():
    params, optimizer = mlp(29), optax.adamw(optax.cosine_decay_schedule(0.1, 9))
    with counting_compiles() as compiled:
        initial_state(optimizer, params)
        assert not compiled
        optimizer.init(params)
    assert compiled


def test_inits_that_numpy_does_not_read_are_run():
    def init(params):
        return HandmadeState(jax.tree.map(lambda x: jnp.cos(jnp.cumsum(x)), params))

    optimizer = Handmade(init, keep_state)
    params, change = {"b": mlp(UNITS)["b1"]}, CHANGES["grow"]
    params2 = {"b": jnp.arange(12.0)}
    edits = {0: change.edits[0]}
    moved, _ = move_state(optimizer, init(params), params, params2, edits)
    fresh = init(params2).trace["b"]
    np.testing.assert_allclose(moved.trace["b"][UNITS:], fresh[UNITS:], 1e-6)
    np.testing.assert_array_equal(moved.trace["b"][:UNITS], init(params).trace["b"])


# --- openings: the same entries, inside the program


def check_opening(name):
    """Eight of twelve units are open; the others open now. Their state is what `init`
    gives, that of the others stays, and so does the state's type."""
    case, change = CASES[name], CHANGES["grow"]
    optimizer, small = case.make(), mlp(12)
    params = case.wrap(small)
    state, fresh = filled(optimizer.init(params)), optimizer.init(params)
    newborn = np.arange(12) >= UNITS
    own = {0: newborn, 2: newborn[:, None], 3: newborn[None, :]}
    masks = {i: own[i % 4] for i in case.edits(change)}
    traces = []

    @jax.jit
    def opened(state, params, masks):
        traces.append(1)
        return reset_entries(optimizer, state, params, masks)

    got = opened(state, params, masks)
    opened(state, params, jax.tree.map(np.logical_not, masks))
    assert len(traces) == 1
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, state)
    for path, old, new, leaf in zip(
        paths(state), *map(jax.tree.leaves, (state, fresh, got)), strict=True
    ):
        want = bits(old).copy()
        for axis in (a for a, n in enumerate(old.shape) if n == 12):
            at = (slice(None),) * axis + (newborn,)
            want[at] = bits(new)[at]
        assert leaf.dtype == old.dtype
        np.testing.assert_array_equal(bits(leaf), want, path)


@pytest.mark.parametrize("name", each(CASES))
def test_openings_reset_newborn_entries_only(name):
    check_opening(name)


def test_openings_under_vmap():
    optimizer, newborn = optax.adagrad(0.1), jnp.arange(12) >= UNITS
    many = jax.tree.map(lambda x: jnp.stack([x, x]), mlp(12))
    state = jax.vmap(optimizer.init)(many)
    state = jax.tree.map(lambda x: x + 1, state)
    masks = {0: jnp.stack([newborn, ~newborn])}
    reset = lambda s, p, m: reset_entries(optimizer, s, p, m)
    got = jax.vmap(reset)(state, many, masks)[0].sum_of_squares["b1"]
    want = np.where([newborn, ~newborn], np.float32(0.1), np.float32(1.1))
    np.testing.assert_allclose(got, want, 1e-6)


def test_axes_that_appear_twice():
    def init(params):
        factor = lambda x: jnp.eye(x.shape[0])
        return HandmadeState(jax.tree.map(factor, params))

    optimizer = Handmade(init, keep_state)
    params, change = {"w": mlp(UNITS)["w1"]}, CHANGES["grow"]
    state = HandmadeState({"w": jnp.full((UNITS, UNITS), 5.0)})
    params2 = {"w": mlp(12)["w1"]}
    moved, _ = move_state(optimizer, state, params, params2, {0: change.edits[2]})
    want = np.eye(12)
    want[:UNITS, :UNITS] = 5
    np.testing.assert_array_equal(moved.trace["w"], want)
    full = HandmadeState({"w": jnp.full((12, 12), 5.0)})
    newborn = np.arange(12)[:, None] >= UNITS
    opened = reset_entries(optimizer, full, params2, {0: newborn})
    np.testing.assert_array_equal(opened.trace["w"], want)


# --- what it says, what it refuses, what it costs


def test_links_name_every_sort_of_leaf():
    optimizer, params = CASES["lbfgs"].make(), mlp(UNITS)
    state = optimizer.init(params)
    found = state_links(optimizer, state, params)
    links = dict(zip(_state_links.leaf_paths(state), found, strict=True))
    assert links["[0].count"].kind == "untouched"
    assert links["[0].updates.w1"].kind == "moment"
    assert links["[0].diff_params_memory.w1"].axes == (None, 0, 1)
    assert links["[0].diff_params_memory.w1"].kind == "stacked"


def test_the_report_is_a_table():
    optimizer, params = optax.adam(0.1), mlp(UNITS)
    params2, state = moved_mlp(params, CLONE), optimizer.init(params)
    _, report = move_state(optimizer, state, params, params2, CLONE.edits)
    assert str(report).splitlines() == [
        "action  state leaf  parameter  reason",
        "kept    [0].count",
        "scaled  [0].mu.b1   b1         as the gradient",
        "kept    [0].mu.b2   b2",
        "scaled  [0].mu.w1   w1         as the gradient",
        "moved   [0].mu.w2   w2",
        "scaled  [0].nu.b1   b1         as the square of the gradient",
        "kept    [0].nu.b2   b2",
        "scaled  [0].nu.w1   w1         as the square of the gradient",
        "moved   [0].nu.w2   w2",
    ]


def refuse(state, match, params=None, params2=None, edits=None):
    optimizer, change = optax.adam(0.1), CHANGES["grow"]
    params = mlp(UNITS) if params is None else params
    params2 = moved_mlp(mlp(UNITS), change) if params2 is None else params2
    edits = change.edits if edits is None else edits
    with pytest.raises(ValueError, match=match):
        move_state(optimizer, state, params, params2, edits)


def test_a_state_of_another_optimizer_is_refused():
    refuse(
        optax.sgd(0.1, momentum=0.9).init(mlp(UNITS)),
        r"it has \[0\].trace.b1 \(8,\) where optimizer.init\(params\) gives "
        r"\[0\].count \(\)",
    )
    refuse(optax.novograd(0.1).init(mlp(UNITS)), r"\[0\].nu.b1 \(\) where")
    refuse(optax.adabelief(0.1).init(mlp(UNITS)), "ScaleByBeliefState where .*Adam")
    refuse(optax.sgd(0.1).init(mlp(UNITS)), "it has nothing where")


def test_a_state_of_another_network_is_refused():
    match = r"it has \[0\].mu.b1 \(12,\) where .* gives \[0\].mu.b1 \(8,\)"
    refuse(optax.adam(0.1).init(mlp(12)), match)
    with pytest.raises(ValueError, match=match):
        state_links(optax.adam(0.1), optax.adam(0.1).init(mlp(12)), mlp(UNITS))
    with pytest.raises(ValueError, match=match):
        reset_entries(optax.adam(0.1), optax.adam(0.1).init(mlp(12)), mlp(UNITS), {})


def test_edits_that_do_not_fit_are_refused():
    state, edits = optax.adam(0.1).init(mlp(UNITS)), CHANGES["grow"].edits
    shrinking = CHANGES["shrink"].edits
    refuse(state, r"b1 goes from \(8,\) to \(12,\), but .* to \(5,\)", edits=shrinking)
    refuse(state, r"b1 goes from \(8,\) to \(12,\), but", edits={2: edits[2]})
    refuse(state, r"the edits are for \[0, 2, 3, 7\]", edits={**edits, 7: edits[0]})
    refuse(state, "params has 4 leaves, params2 1", params2={"b1": jnp.ones(12)})


def test_growing_again_traces_nothing():
    calls = {"init": 0, "update": 0}
    adam = optax.adam(0.1)

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    optimizer = Handmade(counted("init", adam.init), counted("update", adam.update))
    params, change = mlp_module(UNITS), CHANGES["grow"]
    state, units = adam.init(params), change.edits
    edits = {0: units[2], 1: units[0], 2: units[3]}
    for _ in range(3):
        move_state(optimizer, state, params, mlp_module(12), edits)
    assert calls == {"init": 1, "update": 0}


def test_caches_keep_no_arrays():
    optimizer, change = optax.adam(0.1), CHANGES["grow"]
    params = mlp(UNITS)
    params2, state = moved_mlp(params, change), optimizer.init(params)
    move_state(optimizer, state, params, params2, change.edits)
    held = (params["w1"], params2["w1"], jax.tree.leaves(state)[1])
    arrays = [*map(weakref.ref, held)]
    del params, params2, state, held
    gc.collect()
    assert [array() for array in arrays] == [None, None, None]


def test_openings_leak_no_tracers():
    optimizer, params = optax.adafactor(0.2, min_dim_size_to_factor=3), mlp(12)
    reset = lambda s, p: reset_entries(optimizer, s, p, {0: jnp.arange(12) > 7})
    with jax.checking_leaks():
        jax.jit(reset)(optimizer.init(params), params)


def test_sixty_four_bits(x64):
    optimizer, change = optax.adagrad(0.1), CHANGES["grow"]
    wide = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
    params, params2 = wide(mlp(UNITS)), wide(moved_mlp(mlp(UNITS), change))
    state = optimizer.init(params)
    moved, _ = move_state(optimizer, state, params, params2, change.edits)
    fresh = optimizer.init(params2)
    assert jax.tree.map(jax.typeof, moved) == jax.tree.map(jax.typeof, fresh)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), moved, fresh))
