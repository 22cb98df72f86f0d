"""Evidence about units: what taps say equals what one computes by hand, on networks
whose code knows nothing of it."""

from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet._evidence.flat import flat_loss
from growthnet._evidence.found_units import find_units
from growthnet._evidence.units import UNIT_KINDS, Units, units_of
from growthnet._paths import array_leaves, map_arrays
from growthnet.testing import make_case


X = jr.normal(jr.key(0), (6, 3))


def square(net, x, key):
    del key
    return jnp.mean(jax.vmap(net)(x) ** 2)


def look(net, loss, x, anatomy=None, names=None, kinds=UNIT_KINDS) -> dict[str, Units]:
    """All evidence about the units of a network."""
    if anatomy is None:
        anatomy = gn.trace(net, x, call=lambda net, x: jax.vmap(net)(x))

    def see(net, x):
        wanted = list(anatomy.widths) if names is None else names
        return units_of(net, anatomy, loss, (x, None), kinds, wanted, "a test")

    return eqx.filter_jit(see)(net, x)


def close(a: Any, b: Any) -> bool:
    scale = max(float(np.abs(np.asarray(b)).max()), 1e-6)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=2e-5, atol=1e-5 * scale))


def check_chain_rule(net: Any, loss: Any, x: Any, seen: dict[str, Units]) -> int:
    """The gradient of what makes units, and d loss / d unit by what reads them."""
    arrays = array_leaves(net)
    value = lambda arrays: loss(map_arrays(net, arrays), x, None)
    gradients, checked = jax.grad(value, allow_int=True)(arrays), 0
    for units in seen.values():
        for p in units.producers:
            assert close(p.rows(gradients[p.path]), p.cotangents.T @ p.inputs)
            rows = p.rows(arrays[p.path])
            assert close(p.rows(p.leaf(rows)), rows)
            checked += 1
        if units.consumers and units.cotangents is not None:
            shares = [c.cotangents @ c.rows(arrays[c.path]).T for c in units.consumers]
            assert close(sum(shares), units.cotangents)
            checked += 1
    return checked


def test_a_dense_network_by_hand():
    net = eqx.nn.MLP(3, 2, 4, 2, activation=jax.nn.gelu, key=jr.key(1))
    seen = look(net, square, X)
    one, two, three = map(jax.vmap, net.layers)
    rest = lambda h: jnp.mean(three(h) ** 2)
    z = one(X)
    h = jax.nn.gelu(z)
    z2 = two(h)
    h2 = jax.nn.gelu(z2)
    second = lambda z2: rest(jax.nn.gelu(z2))
    first = lambda h: second(two(h))
    for units, before, values, inputs, after in (
        (seen["layers[0]"], z, h, X, first),
        (seen["layers[1]"], z2, h2, h, rest),
    ):
        (p,) = units.producers
        assert p.aligned
        assert close(units.activations, values) and close(p.preactivations, before)
        assert close(p.inputs, inputs)
        assert close(units.cotangents, jax.grad(after)(values))
        by_hand = jax.grad(lambda z, after=after: after(jax.nn.gelu(z)))(before)
        assert close(p.cotangents, by_hand)
    assert close(seen["layers[0]"].consumers[0].cotangents, jax.grad(second)(z2))
    assert check_chain_rule(net, square, X, seen) == 4


class Convolutions(eqx.Module):
    """Two convolutions, then a dense layer on the flattened image."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self):
        keys = jr.split(jr.key(2), 3)
        self.first = eqx.nn.Conv2d(2, 3, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(3, 4, 2, stride=2, key=keys[1])
        self.out = eqx.nn.Linear(16, 2, key=keys[2])

    def __call__(self, x):
        h = jax.nn.relu(self.first(x))
        return self.out(jnp.tanh(self.second(h)).reshape(-1))


def test_a_convolutional_network_by_hand():
    net, x = Convolutions(), jr.normal(jr.key(3), (5, 2, 4, 4))
    seen = look(net, square, x)
    units = seen["first"]
    (p,), (c,) = units.producers, units.consumers
    values = jax.nn.relu(jax.vmap(net.first)(x))
    pixels = lambda images: jnp.moveaxis(images, 1, -1).reshape(-1, images.shape[1])
    assert close(units.activations, pixels(values)) and p.aligned
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corner = padded[2, :, 1:4, 0:3].reshape(-1)  # what makes pixel (1, 0) of image 2
    assert close(p.inputs[2 * 16 + 4], corner)
    assert c.cotangents.shape == (5 * 16, 4 * 2 * 2)
    # A flattened image: each of the 4 positions of a channel has its own two weights.
    assert seen["second"].consumers[0].cotangents.shape == (5 * 4, 4 * 2)
    assert check_chain_rule(net, square, x, seen) == 4


class Gated(eqx.Module):
    """A gated linear unit, its two halves in one leaf or in two."""

    up: jax.Array
    gate: jax.Array | None
    down: jax.Array

    def __call__(self, x):
        if self.gate is None:
            a, b = jnp.split(self.up @ x, 2)
        else:
            a, b = self.up @ x, self.gate @ x
        return self.down @ (a * jax.nn.sigmoid(b))


@pytest.mark.parametrize("fused", [False, True])
def test_a_gated_unit_is_made_by_two(fused):
    up, gate, down = (jr.normal(jr.key(i), s) for i, s in enumerate([(4, 3)] * 3))
    net = Gated(jnp.concatenate([up, gate]) if fused else up, gate, down.T)
    net = eqx.tree_at(lambda n: n.gate, net, None) if fused else net
    seen = look(net, square, X)["up"]
    a, b = X @ up.T, X @ gate.T
    assert close(seen.activations, a * jax.nn.sigmoid(b))
    first, second = seen.producers
    slope = jax.nn.sigmoid(b) * jax.nn.sigmoid(-b)
    whole = second.cotangents if not fused else first.cotangents
    by_hand = a * slope if not fused else jax.nn.sigmoid(b)
    assert close(whole, seen.cotangents * by_hand)
    assert close(first.inputs, X) and close(second.inputs, X)
    assert check_chain_rule(net, square, X, {"up": seen}) == 3


class Block(eqx.Module):
    """A transformer block."""

    attention: eqx.nn.MultiheadAttention
    norms: list[eqx.nn.LayerNorm]
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self):
        keys = jr.split(jr.key(4), 3)
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=keys[0])
        self.norms = [eqx.nn.LayerNorm(6), eqx.nn.LayerNorm(6)]
        self.up = eqx.nn.Linear(6, 5, key=keys[1])
        self.down = eqx.nn.Linear(5, 6, key=keys[2])

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)

        def mlp(y):
            return self.down(jax.nn.gelu(self.up(self.norms[1](y))))

        return x + jax.vmap(jax.checkpoint(mlp))(x)


def test_a_transformer_block():
    net, x = Block(), jr.normal(jr.key(5), (2, 3, 6))
    seen = look(net, square, x, names=["up", "attention.value_proj"])
    units = seen["up"]
    assert units.activations.shape == (6, 5) and units.producers[0].aligned
    assert close(units.activations, jax.nn.gelu(units.producers[0].preactivations))
    assert check_chain_rule(net, square, x, {"up": units}) == 2
    values = seen["attention.value_proj"]
    assert check_chain_rule(net, square, x, {"v": values}) == 2
    assert not values.producers[0].aligned, "attention mixes positions"


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=12)
def test_the_chain_rule_on_drawn_networks(data):
    kinds = ["mlp", "arrays", "pairs", "sequential", "layer_norm", "residual", "fused"]
    kinds += ["two_by_two", "factored", "experts", "concatenating", "counting"]
    case = make_case(
        data.draw(st.sampled_from(kinds)), seed=data.draw(st.integers(0, 9))
    )
    call = case.call or (lambda net, *args: net(*args))

    def loss(net, args, key):
        del key
        leaves = jax.tree.leaves(call(net, *args))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    anatomy = gn.trace(case.net, *case.args, call=case.call)
    found = find_units(
        flat_loss(case.net, loss, (case.args, None)), anatomy, anatomy.widths
    )
    checked = 0
    for name, units in found.items():
        had = [k for k, part in UNIT_KINDS.items() if part not in units.reasons]
        seen = look(case.net, loss, case.args, anatomy, [name], had)
        checked += check_chain_rule(case.net, loss, case.args, seen)
    assert checked


def test_what_cannot_be_had_is_said():
    def recurrent(net, x):
        step = lambda h, x: (jnp.tanh(net["in"] @ x + net["h"] @ h), None)
        return net["out"] @ jax.lax.scan(step, jnp.zeros(4), x)[0]

    shapes = {"in": (4, 3), "h": (4, 4), "out": (2, 4)}
    net = {n: jr.normal(jr.key(i), s) for i, (n, s) in enumerate(shapes.items())}
    loss = lambda net, x, key: jnp.sum(recurrent(net, x))
    anatomy = gn.trace(net, X, call=recurrent)
    with pytest.raises(ValueError, match="`h` is used by `scan`, at test_units.py"):
        look(net, loss, X, anatomy, ["h"])

    weights = {"w": jr.normal(jr.key(0), (4, 3)), "v": jr.normal(jr.key(1), (2, 4))}

    def twice(net, x):
        hidden = jnp.tanh(net["w"] @ x)
        return net["v"] @ hidden + net["v"] @ hidden**2

    loss = lambda net, x, key: jnp.sum(jax.vmap(lambda x: twice(net, x))(x))
    anatomy = gn.trace(weights, X[0], call=twice)
    with pytest.raises(ValueError, match="'w', .*`v` is used 2 times"):
        look(weights, loss, X, anatomy, ["w"], ["activations"])
    # What makes the units is one contraction all the same.
    seen = look(weights, loss, X, anatomy, ["w"], ["producer_inputs"])
    assert close(seen["w"].producers[0].inputs, X)


def test_norms_between_leave_samples_their_own_order():
    """A norm over the batch makes a unit a function of more than its preactivation."""
    net = {"w": jr.normal(jr.key(0), (4, 3)), "v": jr.normal(jr.key(1), (2, 4))}

    def call(net, x):
        z = x @ net["w"].T
        z = z - jnp.mean(z, axis=0, keepdims=True)
        return jnp.tanh(z) @ net["v"].T

    loss = lambda net, x, key: jnp.sum(call(net, x) ** 2)
    seen = look(net, loss, X, gn.trace(net, X, call=call))
    assert not seen["w"].producers[0].aligned
    assert check_chain_rule(net, loss, X, seen) == 2
