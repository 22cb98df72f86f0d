"""What `trace` finds, and what it says of what it can't follow."""

import equinox as eqx
import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn

from .helpers import normal, sizes


X = jax.ShapeDtypeStruct((5, 3), "float32")


def test_mlp():
    mlp = eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0))
    anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((3,), "float32"))
    assert sizes(anatomy) == {"layers[0]": 8, "layers[1]": 8}
    width = anatomy.widths["layers[0]"]
    assert width.gateable == "any"
    assert [str(m) for m in width.members] == [
        "layers[0].weight axis 0 [0:8] producer",
        "layers[0].bias axis 0 [0:8] offset",
        "layers[1].weight axis 1 [0:8] consumer",
    ]
    assert width.cover == (2,)
    assert {f.name: f.reason for f in anatomy.fixed} == {
        "layers[0].weight:1": "it is axis 0 of the input `x`",
        "layers[2]": "it is axis 0 of the output",
    }


def test_an_mlp_reads_the_same_however_it_is_called():
    mlp = eqx.nn.MLP(3, 2, 8, 1, key=jr.key(0))
    single = gn.trace(mlp, normal(3)).all_widths
    wrapped = [
        lambda net, x: jax.vmap(net)(x),
        lambda net, x: jax.vmap(jax.checkpoint(lambda r: net(r)))(x),
        lambda net, x: eqx.filter_jit(lambda n, r: jax.vmap(n)(r))(net, x),
        lambda net, x: jax.vmap(lambda row: jax.jit(lambda r: net(r))(row))(x),
    ]
    for call in wrapped:
        assert gn.trace(mlp, X, call=call).all_widths == single


def test_a_hidden_layer_of_one_unit():
    mlp = eqx.nn.MLP(3, 2, 1, 1, key=jr.key(0))
    anatomy = gn.trace(mlp, normal(3))
    assert sizes(anatomy) == {"layers[0]": 1}
    wider = gn.resize(mlp, anatomy, {"layers[0]": 4}, key=jr.key(1))
    assert jnp.allclose(wider(normal(3)), mlp(normal(3)))


def test_glu_with_a_fused_projection():
    net = {"w": normal(3, 8), "b": normal(8), "out": normal(4, 2)}

    def call(net, x):
        a, b = jnp.split(x @ net["w"] + net["b"][None], 2, axis=-1)
        return (a * jax.nn.sigmoid(b)) @ net["out"]

    width = gn.trace(net, X, call=call).widths["w"]
    assert (width.size, width.gateable) == (4, "any")
    spans = [(m.path, m.axis, m.span) for m in width.members]
    assert spans == [
        ("b", 0, (0, 4)),
        ("b", 0, (4, 8)),
        ("out", 0, (0, 4)),
        ("w", 1, (0, 4)),
        ("w", 1, (4, 8)),
    ]
    grown = gn.resize(net, gn.trace(net, X, call=call), {"w": 6}, key=jr.key(0))
    assert grown["w"].shape == (3, 12)
    assert jnp.allclose(call(grown, normal(5, 3)), call(net, normal(5, 3)), atol=1e-5)


def test_residual_stream_is_one_width():
    net = {"in": normal(3, 8), "up": normal(8, 6), "down": normal(6, 8), "w": normal(8)}

    def call(net, x):
        h = x @ net["in"]
        h = h + jax.nn.relu(h @ net["up"]) @ net["down"]
        return jnp.sum(h * net["w"][None], axis=-1)

    anatomy = gn.trace(net, X, call=call)
    assert sizes(anatomy) == {"down": 8, "up": 6}
    roles = {m.path: m.roles for m in anatomy.widths["down"].members}
    assert roles["w"] == ("consumer",), "a product that is summed is a contraction"
    assert anatomy.widths["down"].gateable == "any"


def test_concatenated_layers():
    net = [normal(3, 4), normal(7, 5), normal(12, 2)]

    def call(net, x):
        for w in net[:-1]:
            x = jnp.concatenate([x, jax.nn.relu(x @ w)], axis=-1)
        return x @ net[-1]

    anatomy = gn.trace(net, X, call=call)
    assert sizes(anatomy) == {"[0]": 4, "[1]": 5}
    spans = [(m.path, m.span) for m in anatomy.widths["[0]"].members]
    assert spans == [("[0]", (0, 4)), ("[1]", (3, 7)), ("[2]", (3, 7))]


def test_several_inputs_and_outputs_and_shared_weights():
    net = {"a": normal(3, 8), "b": normal(4, 8), "loop": normal(8, 8), "y": normal(8)}

    def call(net, first, second):
        h = jnp.tanh(first @ net["a"] + second @ net["b"])
        h = jnp.tanh(jnp.tanh(h @ net["loop"]) @ net["loop"])
        return h @ net["y"], {"again": h @ net["y"] * 2}

    anatomy = gn.trace(net, normal(3), normal(4), call=call)
    assert sizes(anatomy) == {"a": 8}
    members = [(m.path, m.axis) for m in anatomy.widths["a"].members]
    assert members == [("a", 1), ("b", 1), ("loop", 0), ("loop", 1), ("y", 0)]


def test_low_rank_factors():
    net = {"a": normal(3, 2), "b": normal(2, 4), "out": normal(4, 5), "w": normal(3, 4)}

    def call(net, x):
        return jnp.tanh(x @ (net["w"] + net["a"] @ net["b"])) @ net["out"]

    anatomy = gn.trace(net, X, call=call)
    assert anatomy.widths["b"].size == 4
    assert gn.plan(anatomy, {"b": 6}).exactness == "exact"


def test_a_tied_autoencoder_can_be_gated_by_zero_or_one_only():
    net = {"w": normal(3, 4)}
    anatomy = gn.trace(net, X, call=lambda n, x: jnp.tanh(x @ n["w"]) @ n["w"].T)
    width = anatomy.widths["w"]
    assert width.gateable == "binary"
    assert width.exactness("clone")[0] == "not preserving"


def test_a_norm_over_the_width_is_said():
    norm = eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 8, key=jr.key(0)),
            eqx.nn.LayerNorm(8),
            eqx.nn.Linear(8, 2, key=jr.key(1)),
        ]
    )
    width = gn.trace(norm, normal(3)).widths["layers[0]"]
    assert width.growable and width.gateable == "no"
    assert any("goes over its units" in text for text in width.drift)
    with pytest.raises(ValueError, match="would change what the network computes"):
        gn.plan(gn.trace(norm, normal(3)), {"layers[0]": 9})
    wide = gn.resize(
        norm,
        gn.trace(norm, normal(3)),
        {"layers[0]": 9},
        key=jr.key(2),
        allow_drift=True,
    )
    assert wide.layers[1].shape == (9,)
    assert wide(normal(3)).shape == (2,)


def baked(net, x):
    return (jnp.tanh(net[0] @ x) / net[1].shape[0] ** 0.5) @ net[1]


def test_a_number_that_depends_on_the_width_is_found_with_its_line():
    width = gn.trace([normal(8, 4), normal(8, 5)], normal(4), call=baked).widths["[0]"]
    # What reads the units makes up for it, but not for a unit that is turned down.
    assert width.exactness("zero_out") == ("exact", "") and width.gateable == "no"
    (text,) = width.ungateable
    assert "a number depends on the size: in `div`" in text
    assert "test_trace.py" in text and "(baked)" in text


def ordered(net, x):
    return jnp.sort(jnp.tanh(net[0] @ x)) @ net[1]


def test_an_order_of_units_is_rigid_with_its_line():
    width = gn.trace([normal(8, 4), normal(8, 5)], normal(4), call=ordered).widths[
        "[0]"
    ]
    assert not width.growable
    assert "`sort` uses the order of its units" in width.reasons[0]
    assert "test_trace.py" in width.reasons[0] and "(ordered)" in width.reasons[0]


mystery_p = jexc.Primitive("mystery")
mystery_p.def_abstract_eval(lambda x: x)


def mysterious(net, x):
    return net[2] @ mystery_p.bind(net[1] @ jnp.tanh(net[0] @ x))


def test_an_unknown_primitive_is_rigid_and_named():
    net = [normal(8, 4), normal(8, 8), normal(2, 8)]
    anatomy = gn.trace(net, normal(4), call=mysterious)
    assert sizes(anatomy) == {"[0]": 8}
    assert any("`mystery` isn't understood" in r for r in anatomy.widths["[1]"].reasons)
    assert "the primitive `mystery` isn't understood" in anatomy.warnings


def test_a_size_fixed_in_the_code_is_rigid():
    net = [normal(8, 4), normal(8, 5)]
    anatomy = gn.trace(
        net, normal(4), call=lambda n, x: (n[0] @ x)[:8] * jnp.ones(8) @ n[1]
    )
    width = anatomy.widths["[0]"]
    assert not width.growable
    assert "doesn't work with another size" in width.reasons[0]


class Reshaping(eqx.Module):
    up: jax.Array
    down: jax.Array
    hidden: int = eqx.field(static=True)
    spatial: int = eqx.field(static=True)

    def __call__(self, x):
        h = jnp.broadcast_to(self.up @ x, (self.spatial, self.hidden))
        return jnp.tanh(h).reshape(2, self.hidden) @ self.down


def test_static_fields_are_found_by_search_and_only_those_that_matter():
    net = Reshaping(normal(2, 3), normal(2, 4), hidden=2, spatial=2)
    anatomy = gn.trace(net, normal(3))
    assert sizes(anatomy) == {"up": 2}
    grown = gn.resize(net, anatomy, {"up": 5}, key=jr.key(0))
    assert (grown.hidden, grown.spatial) == (5, 2)
    assert jnp.allclose(grown(normal(3)), net(normal(3)), atol=1e-6)
    again = gn.resize(grown, gn.trace(grown, normal(3)), {"up": 7}, key=jr.key(0))
    assert again.hidden == 7


def test_leaves_that_the_trace_does_not_reach_are_named():
    net = {"used": normal(3, 2), "idle": normal(7)}
    anatomy = gn.trace(net, X, call=lambda n, x: x @ n["used"])
    assert anatomy.warnings == ("the trace doesn't reach idle",)
    assert str(anatomy).startswith("no hidden width")


def test_anatomies_are_equal_hashable_and_static():
    mlp = eqx.nn.MLP(3, 2, 8, 1, key=jr.key(0))
    first, second = gn.trace(mlp, normal(3)), gn.trace(mlp, normal(3))
    assert first == second and hash(first) == hash(second)
    assert first != gn.trace(eqx.nn.MLP(3, 2, 9, 1, key=jr.key(0)), normal(3))
    traces = []

    @jax.jit
    def read(anatomy, x):
        traces.append(None)
        return x * anatomy.widths["layers[0]"].size

    assert read(first, 1.0) == read(second, 1.0) == 8
    assert len(traces) == 1


def test_parameters_are_counted_as_a_differentiable_function_of_sizes():
    mlp = eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0))
    anatomy = gn.trace(mlp, normal(3))
    true = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(mlp, eqx.is_array)))
    assert anatomy.params() == true
    slope = jax.grad(lambda n: anatomy.params({"layers[0]": n}))(8.0)
    assert slope == 3 + 1 + 8


def test_patterns_and_errors():
    anatomy = gn.trace(eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0)), normal(3))
    assert anatomy.match("layers[*]") == ("layers[0]", "layers[1]")
    assert anatomy.match(["layers[1]", "*"]) == ("layers[1]", "layers[0]")
    known = r"unknown width 'layer0'; this network has layers\[0\] \(8\), layers\[1\]"
    with pytest.raises(ValueError, match=known):
        anatomy.match("layer0")
    with pytest.raises(ValueError, match="can't change: it is axis 0 of the output"):
        anatomy.match("layers[2]")
    with pytest.raises(ValueError, match="can't be called; say how to with `call="):
        gn.trace({"w": normal(3)}, normal(3))
    with pytest.raises(ValueError, match="the network has no arrays"):
        gn.trace(None, normal(3), call=lambda net, x: x)


def test_the_table():
    anatomy = gn.trace(eqx.nn.MLP(3, 2, 8, 1, key=jr.key(0)), normal(3))
    assert str(anatomy).splitlines() == [
        "width      size  growable  gateable  exact inits      members",
        "layers[0]  8     yes       any       zero_out, clone  layers[0].weight:0, "
        "layers[0].bias:0, layers[1].weight:1*",
        "(path:axis; * is the cover: what an exact growth zeroes)",
        "fixed: layers[0].weight:1 (3): it is axis 0 of the input `x`",
        "fixed: layers[1] (2): it is axis 0 of the output; `plan_rows` appends",
    ]


UNSAFE = {
    "log": jnp.log,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "reciprocal": lambda h: 1 / h,
    "negative power": lambda h: h**-2,
    "power": lambda h: h**0.5,
    "arcsin": jnp.arcsin,
}
SAFE = {
    "soft sign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "gelu": lambda h: jax.nn.gelu(h, approximate=False),
    "mish": lambda h: h * jnp.tanh(jax.nn.softplus(h)),
    "root of a square and more": lambda h: jnp.sqrt(h**2 + 1.0),
    "log of a sum of exponentials": lambda h: jnp.log(jnp.exp(h) + 1.0),
}


@pytest.mark.parametrize("name", [*UNSAFE, *SAFE])
def test_functions_that_need_not_be_finite_are_told(name):
    """Zero consumers don't silence a unit that says infinity."""
    function = {**UNSAFE, **SAFE}[name]
    net = [jnp.abs(normal(8, 3)), normal(2, 8)]
    call = lambda n, x: n[1] @ function(n[0] @ x)  # noqa: E731
    anatomy = gn.trace(net, normal(3), call=call)
    width = anatomy.widths["[0]"]
    assert width.gateable == ("no" if name in UNSAFE else "any")
    if name in UNSAFE:
        assert "needn't be finite for new or closed units" in width.drift[0]
        with pytest.raises(ValueError, match="needn't be finite"):
            gn.plan(anatomy, {"[0]": 9})
        return
    x = normal(3)
    room = gn.reserve(net, anatomy, {"[0]": 12}).net
    grown = gn.resize(net, anatomy, {"[0]": 12}, key=jr.key(0))
    for tree in (room, grown):
        assert jnp.allclose(call(tree, x), call(net, x), atol=1e-5)
        slopes = jax.grad(lambda n: call(n, x).sum())(tree)
        assert all(bool(jnp.isfinite(s).all()) for s in slopes)


def failing(net, x):
    return (net[0] @ x).reshape(2, 4).reshape(-1)[:8] * jnp.ones(8)


def test_a_call_that_fails_is_told_with_its_line():
    with pytest.raises(ValueError, match=r"can't be called .*test_trace.py:.*failing"):
        gn.trace([normal(6, 4)], normal(4), call=failing)


class Dropping(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, x, *, key):
        hidden = self.dropout(jax.nn.relu(self.first(x)), key=key)
        return self.second(hidden)


def test_active_dropout_does_not_hide_a_width():
    keys = jr.split(jr.key(0))
    first, second = eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1])
    net = Dropping(first, second, eqx.nn.Dropout(0.5))

    def batched(net, x, key):
        return jax.vmap(lambda row, k: net(row, key=k))(x, jr.split(key, 5))

    for arguments, call in (
        ((normal(3), keys[0]), lambda n, x, k: n(x, key=k)),
        ((normal(5, 3), keys[0]), batched),
    ):
        width = gn.trace(net, *arguments, call=call).widths["first"]
        assert (width.size, width.gateable, width.reasons) == (8, "any", ())


def test_counting_units_with_an_array_of_ones_is_a_number_of_the_program():
    """No literal shows it, yet growth has to make up for it."""

    def call(net, x):
        h = x @ net["w"]
        return (h / jnp.ones_like(h).sum()) @ net["v"]

    x, rng = jnp.ones(3), np.random.default_rng(0)
    net = {"w": jnp.asarray(rng.normal(size=(3, 4)), "float32")}
    net["v"] = jnp.asarray(rng.normal(size=(4, 2)), "float32")
    anatomy = gn.trace(net, x, call=call)
    (width,) = anatomy.all_widths
    assert "a number depends on the size: in `reduce_sum`" in width.silent.drift[0]
    wider = gn.resize(net, anatomy, {"w": 7}, key=jr.key(0))
    np.testing.assert_allclose(call(wider, x), call(net, x), rtol=1e-6)
