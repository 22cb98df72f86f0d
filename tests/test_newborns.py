"""Newborns of an optimizer: ages, what goes by them, and that nothing else does."""

import math
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._paths import named_leaves
from growthnet.testing import (
    make_case,
    make_optimizer,
    networks,
    Resize,
    resizes,
    same_training,
)
from growthnet.testing._laws_optimizer import _fate

from .helpers import Grow, lenient


RATE = 0.1
WARM = optax.linear_schedule(0.0, 1.0, 8)
TRANSFORMS = {
    "debias_by_age": gn.debias_by_age,
    "scale_by_age": lambda: gn.scale_by_age(WARM),
    "scale_by_stage_norm": gn.scale_by_stage_norm,
}


def adam(*more):
    return lenient(optax.chain(optax.adam(RATE), *more))


def gradients(params, seed, steps):
    """Gradients of all sizes, but none so small that Adam's epsilon counts."""
    rng = np.random.default_rng(seed)

    def draw(p):
        sizes = 10.0 ** rng.uniform(-2, 2, (steps, *p.shape))
        return jnp.asarray(sizes * rng.choice([-1, 1], sizes.shape), p.dtype)

    return jtu.tree_map(draw, params)


def trained(optimizer, params, state, grads, steps, keep=True):
    """The last state, and the updates of every step, over and over the same gradients;
    the parameters stand still."""

    @jax.jit
    def run(state, grads):
        def step(state, i):
            g = jtu.tree_map(lambda g: g[i % len(g)], grads)
            updates, state = optimizer.update(g, state, params)
            return state, updates if keep else None

        return jax.lax.scan(step, state, jnp.arange(steps))

    return run(state, grads)


def mlp(units, seed=0):
    keys = jr.split(jr.key(seed), 2)
    return {"w1": jr.normal(keys[0], (units, 4)), "w2": jr.normal(keys[1], (3, units))}


# --- where nothing is born


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_where_nothing_is_born_adam_is_adam_bit_for_bit(name, dtype):
    params = jtu.tree_map(lambda p: p.astype(dtype), mlp(5) | {"scalar": jnp.ones(())})
    grads = gradients(params, 0, 12)
    plain, own = adam(), adam(TRANSFORMS[name]())
    _, expected = trained(plain, params, plain.init(params), grads, 12)
    _, found = trained(own, params, own.init(params), grads, 12)
    for a, b in zip(*map(jtu.tree_leaves, (expected, found)), strict=True):
        assert a.dtype == b.dtype == dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# --- the law: a newborn entry is trained as if training began at its birth


BEFORE, AFTER = 4000, 4


def newborn_entries(edit, path, shape):
    born = np.zeros(shape, bool)
    for axis, source in enumerate(_fate(edit, path).sources):
        born |= (source < 0).reshape([-1 if a == axis else 1 for a in range(born.ndim)])
    return born


def newborns_start_afresh(case, resize, optimizer):
    """Old entries get what plain Adam gives them, bit for bit; newborn ones what Adam
    gives that starts at their birth, so first a step of the learning rate."""
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    keep = {name: resize.survivors(anatomy, name) for name in resize.sizes}
    edit = gn.plan(anatomy, resize.sizes, keep=keep, allow_drift=True)
    params = eqx.filter(case.net, eqx.is_inexact_array)
    params2 = eqx.filter(edit(case.net, key=jr.key(0)), eqx.is_inexact_array)
    before = gradients(params, resize.seed, 10)
    after = gradients(params2, resize.seed + 1, AFTER)

    def updates(optimizer):
        state = optimizer.init(params)
        state, _ = trained(optimizer, params, state, before, BEFORE, keep=False)
        moved = edit.transfer(optimizer, state, params, params2)
        return trained(optimizer, params2, moved, after, AFTER)[1]

    plain = adam()
    afresh = trained(plain, params2, plain.init(params2), after, AFTER)[1]
    trees = updates(optimizer), updates(plain), afresh
    leaves = zip(*map(jtu.tree_leaves, trees), strict=True)
    names, count = [name for name, _ in named_leaves(params2)], 0
    for path, arrays in zip(names, leaves, strict=True):
        own, old, new = map(np.asarray, arrays)
        born = newborn_entries(edit, path, own.shape[1:])
        same = np.where(born, 0, own).tobytes() == np.where(born, 0, old).tobytes()
        assert same, f"{path}: old entries are touched"
        first = np.abs(own[0][born]).max(initial=0)
        assert first <= RATE * (1 + 1e-4), f"{path}: a first step of {first}"
        np.testing.assert_allclose(own[:, born], new[:, born], 2e-4, err_msg=path)
        count += born.sum()
    return count


@hypothesis.settings(max_examples=4)
@hypothesis.given(st.data())
def test_newborns_start_afresh(data):
    case = data.draw(networks(dtypes=["float32"]))
    resize = data.draw(resizes(case, kind="any"))
    newborns_start_afresh(case, resize, adam(gn.debias_by_age()))


def an_example():
    return make_case("mlp", act="tanh", dtype="float32"), Resize({"layers[0]": 5})


def test_plain_adam_is_caught():
    case, resize = an_example()
    assert newborns_start_afresh(case, resize, adam(gn.debias_by_age())) > 0
    with pytest.raises(AssertionError, match="a first step of 0.3"):
        newborns_start_afresh(case, resize, adam())


@pytest.mark.parametrize("older, said", [(0, "old entries"), (BEFORE, "first step")])
def test_wrong_ages_are_caught(older, said):
    case, resize = an_example()
    right: Any = gn.debias_by_age()

    def update(updates, state, params=None):
        aged = lambda own: jnp.where(own < BEFORE, own + older, own)
        count = state.count + (older == 0)
        wrong = state._replace(count=count, ages=jtu.tree_map(aged, state.ages))
        return right.update(updates, wrong)[0], right.update(updates, state)[1]

    wrong = optax.GradientTransformation(right.init, update)
    with pytest.raises(AssertionError, match=said):
        newborns_start_afresh(case, resize, adam(wrong))


# --- inside programs, and at edits


@pytest.mark.parametrize("how", ["in a program", "by edits", "both"])
def test_ages_count_from_birth(how):
    data = jr.normal(jr.key(0), (32, 4)), jnp.zeros((32, 3))
    loss = lambda net, batch, key: jnp.mean(
        (jnp.tanh(batch[0] @ net["w1"].T) @ net["w2"].T - batch[1]) ** 2
    )
    given: Any = dict(optimizer=adam(gn.debias_by_age()), policy=Grow(), steps=12)
    given |= dict(key=jr.key(1), batch_size=8, widths="w1")
    if how == "in a program":
        state = jax.jit(
            lambda: gn.grow(mlp(3), loss, data, capacity=8, **given)
        )().state
    else:
        room = gn.Buckets(ratio=1) if how == "by edits" else gn.Buckets(smallest=4)
        state = gn.fit(mlp(3), loss, data, buckets=room, **given).state
    own = state.opt_state[1]
    assert own.count == 12
    rows, columns = own.ages["w1"]
    outputs, hidden = own.ages["w2"]
    np.testing.assert_array_equal(rows[:7], [12, 12, 12, 7, 7, 2, 2])
    np.testing.assert_array_equal(hidden[:7], [12, 12, 12, 7, 7, 2, 2])
    assert set(columns.tolist()) == set(outputs.tolist()) == {12}


def test_openings_train_as_edits_do():
    with jax.enable_x64(True):
        case = make_case("mlp", act="tanh", dtype="float64")
        resize = Resize({"layers[0]": 5, "layers[1]": 4})
        same_training(case, resize, make_optimizer("adam_by_age"))


def test_layers_are_born_too():
    net = eqx.nn.MLP(4, 2, 6, 2, key=jr.key(0))
    anatomy = gn.trace(net, jnp.ones(4))
    optimizer = adam(gn.debias_by_age())
    params = eqx.filter(net, eqx.is_inexact_array)
    state, _ = trained(
        optimizer, params, optimizer.init(params), gradients(params, 0, 3), 3
    )
    edit = gn.plan_deepen(anatomy, "layers[1]")
    params2 = eqx.filter(edit(net, key=jr.key(1)), eqx.is_inexact_array)
    moved = edit.transfer(optimizer, state, params, params2)
    assert jtu.tree_structure(moved) == jtu.tree_structure(optimizer.init(params2))
    ages = [set(np.concatenate(own.weight).tolist()) for own in moved[1].ages.layers]
    assert sorted(ages, key=min) == [{0}, {3}, {3}, {3}]


# --- warming up


@pytest.mark.parametrize(
    "schedule",
    [
        WARM,
        optax.constant_schedule(0.5),
        optax.cosine_decay_schedule(1.0, 6),
        optax.join_schedules([WARM, optax.constant_schedule(2.0)], [4]),
        optax.piecewise_constant_schedule(1.0, {3: 0.1}),
    ],
    ids=["linear", "constant", "cosine", "joined", "piecewise"],
)
def test_factors_are_the_schedule_at_each_age(schedule):
    transform: Any = lenient(gn.scale_by_age(schedule))
    params = {"w": jnp.ones((3, 2))}
    ages = (jnp.array([9, 4, 0]), jnp.array([9, 7]))
    state = transform.init(params)._replace(count=jnp.array(9), ages={"w": ages})
    updates, after = transform.update(params, state)
    at = lambda age: 1.0 if age == 9 else float(schedule(age))
    want = [[at(min(a, b)) for b in (9, 7)] for a in (9, 4, 0)]
    np.testing.assert_allclose(updates["w"], want, 1e-6)
    np.testing.assert_array_equal(after.ages["w"][0], [10, 5, 1])


def test_missing_updates_and_masks():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    transform: Any = gn.debias_by_age()
    updates, _ = transform.update({"a": None, "b": params["b"]}, transform.init(params))
    assert updates["a"] is None
    masked: Any = optax.masked(transform, {"a": True, "b": False})
    state = masked.init(params)
    assert len(jtu.tree_leaves(state)) == 2
    assert masked.update(params, state)[0]["b"] is params["b"]


# --- stages


def stage_rates(units, stages):
    """By hand: units are born at these stages; everything else was there."""
    params = mlp(units)
    born = np.asarray(stages)
    norm = lambda k: math.sqrt(
        np.sum(np.square(params["w1"])[born == k])
        + np.sum(np.square(params["w2"])[:, born == k])
    )
    return params, born, [norm(k) / norm(1) for k in (1, 2, 3)]


def test_rates_are_norms_of_stages():
    params, born, rates = stage_rates(6, [1, 1, 1, 2, 3, 3])
    transform: Any = gn.scale_by_stage_norm(stages=4)
    state = transform.init(params)
    count = jnp.array(3, jnp.int32)
    own = jnp.asarray(born, jnp.int32)
    state = state._replace(
        count=count,
        stages={
            "w1": (own, jnp.ones(4, jnp.int32)),
            "w2": (jnp.ones(3, jnp.int32), own),
        },
    )
    ones = jtu.tree_map(jnp.ones_like, params)
    updates, after = transform.update(ones, state, params)
    want = np.asarray(rates)[born - 1]
    np.testing.assert_allclose(updates["w1"], np.tile(want[:, None], (1, 4)), 1e-5)
    np.testing.assert_allclose(updates["w2"], np.tile(want, (3, 1)), 1e-5)
    assert after.count == 3
    # Two births more: the first is a stage of its own, the second counts as the same.
    for unit in (4, 5):
        reborn = {
            "w1": (after.stages["w1"][0].at[unit].set(0), after.stages["w1"][1]),
            "w2": (after.stages["w2"][0], after.stages["w2"][1].at[unit].set(0)),
        }
        _, after = transform.update(ones, after._replace(stages=reborn), params)
        assert after.count == 4
    np.testing.assert_array_equal(after.stages["w1"][0], [1, 1, 1, 2, 4, 4])


def test_a_stage_without_weights_keeps_the_rate():
    params = {"b": jnp.ones(3), "w": jnp.zeros((3, 2))}
    transform: Any = gn.scale_by_stage_norm()
    state = transform.init(params)
    _, state = transform.update(params, state, params)
    newborn = {"b": (jnp.array([1, 1, 0], jnp.int32),), "w": state.stages["w"]}
    ones = jtu.tree_map(jnp.ones_like, params)
    updates, _ = transform.update(ones, state._replace(stages=newborn), params)
    np.testing.assert_array_equal(updates["b"], 1)


# --- what is refused


def test_what_is_refused():
    ages: Any = gn.scale_by_age(lambda age: jnp.ones(7))
    with pytest.raises(ValueError, match=r"shape \(7,\) for ages of shape \(3,\)"):
        ages.update(jnp.ones(3), ages.init(jnp.ones(3)))
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match="b2=.* at least 0 and below 1"):
            gn.debias_by_age(b2=rate)
    with pytest.raises(ValueError, match="stages=1; two or more"):
        gn.scale_by_stage_norm(1)
    stages: Any = gn.scale_by_stage_norm()
    with pytest.raises(ValueError, match="with the parameters"):
        stages.update(jnp.ones(3), stages.init(jnp.ones(3)))
