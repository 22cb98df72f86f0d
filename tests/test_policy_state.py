"""A policy's own optimizer: what it holds about rows of units follows them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn

from .helpers import lenient


X = jr.normal(jr.key(0), (32, 3))
Y = jnp.sin(X[:, :1])


class Loudness(gn.AbstractPolicy):
    """A trained gate for every unit; at step 8 the second unit is replaced and three
    more are born, which needs room."""

    every: int = eqx.field(static=True, default=8)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: optax.GradientTransformation = lenient(optax.adam(1e-2))

    def init(self, anatomy, *, key):
        rows = {
            name: gn.PerUnit(jnp.linspace(0, 1, w.size), name, fill=0.5)
            for name, w in anatomy.widths.items()
        }
        return {"rows": rows, "shift": jnp.zeros(2)}, None

    def gates(self, trainable, anatomy, *, key, train):
        shift = trainable["shift"].sum()
        rows = trainable["rows"].items()
        return {name: jax.nn.sigmoid(row.array + shift) for name, row in rows}

    def step(self, trainable, memory, evidence, *, key):
        now = evidence.step == 8
        changes = {}
        for name, mask in evidence.open.items():
            keep = ~(now & (jnp.arange(mask.size) == 1))
            changes[name] = gn.Change(mask & keep, jnp.where(now, 4, 0))
        return gn.Decision(changes), trainable, memory, {}


def loss(net, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def run(steps, smallest):
    return gn.fit(
        eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jr.key(0)),
        loss,
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=Loudness(),
        steps=steps,
        key=jr.key(1),
        buckets=gn.Buckets(smallest=smallest),
    )


def moments(result):
    adam = result.state.policy_opt_state[0]
    return [np.asarray(m["rows"]["layers[0]"].array) for m in (adam.mu, adam.nu)]


@pytest.mark.parametrize("smallest", [5, 16], ids=["another capacity", "within it"])
def test_moments_of_rows_follow_their_units(smallest):
    before, after = run(7, smallest), run(8, smallest)
    assert after.sizes == {"layers[0]": 7}
    for old, new in zip(moments(before), moments(after), strict=True):
        survivors = [0, 2, 3]
        assert (old[:4] != 0).all() and (new[survivors] != 0).all()
        # The replaced unit and the new ones start over; closed slots hold nothing.
        rest = np.setdiff1d(np.arange(new.size), survivors)
        assert (new[rest] == 0).all()
    rows = np.asarray(after.growing.trainable["rows"]["layers[0]"].array)
    np.testing.assert_array_equal(rows[[1, 4, 5, 6]], 0.5)


def test_room_makes_no_difference():
    tight, roomy = run(30, 5), run(30, 16)
    assert eqx.tree_equal(tight.net, roomy.net, rtol=1e-4, atol=1e-5)
    for one, two in zip(moments(tight), moments(roomy), strict=True):
        np.testing.assert_allclose(one[:7], two[:7], rtol=1e-3, atol=1e-7)
