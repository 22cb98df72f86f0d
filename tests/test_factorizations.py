"""No policy gives jaxlib a batch to factorize: two such in a program can wait for each
other for ever."""

import equinox as eqx
import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import GradMax, North, Pruning, ResidualFitting, Splitting, Tiny
from growthnet_policies._factorizations import eigh, solve, svd


KERNELS = {"eigh", "svd", "lu", "cholesky", "qr", "triangular_solve", "householder"}
X = jr.normal(jr.key(0), (64, 3))
Y = jnp.sin(X.sum(1, keepdims=True))


def loss(net, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def factorizations(jaxpr):
    """Names and ranks of what is factorized, in a program and all inside it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in KERNELS:
            yield eqn.primitive.name, eqn.invars[0].aval.ndim
        for inside in jax.tree.leaves(
            eqn.params, is_leaf=lambda p: isinstance(p, jexc.Jaxpr | jexc.ClosedJaxpr)
        ):
            if isinstance(inside, jexc.ClosedJaxpr):
                yield from factorizations(inside.jaxpr)
            elif isinstance(inside, jexc.Jaxpr):
                yield from factorizations(inside)


@pytest.mark.parametrize(
    "policy",
    [
        GradMax(every=2),
        Tiny(every=2),
        Splitting(every=2),
        North(every=2, choice="pre"),
        ResidualFitting(2, every=2),
        Pruning("fisher", ratio=0.5, start=2, every=2, removal="refit"),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_populations_factorize_one_matrix_at_a_time(policy):
    def one(key):
        net = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=key)
        return gn.grow(
            net, loss, (X, Y), valid=(X, Y), optimizer=optax.sgd(0.1), policy=policy,
            steps=2, key=key, capacity=6, batch_size=16,
        ).sizes  # fmt: skip

    program = jax.make_jaxpr(jax.vmap(one))(jr.split(jr.key(0), 3))
    found = list(factorizations(program.jaxpr))
    assert found and {rank for _, rank in found} == {2}


def test_factorizations_are_those_of_numpy():
    a = jr.normal(jr.key(1), (5, 4, 4))
    even = a + a.swapaxes(1, 2)
    close = lambda got, given: np.testing.assert_allclose(got, given, atol=2e-5)
    values, vectors = jax.vmap(eigh)(even)
    close(vectors * values[:, None] @ vectors.swapaxes(1, 2), even)
    left, sizes, right = jax.vmap(svd)(a[:, :, :2])
    close(left * sizes[:, None] @ right, a[:, :, :2])
    close(a @ jax.vmap(solve)(a, even), even)
