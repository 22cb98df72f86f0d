"""Transfers inside programs: what only moves is a gather there."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import growthnet as gn


OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "adagrad": optax.adagrad(1e-2),  # newborn entries aren't zero
    "ema": optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    "factored": optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "copies": optax.contrib.schedule_free_adamw(1e-2),
}


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def trained(net: Any) -> Any:
    return eqx.filter(net, eqx.is_inexact_array)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reserved_state_is_the_same_inside(name):
    optimizer, net = OPTIMIZERS[name], eqx.nn.MLP(5, 6, 7, 1, key=jr.key(0))
    params = trained(net)
    grads = jax.tree.map(lambda p: jr.normal(jr.key(p.size), p.shape), params)
    state = optimizer.init(params)
    _, state = jax.jit(optimizer.update)(grads, state, params)
    edit = gn.plan(gn.trace(net, jnp.ones(5)), {"layers[0]": 12}, init="closed")
    params2 = trained(edit(net))
    outside = edit.transfer(optimizer, state, params, params2)
    move = lambda *args: edit.transfer(optimizer, *args)
    assert eqx.tree_equal(jax.jit(move)(state, params, params2), outside)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), (state, params, params2))
    many = jax.vmap(move)(*both)
    assert eqx.tree_equal(jax.tree.map(lambda a: a[1], many), outside)


def test_shares_are_not_given_out_inside():
    net, adam = eqx.nn.MLP(5, 6, 7, 1, key=jr.key(0)), OPTIMIZERS["adam"]
    edit = gn.plan(gn.trace(net, jnp.ones(5)), {"layers[0]": 12}, init="clone")
    params, params2 = trained(net), trained(edit(net))
    move = jax.jit(lambda state: edit.transfer(adam, state, params, params2))
    with pytest.raises(ValueError, match="split or scaled moves in numpy, not under"):
        move(adam.init(params))
