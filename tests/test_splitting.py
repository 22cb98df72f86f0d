"""Splitting steepest descent: which units are split, and how far the loss falls."""

import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet.testing import make_case
from growthnet_policies import Splitting
from growthnet_policies._lanczos import lowest

from .helpers import at_rest


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


class Told(Splitting):
    """Remembers the smallest eigenvalues."""

    def init(self, anatomy, *, key):
        super().init(anatomy, key=key)
        return None, {name: jnp.zeros(()) for name in anatomy.widths}

    def step(self, trainable, memory, evidence, *, key):
        decision, *_, info = super().step(trainable, memory, evidence, key=key)
        return decision, None, {n: info[f"eigenvalue/{n}"] for n in memory}, info


TOLD: Any = Told


def grown(net, data, policy, steps=2, **options):
    return at_rest(net, loss, data, policy, steps, **options)


class Layers(eqx.Module):
    layers: list
    between: Callable = eqx.field(static=True)

    def __call__(self, x):
        first, second = self.layers
        return second(self.between(first(x))).reshape(-1)


class Gated(eqx.Module):
    up: eqx.nn.Linear
    gate: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        x = x.reshape(-1)
        return self.down(self.up(x) * jax.nn.sigmoid(self.gate(x)))


class Block(eqx.Module):
    """A residual block of attention and two layers, with norms, on a sequence."""

    norms: list
    attention: eqx.nn.MultiheadAttention
    layers: list

    def __call__(self, x):
        x = x.reshape(3, 4)
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        y = jax.vmap(self.norms[1])(x)
        y = jax.vmap(lambda v: self.layers[1](jax.nn.gelu(self.layers[0](v))))(y)
        return (x + y)[:, :2].reshape(-1)


def networks() -> dict[str, tuple[Any, Any, tuple[str, ...]]]:
    """By name: a network, data, and the paths of the parameters of a width's units."""
    keys = jr.split(jr.key(4), 9)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((30, 1, 12)))
    y = jnp.sin(3 * x[:, 0, :6] * x[:, 0, 6:])
    dense = [eqx.nn.Linear(12, 5, key=keys[0]), eqx.nn.Linear(5, 6, key=keys[1])]
    conv = [
        eqx.nn.Conv1d(1, 3, 4, stride=2, padding=1, key=keys[2]),
        eqx.nn.Conv1d(3, 1, 1, use_bias=False, key=keys[3]),
    ]
    two = [eqx.nn.Linear(4, 6, key=keys[4]), eqx.nn.Linear(6, 4, key=keys[5])]
    block = Block(
        [eqx.nn.LayerNorm(4), eqx.nn.LayerNorm(4)],
        eqx.nn.MultiheadAttention(2, 4, key=keys[6]),
        two,
    )
    gated = Gated(
        eqx.nn.Linear(12, 4, key=keys[7]),
        eqx.nn.Linear(12, 4, key=keys[8]),
        eqx.nn.Linear(4, 6, key=keys[0]),
    )
    first = ("layers[0].weight", "layers[0].bias")
    return {
        "dense": (Layers(dense, jnp.tanh), (x.reshape(30, 12), y), first),
        "convolution": (Layers(conv, jnp.tanh), (x, y), first),
        "gated": (
            gated,
            (x, y),
            ("up.weight", "up.bias", "gate.weight", "gate.bias"),
        ),
        "transformer": (block, (x, y), first),
    }


def by_hand(net: Layers, data: Any) -> np.ndarray:
    """The splitting matrices of a first layer under tanh, from their formula: sum of
    d loss / d activation . tanh''(z) . x x^T, with 1 beside x for the bias."""
    x, y = (np.asarray(a) for a in data)
    first, second = net.layers
    weight, bias = np.asarray(first.weight), np.asarray(first.bias).reshape(-1)
    if weight.ndim == 3:  # What a filter sees: stride 2, padding 1.
        padded = np.pad(x[:, 0], ((0, 0), (1, 1)))
        x = np.stack([padded[:, i : i + 4] for i in range(0, 11, 2)], axis=1)
    else:
        x = x[:, None]
    z = x @ weight.reshape(len(weight), -1).T + bias  # [examples, places, units]
    out = np.asarray(second.weight).reshape(-1, len(weight))
    given = np.tanh(z) @ out.T
    if second.bias is not None:
        given = given + np.asarray(second.bias)
    wrong = 2 * (given.reshape(y.shape) - y) / y.size
    slopes = wrong.reshape(given.shape) @ out
    curved = slopes * -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)
    x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
    return np.einsum("epu,epi,epj->uij", curved, x, x)


@contextlib.contextmanager
def fine():
    """In 64 bits, with the promotion that optax and `fit` count on there."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_units_are_split_along_the_smallest_eigenvector(kind):
    with fine():
        net, data, (weight, _) = networks()[kind]
        run = grown(net, data, TOLD(2, every=2, epsilon=0.01))
        values, vectors = np.linalg.eigh(by_hand(net, data))
        order = np.argsort(values[:, 0])[:2]
        old = np.asarray(net.layers[0].weight)
        count, flat = len(old), lambda w: np.asarray(w).reshape(len(w), -1)
        joined = lambda n: np.concatenate(
            [flat(n.layers[0].weight), flat(n.layers[0].bias)], axis=1
        )
        assert run.sizes == {"layers[0]": count + 2}
        assert np.isclose(run.state.memory["layers[0]"], values[:, 0].min(), rtol=1e-8)
        before, after = joined(net), joined(run.net)
        size = 0.01 * np.linalg.norm(before, axis=1).mean()
        for birth, unit in enumerate(order):
            moved, born = (
                after[unit] - before[unit],
                after[count + birth] - before[unit],
            )
            assert np.allclose(moved, -born, atol=1e-12)
            assert np.isclose(np.linalg.norm(moved), size, rtol=1e-8)
            across = moved @ vectors[unit, :, 0] / size
            assert np.isclose(abs(across), 1, atol=1e-8)
        read = np.asarray(run.net.layers[1].weight)
        halves = np.asarray(net.layers[1].weight)[:, order] / 2
        assert np.array_equal(read[:, order], halves)
        assert np.array_equal(read[:, count:], halves)
        others = np.setdiff1d(np.arange(count), order)
        assert np.array_equal(after[others], before[others])


@pytest.mark.parametrize("kind", networks())
def test_the_loss_falls_as_eigenvalues_say(kind):
    with fine():
        net, data, paths = networks()[kind]
        anatomy = gn.trace(net, data[0][0])
        (name,) = [n for n in anatomy.widths if paths[0].startswith(n)]
        policy = TOLD(1, every=2, epsilon=1e-3, products=30)
        run = grown(net, data, policy, widths=[name])
        assert run.sizes[name] == anatomy.widths[name].size + 1
        arrays = anatomy.check(net, "the network")
        rows = [np.asarray(arrays[p]).reshape(len(arrays[p]), -1) for p in paths]
        size = 1e-3 * np.linalg.norm(np.concatenate(rows, axis=1), axis=1).mean()
        fall = loss(run.net, data, None) - loss(net, data, None)
        said = size**2 / 2 * run.state.memory[name]
        assert said < 0 and np.isclose(fall, said, rtol=1e-3)


def test_one_width_at_a_time_up_to_a_limit_on_several_batches():
    x, y = (np.asarray(a, np.float32) for a in networks()["dense"][1])
    net = eqx.nn.MLP(12, 6, 4, 2, activation=jnp.tanh, key=jr.key(2))
    policy = Splitting(2, every=2, until=5, batches=2)
    run = grown(net, (x, y), policy, steps=2, batch_size=10)
    assert sorted(run.sizes.values()) == [4, 5]
    run = grown(net, (x, y), policy, steps=6, batch_size=10)
    assert set(run.sizes.values()) == {5}


def test_functions_without_curvature_are_not_split():
    net, data, _ = networks()["dense"]
    net = Layers(net.layers, jax.nn.relu)
    run = grown(net, jax.tree.map(lambda a: a.astype(np.float32), data), Splitting())
    assert run.sizes == {"layers[0]": 5}
    assert eqx.tree_equal(run.net, net)


@pytest.mark.parametrize(
    "family, why",
    [("autoencoder", "a tied leaf can't share"), ("recycled", "both makes and reads")],
)
def test_what_copies_cannot_share_is_refused(family, why):
    case = make_case(family, seed=0)
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    with pytest.raises(ValueError, match=f"Splitting can't split units of .*{why}"):
        Splitting().init(anatomy, key=jr.key(0))
    with pytest.raises(ValueError, match="products=0; a whole number from 1 up"):
        Splitting(products=0)


@pytest.mark.parametrize("products", [4, 9, 30])
def test_lowest_eigenvalues(products):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        matrices = rng.standard_normal((6, 9, 9))
        matrices = matrices + matrices.swapaxes(1, 2)
        matrices[1] = 0
        matrices[2] = -2 * np.eye(9)
        matrices[3] = np.outer(matrices[3, 0], -matrices[3, 0])
        multiply = lambda v: jnp.einsum("uij,uj->ui", matrices, v)
        values, vectors = lowest(multiply, rng.standard_normal((6, 9)), products)
        true = np.linalg.eigvalsh(matrices)[:, 0]
        if products < 9:  # Too few: what was found is real all the same.
            assert (values >= true - 1e-9).all()
            given = np.einsum("ui,uij,uj->u", vectors, matrices, vectors)
            assert np.allclose(given, values, atol=1e-9)
            true, values = true[1:4], values[1:4]
        assert np.allclose(values, true, atol=1e-7)
