"""Whole runs as pure functions, and populations of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .helpers import lenient
from .test_chunks import HostPulse, loss, Pulse, X, Y


STEPS = 83


def predict(net, batch):
    return jax.vmap(net)(batch[0])


def mlp(width=3, seed=0):
    return eqx.nn.MLP(3, 1, width, 1, activation=jnp.tanh, key=jr.key(seed))


def options(**changes):
    given = {"policy": Pulse(), "steps": STEPS, "batch_size": 16, "predict": predict}
    return {"optimizer": lenient(optax.adamw(1e-2)), **given, **changes}


def fit(net, key, **changes):
    return gn.fit(net, loss, (X, Y), key=key, **options(**changes))


def grow(net, key, **changes):
    given = {"capacity": 24, **options(**changes)}
    return gn.grow(net, loss, (X, Y), key=key, **given)


def events(run):
    return [(e.step, e.old, e.new) for e in run.history.events]


def assert_same(run, other, tolerance=1e-4):
    assert events(run) == events(other)
    assert len(run.history.ticks) == len(other.history.ticks)
    assert eqx.tree_equal(run.net, other.net, rtol=tolerance, atol=tolerance)
    for a, b in zip(run.history.ticks, other.history.ticks, strict=True):
        assert (a.step, a.sizes) == (b.step, b.sizes)
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-3, atol=1e-5)


def test_a_whole_run_is_one_program():
    traces = []

    @jax.jit
    def program(key):
        traces.append(key)
        return grow(mlp(), key, valid=(X, Y))

    for seed in (1, 2):
        grown = program(jr.key(seed))
        assert not grown.overflowed and int(grown.state.step) == STEPS
        run = fit(mlp(), jr.key(seed), valid=(X, Y), capacity={"*": 24})
        assert_same(grown.run(), run)
        assert grown.run().history.ticks[-1].valid_loss is not None
    assert len(traces) == 1
    assert events(grown.run())[0] == (5, 3, 5)


def test_members_under_vmap_are_the_runs_they_would_be_alone():
    keys, rates = jr.split(jr.key(3), 3), jnp.array([1e-3, 1e-2, 3e-2])
    targets = jnp.array([2.0, 9.0, 14.0])
    policy = lambda target: GradientSizeWeight(target, 0.1, learning_rate=0.1, every=5)

    def one(key, rate, target):
        net = eqx.nn.MLP(3, 1, 3, 1, activation=jnp.tanh, key=key)
        changes = {"optimizer": lenient(optax.adamw(rate)), "policy": policy(target)}
        return grow(net, key, **changes)

    grown = jax.jit(jax.vmap(one))(keys, rates, targets)
    assert grown.sizes["layers[0]"].shape == (3,)
    runs = grown.runs()
    assert len({run.sizes["layers[0]"] for run in runs}) == 3
    for i, run in enumerate(runs):
        alone = one(keys[i], rates[i], targets[i]).run()
        assert_same(run, alone)
        # It is an ordinary network of its own size.
        assert run.net.layers[0].weight.shape == (run.sizes["layers[0]"], 3)
        assert gn.trace(run.net, X[0]).sizes == run.sizes


def test_a_member_that_needs_more_stops_alone_and_is_reported():
    nets = [mlp(3), mlp(12), mlp(3)]
    keys = jr.split(jr.key(4), 3)
    hyper = {"until": jnp.array([40, 40, 15])}
    given = {
        "policy": lambda h: Until(limit=h["until"]),
        "hyper": hyper,
        "capacity": 20,
    }
    with pytest.warns(UserWarning, match=r"1 of 3 members needed more .* early: 1$"):
        runs = gn.fit_population(nets, loss, (X, Y), keys=keys, **options(**given))
    assert [run.overflowed for run in runs] == [False, True, False]
    assert [int(run.state.step) for run in runs] == [STEPS, 25, STEPS]
    assert repr(runs[1]) == "Run(step=25 (overflowed), layers[0] 20)"
    for i in (0, 2):
        policy = Until(limit=hyper["until"][i])
        alone = fit(nets[i], keys[i], policy=policy, capacity={"*": 20})
        assert_same(runs[i], alone)
    until = fit(
        nets[1],
        keys[1],
        policy=Until(limit=jnp.array(40)),
        steps=25,
        capacity={"*": 20},
    )
    assert eqx.tree_equal(runs[1].net.layers[0].in_features, 3)
    assert events(until)[:4] == events(runs[1])


class Until(Pulse):
    """Pulse whose limit is an array."""

    limit: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(()))

    def step(self, trainable, memory, evidence, *, key):
        shifted = evidence.step - self.limit + self.until
        evidence = eqx.tree_at(lambda e: e.step, evidence, shifted)
        return super().step(trainable, memory, evidence, key=key)


def test_a_member_may_also_stay_within_its_capacity():
    grown = jax.jit(lambda key: grow(mlp(), key, capacity=8, overflow="hold"))(
        jr.key(5)
    )
    run = grown.run()
    assert not run.overflowed and int(run.state.step) == STEPS
    assert max(tick.sizes["layers[0]"] for tick in run.history.ticks) == 8


def test_a_branch_that_no_member_takes_is_not_run():
    from growthnet._runs.members import every_member, where_any

    calls = []

    def act(x):
        jax.debug.callback(lambda: calls.append(1))
        return x + 1

    where = lambda flag, x: where_any(flag, act, lambda x: x, x)
    for flags in ([False] * 4, [False, True, False, False]):
        out = jax.jit(jax.vmap(where))(jnp.array(flags), jnp.zeros(4))
        jax.effects_barrier()
        np.testing.assert_array_equal(out, flags)
        assert bool(calls) == any(flags)
    flags = jnp.array([[True, True], [True, False]])
    assert not jax.vmap(jax.vmap(every_member, out_axes=None), out_axes=None)(flags)


BAD = [
    ({"policy": HostPulse()}, "HostPulse runs on the host"),
    ({"capacity": 2}, "capacity 2 for .* is below its size 3"),
    ({"steps": 0}, "steps=0; a whole number from 1 up"),
    ({"overflow": "grow"}, "overflow='grow'; 'stop' or 'hold'"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("changes, text", BAD)
def test_bad_arguments_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        grow(mlp(), jr.key(0), **changes)


@pytest.mark.usefixtures("unchecked")
def test_impossible_populations_are_refused():
    keys = jr.split(jr.key(0), 2)
    call = lambda nets, keys=keys, **changes: gn.fit_population(
        nets, loss, (X, Y), keys=keys, **options(capacity=24, **changes)
    )
    with pytest.raises(ValueError, match="3 networks and 2 keys"):
        call([mlp()] * 3)
    with pytest.raises(ValueError, match="one PRNG key per member"):
        call(mlp(), keys=jr.key(0))
    with pytest.raises(ValueError, match="its first axis is the 2 members"):
        call(mlp(), hyper={"rate": jnp.ones(3)})
    with pytest.raises(ValueError, match="members 0 and 1 don't become the same"):
        deeper = eqx.nn.MLP(3, 1, 4, 2, key=jr.key(0))
        call([mlp(), deeper])
    with pytest.raises(ValueError, match="inside a program it is a tuple or dict"):
        gn.grow(mlp(), loss, [(X, Y)], key=keys[0], **options(capacity=9))
    grown = jax.vmap(lambda key: grow(mlp(), key))(keys)
    with pytest.raises(ValueError, match=r"a batch of 2 runs; use .runs\(\)"):
        grown.run()
