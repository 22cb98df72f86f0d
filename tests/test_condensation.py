"""Merging units that do the same: exact on duplicates."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._policies.turn import propose
from growthnet.testing import FAMILIES, make_case
from growthnet_policies import Condensation
from growthnet_policies._condensation import _check


X = jr.normal(jr.key(0), (16, 3))
NAME = "layers[0]"


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp(act, depth=1):
    return eqx.nn.MLP(3, 1, 5, depth, activation=act, key=jr.key(0))


def merged(net, anatomy, policy, change=lambda change: change):
    """The network after one decision, and what the policy says of it."""
    grower = gn.Grower(policy, optax.sgd(0.0))
    growing, state = grower.init(net, anatomy, key=jr.key(0))

    @eqx.filter_jit
    def turn(growing, state):
        evidence = gn.Evidence(
            jnp.asarray(1), growing.open, network=growing.net, anatomy=growing.anatomy
        )
        decision, _, _, info = policy.step(None, None, evidence, key=jr.key(1))
        widths = {name: change(c) for name, c in decision.widths.items()}
        return propose(grower, growing, state, gn.Decision(widths)), info

    growing, info = turn(growing, state)
    return growing.compact(), {name: int(n) for name, n in info.items()}


def off(net, other, args, call=None):
    run = call or (lambda net, *args: net(*args))
    pairs = zip(*(jax.tree.leaves(run(n, *args)) for n in (net, other)), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def mergeable(anatomy):
    names = []
    for width in anatomy.all_widths:
        if width.growable and width.gateable != "no":
            try:
                _check(width, "general")
            except ValueError:
                continue
            names.append(width.name)
    return names


# Not: weights that are used twice, and norms over the units.
MERGED = [name for name in FAMILIES if name not in ("autoencoder", "layer_norm")]
OFTEN = ("mlp", "residual", "fused", "factored")
MERGED = [
    name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
    for name in MERGED
]


@pytest.mark.parametrize("family", MERGED)
def test_clones_are_merged_without_a_trace(family):
    case = make_case(family, dtype="float32")
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    names = mergeable(anatomy)
    assert names
    sizes = {name: 2 * anatomy.widths[name].size for name in names}
    edit = gn.plan(anatomy, sizes, init="clone")
    cloned = edit(case.net, key=jr.key(0))
    policy = Condensation(0.9999)
    after = edit.after.only(names)
    net, info = merged(cloned, after, policy)
    assert info == {f"directions/{n}": anatomy.widths[n].size for n in names}
    again = gn.trace(net, *case.args, call=case.call)
    assert {n: again.widths[n].size for n in names} == {
        n: anatomy.widths[n].size for n in names
    }
    assert off(net, case.net, case.args, case.call) < 1e-4


def duplicated(net, factors):
    """Units 1, 2, ... are the first one times a factor, read with other weights."""
    hidden = net.layers[0]
    for unit, factor in enumerate(factors, 1):
        hidden = eqx.tree_at(
            lambda n: (n.weight, n.bias),
            hidden,
            (
                hidden.weight.at[unit].set(factor * hidden.weight[0]),
                hidden.bias.at[unit].set(factor * hidden.bias[0]),
            ),
        )
    return eqx.tree_at(lambda n: n.layers[0], net, hidden)


ALIKE = [
    (jax.nn.relu, "homogeneous", (2.0, 0.5), 3),
    (jax.nn.relu, "homogeneous", (-1.0, 0.5), 4),
    (jnp.tanh, "odd", (-1.0, 1.0), 3),
    (jnp.tanh, "odd", (-1.0, 2.0), 4),
    (jax.nn.gelu, "general", (1.0, 1.0), 3),
    (jax.nn.gelu, "general", (2.0, -1.0), 5),
]


@pytest.mark.parametrize(("act", "kind", "factors", "left"), ALIKE)
def test_each_kind_of_function_merges_what_it_may(act, kind, factors, left):
    net = duplicated(mlp(act, depth=2), factors)
    policy = Condensation(0.999, activation=kind)
    anatomy = gn.trace(net, X[0])
    new, info = merged(net, anatomy, policy)
    assert info == {"directions/layers[0]": left, "directions/layers[1]": 5}
    assert new.layers[0].weight.shape == (left, 3)
    assert off(jax.vmap(net), jax.vmap(new), (X,)) < 1e-5


def forgetful(change):
    """Merges as pruning would: what goes is lost."""
    rewrite = {
        path: jnp.where(jnp.zeros(array.shape, bool), array, OLD[path])
        for path, array in change.rewrite.items()
    }
    return gn.Change(change.keep, 0, rewrite=rewrite)


NET = duplicated(mlp(jax.nn.relu), (2.0, 0.5))
OLD = {"layers[1].weight": jnp.pad(NET.layers[1].weight, ((0, 0), (0, 3)))}


def test_what_reads_the_merged_units_must_take_over():
    policy = Condensation(0.999, activation="homogeneous")
    anatomy = gn.trace(NET, X[0])
    whole, _ = merged(NET, anatomy, policy)
    broken, _ = merged(NET, anatomy, policy, forgetful)
    assert off(jax.vmap(NET), jax.vmap(whole), (X,)) < 1e-5
    assert off(jax.vmap(NET), jax.vmap(broken), (X,)) > 1e-2


def test_the_louder_unit_stays():
    new, _ = merged(NET, gn.trace(NET, X[0]), Condensation(activation="homogeneous"))
    hidden, out = NET.layers
    sizes = np.linalg.norm(np.asarray(hidden.weight), axis=1)
    loudest = np.argmax((sizes * np.abs(np.asarray(out.weight[0])))[:3])
    assert eqx.tree_equal(new.layers[0].weight[0], hidden.weight[loudest])


def fit(net, policy, steps=6):
    target = jax.vmap(net)(X) + 0.1
    return gn.fit(
        net, loss, (X, target), optimizer=optax.set_to_zero(), policy=policy,
        steps=steps, key=jr.key(1),
    )  # fmt: skip


class Host(Condensation):
    on_host = True


HOST: Any = Host


@pytest.mark.parametrize(
    "kind", [Condensation, pytest.param(HOST, marks=pytest.mark.slow)]
)
def test_in_a_run_units_merge_once_it_is_time(kind):
    run = fit(NET, kind(0.999, activation="homogeneous", start=4, every=2))
    assert [t.sizes[NAME] for t in run.history.ticks] == [5, 3, 3]
    (event,) = run.history.events
    assert abs(event.loss_after - event.loss_before) < 1e-5


@pytest.mark.parametrize(("tolerance", "left"), [(1e-3, 5), (1e3, 1)])
def test_merging_that_costs_too_much_is_left_alone(tolerance, left):
    policy = Condensation(1e-6, activation="odd", tolerance=tolerance, every=2)
    assert fit(mlp(jnp.tanh), policy, 2).sizes[NAME] == left


def test_a_loss_is_not_needed_in_your_own_loop():
    grower = gn.Grower(Condensation(every=1), optax.sgd(0.1))
    model, state = grower.init(NET, gn.trace(NET, X[0]), key=jr.key(0))
    assert grower.policy.needs == {"network"} and not state.waiting
    assert int(model.open[NAME].sum()) == 5


def test_widths_that_it_does_not_understand_are_refused():
    call = lambda n, x: n["v"] @ jax.nn.relu(n["s"] * (n["w"] @ x))
    scaled = {"s": jnp.ones(4), "v": jnp.ones((1, 4)), "w": jnp.ones((4, 3))}
    anatomy = gn.trace(scaled, X[0], call=call)
    with pytest.raises(ValueError, match=r"can't merge units of 'w': s axis 0 .*part"):
        merged(scaled, anatomy, Condensation())
    gated = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3)), "v": jnp.ones((1, 4))}
    call = lambda n, x: n["v"] @ (n["a"] @ x * jnp.tanh(n["b"] @ x))
    with pytest.raises(ValueError, match="a, b together; use activation='general'"):
        anatomy = gn.trace(gated, X[0], call=call)
        merged(gated, anatomy, Condensation(activation="odd"))


WRONG = {
    r"threshold=1.5; a likeness in \(0, 1\]": {"threshold": 1.5},
    "activation='relu'; one of 'homogeneous', 'odd', 'gen": {"activation": "relu"},
    "every=0; a whole number from 1 up": {"every": 0},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", WRONG)
def test_bad_arguments_are_refused(message):
    with pytest.raises(ValueError, match=message):
        Condensation(**WRONG[message])
