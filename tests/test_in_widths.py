"""Policies for some of the widths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import growthnet as gn
from growthnet.testing import check_policy
from growthnet_policies import GradientSizeWeight, GradMax, Net2Net

from .helpers import lenient


X = jr.normal(jr.key(0), (32, 3))
Y = jnp.sin(X[:, :1])
NET = eqx.nn.MLP(3, 1, 4, 2, activation=jnp.tanh, key=jr.key(0))
FIRST, SECOND = "layers[0]", "layers[1]"


def loss(net, batch, key):
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def fit(policy, optimizer=None, steps=8, **options):
    optimizer = optimizer or lenient(optax.adam(1e-2))
    return gn.fit(NET, loss, (X, Y), optimizer=optimizer, policy=policy, steps=steps,
                  key=jr.key(1), **options)  # fmt: skip


def apart(make):
    """Two units at a time in the first width, one in the second."""
    return gn.chain(gn.in_widths(make(2), FIRST), gn.in_widths(make(1), [SECOND]))


def test_every_width_has_a_policy_of_its_own():
    run = fit(apart(lambda n: GradMax(n, every=4, batches=2)), batch_size=8)
    assert run.sizes == {FIRST: 8, SECOND: 6}


def test_evidence_is_of_these_widths():
    seen = []

    def note(e):
        parts = (e.open, e.sizes, e.anatomy.widths, e.units, e.candidates)
        seen.extend(set(part) for part in (*parts, e.gate_slopes or {FIRST}))
        return jnp.zeros(())

    def look(evidence, key):
        note(evidence)
        note(evidence.on(jax.tree.map(lambda a: a[0], evidence.batches(1))))
        evidence.average(note, 2)
        return {}

    kinds = {"activations", "candidates", "gate_slopes"}
    needs = kinds | {"average", "batches", "on"}
    fit(gn.in_widths(gn.as_policy(look, every=4, needs=needs), FIRST), batch_size=8)
    assert len(seen) >= 18 and all(names == {FIRST} for names in seen)


def test_copies_in_two_widths_leave_the_function_as_it_is():
    run = fit(apart(lambda n: Net2Net(n, every=4)), lenient(optax.set_to_zero()))
    assert run.sizes == {FIRST: 8, SECOND: 6}
    assert jnp.abs(jax.vmap(run.net)(X) - jax.vmap(NET)(X)).max() < 1e-5


def test_gates_and_trainables_are_of_these_widths():
    weight = GradientSizeWeight(target=8, rate=0.2, learning_rate=0.3, every=4)
    run = fit(gn.in_widths(weight, SECOND), steps=24)
    assert run.sizes[FIRST] == 4 and run.sizes[SECOND] > 4
    assert set(run.growing.trainable) == {SECOND}


def test_in_all_widths_it_is_the_policy_itself():
    policy = GradMax(2, every=4)
    one, other = fit(policy), fit(gn.in_widths(policy, "layers*"))
    assert eqx.tree_equal(one.net, other.net)


def test_a_pattern_without_a_width_is_refused():
    with pytest.raises(ValueError, match=r"unknown width 'layers'"):
        fit(gn.in_widths(GradMax(every=4), "layers"))
    with pytest.raises(ValueError, match=r"layers\[1\]"):
        fit(gn.in_widths(GradMax(every=4), SECOND), widths=FIRST)


@pytest.mark.slow
def test_it_keeps_the_rules():
    check_policy(gn.in_widths(Net2Net(every=2), "*"))
