"""Newborn pairs that cancel, beside weights that are made smaller."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet_policies import VarianceTransfer

from .helpers import at_rest


X = jr.normal(jr.key(0), (40, 4))
Y = jnp.sin(X[:, :2])


class Convolved(eqx.Module):
    """A convolution over four places, and a readout."""

    first: eqx.nn.Conv1d
    last: eqx.nn.Linear

    def __init__(self):
        keys = jr.split(jr.key(1), 2)
        self.first = eqx.nn.Conv1d(1, 4, 3, padding=1, key=keys[0])
        self.last = eqx.nn.Linear(16, 2, key=keys[1])

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x[None])).reshape(-1))


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def grown(net, policy, **options):
    return at_rest(net, loss, (X, Y), policy, steps=4, **options)


def mlp():
    return eqx.nn.MLP(4, 2, 6, 2, activation=jnp.tanh, key=jr.key(2))


@pytest.mark.parametrize(
    "net, capacity",
    [(mlp(), None), (Convolved(), 16)],
    ids=["perceptron", "conv with room"],
)
def test_pairs_cancel(net, capacity):
    policy = VarianceTransfer(4, every=2, until=11, rescale=False)
    run = grown(net, policy, capacity=capacity)
    old = {n: w.size for n, w in gn.trace(net, X[0]).widths.items()}
    assert run.sizes == {n: size + (11 - size) // 2 * 2 for n, size in old.items()}
    before, after = (jax.vmap(n)(X) for n in (net, run.net))
    np.testing.assert_allclose(before, after, atol=2e-6)


def test_what_newborns_are():
    net = mlp()
    run = grown(net, VarianceTransfer(2, every=4), widths="layers[0]")
    first, second, last = run.net.layers
    made, read = np.asarray(first.weight), np.asarray(second.weight)
    np.testing.assert_array_equal(made[6], made[7])
    np.testing.assert_array_equal(read[:, 6], -read[:, 7])
    assert 0 < np.abs(read[:, 6]).min() and 0 < np.abs(made[6]).min()
    np.testing.assert_array_equal(made[:6], net.layers[0].weight)
    shrunk = np.asarray(net.layers[1].weight) * np.sqrt(6 / 8)
    np.testing.assert_allclose(read[:, :6], shrunk, 1e-6)
    np.testing.assert_array_equal(second.bias, net.layers[1].bias)
    np.testing.assert_array_equal(last.weight, net.layers[2].weight)


def test_variance_stays():
    # Of what reads the width, once the two of a pair have parted.
    net = eqx.nn.MLP(64, 2, 64, 2, key=jr.key(2))
    for times in (1.0, 3.0):
        scaled = eqx.tree_at(
            lambda n: n.layers[1].weight, net, replace_fn=lambda w, c=times: c * w
        )
        wide = grown_wide(scaled, VarianceTransfer(64, every=4))
        old, new = (np.sum(np.square(n.layers[1].weight), 1) for n in (scaled, wide))
        np.testing.assert_allclose(new.mean(), old.mean(), 0.1)


def grown_wide(net, policy):
    data = jr.normal(jr.key(3), (8, 64)), jnp.zeros((8, 2))
    return at_rest(net, loss, data, policy, steps=4, widths="layers[0]").net


def test_what_is_refused():
    with pytest.raises(ValueError, match="add=3; newborns come in pairs"):
        VarianceTransfer(3)
    with pytest.raises(ValueError, match="add=0; a whole number from 2 up"):
        VarianceTransfer(0)

    def call(net, x):
        h = jnp.tanh(net["in"] @ x)
        return net["out"] @ jnp.tanh(net["again"] @ h + h)

    net = {"in": jnp.ones((3, 4)), "again": jnp.ones((3, 3)), "out": jnp.ones((2, 3))}
    anatomy = gn.trace(net, X[0], call=call)
    with pytest.raises(ValueError, match="can't pair units of 'again': 'again' has"):
        VarianceTransfer().init(anatomy, key=jr.key(0))
