"""Leaves of booleans: a newborn takes over another unit's mask, and is alive."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import growthnet as gn


X = jnp.array([0.3, -1.0, 2.0])


def call(net, x):
    """A masked network in which no output sees an input that comes after it."""
    hidden = jnp.where(net["in"]["mask"], net["in"]["weight"], 0) @ x
    hidden = jax.nn.tanh(hidden + net["in"]["bias"])
    return jnp.where(net["out"]["mask"], net["out"]["weight"], 0) @ hidden


@pytest.fixture
def net():
    order = jnp.array([0, 1, 0, 1])
    return {
        "in": {
            "weight": jr.normal(jr.key(0), (4, 3)),
            "mask": order[:, None] >= jnp.arange(3)[None],
            "bias": jr.normal(jr.key(1), (4,)),
        },
        "out": {
            "weight": jr.normal(jr.key(2), (3, 4)),
            "mask": jnp.arange(3)[:, None] > order[None],
        },
    }


def grown_by(way, net, anatomy):
    if way != "open":
        edit = gn.plan(anatomy, {"in.weight": 7}, init=way)
        return edit(net, key=jr.key(3))
    reserved = gn.reserve(net, anatomy, {"in.weight": 8})
    opened = gn.open_units(reserved, {"in.weight": 3}, key=jr.key(3))
    return gn.compact(opened)


@pytest.mark.parametrize("way", ["zero_out", "clone", "open"])
def test_newborns_keep_the_order_that_masks_encode(net, way):
    anatomy = gn.trace(net, X, call=call)
    assert anatomy.sizes == {"in.weight": 4}
    grown = grown_by(way, net, anatomy)
    assert grown["in"]["weight"].shape == (7, 3)
    assert jnp.allclose(call(grown, X), call(net, X), rtol=1e-5, atol=1e-6)
    for name, axis in (("in", 0), ("out", 1)):
        masks = jnp.moveaxis(grown[name]["mask"], axis, 0)
        assert (masks[4:] == masks[:3]).all()
    # Trained on, every output still sees nothing that comes after it.
    trained = {**grown, "out": {**grown["out"], "weight": jnp.ones((3, 7))}}
    assert not jnp.triu(jax.jacobian(lambda x: call(trained, x))(X)).any()


def test_newborns_under_a_mask_are_alive(net):
    anatomy = gn.trace(net, X, call=call)
    grown = grown_by("zero_out", net, anatomy)
    weights = grown["out"]["weight"]
    slope = jax.grad(
        lambda w: call({**grown, "out": {**grown["out"], "weight": w}}, X).sum()
    )(weights)
    assert (slope[:, 4:] != 0).any(0).all()
