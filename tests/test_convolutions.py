"""Convolutions in loops on a processor: another order of axes, the same numbers."""

import equinox as eqx
import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

import growthnet as gn
from growthnet._runs.convolutions import channels_last, CONVOLUTION


def orders(function, *args):
    """Dimension numbers of all convolutions of a program and of those inside it."""

    def of(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == CONVOLUTION:
                yield eqn.params["dimension_numbers"]
            for value in eqn.params.values():
                for item in value if isinstance(value, tuple) else (value,):
                    if isinstance(item, jexc.ClosedJaxpr):
                        yield from of(item.jaxpr)
                    elif isinstance(item, jexc.Jaxpr):
                        yield from of(item)

    return [*of(jax.make_jaxpr(function)(*args).jaxpr)]


FAST = {
    1: jax.lax.ConvDimensionNumbers((0, 2, 1), (2, 1, 0), (0, 2, 1)),
    2: jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
}


def permuted(draw, rank):
    return tuple(draw(st.permutations(range(rank))))


@st.composite
def convolutions(draw):
    """A convolution of any order of axes, with groups, strides and dilations."""
    places = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 2]))
    batches = 1 if groups == 2 else draw(st.sampled_from([1, 2]))
    some = lambda *of: tuple(draw(st.sampled_from(of)) for _ in range(places))
    params = {
        "window_strides": some(1, 2),
        "padding": [draw(st.sampled_from([(0, 0), (1, 2)])) for _ in range(places)],
        "lhs_dilation": some(1, 2),
        "rhs_dilation": some(1, 2),
        "feature_group_count": groups,
        "batch_group_count": batches,
    }
    specs = [permuted(draw, places + 2) for _ in range(3)]
    params["dimension_numbers"] = jax.lax.ConvDimensionNumbers(*specs)
    lhs = (4, 2 * groups, *[6, 5][:places])
    rhs = (4, 2, *[3, 2][:places])
    shaped = lambda shape, spec: tuple(shape[spec.index(i)] for i in range(len(spec)))
    shapes = shaped(lhs, specs[0]), shaped(rhs, specs[1])
    arrays = [jr.normal(jr.key(i), shape) for i, shape in enumerate(shapes)]
    return arrays, params


@given(convolutions())
def test_any_convolution_and_its_gradients_are_the_same_numbers(case):
    arrays, params = case

    def both(lhs, rhs):
        convolve = lambda *a: jax.lax.conv_general_dilated(*a, **params)
        out, back = jax.vjp(convolve, lhs, rhs)
        return out, back(jnp.cos(out))

    turned = channels_last(both)
    wanted, found = both(*arrays), turned(*arrays)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, 1e-4, 1e-4), wanted, found
    )
    assert set(orders(turned, *arrays)) == {FAST[arrays[0].ndim - 2]}


def net(kernel, x):
    return jax.nn.relu(jax.lax.conv(x, kernel, (1, 1), "SAME"))


def test_programs_inside_are_rewritten():
    x, kernel = jr.normal(jr.key(0), (2, 3, 5, 5)), jr.normal(jr.key(1), (3, 3, 3, 3))

    def loss(kernel, x):
        many = jax.lax.scan(lambda x, _: (jax.jit(net)(kernel, x), None), x, None, 2)[0]
        either = jax.lax.cond(
            x[0, 0, 0, 0] > 9, lambda x: x, lambda x: net(kernel, x), x
        )
        return jnp.sum(many) + jnp.sum(jax.checkpoint(net)(kernel, either))

    step = jax.value_and_grad(loss)
    turned = channels_last(step)
    assert set(orders(step, kernel, x)) - {FAST[2]}
    assert set(orders(turned, kernel, x)) == {FAST[2]}
    wanted, found = step(kernel, x), turned(kernel, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, 1e-4, 1e-4), wanted, found
    )


def test_what_is_mapped_or_closed_over_may_be_traced():
    x, kernels = (
        jr.normal(jr.key(0), (2, 3, 5, 5)),
        jr.normal(jr.key(1), (4, 3, 3, 3, 3)),
    )
    one = lambda kernel: channels_last(lambda x: net(kernel, x))(x)
    found = jax.jit(jax.vmap(one))(kernels)
    wanted = jax.vmap(lambda kernel: net(kernel, x))(kernels)
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-4)


def test_without_convolutions_the_function_itself_runs(monkeypatch):
    rebuilt = lambda program: pytest.fail("there is nothing to rewrite")
    monkeypatch.setattr("growthnet._runs.convolutions._closed", rebuilt)
    assert channels_last(lambda tree: {"b": tree["a"] + 1})({"a": 1.0}) == {"b": 2.0}
    fast = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=FAST[2]
    )
    assert channels_last(fast)(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))).shape


def test_a_run_has_no_slow_convolutions():
    def loss(net, batch, key):
        jax.debug.callback(lambda: None)  # Effects stay.
        return jnp.mean(jax.vmap(net)(batch) ** 2)

    grows = lambda evidence, key: {
        name: gn.Change(mask, 1) for name, mask in evidence.open.items()
    }
    layers = [eqx.nn.Conv1d(i, o, 3, key=jr.key(o)) for i, o in [(1, 2), (2, 3)]]
    whole = lambda key: gn.grow(
        eqx.nn.Sequential(layers), loss, jnp.ones((8, 1, 9)), steps=4, key=key,
        optimizer=optax.sgd(0.1), policy=gn.as_policy(grows, every=2), capacity=4,
    ).reports.loss  # fmt: skip
    assert set(orders(whole, jr.key(0))) == {FAST[1]}
