"""SENN: scores are those of natural gradients, and tell when to grow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet.testing import make_case
from growthnet_policies import SENN
from growthnet_policies._kronecker import best_of, layer_of
from growthnet_policies._senn import _chance, _weights

from .pruning_cases import evidence_of, square
from .test_splitting import fine, networks


def mlp(width=4, outputs=2, **options):
    return eqx.nn.MLP(
        3, outputs, width, 1, activation=jnp.tanh, key=jr.key(0), **options
    )


def points(count, outputs=2):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((count, 3)))
    return x, jnp.asarray(rng.standard_normal((count, outputs)))


RIDGE = 1e-3
NEEDS = ("activations", "output_cotangents", "candidates", "network")


def seen(net, data, count, capacity=9):
    """The layer that reads the width, and proposals: what they say; scores with them
    one by one, and what `best_of` picks."""

    def use(evidence):
        layer = layer_of(evidence, "layers[0]", RIDGE)
        candidates = evidence.candidates["layers[0]"]
        rows = candidates.drawn(count, jr.key(2))
        said = candidates.activations(rows)
        order, more = best_of(*layer.beside(said), count)
        return rows, layer.score, layer.alone(said), order, more, layer.outputs

    return evidence_of(net, square, data, NEEDS, capacity, use)


def score(values, cotangents, ridges):
    """g' F^-1 g with F a Kronecker product, written out."""
    moment = lambda v, ridge: v.T @ v / len(v) + ridge * np.eye(v.shape[1])
    matrix = np.kron(moment(values, ridges[0]), moment(cotangents, ridges[1]))
    gradient = (values.T @ cotangents / len(values)).reshape(-1)
    return gradient @ np.linalg.solve(matrix, gradient)


def test_scores_are_those_of_the_whole_matrix():
    with fine():
        net, (x, y) = mlp(), points(40)
        rows, present, alone, order, more, outputs = seen(net, (x, y), 5)
        assert int(outputs) == 2
        first, second = net.layers
        x, y = np.asarray(x), np.asarray(y)
        hidden = np.tanh(x @ np.asarray(first.weight).T + np.asarray(first.bias))
        ones = np.ones((len(x), 1))
        made = {path: np.asarray(row) for path, row in rows.items()}
        said = np.tanh(x @ made["layers[0].weight"].T + made["layers[0].bias"].T)
        given = hidden @ np.asarray(second.weight).T + np.asarray(second.bias)
        cotangents = np.asarray(2 * (given - y) / len(x))
        units = np.concatenate([hidden, ones], axis=1)
        ridges = [RIDGE * np.mean(v**2) for v in (units, cotangents)]
        with_ = lambda *more: score(
            np.concatenate([units, *(said[:, [i]] for i in more)], 1),
            cotangents,
            ridges,
        )
        np.testing.assert_allclose(present, with_(), rtol=1e-9)
        gains = [with_(i) - with_() for i in range(5)]
        np.testing.assert_allclose(alone, gains, rtol=1e-6)
        # The best one after the other, each beside those before.
        chosen = []
        for best, gain in zip(np.asarray(order), more, strict=True):
            others = [i for i in range(5) if i not in chosen]
            now = {i: with_(*chosen, i) - with_(*chosen) for i in others}
            assert max(now, key=lambda i: now[i]) == best
            np.testing.assert_allclose(gain, now[best], rtol=1e-6)
            chosen.append(best)


def test_where_products_are_exact_scores_are_those_of_examples():
    """One output that is wrong by 1 everywhere: then the Fisher matrix of the weights,
    from the gradients of single examples, is a Kronecker product."""
    with fine():
        net, (x, _) = mlp(outputs=1, use_final_bias=False), points(40)
        signs = np.where(np.arange(40)[:, None] % 3 == 0, 1.0, -1.0)
        y = jax.vmap(net)(x) + signs
        rows, present, alone, *_ = seen(net, (x, y), 3)
        wide = gn.resize(net, gn.trace(net, x[0]), {"layers[0]": 7}, key=jr.key(0))
        leaves = lambda n: (n.layers[0].weight, n.layers[0].bias)
        made = [rows["layers[0].weight"], rows["layers[0].bias"][:, 0]]
        joined = [
            jnp.concatenate([old, new])
            for old, new in zip(leaves(net), made, strict=True)
        ]
        wide = eqx.tree_at(leaves, wide, joined)

        def slope(x, y):
            wrong = lambda w: jnp.sum(
                (eqx.tree_at(lambda n: n.layers[1].weight, wide, w)(x) - y) ** 2
            )
            return jax.grad(wrong)(wide.layers[1].weight)[0]

        slopes = np.asarray(jax.vmap(slope)(x, y))
        hidden = slopes / 2 / -signs

        def natural(units):
            ridge = RIDGE * 4 * np.mean(hidden[:, :4] ** 2)
            matrix = slopes[:, units].T @ slopes[:, units] / 40
            matrix = matrix + ridge * np.eye(len(units))
            mean = slopes[:, units].mean(0)
            return mean @ np.linalg.solve(matrix, mean)

        own = list(range(4))
        # The cotangents' factor has a ridge too.
        factor = 1 + RIDGE
        np.testing.assert_allclose(present, natural(own) / factor, rtol=1e-9)
        gains = [(natural([*own, i]) - natural(own)) / factor for i in (4, 5, 6)]
        np.testing.assert_allclose(alone, gains, rtol=1e-6)


class Told(SENN):
    """Remembers its scores and gains."""

    def init(self, anatomy, *, key):
        names = ["score", *(f"gain/{name}" for name in anatomy.widths)]
        return None, {name: jnp.zeros(()) for name in names}

    def step(self, trainable, memory, evidence, *, key):
        decision, *_, info = super().step(trainable, memory, evidence, key=key)
        return decision, None, {n: info[n].astype(float) for n in memory}, info


TOLD: Any = Told


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def grown(net, data, policy, steps=2, optimizer=None, **options):
    return gn.fit(
        net, loss, data, optimizer=optimizer or optax.sgd(0.0), policy=policy,
        steps=steps, key=jr.key(1), **options,
    )  # fmt: skip


def trained(noise, steps=800):
    """A run on a function, or on noise alone."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 3)).astype(np.float32)
    y = np.sin(2 * x[:, :1]) + np.sin(2 * x[:, 1:2])
    if noise:
        y = rng.standard_normal(y.shape)
    policy = SENN(every=100, until=12)
    with jax.numpy_dtype_promotion("standard"):
        return grown(
            mlp(2, 1), (x, y.astype(np.float32)), policy, steps, optax.adam(1e-2)
        )


@pytest.mark.slow
def test_it_does_not_grow_on_noise():
    assert trained(noise=True).sizes == {"layers[0]": 2}


@pytest.mark.slow
def test_it_grows_on_what_can_be_learned():
    run = trained(noise=False)
    assert run.sizes["layers[0]"] >= 4, run.history.table()
    assert run.history.ticks[-1].loss < 0.3 * run.history.events[0].loss_before


@pytest.mark.slow
@pytest.mark.parametrize("count, outputs", [(512, 1), (128, 1), (512, 4)])
def test_chance_is_about_what_trained_proposals_add_on_noise(count, outputs):
    policy = SENN()

    def use(evidence):
        name = "layers[0]"
        layer = layer_of(evidence, name, RIDGE)
        rows = policy._proposed(evidence, name, layer, jr.key(2))
        said = evidence.candidates[name].activations(rows)
        return jnp.max(layer.alone(said)) / _chance(layer, _weights(evidence, name))

    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        noise = lambda n, rng=rng: jnp.asarray(
            rng.standard_normal((count, n)), jnp.float32
        )
        net = eqx.nn.MLP(3, outputs, 4, 1, activation=jnp.tanh, key=jr.key(seed))
        data = noise(3), noise(outputs)
        with jax.numpy_dtype_promotion("standard"):
            found.append(float(evidence_of(net, square, data, policy.needs, 9, use)))
    print(f"{count} samples, {outputs} outputs: {min(found):.2f} to {max(found):.2f}")
    assert 0.2 < min(found) and max(found) < 2


@pytest.mark.parametrize(
    "kind",
    [
        "convolution",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("gated", "transformer")),
    ],
)
def test_training_proposals_raises_their_score_on_layers_of_all_kinds(kind):
    with fine():
        net, data, paths = networks()[kind]
        anatomy = gn.trace(net, data[0][0])
        (name,) = [n for n in anatomy.widths if paths[0].startswith(n)]
        gains = []
        for steps in (0, 20):
            policy = TOLD(
                every=2, steps=steps, ratio=1.0, gain=0.0, proposals=4, rate=0.1
            )
            run = grown(net, data, policy, widths=[name])
            gains.append(float(run.state.memory[f"gain/{name}"]))
            assert run.sizes[name] == anatomy.widths[name].size + 1
            assert np.isclose(loss(run.net, data, None), loss(net, data, None))
        assert gains[1] > 1.05 * gains[0] > 0


def test_a_residual_stream_is_refused_with_the_reason():
    net = make_case("residual").net
    data = jnp.ones((4, 3)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match="SENN needs .* 'stem'"):
        grown(net, data, SENN(every=2))
    for given, why in (
        ({"ratio": 0.5}, "ratio=0.5; a number from 1 up"),
        ({"ridge": 0.0}, "ridge=0.0; a number above 0"),
        ({"add": 4, "proposals": 2}, "proposals=2; a whole number from 4 up"),
    ):
        wrong: Any = given
        with pytest.raises(ValueError, match=why):
            SENN(**wrong)
