"""TINY: what its units gain, and what it moves of the layer that reads them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from growthnet_policies import Tiny

from .helpers import at_rest


X = jr.normal(jr.key(0), (60, 4))
Y = jnp.sin(X[:, :2] @ jnp.asarray([[1.0, 2.0], [1.0, 2.0]]))


def loss(net, batch, key):
    del key
    return jnp.mean(jnp.sum((jax.vmap(net)(batch[0]) - batch[1]) ** 2, axis=1))


def mlp(**options):
    options = {"activation": jnp.tanh, "key": jr.key(2), **options}
    return eqx.nn.MLP(4, 2, 5, 1, **options)


class Noted(Tiny):
    """Remembers the gain."""

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, jnp.zeros(())

    def step(self, trainable, memory, evidence, *, key):
        decision, *_, info = super().step(trainable, memory, evidence, key=key)
        return decision, trainable, info["gain/layers[0]"], info


# Its fields aren't its arguments: these are `Tiny`'s.
noted: Any = Noted


def run_of(net, policy, data=(X, Y), steps=1):
    return at_rest(net, loss, data, policy, steps)


def units(net):
    return jnp.tanh(jax.vmap(net.layers[0])(X))


@pytest.mark.parametrize("move", [False, True])
def test_the_loss_falls_at_the_rate_that_is_promised(move):
    """To first order, by what outputs move along -g; along what the old units can't
    reach of it that is the gain."""
    amplitude = 1e-3
    with jax.enable_x64(True):
        cast = lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a
        net, x, y = jax.tree.map(cast, mlp(key=jr.key(3))), cast(X), cast(Y)
        policy = noted(2, every=1, amplitudes=(amplitude,), move=move)
        run = run_of(net, policy, (x, y))
        assert run.sizes == {"layers[0]": 7}
        wanted = -2 * (jax.vmap(net)(x) - y)
        h = jnp.tanh(jax.vmap(net.layers[0])(x))
        h = jnp.concatenate([h, jnp.ones((len(x), 1))], axis=1)
        reached = h @ jnp.linalg.lstsq(h, wanted)[0]
        first, last = run.net.layers
        incoming = jnp.concatenate([first.weight[5:], first.bias[5:, None]], axis=1)
        inputs = jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)
        born = inputs @ incoming.T @ last.weight[:, 5:].T / amplitude
        along = lambda a, b: float(jnp.mean(jnp.sum(a * b, axis=1)))
        assert np.isclose(along(born, wanted - reached), float(run.state.memory))
        rate = along(born + reached if move else born, wanted)
        fell = float(loss(net, (x, y), None) - loss(run.net, (x, y), None))
    assert np.isclose(fell / amplitude, rate, rtol=1e-2, atol=2e-3)


def test_a_whole_move_is_least_squares():
    """Under the mean square the loss is quadratic in the last layer: half the way that
    its gradient asks for ends at the best weights for these units."""
    net = mlp()
    run = run_of(net, Tiny(every=1, until=5, amplitudes=(0.5,), move=True))
    assert run.sizes == {"layers[0]": 5}
    assert (run.net.layers[0].weight == net.layers[0].weight).all()
    rest = jax.vmap(run.net)(X) - Y
    assert np.allclose(units(net).T @ rest, 0, atol=2e-4)
    assert np.allclose(rest.sum(0), 0, atol=1e-4)
    assert loss(run.net, (X, Y), None) < 0.9 * loss(net, (X, Y), None)


def test_nothing_moves_where_it_does_not_pay():
    net = mlp()
    run = run_of(net, Tiny(2, every=1, amplitudes=(1e4,), move=True))
    assert run.sizes == {"layers[0]": 5}
    assert eqx.tree_equal(run.net, net)


def test_without_biases_only_weights_move():
    net = mlp(use_final_bias=False)
    with pytest.raises(ValueError, match=r"has no\s+bias to be moved; use biased"):
        run_of(net, Tiny(every=1, move=True))
    run = run_of(
        net, Tiny(every=1, until=5, amplitudes=(0.5,), move=True, biased=False)
    )
    rest = jax.vmap(run.net)(X) - Y
    assert np.allclose(units(net).T @ rest, 0, atol=2e-4)


def test_several_batches_speak_as_one():
    """Halves of the data, in turn, give the whole data's newborns."""
    net, policy = mlp(), Tiny(2, every=2, move=True, batches=2)
    halves = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    run = run_of(net, policy, halves, steps=2)
    once = run_of(net, Tiny(2, every=1, move=True))
    assert run.sizes == once.sizes == {"layers[0]": 7}
    for a, b in zip(
        jax.tree.leaves(eqx.filter(run.net, eqx.is_array)),
        jax.tree.leaves(eqx.filter(once.net, eqx.is_array)),
        strict=True,
    ):
        assert np.allclose(a, b, rtol=1e-3, atol=1e-4)
