"""Published growth rules: what their newborns are, on layers of several kinds."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from growthnet_policies import GradMax

from .helpers import at_rest


X = jr.normal(jr.key(0), (40, 4))
Y = jnp.sin(X[:, :2] @ jnp.ones((2, 2)))


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def grown(net, policy, data=(X, Y), steps=2, **options):
    return at_rest(net, loss, data, policy, steps, **options)


def mlp(activation=jnp.tanh):
    return eqx.nn.MLP(4, 2, 5, 1, activation=activation, key=jr.key(2))


def test_gradmax_newborns_have_the_largest_gradient():
    net = mlp()
    run = grown(net, GradMax(2, every=2, until=7, epsilon=0.0))
    assert run.sizes == {"layers[0]": 7}
    hidden, out = run.net.layers
    assert (np.asarray(hidden.weight[5:]) == 0).all()
    assert (np.asarray(hidden.bias[5:]) == 0).all()
    assert np.isclose(loss(run.net, (X, Y), None), loss(net, (X, Y), None), atol=1e-6)
    size = np.linalg.norm(np.asarray(net.layers[1].weight), axis=0).mean()
    assert np.allclose(np.linalg.norm(np.asarray(out.weight[:, 5:]), axis=0), size)

    def norms(v):
        """The newborns' gradients, for other outgoing weights."""
        other = eqx.tree_at(
            lambda n: n.layers[1].weight, run.net, out.weight.at[:, 5:].set(v)
        )
        gradient = eqx.filter_grad(loss)(other, (X, Y), None).layers[0].weight[5:]
        return jnp.sum(gradient**2)

    turns = jr.normal(jr.key(3), (30, 2, 2))
    orthogonal = jax.vmap(lambda t: jnp.linalg.qr(t)[0])(turns) * size
    best = norms(out.weight[:, 5:])
    single = jax.vmap(lambda q: norms(q.at[:, 1].set(0.0)))(orthogonal)
    first = norms(out.weight[:, 5:].at[:, 1].set(0.0))
    assert (single <= first * 1.0001).all() and single.min() < 0.9 * first
    assert (jax.vmap(norms)(orthogonal) <= best * 1.0001).all()


def test_gradmax_newborns_are_not_dead_where_inputs_are_positive():
    """Their gradient is the largest either way round, but a relu has a slope on one
    side alone."""
    said = []
    for seed in (3, 5):
        net = eqx.nn.MLP(4, 2, 5, 2, activation=jax.nn.relu, key=jr.key(seed))
        run = grown(net, GradMax(1, every=2), widths="layers[1]")
        first, second, _ = run.net.layers
        heard = jax.vmap(lambda x, n=(first, second): n[1](jax.nn.relu(n[0](x))))(X)
        said.append(heard[:, 5].max() > 0)
    assert len(said) == 2 and all(said)


class Net(eqx.Module):
    """Layers, and what stands between them."""

    layers: list
    between: Callable = eqx.field(static=True)

    def __call__(self, x):
        first, second = self.layers
        return second(self.between(first(x))).reshape(-1)[:2]


def convolutions():
    keys = jr.split(jr.key(4), 2)
    layers = [
        eqx.nn.Conv1d(1, 3, 3, padding=1, key=keys[0]),
        eqx.nn.Conv1d(3, 1, 3, key=keys[1]),
    ]
    net = Net(layers, jax.nn.gelu)
    return net, (X[:, None, :], Y)


@pytest.mark.parametrize("policy", [GradMax(1, every=2, epsilon=0.0)])
def test_newborns_of_a_convolution_follow_its_gradient(policy):
    net, data = convolutions()
    run = grown(net, policy, data)
    assert run.sizes == {"layers[0]": 4}
    weight = run.net.layers[0].weight
    gradient = lambda net: eqx.filter_grad(loss)(net, data, None).layers[0].weight
    own = jnp.linalg.norm(gradient(run.net)[3])
    size = jnp.linalg.norm(run.net.layers[1].weight[:, 3])

    def other(v):
        v = v / jnp.linalg.norm(v) * size
        net = eqx.tree_at(
            lambda n: n.layers[1].weight,
            run.net,
            run.net.layers[1].weight.at[0, 3].set(v),
        )
        return jnp.linalg.norm(gradient(net)[3])

    others = jax.vmap(other)(jr.normal(jr.key(5), (50, 3)))
    assert (np.asarray(weight[3]) == 0).all()
    assert (others <= own * 1.0001).all() and others.max() > 0.8 * own


class Gated(eqx.Module):
    up: eqx.nn.Linear
    gate: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        return self.down(self.up(x) * jax.nn.sigmoid(self.gate(x)))


def test_what_the_theory_does_not_speak_of_is_refused():
    keys = jr.split(jr.key(4), 3)
    gated = Gated(
        eqx.nn.Linear(4, 5, key=keys[0]),
        eqx.nn.Linear(4, 5, key=keys[1]),
        eqx.nn.Linear(5, 2, key=keys[2]),
    )
    with pytest.raises(ValueError, match="GradMax .* 'up' .*several contractions"):
        grown(gated, GradMax())
    net, data = convolutions()
    pooled = eqx.tree_at(
        lambda n: n.layers[1], net, eqx.nn.Conv1d(3, 2, 2, key=keys[0])
    )
    pool = eqx.nn.AvgPool1d(2, 2)
    pooled = Net(pooled.layers, lambda z: pool(jnp.tanh(z)))
    with pytest.raises(ValueError, match=r"GradMax .* 'layers.0.' .*a pooling"):
        grown(pooled, GradMax(), data)
