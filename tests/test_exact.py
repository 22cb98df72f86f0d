"""Recipes: which cover, which shares and which scales make a growth exact."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn

from .helpers import cover, lenient, small_normal as normal


def outputs(call, net, *args):
    return jnp.concatenate([jnp.ravel(y) for y in jax.tree.leaves(call(net, *args))])


def assert_kept(call, net, grown, *args):
    before, after = outputs(call, net, *args), outputs(call, grown, *args)
    np.testing.assert_allclose(after, before, rtol=3e-5, atol=3e-5)


def differs(call, net, grown, *args):
    change = jnp.abs(outputs(call, net, *args) - outputs(call, grown, *args))
    return float(change.max()) > 1e-3


def without_scales(edit):
    return dataclasses.replace(edit, factors={}, fields={})


# --- a stream under RMSNorm


class RmsBlock(eqx.Module):
    stem: eqx.nn.Linear
    norms: list
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, stream, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Linear(3, stream, key=keys[0])
        self.norms = [eqx.nn.RMSNorm(stream, eps=1e-2) for _ in range(2)]
        self.up = eqx.nn.Linear(stream, 7, key=keys[1])
        self.down = eqx.nn.Linear(7, stream, key=keys[2])
        self.head = eqx.nn.Linear(stream, 2, key=keys[3])

    def __call__(self, x):
        x = self.stem(x)
        x = x + self.down(jnp.tanh(self.up(self.norms[0](x))))
        return self.head(self.norms[1](x))


def test_a_stream_under_rms_norm_grows_by_silent_newborns():
    net, x, call = RmsBlock(4, jr.key(0)), normal(3), lambda net, x: net(x)
    anatomy = gn.trace(net, x)
    stream = anatomy.widths["stem"]
    assert stream.exactness("zero_out") == ("exact", "")
    assert stream.gateable == "no"
    # What writes to the stream is silent; gains and epsilons make up for the mean.
    covered = {stream.members[i].path for i in stream.cover}
    made = {"stem.weight", "stem.bias", "down.weight", "down.bias"}
    assert covered == made | {"norms[0].bias", "norms[1].bias"}
    scaled = {stream.members[i].path: power for i, power in stream.silent.scales}
    assert scaled == {"norms[0].weight": -0.5, "norms[1].weight": -0.5}
    assert set(stream.silent.fields) == {
        ("norms[0]", "eps", -1.0),
        ("norms[1]", "eps", -1.0),
    }
    edit = gn.plan(anatomy, {"stem": 9})
    grown = edit(net, key=jr.key(1))
    assert_kept(call, net, grown, x)
    assert grown.norms[0].eps == pytest.approx(1e-2 * 4 / 9)
    assert grown.norms[0].shape == (9,)
    assert differs(call, net, without_scales(edit)(net, key=jr.key(1)), x)
    assert "multiplied by 0.666667: norms[0].weight along axis 0" in edit.explain()
    assert "multiplied by 0.444444: norms[0].eps" in edit.explain()
    assert edit.after == gn.trace(grown, x)
    back = edit.inverse()(grown)
    assert_kept(call, net, back, x)
    assert back.norms[0].eps == pytest.approx(1e-2)


@pytest.mark.parametrize(
    "take", [jnp.split, lambda y, n: jnp.unstack(y.reshape(n, -1))]
)
def test_every_piece_of_what_is_taken_apart_scales(take):
    net = {
        "stem": normal(4, 3),
        "gain": jnp.ones(4),
        "up": normal(6, 4),
        "down": normal(2, 3),
    }

    def call(net, x):
        x = net["stem"] @ x
        x = x / jnp.sqrt(jnp.mean(x**2) + 1e-12) * net["gain"]
        _, last = take(net["up"] @ x, 2)
        return net["down"] @ jnp.tanh(last)

    x = normal(3)
    anatomy = gn.trace(net, x, call=call)
    (stream,) = [w for w in anatomy.all_widths if w.size == 4]
    scaled = {stream.members[i].path: power for i, power in stream.silent.scales}
    assert scaled == {"gain": -0.5}
    # Only nearly exact: no field holds the epsilon.
    edit = gn.plan(anatomy, {stream.name: 9}, allow_drift=True)
    assert_kept(call, net, edit(net, key=jr.key(1)), x)


def test_moments_of_scaled_leaves_go_against_their_scale():
    net, x = RmsBlock(4, jr.key(0)), normal(3)
    edit = gn.plan(gn.trace(net, x), {"stem": 16})
    grown = edit(net, key=jr.key(1))
    loss = lambda net: jnp.sum(net(x) ** 2)
    optimizer = lenient(optax.adam(1e-3))
    params, params2 = (eqx.filter(n, eqx.is_inexact_array) for n in (net, grown))
    grads = eqx.filter_grad(loss)(net)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moved, report = edit.transfer(optimizer, state, params, params2, report=True)
    assert "reset" not in {row.action for row in report.rows}, report
    fresh = eqx.filter_grad(loss)(grown).norms[0].weight[:4]
    first, second = (m.norms[0].weight[:4] for m in (moved[0].mu, moved[0].nu))
    np.testing.assert_allclose(first, 0.1 * fresh, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(second, 1e-3 * fresh**2, rtol=1e-4, atol=1e-9)


def rms_by_hand(p, x):
    h = x @ p["in"]
    h = h * jax.lax.rsqrt(jnp.mean(h**2) + 1e-5) * p["gain"]
    return h @ p["out"]


def test_an_epsilon_out_of_reach_is_nearly_exact_and_says_so():
    net, x = {"in": normal(3, 4), "gain": 1 + normal(4), "out": normal(4, 2)}, normal(3)
    anatomy = gn.trace(net, x, call=rms_by_hand)
    exactness, why = anatomy.widths["in"].exactness("zero_out")
    assert exactness == "approximate" and "epsilon" in why
    with pytest.raises(ValueError, match="epsilon of the program stays"):
        gn.plan(anatomy, {"in": 8})
    grown = gn.resize(net, anatomy, {"in": 8}, key=jr.key(0), allow_drift=True)
    assert_kept(rms_by_hand, net, grown, x)


def unit_length(p, x):
    h = x @ p["in"]
    return (h / (1 + jnp.sqrt(jnp.sum(h**2) + 1e-3))) @ p["out"]


def test_a_norm_without_a_mean_needs_no_scale():
    net, x = {"in": normal(3, 4), "out": normal(4, 2)}, normal(3)
    anatomy = gn.trace(net, x, call=unit_length)
    width = anatomy.widths["in"]
    assert width.exactness("zero_out") == ("exact", "") and width.gateable == "any"
    assert [width.members[i].path for i in width.cover] == ["in"]
    grown = gn.resize(net, anatomy, {"in": 6}, key=jr.key(0))
    assert_kept(unit_length, net, grown, x)
    # Twice the units at 1/sqrt(2) are as long.
    assert width.exactness("clone") == ("exact", "")
    grown = gn.resize(net, anatomy, {"in": 8}, init="clone")
    assert_kept(unit_length, net, grown, x)


# --- LayerNorm, tied heads


def layer_norm(h, gain, bias):
    h = h - jnp.mean(h)
    return h * jax.lax.rsqrt(jnp.mean(h**2) + 1e-5) * gain + bias


def tied_language_model(p, tokens):
    h = p["table"][tokens]
    for b in p["blocks"]:
        z = jax.vmap(layer_norm, (0, None, None))(h, b["gain"], b["bias"])
        h = h + jnp.tanh(z @ b["up"]) @ b["down"]
    h = jax.vmap(layer_norm, (0, None, None))(h, p["gain"], p["bias"])
    return h @ p["table"].T


def tied_net(stream=4):
    block = lambda: {
        "gain": 1 + normal(stream),
        "bias": normal(stream),
        "up": normal(stream, 7),
        "down": normal(7, stream),
    }
    return {
        "table": normal(11, stream),
        "blocks": [block(), block()],
        "gain": 1 - normal(stream),
        "bias": normal(stream),
    }


def test_a_tied_head_is_copied_by_halving_what_enters_it():
    net, tokens = tied_net(), jnp.array([3, 1, 4])
    anatomy = gn.trace(net, tokens, call=tied_language_model)
    (name,) = [w.name for w in anatomy.all_widths if w.size == 4]
    stream = anatomy.widths[name]
    assert stream.exactness("zero_out")[0] == "not preserving"
    assert stream.exactness("clone") == ("exact", "") and stream.copied.whole
    scaled = {stream.members[i].path: p for i, p in stream.copied.scales}
    assert scaled == {"gain": -1.0, "bias": -1.0}
    edit = gn.plan(anatomy, {name: 12}, init="clone")
    grown = edit(net)
    assert_kept(tied_language_model, net, grown, tokens)
    assert differs(tied_language_model, net, without_scales(edit)(net), tokens)
    with pytest.raises(ValueError, match="a multiple of 4"):
        gn.plan(anatomy, {name: 6}, init="clone")
    with pytest.raises(ValueError, match="a multiple of 4"):
        gn.plan(anatomy, {name: 8}, init=gn.Clone(sources=(0, 0, 0, 0)))
    # Copies part: what reads them in the blocks has unequal shares.
    loss = lambda p: jnp.sum(tied_language_model(p, tokens) ** 2)
    grads = jax.grad(loss)(grown)["blocks"][0]["down"]
    assert float(jnp.abs(grads[:, :4] - grads[:, 4:8]).max()) > 1e-4


# --- attention


class Attending(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, key, bias=True):
        keys = jr.split(key)
        self.attention = eqx.nn.MultiheadAttention(
            3,
            5,
            qk_size=4,
            vo_size=2,
            use_query_bias=bias,
            use_key_bias=bias,
            key=keys[0],
        )
        self.head = eqx.nn.Linear(5, 2, key=keys[1])

    def __call__(self, xs):
        return jax.vmap(self.head)(self.attention(xs, xs, xs))


def test_every_width_of_attention_grows_exactly():
    net, xs, call = Attending(jr.key(0)), 3 * normal(6, 5), lambda net, x: net(x)
    anatomy = gn.trace(net, xs)
    sizes = {w.name: w.size for w in anatomy.all_widths}
    assert sizes == {
        "attention.query_proj": 3,
        "attention.query_proj/1": 4,
        "attention.value_proj": 2,
        "attention.output_proj": 5,
    }
    assert all(w.growable for w in anatomy.all_widths)
    for width in anatomy.all_widths:
        for init in ("zero_out", "clone"):
            assert width.exactness(init) == ("exact", ""), (width.name, init)
            edit = gn.plan(anatomy, {width.name: 2 * width.size}, init=init)
            grown = edit(net, key=jr.key(1))
            assert_kept(call, net, grown, xs)
            assert edit.after == gn.trace(grown, xs)
    heads = gn.resize(net, anatomy, {"attention.query_proj": 4}, key=jr.key(2))
    assert heads.attention.num_heads == 4 and heads.attention.qk_size == 4


def test_queries_make_up_for_the_root_of_their_size():
    net, xs, call = Attending(jr.key(0)), 3 * normal(6, 5), lambda net, x: net(x)
    anatomy = gn.trace(net, xs)
    name = "attention.query_proj/1"
    edit = gn.plan(anatomy, {name: 9})
    assert set(edit.factors.values()) == {1.5}
    assert differs(call, net, without_scales(edit)(net, key=jr.key(1)), xs)
    assert anatomy.widths[name].gateable == "no"
    # One side is silent, the other is not: both learn.
    grown = edit(net, key=jr.key(1))
    grads = eqx.filter_grad(lambda net: jnp.sum(net(xs) ** 2))(grown).attention
    new = lambda w: jnp.abs(w.reshape(3, 9, -1)[:, 4:]).max()
    assert max(new(grads.query_proj.weight), new(grads.key_proj.weight)) > 0


def linear_attention(p, xs):
    q, k, v = (jax.nn.relu(xs @ p[n]) for n in ("q", "k", "v"))
    return (q @ k.T) @ v @ p["out"]


def test_sides_that_are_bent_are_silenced_but_not_shared():
    net = {"q": normal(5, 4), "k": normal(5, 4), "v": normal(5, 3), "out": normal(3, 2)}
    xs = normal(6, 5)
    anatomy = gn.trace(net, xs, call=linear_attention)
    (name,) = [w.name for w in anatomy.all_widths if w.size == 4]
    width = anatomy.widths[name]
    assert width.exactness("zero_out") == ("exact", "")
    # A negative share of a query is cut off by its relu.
    assert width.exactness("clone")[0] == "not preserving"
    grown = gn.resize(net, anatomy, {name: 6}, key=jr.key(0))
    assert_kept(linear_attention, net, grown, xs)


def scores(pairs):
    """Attention whose scores are a sum over pairs of projections."""

    def call(p, xs):
        total = sum((xs @ p[a]) @ (xs @ p[b]).T for a, b in pairs)
        return jax.nn.softmax(total / np.sqrt(p["q"].shape[1])) @ xs

    return call


@pytest.mark.parametrize(
    ("pairs", "shared"),
    [
        (["qk"], True),
        (["qk", "qk"], True),
        (["qk", "kq"], True),
        (["qk", "ql"], True),
        (["qk", "kl"], True),
        (["lq", "lk"], True),
        (["qk", "qq"], True),
        (["qq"], False),
        (["qk", "kl", "lq"], False),
    ],
)
def test_a_projection_that_is_read_several_times(pairs, shared):
    net, xs = {n: normal(5, 4) for n in "qkl"}, normal(6, 5)
    call = scores(pairs)
    anatomy = gn.trace(net, xs, call=call)
    width = anatomy.widths[next(w.name for w in anatomy.all_widths if w.size == 4)]
    exact = width.exactness("clone")[0] == "exact"
    assert exact == shared
    if exact:
        edit = gn.plan(anatomy, {width.name: 8}, init="clone")
        assert_kept(call, net, edit(net, key=jr.key(0)), xs)


@pytest.mark.parametrize("compared", [jnp.max, jnp.min])
def test_a_reader_that_is_also_compared_has_no_shares(compared):
    call = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"] + compared(p["out"], axis=0)
    net, x = {"in": normal(5, 4), "out": normal(4, 2)}, normal(5)
    (width,) = gn.trace(net, x, call=call).all_widths
    assert width.exactness("clone")[0] == "not preserving"


def test_the_side_that_is_also_compared_has_no_shares():
    def call(p, xs):
        q, k = xs @ p["q"], xs @ p["k"]
        return jax.nn.softmax(q @ k.T / np.sqrt(4) + k.max(1)[None]) @ xs

    net, xs = {"q": normal(5, 4), "k": normal(5, 4)}, normal(6, 5)
    anatomy = gn.trace(net, xs, call=call)
    edit = gn.plan(anatomy, {"k": 8}, init="clone")
    assert_kept(call, net, edit(net, key=jr.key(0)), xs)


def test_copies_of_queries_in_either_branch():
    net = {"q": normal(5, 4), "k": normal(5, 4)}
    branch = scores(["qk"])
    call = lambda p, xs: jax.lax.cond(xs[0, 0] > 0, branch, branch, p, xs)
    xs = normal(6, 5)
    anatomy = gn.trace(net, xs, call=call)
    (width,) = [w for w in anatomy.all_widths if w.size == 4]
    assert width.exactness("clone") == ("exact", "")
    grown = gn.plan(anatomy, {width.name: 8}, init="clone")(net, key=jr.key(0))
    for inputs in (xs, -xs):
        assert_kept(call, net, grown, inputs)


# --- gradients inside, weights of weights


def physics(p, x):
    u = lambda x: p["out"] @ jnp.tanh(p["in"] @ x)
    return u(x), jax.grad(u)(x)


def test_a_gradient_inside_needs_one_silent_weight():
    net, x = {"in": normal(4, 3), "out": normal(4)}, normal(3)
    anatomy = gn.trace(net, x, call=physics)
    (width,) = anatomy.all_widths
    assert [width.members[i].path for i in width.cover] == ["out"]
    assert width.gateable == "any"
    for init in ("zero_out", "clone"):
        assert width.exactness(init) == ("exact", "")
        grown = gn.resize(net, anatomy, {width.name: 7}, init=init, key=jr.key(0))
        assert_kept(physics, net, grown, x)


def squared_gradient(p, x):
    """The reader enters squared: its copies can't have shares."""
    u = lambda x: p["out"] @ jnp.tanh(p["in"] @ x)
    g = jax.grad(lambda h: p["out"] @ jnp.tanh(h))(p["in"] @ x)
    return u(x), jnp.sum(g**2)


def test_a_reader_that_enters_squared_has_no_shares():
    net, x = {"in": normal(4, 3), "out": normal(4)}, normal(3)
    anatomy = gn.trace(net, x, call=squared_gradient)
    (width,) = anatomy.all_widths
    assert width.exactness("clone")[0] == "not preserving"
    if width.exactness("zero_out")[0] == "exact":
        grown = gn.resize(net, anatomy, {width.name: 7}, key=jr.key(0))
        assert_kept(squared_gradient, net, grown, x)


def bilinear(p, x, y):
    left, right = jnp.tanh(p["left"] @ x), jnp.tanh(p["right"] @ y)
    return jnp.einsum("i,kij,j->k", left, p["core"], right)


def test_a_bilinear_form_reads_both_sides():
    net = {"left": normal(5, 3), "right": normal(7, 4), "core": normal(2, 5, 7)}
    x, y = normal(3), normal(4)
    anatomy = gn.trace(net, x, y, call=bilinear)
    assert sorted(anatomy.sizes.values()) == [5, 7]
    for name in anatomy.sizes:
        for init in ("zero_out", "clone"):
            grown = gn.resize(net, anatomy, {name: 9}, init=init, key=jr.key(0))
            assert_kept(bilinear, net, grown, x, y)


def softmax_over_units(p, x):
    return jax.nn.softmax(x @ p["in"]) @ p["out"]


def test_a_softmax_over_the_units_grows_by_copies_alone():
    net, x = {"in": normal(3, 4), "out": normal(4, 2)}, normal(3)
    anatomy = gn.trace(net, x, call=softmax_over_units)
    width = anatomy.widths["in"]
    exactness, why = width.exactness("zero_out")
    assert exactness == "not preserving" and width.gateable == "no"
    assert "test_exact.py" in why and "softmax_over_units" in why
    # Each copy gets half of the probability: what reads it is doubled.
    assert width.exactness("clone") == ("exact", "") and width.copied.whole
    grown = gn.resize(net, anatomy, {"in": 8}, init="clone")
    assert_kept(softmax_over_units, net, grown, x)


def sum_inside(p, x):
    h = x @ p["in"]
    return jnp.tanh(jnp.sum(h)) * (jnp.tanh(h) @ p["out"])


def test_a_softmax_over_units_and_others_has_no_copies():
    """The sum over copies, and over what isn't copied, goes with no power."""

    def call(p, x):
        joined = jnp.concatenate([jnp.tanh(p["in"] @ x), x])
        return p["out"] @ jax.nn.softmax(joined)

    net, x = {"in": normal(4, 4), "out": normal(2, 8)}, normal(4)
    (width,) = gn.trace(net, x, call=call).all_widths
    assert width.growable and width.exactness("clone")[0] == "not preserving"


def test_a_sum_that_a_bend_follows_can_do_nothing_by_copies():
    net, x = {"in": normal(3, 4), "out": normal(4, 2)}, normal(3)
    width = gn.trace(net, x, call=sum_inside).widths["in"]
    exactness, why = width.exactness("clone")
    assert exactness == "not preserving" and "sum_inside" in why


def scaled_by_size(p, x):
    h = jnp.tanh(x @ p["in"])
    return h @ p["out"] / h.shape[0]


def test_a_mean_field_read_out_is_made_up_for_by_what_reads():
    net, x = {"in": normal(3, 4), "out": normal(4, 2)}, normal(3)
    anatomy = gn.trace(net, x, call=scaled_by_size)
    grown = gn.resize(net, anatomy, {"in": 8}, init="clone")
    assert anatomy.widths["in"].exactness("clone") in (("exact", ""),)
    assert_kept(scaled_by_size, net, grown, x)


def test_where_is_silent_where_its_cases_are():
    """Whatever its condition is."""

    def call(net, x):
        h = jnp.where(x[:, :1] > 0, x @ net["a"], 0.0)
        return jnp.sum(h * jnp.cos(x @ net["b"]), -1)

    net, x = {"a": normal(3, 4), "b": normal(3, 4)}, normal(5, 3)
    anatomy = gn.trace(net, x, call=call)
    (width,) = anatomy.all_widths
    assert cover(anatomy, width.name) == {"a:1"}
    grown = gn.resize(net, anatomy, {width.name: 6}, key=jr.key(0))
    assert_kept(call, net, grown, x)


def test_a_product_over_units_is_another_of_copies():
    def call(net, x):
        h = 1 + jnp.tanh(x @ net["a"])
        return h @ net["b"] + jnp.prod(h, -1, keepdims=True)

    net = {"a": normal(3, 4), "b": normal(4, 2)}
    (width,) = gn.trace(net, normal(5, 3), call=call).all_widths
    assert width.exactness("clone")[0] == "not preserving"
