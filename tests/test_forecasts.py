"""What policies say of their growth beforehand, and the room that is made for it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from hypothesis import given, settings, strategies as st

import growthnet as gn
from growthnet._policies.capacities import Ahead, Capacities
from growthnet._runs.first_room import make_first_room
from growthnet_policies import GradientSizeWeight, GradMax, Net2Net, VarianceTransfer

from .helpers import lenient


X = jr.normal(jr.key(0), (40, 3))
Y = jnp.sin(2 * X.sum(1, keepdims=True))


def loss(net, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def mlp(width, depth=1):
    return eqx.nn.MLP(3, 1, width, depth, activation=jnp.tanh, key=jr.key(0))


def run(policy, steps, net=None, **options):
    return gn.fit(
        mlp(3) if net is None else net,
        loss,
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=policy,
        steps=steps,
        key=jr.key(1),
        **options,
    )


def sizes_at(result, name):
    """Units by step: after each tick."""
    return {tick.step: tick.sizes[name] for tick in result.history.ticks}


# --- they come true


@pytest.mark.parametrize(
    "policy",
    [
        GradMax(2, every=5, until=9),
        GradMax(every=5),
        Net2Net(3, every=4, until=10),
        Net2Net(2, every=5, until=1),
        VarianceTransfer(2, every=6, until=8),
        gn.during(Net2Net(2, every=5), 10, 26),
        gn.during(Net2Net(1, every=2), 4, 10, period=20),
        gn.in_widths(Net2Net(2, every=5), "layers[1]"),
        gn.chain(gn.during(GradMax(every=5), 0, 15), gn.during(Net2Net(every=5), 15)),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_regular_growth_is_as_forecast(policy):
    net = mlp(3, 2)
    result, anatomy = run(policy, 40, net), gn.trace(net, X[0])
    for tick in result.history.ticks:
        said = policy.forecast(anatomy, tick.step)
        wrong = {n: (u, tick.sizes[n]) for n, u in said.items() if u != tick.sizes[n]}
        assert said and not wrong, tick.step


@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(2, 6),
    target=st.integers(2, 24),
    rate=st.sampled_from([0.02, 0.1]),
    spare=st.integers(0, 2),
)
def test_a_size_weight_that_data_cant_move_is_as_forecast(size, target, rate, spare):
    policy = GradientSizeWeight(
        target, rate, learning_rate=0.2, every=3, spare=spare, data_gradient=False
    )
    result, anatomy = run(policy, 150, mlp(size)), gn.trace(mlp(size), X[0])
    for step, units in sizes_at(result, "layers[0]").items():
        # Births come up to one decision late; a size that falls keeps a unit more.
        said = [policy.forecast(anatomy, s)["layers[0]"] for s in (step - 3, step)]
        slack = 2 + spare
        assert min(said) - slack <= units <= max(said) + slack, step


@pytest.mark.parametrize(
    "policy",
    [
        GradientSizeWeight(),
        GradientSizeWeight(9, optimizer=optax.adam(1e-2)),
        GradientSizeWeight(9, learning_rate=jnp.asarray(0.1)),
        gn.within_budget(Net2Net(), units=30),
        gn.on_plateau(Net2Net()),
        gn.during(gn.provided(Net2Net(), lambda evidence, key: True), 0, 9),
    ],
)
def test_what_isnt_known_isnt_said(policy):
    assert policy.forecast(gn.trace(mlp(3), X[0]), 100) == {}


class Says(gn.AbstractPolicy):
    """Says what it was told to, and decides nothing."""

    said: Any
    every: int = eqx.field(static=True, default=3)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def forecast(self, anatomy, steps):
        return self.said

    def step(self, trainable, memory, evidence, *, key):
        return gn.Decision(), trainable, memory, {}


@pytest.mark.parametrize("said", [{"nobody": 3}, {"layers[0]": -1.0}])
@pytest.mark.parametrize("bad", [jnp.asarray(3), float("nan"), "5"])
def test_a_forecast_that_isnt_one_is_named(said, bad):
    for wrong in (said, {"layers[0]": bad}):
        with pytest.raises(ValueError, match="Says.forecast (says|speaks of)"):
            run(Says(said=wrong), 5)


# --- the room for them


def made(policy, steps, width=8, loss=loss):
    capacities, net = Capacities(None, None), mlp(width)
    anatomy = gn.trace(net, X[0])
    make_first_room(capacities, policy, anatomy, net, loss, (X, Y), steps, jr.key(0))
    return capacities, capacities.first(policy, anatomy)["layers[0]"]


def test_what_is_soon_there_has_room_at_once():
    soon = GradientSizeWeight(64, 0.1, learning_rate=1e-2)
    late = GradientSizeWeight(64, 0.1, learning_rate=1e-9)
    for policy, slots in ((soon, 64), (late, 16), (Net2Net(until=64, every=10**6), 16)):
        capacities, first = made(policy, 10**8)
        assert capacities.buckets.smallest < 16, "no room but by the forecast"
        assert first == slots, policy
        assert (capacities.ahead is None) == (slots == 16)
    # Growth without an end has room for what comes while it is cheap, and no more.
    assert 64 < made(Net2Net(every=1_000), 10**8)[1] < 100_000


def test_a_loss_of_unknown_work_gets_no_room_by_forecast():
    def endless(net, batch, key):
        value = loss(net, batch, key)
        return jax.lax.while_loop(lambda v: v > 1e9, lambda v: v / 2, value)

    policy = Net2Net(until=64, every=10)
    assert made(policy, 10**6)[0].ahead is not None
    assert made(policy, 10**6, loss=endless)[0].ahead is None


@pytest.fixture
def only_by_forecast(monkeypatch):
    """Tests' networks are so small that they have room for everything otherwise."""
    monkeypatch.setattr("growthnet._runs.first_room.LARGEST", 1)


@pytest.mark.usefixtures("only_by_forecast")
def test_a_run_that_grows_as_forecast_is_one_program():
    policy = GradientSizeWeight(20, 0.1, learning_rate=0.2, every=5)
    result = run(policy, 200)
    assert result.sizes == {"layers[0]": 20}
    assert [e.kind for e in result.history.events] == ["opened"] * 17
    assert result.history.ticks[-1].traces == 1
    known = run(policy, 200, buckets=gn.Buckets())
    assert known.history.ticks[-1].traces == 4, "at 4, 8, 16 and 32"
    assert eqx.tree_equal(result.net, known.net, rtol=1e-3, atol=1e-4)


def ahead_of(result):
    assert result.position is not None
    return result.position.ahead


def broken(**options):
    """Sixty units were said to come soon, and none does."""
    return run(Says(said={"layers[0]": 60}), 60, **options)


@pytest.mark.usefixtures("only_by_forecast")
def test_room_for_units_that_dont_come_is_given_back():
    result = broken(chunk=1)
    assert ahead_of(result) == Ahead({"layers[0]": 60}, 33)
    assert result.growing.open["layers[0]"].size < 16
    traces = {tick.step: tick.traces for tick in result.history.ticks}
    assert [traces[s] for s in (3, 30, 33, 60)] == [1, 1, 2, 2]


@pytest.mark.usefixtures("only_by_forecast")
def test_when_room_is_given_back_doesnt_depend_on_chunks():
    whole = broken()
    # Ticks know of programs when their chunk has returned.
    plain = lambda run: [
        dataclasses.replace(tick, seconds=0.0, traces=0) for tick in run.history.ticks
    ]
    for other in (broken(chunk=1), broken(chunk=7)):
        assert eqx.tree_equal(whole.net, other.net)
        assert eqx.tree_equal(whole.state.opt_state, other.state.opt_state)
        assert plain(whole) == plain(other)


@pytest.mark.usefixtures("only_by_forecast")
@pytest.mark.parametrize("stop", [12, 33, 45])
def test_a_run_that_goes_on_knows_what_it_waits_for(stop, tmp_path):
    whole, policy = broken(), Says(said={"layers[0]": 60})
    run(policy, stop, checkpoint=tmp_path)
    result = run(policy, 60, checkpoint=tmp_path)
    assert eqx.tree_equal(whole.net, result.net)
    assert ahead_of(result) == ahead_of(whole)
    assert result.history.ticks[-1].traces == 2


@pytest.mark.usefixtures("only_by_forecast")
def test_room_that_was_asked_for_stays():
    result = broken(capacity=64)
    assert result.growing.open["layers[0]"].size == 64
    assert result.history.ticks[-1].traces == 1
    less = broken(capacity=8)
    assert less.growing.open["layers[0]"].size == 8
    assert ahead_of(less) is None, "where somebody has decided, no forecast counts"
    held = broken(max_traces=1)
    assert held.growing.open["layers[0]"].size == 64


class Grows(Says):
    """One unit more at every decision, up to nine, whatever it said."""

    def step(self, trainable, memory, evidence, *, key):
        changes = {
            name: gn.Change(mask, jnp.clip(9 - mask.sum(), 0, 1))
            for name, mask in evidence.open.items()
        }
        return gn.Decision(changes), trainable, memory, {}


@settings(max_examples=6, deadline=None)
@given(units=st.integers(0, 200))
def test_no_forecast_changes_what_a_run_does(units):
    policy = Grows(said={"layers[0]": units})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("growthnet._runs.first_room.LARGEST", 1)
        result = run(policy, 75)
    known = run(policy, 75, buckets=gn.Buckets())
    assert result.sizes == known.sizes == {"layers[0]": 9}
    happened = [(e.step, e.old, e.new) for e in result.history.events]
    assert happened == [(e.step, e.old, e.new) for e in known.history.events]
    assert eqx.tree_equal(result.net, known.net, rtol=1e-3, atol=1e-4)
    # In the end it has the room that nine units have on the ladder.
    assert result.growing.open["layers[0]"].size == 16
