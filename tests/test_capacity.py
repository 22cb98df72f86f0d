"""Reserve, open, close, gate, compact: the in-program half of resizing."""

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

import growthnet as gn


X = jr.normal(jr.key(9), (16, 3))


def softplus_mlp(width):
    # softplus(0) isn't 0: a closed unit would speak if its cover didn't silence it.
    return eqx.nn.MLP(3, 2, width, 2, activation=jax.nn.softplus, key=jr.key(0))


@pytest.fixture
def mlp():
    return softplus_mlp(4)


@pytest.fixture
def anatomy(mlp):
    return gn.trace(mlp, X[0])


def outputs(net):
    return jax.vmap(net)(X)


def arrays(net):
    return jax.tree.leaves(eqx.filter(net, eqx.is_array))


def same(a, b):
    return all((x == y).all() for x, y in zip(arrays(a), arrays(b), strict=True))


def test_reserving_changes_nothing_and_compacting_gives_it_back(mlp, anatomy):
    reserved = gn.reserve(mlp, anatomy, {"layers[*]": 8})
    assert reserved.sizes == {"layers[0]": 4, "layers[1]": 4}
    assert reserved.net.layers[0].weight.shape == (8, 3)
    assert np.allclose(outputs(reserved.net), outputs(mlp), atol=1e-6)
    assert same(gn.compact(reserved), mlp)


@given(
    first=st.integers(0, 4),
    second=st.integers(0, 4),
    seed=st.integers(0, 2**20),
    init=st.sampled_from(["zero_out", "drawn"]),
)
def test_resize_is_reserve_open_compact(first, second, seed, init):
    mlp = softplus_mlp(4)
    anatomy = gn.trace(mlp, X[0])
    key = jr.key(seed)
    sizes = {"layers[0]": 4 + first, "layers[1]": 4 + second}
    edited = gn.resize(mlp, anatomy, sizes, key=key, init=init, allow_drift=True)
    reserved = gn.reserve(mlp, anatomy, {"layers[*]": 8})
    add = {"layers[0]": first, "layers[1]": second}
    opened = gn.open_units(reserved, add, key=key, init=init)
    assert same(gn.compact(opened), edited)


def test_opening_is_one_program_for_all_sizes(mlp, anatomy):
    reserved = gn.reserve(mlp, anatomy, {"layers[*]": 8})
    traces = []

    @eqx.filter_jit
    def grow(reserved, add, key):
        traces.append(None)
        return gn.open_units(reserved, {"layers[0]": add}, key=key)

    for n in range(4):
        grown = grow(reserved, jnp.asarray(n), jr.key(1))
        assert grown.sizes["layers[0]"] == 4 + n
        assert np.allclose(outputs(grown.net), outputs(mlp), atol=1e-5)
    assert len(traces) == 1


def test_openings_stop_at_the_capacity(mlp, anatomy):
    reserved = gn.reserve(mlp, anatomy, {"layers[0]": 6})
    full = gn.open_units(reserved, {"layers[0]": 99}, key=jr.key(0))
    assert full.sizes["layers[0]"] == 6


@given(st.sets(st.integers(0, 3), min_size=1))
def test_closing_units_is_removing_them(kept):
    mlp = softplus_mlp(4)
    anatomy = gn.trace(mlp, X[0])
    keep = np.isin(np.arange(4), list(kept))
    reserved = gn.reserve(mlp, anatomy, {"layers[*]": 4})
    closed = gn.close_units(reserved, {"layers[0]": keep})
    removed = gn.resize(
        mlp, anatomy, {"layers[0]": int(keep.sum())}, keep={"layers[0]": sorted(kept)}
    )
    assert np.allclose(outputs(closed.net), outputs(removed), atol=1e-5)
    gated = gn.gate(mlp, anatomy, {"layers[0]": keep.astype("float32")})
    assert np.allclose(outputs(gated), outputs(removed), atol=1e-5)
    assert same(gn.compact(closed), removed)


def test_gates_are_differentiable_and_fold(mlp, anatomy):
    gates = jnp.array([1.0, 0.5, 0.0, 0.25])

    def loss(gates):
        return jnp.sum(outputs(gn.gate(mlp, anatomy, {"layers[0]": gates})) ** 2)

    slope = jax.grad(loss)(gates)
    step = jnp.zeros(4).at[2].set(1e-2)
    change = (loss(gates + step) - loss(gates - step)) / 2e-2
    assert np.allclose(slope[2], change, rtol=1e-2)
    reserved = gn.reserve(mlp, anatomy, {"layers[0]": 4})
    folded = gn.compact(reserved, gates={"layers[0]": gates}, fold=True)
    assert folded.layers[0].weight.shape == (3, 3)
    gated = gn.gate(mlp, anatomy, {"layers[0]": gates})
    assert np.allclose(outputs(folded), outputs(gated), atol=1e-6)


def test_bad_requests(mlp, anatomy):
    with pytest.raises(ValueError, match="capacity 3 for .* is below its size 4"):
        gn.reserve(mlp, anatomy, {"layers[0]": 3})
    with pytest.raises(ValueError, match=r"gates for .* have shape \(3,\); one per"):
        gn.gate(mlp, anatomy, {"layers[0]": jnp.ones(3)})
    reserved = gn.reserve(mlp, anatomy, {"layers[0]": 8})
    with pytest.raises(ValueError, match="pass fold=True"):
        gn.compact(reserved, gates={"layers[0]": jnp.ones(8)})
    nothing = gn.Reserved(
        reserved.net, reserved.anatomy, {"layers[0]": jnp.zeros(8, bool)}
    )
    with pytest.raises(ValueError, match="has no open unit"):
        gn.compact(nothing)
    tied = {"w": X[:4, :3]}
    read = gn.trace(tied, X[0], call=lambda n, x: n["w"].T @ jnp.tanh(n["w"] @ x))
    with pytest.raises(ValueError, match="a gate would enter squared"):
        gn.gate(tied, read, {"w": jnp.full(4, 0.5)})
    gn.gate(tied, read, {"w": jnp.arange(4) < 2})
    norm = [X[:4], X[:2, :2].repeat(2, 1), X[:1]]
    read = gn.trace(norm[:2], X[0], call=lambda n, x: n[1] @ jax.nn.softmax(n[0] @ x))
    with pytest.raises(ValueError, match="can't be gated: `reduce_max` goes over"):
        gn.gate(norm[:2], read, {"[0]": jnp.ones(4)})
    with pytest.raises(ValueError, match="can't have closed units"):
        gn.reserve(norm[:2], read, {"[0]": 8})


@pytest.mark.usefixtures("unchecked")
def test_openings_are_checked(mlp, anatomy):
    reserved = gn.reserve(mlp, anatomy, {"layers[*]": 8})
    both = gn.open_units(reserved, {"layers[*]": 3}, key=jr.key(0))
    assert both.sizes == {"layers[0]": 7, "layers[1]": 7}
    with pytest.raises(ValueError, match="unknown width 'foo'"):
        gn.open_units(reserved, {"foo": 3}, key=jr.key(0))
    with pytest.raises(ValueError, match="unknown width 'foo'"):
        gn.close_units(reserved, {"foo": np.ones(8, bool)})
    with pytest.raises(ValueError, match="units open by 'zero_out' or 'drawn'"):
        gn.open_units(reserved, {"layers[0]": 3}, key=jr.key(0), init="clone")
    for count in (2.5, -3):
        with pytest.raises(ValueError, match="how many units open is a whole number"):
            gn.open_units(reserved, {"layers[0]": count}, key=jr.key(0))
