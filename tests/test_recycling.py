"""Units that do nothing, or little, start anew."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._paths import array_leaves
from growthnet_policies import Recycling

from .helpers import lenient


X = jr.normal(jr.key(0), (16, 3))
Y = jnp.sin(X.sum(-1, keepdims=True))
FIRST = "layers[0]"


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp(depth=1, width=6):
    return eqx.nn.MLP(3, 1, width, depth, activation=jax.nn.relu, key=jr.key(0))


def with_bias(net, values):
    """Units whose bias is far below never speak, those far above nearly always the
    same."""
    where, what = map(jnp.asarray, zip(*values.items(), strict=True))
    hidden = net.layers[0]
    hidden = eqx.tree_at(
        lambda n: (n.weight, n.bias),
        hidden,
        (hidden.weight.at[where].multiply(0.01), hidden.bias.at[where].set(what)),
    )
    return eqx.tree_at(lambda n: n.layers[0], net, hidden)


def fit(net, policy, steps, optimizer=None):
    return gn.fit(
        net, loss, (X, Y), optimizer=optimizer or optax.set_to_zero(), policy=policy,
        steps=steps, key=jr.key(1), capacity={FIRST: 6}, widths=FIRST,
    )  # fmt: skip


DEAD = with_bias(mlp(depth=2), {1: -9.0, 4: -9.0})


def test_dormant_units_start_anew_and_nobody_else():
    run = fit(DEAD, Recycling(0.01, every=2), 2)
    assert run.sizes == {FIRST: 6}
    old, new = DEAD.layers, run.net.layers
    gone = np.isin(np.arange(6), [1, 4])
    assert (np.asarray(new[0].weight[gone]) != np.asarray(old[0].weight[gone])).all()
    assert (np.abs(np.asarray(new[0].bias[gone])) < 1).all()
    assert (np.asarray(new[1].weight[:, gone]) == 0).all()
    assert eqx.tree_equal(new[0].weight[~gone], old[0].weight[~gone])
    assert eqx.tree_equal(new[1].weight[:, ~gone], old[1].weight[:, ~gone])
    assert eqx.tree_equal(new[2], old[2])
    assert np.allclose(loss(run.net, (X, Y), None), loss(DEAD, (X, Y), None))


def test_a_replacement_is_an_event():
    history = fit(DEAD, Recycling(0.01, every=2), 6).history
    (event,) = history.events
    assert (event.step, event.kind, event.old, event.new) == (2, "replaced", 6, 6)
    assert event.closed == 2
    assert "6 -> 6 (2 new)  replaced" in history.table()
    assert str(history).startswith("6 steps, 1 growth events")
    (event,) = fit(DEAD, Recycling(0.01, every=2, refill=False), 4).history.events
    assert (event.kind, event.closed) == ("opened", 2)
    assert (
        "6 -> 4  closed"
        in fit(DEAD, Recycling(0.01, every=2, refill=False), 2).history.table()
    )


def test_the_optimizer_forgets_those_that_went():
    adam = lenient(optax.adam(1e-3))
    run = fit(DEAD, Recycling(0.01, every=4), 4, adam)
    state = array_leaves(run.state.opt_state)
    (path,) = [p for p in state if p.endswith("nu.layers[1].weight")]
    moments = np.asarray(state[path])
    gone = np.isin(np.arange(6), [1, 4])
    assert (moments[:, gone] == 0).all() and moments[:, ~gone].any(axis=0).all()


@pytest.mark.parametrize(
    "threshold", [0.01, pytest.param(0.999, marks=pytest.mark.slow)]
)
def test_without_refill_they_go_but_for_the_last(threshold):
    run = fit(DEAD, Recycling(threshold, refill=False, every=1), 9)
    if threshold == 0.01:
        assert run.sizes == {FIRST: 4}
        assert np.allclose(loss(run.net, (X, Y), None), loss(DEAD, (X, Y), None))
    else:
        assert 1 <= run.sizes[FIRST] < 3


def test_a_constant_unit_that_goes_is_absorbed():
    net = mlp()
    where = lambda n: (n.layers[0].weight, n.layers[0].bias)
    weight, bias = where(net)
    silent = weight.at[2].set(0.0), bias.at[2].set(0.01)
    net = eqx.tree_at(where, net, silent)
    run = fit(net, Recycling(0.1, removal="absorb", refill=False, every=1), 1)
    assert run.sizes[FIRST] == 5
    assert jnp.abs(jax.vmap(run.net)(X) - jax.vmap(net)(X)).max() < 1e-6
    lost = 0.01 * net.layers[1].weight[:, 2]
    assert np.allclose(run.net.layers[1].bias, net.layers[1].bias + lost, atol=1e-7)
    assert abs(float(lost[0])) > 1e-4


def ages(run):
    return np.asarray(run.state.memory[FIRST]["age"].array)


def test_the_least_useful_mature_units_go_at_a_rate():
    net = mlp()
    hidden, out = net.layers
    gives = np.abs(np.asarray(jax.nn.relu(jax.vmap(hidden)(X)))).mean(0)
    gives = gives * np.abs(np.asarray(out.weight[0]))
    worst = np.argsort(gives)
    # Nobody is mature at step 4; from 5 on 6 x 0.1 units are due at each, so one goes
    # at step 6. The newborn isn't mature: 0.2 were left, 5 x 0.1 are due more, twice.
    found = ages(fit(net, Recycling(rate=0.1, maturity=4, every=1), 8))
    expected = np.full(6, 8.0)
    expected[worst[:2]] = 2, 0
    assert (found == expected).all()


def test_a_running_mean_of_utilities_is_kept_by_unit():
    run = fit(mlp(), Recycling(rate=0.0, decay=0.5, every=1), 3)
    hidden, out = mlp().layers
    gives = np.abs(np.asarray(jax.nn.relu(jax.vmap(hidden)(X)))).mean(0)
    gives = gives * np.abs(np.asarray(out.weight[0]))
    utility = np.asarray(run.state.memory[FIRST]["utility"].array)
    assert np.allclose(utility, gives * (1 - 0.5**3), rtol=1e-5)


class Host(Recycling):
    on_host = True


HOW = [
    {"rate": 0.1, "maturity": 2, "decay": 0.9},
    pytest.param({"threshold": 0.4}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("how", HOW)
def test_on_the_host_it_is_the_same_run(how):
    host: Any = Host
    adam = lenient(optax.adam(1e-2))
    runs = [fit(mlp(), kind(every=2, **how), 10, adam) for kind in (Recycling, host)]
    plain = fit(mlp(), gn.NoGrowth(every=2), 10, adam)
    assert eqx.tree_equal(*(run.net for run in runs))
    assert not eqx.tree_equal(runs[0].net, plain.net), "something was replaced"


WRONG: dict[str, Any] = {
    "threshold=None, rate=None; give one of them": {},
    "threshold=0.1, rate=0.1; give one of them": {"threshold": 0.1, "rate": 0.1},
    r"threshold=1.5; it is in \[0, 1\)": {"threshold": 1.5},
    "removal='refit'; 'silence' or 'absorb'": {"rate": 0.1, "removal": "refit"},
    "every=0; a whole number from 1 up": {"rate": 0.1, "every": 0},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", WRONG)
def test_bad_arguments_are_refused(message):
    with pytest.raises(ValueError, match=message):
        Recycling(**WRONG[message])


def test_a_width_of_dead_units_alone_starts_anew_as_a_whole():
    dead = with_bias(mlp(depth=2), dict.fromkeys(range(6), -9.0))
    run = fit(dead, Recycling(0.01, every=2), 2)
    assert run.sizes == {FIRST: 6} and run.history.events[0].closed == 6
    heard = jax.vmap(lambda x: jax.nn.relu(run.net.layers[0](x)))(X)
    assert (heard.max(0) > 0).sum() > 2
    assert np.allclose(loss(run.net, (X, Y), None), loss(dead, (X, Y), None))
