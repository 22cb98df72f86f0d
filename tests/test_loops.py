"""Loops, branches and stacked layers: what is read of them, and what a layer costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet.testing import check_network

from .helpers import sizes, small_normal as normal


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


# --- recurrence


def recurrent(p, xs):
    def body(h, x):
        h = jnp.tanh(p["wx"] @ x + p["wh"] @ h + p["b"])
        return h, p["out"] @ h

    return jax.lax.scan(body, jnp.zeros(p["b"].shape), xs)[1]


def recurrent_net(units=4):
    return {
        "wx": normal(units, 3),
        "wh": normal(units, units),
        "b": normal(units),
        "out": normal(2, units),
    }


def test_the_state_of_a_recurrent_network_is_a_width():
    net, xs = recurrent_net(), normal(5, 3)
    anatomy = gn.trace(net, xs, call=recurrent)
    assert sizes(anatomy) == {"b": 4} or sizes(anatomy) == {"wh": 4}
    (width,) = anatomy.all_widths
    covered = {(width.members[i].path, width.members[i].axis) for i in width.cover}
    assert covered == {("wh", 1), ("out", 1)}
    for init in ("zero_out", "clone"):
        grown = gn.resize(net, anatomy, {width.name: 6}, init=init, key=jr.key(0))
        close(recurrent(grown, xs), recurrent(net, xs))


class Lstm(eqx.Module):
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, units, key):
        self.cell = eqx.nn.LSTMCell(3, units, key=key)
        self.head = eqx.nn.Linear(units, 2, key=key)

    def __call__(self, xs):
        zeros = jnp.zeros(self.cell.hidden_size)
        step = lambda state, x: (self.cell(x, state), None)
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), xs)
        return self.head(h)


def test_cells_of_equinox_keep_their_laws_and_fields():
    net = Lstm(3, jr.key(0))
    anatomy = gn.trace(net, normal(5, 3))
    assert sizes(anatomy) == {"cell": 3}
    grown = gn.resize(net, anatomy, {"cell": 5}, key=jr.key(1))
    assert grown.cell.hidden_size == 5
    close(grown(normal(5, 3)), net(normal(5, 3)))
    check_network(net, normal(5, 3), examples=1)


# --- stacked layers


def stacked(p, x):
    def layer(x, w):
        return x + jnp.tanh(x @ w["up"] + w["b"]) @ w["down"] * w["gain"], None

    x, _ = jax.lax.scan(jax.checkpoint(layer), x @ p["in"], p["blocks"])
    return x @ p["out"]


def stacked_net(layers=3, stream=4, units=5):
    return {
        "blocks": {
            "up": normal(layers, stream, units),
            "b": normal(layers, units),
            "down": normal(layers, units, stream),
            "gain": 1 + normal(layers, stream),
        },
        "in": normal(3, stream),
        "out": normal(stream, 2),
    }


def test_stacked_depth_is_a_width():
    net, x = stacked_net(), normal(3)
    anatomy = gn.trace(net, x, call=stacked)
    assert sizes(anatomy) == {"blocks.depth": 3, "blocks.up": 5, "blocks": 4}
    depth = anatomy.widths["blocks.depth"]
    assert depth.ordered and depth.gateable == "any"
    assert depth.exactness("zero_out") == ("exact", "")
    assert depth.exactness("clone")[0] == "not preserving"
    grown = gn.resize(net, anatomy, {"blocks.depth": 5}, key=jr.key(0))
    assert grown["blocks"]["up"].shape == (5, 4, 5)
    close(stacked(grown, x), stacked(net, x))
    # New layers learn at once: what silences them has a gradient.
    grads = jax.grad(lambda p: jnp.sum(stacked(p, x) ** 2))(grown)
    assert any(float(jnp.abs(g[3:]).max()) > 0 for g in grads["blocks"].values())


def test_stacked_widths_grow_with_all_layers():
    net, x = stacked_net(), normal(3)
    anatomy = gn.trace(net, x, call=stacked)
    edit = gn.plan(anatomy, {"blocks.up": 7, "blocks": 6})
    assert edit.exactness == "exact"
    grown = edit(net, key=jr.key(0))
    close(stacked(grown, x), stacked(net, x))
    # Gains of newborns are 1, also in a stack of layers.
    assert (grown["blocks"]["gain"][:, 4:] == 1).all()
    assert edit.after == gn.trace(grown, x, call=stacked)


def test_layers_open_and_close_inside_capacity():
    net, x = stacked_net(), normal(3)
    anatomy = gn.trace(net, x, call=stacked)
    reserved = gn.reserve(net, anatomy, {"blocks.depth": 6})
    run = jax.jit(lambda r: stacked(gn.gate(r.net, r.anatomy, r.open), x))
    close(run(reserved), stacked(net, x))
    opened = gn.open_units(reserved, {"blocks.depth": 2}, key=jr.key(0))
    assert opened.sizes["blocks.depth"] == 5
    close(run(opened), stacked(net, x))
    resized = gn.resize(net, anatomy, {"blocks.depth": 5}, key=jr.key(0))
    for a, b in zip(
        jax.tree.leaves(gn.compact(opened)), jax.tree.leaves(resized), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # Without its middle layer, the network is that of the other two.
    keep = jnp.array([True, False, True, False, False, False])
    closed = gn.close_units(reserved, {"blocks.depth": keep})
    fewer = jax.tree.map(lambda a: a[jnp.array([0, 2])], net["blocks"])
    close(run(closed), stacked({**net, "blocks": fewer}, x))


def test_layers_keep_their_order():
    net, x = stacked_net(), normal(3)
    anatomy = gn.trace(net, x, call=stacked)
    with pytest.raises(ValueError, match="changes the order of layers"):
        gn.plan(anatomy, {"blocks.depth": 3}, keep={"blocks.depth": [1, 0, 2]})
    edit = gn.plan(anatomy, {"blocks.depth": 2}, keep={"blocks.depth": [0, 2]})
    np.testing.assert_array_equal(edit(net)["blocks"]["b"], net["blocks"]["b"][::2])


def collecting(p, x):
    def layer(x, w):
        x = x + jnp.tanh(x @ w)
        return x, x.sum()

    x, sums = jax.lax.scan(layer, x @ p["in"], p["w"])
    return x @ p["out"], sums.mean()


def chained(p, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ p["in"], p["w"])
    return x @ p["out"]


def test_layers_that_are_no_identity_say_so():
    net = {"in": normal(3, 4), "w": normal(2, 4, 4), "out": normal(4, 2)}
    for call, why in (
        (collecting, "every layer's result is collected"),
        (chained, "a new layer wouldn't pass on what it is given"),
    ):
        anatomy = gn.trace(net, normal(3), call=call)
        exactness, reason = anatomy.widths["depth"].exactness("zero_out")
        assert exactness == "not preserving"
        assert why in reason and call.__name__ in reason
        with pytest.raises(ValueError, match=why):
            gn.plan(anatomy, {"depth": 3})


def shared_in_stack(p, x):
    def layer(x, w):
        return x + jnp.tanh(x @ w) @ p["down"], None

    return jax.lax.scan(layer, x @ p["in"], p["w"])[0] @ p["out"]


def test_a_leaf_that_all_layers_share_silences_none():
    net = {
        "in": normal(3, 4),
        "w": normal(2, 4, 5),
        "down": normal(5, 4),
        "out": normal(4, 2),
    }
    anatomy = gn.trace(net, normal(3), call=shared_in_stack)
    # tanh(0) = 0: the layer's own weight does it.
    depth = anatomy.widths["depth"]
    assert [depth.members[i].path for i in depth.cover] == ["w"]
    grown = gn.resize(net, anatomy, {"depth": 4}, key=jr.key(0))
    close(shared_in_stack(grown, normal(3)), shared_in_stack(net, normal(3)))


def depth_of(net, layer, x):
    """The width of the layers that `layer` runs, and the network that runs them."""

    def call(p, x):
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, p["blocks"])[0]

    anatomy = gn.trace({"blocks": net}, x, call=call)
    (depth,) = (w for w in anatomy.all_widths if "depth" in w.name)
    return depth, anatomy, call


def covered(depth):
    return {depth.members[i].path for i in depth.cover}


def check_identity(net, layer, x, paths):
    """These leaves' zeros make a layer the identity, to the last bit."""
    depth, anatomy, call = depth_of(net, layer, x)
    assert depth.exactness("zero_out") == ("exact", "")
    assert covered(depth) == paths
    net = {"blocks": net}
    grown = gn.resize(net, anatomy, {depth.name: 5}, key=jr.key(0))
    np.testing.assert_array_equal(call(grown, x), call(net, x))


def check_no_identity(net, layer, x):
    exactness, why = depth_of(net, layer, x)[0].exactness("zero_out")
    assert exactness == "not preserving"
    assert "a new layer wouldn't pass on what it is given" in why


def residual(dtype):
    """A layer that computes in `dtype`, whatever it is given."""

    def layer(x, w):
        h = jnp.tanh(x.astype(dtype) @ w["up"].astype(dtype))
        y = x.astype(dtype) + h @ w["down"].astype(dtype)
        return y.astype(x.dtype)

    return layer


@pytest.mark.parametrize(
    ("carried", "inside", "exact"),
    [
        ("bfloat16", "float32", True),
        ("float16", "float32", True),
        ("float32", "float32", True),
        ("float32", "bfloat16", False),
        # As wide as each other, and each has numbers that the other hasn't.
        ("float16", "bfloat16", False),
        ("bfloat16", "float16", False),
        ("int32", "float32", False),
        ("int8", "float8_e4m3fn", False),
    ],
)
def test_layers_of_mixed_precision(carried, inside, exact):
    net = {"up": normal(3, 4, 5), "down": normal(3, 5, 4)}
    x = (8 * normal(4)).astype(carried)
    if exact:
        check_identity(net, residual(inside), x, {"blocks.down"})
    else:
        check_no_identity(net, residual(inside), x)


def test_layers_that_widen_twice_lose_nothing():
    def layer(x, w):
        y = x.astype(jnp.float32).astype(jnp.bfloat16).astype(jnp.float32)
        return (y + jnp.tanh(y @ w["w"])).astype(jnp.float16)

    net, x = {"w": normal(3, 4, 4)}, normal(4)
    # Eight bits of a float16 are gone, though it comes back as one.
    check_no_identity(net, layer, x.astype(jnp.float16))


def test_a_sort_of_two_arrays_silences_each_by_its_own():
    def ordered(x, w):
        h = jnp.tanh(x @ w["w"])
        _, values = jax.lax.sort((h, h * w["gain"]), num_keys=1)
        return x + values

    def foreign(x, w):
        _, values = jax.lax.sort((x @ w["w"], jnp.cos(x) * w["gain"]), num_keys=1)
        return x + values

    def places(x, w):
        return x + jnp.argsort(x @ w["w"]).astype(x.dtype)

    net, x = {"w": normal(3, 4, 4), "gain": 1 + normal(3, 4)}, normal(4)
    assert covered(depth_of(net, ordered, x)[0]) in ({"blocks.w"}, {"blocks.gain"})
    # Keys of zero leave what they order as it is.
    check_identity(net, foreign, x, {"blocks.gain"})
    check_no_identity({"w": net["w"]}, places, x)


def test_differences_pass_on_what_they_start_with():
    net, x = {"w": normal(3, 4, 4)}, normal(4)
    check_identity(net, lambda x, w: x - jnp.tanh(x @ w["w"]), x, {"blocks.w"})
    check_no_identity(net, lambda x, w: jnp.tanh(x @ w["w"]) - x, x)


def test_layers_that_exchange_what_they_carry_pass_on_neither():
    def call(p, x, y):
        def layer(carry, w):
            x, y = carry
            return (y, x + jnp.tanh(y @ w)), None

        return jax.lax.scan(layer, (x, y), p["w"])[0]

    anatomy = gn.trace({"w": normal(3, 4, 4)}, normal(4), normal(4), call=call)
    assert anatomy.widths["depth"].exactness("zero_out")[0] == "not preserving"


def test_a_choice_by_what_is_carried_is_not_what_is_carried():
    def layer(x, w):
        return jnp.where(x, w["b"] != 0, x)

    x = jnp.array([True, False, True, False])
    check_no_identity({"b": normal(3, 4)}, layer, x)


def test_a_barrier_passes_each_of_its_values():
    def together(x, w):
        x, h = jax.lax.optimization_barrier((x, jnp.tanh(x @ w["w"])))
        return x + h

    def another(x, w):
        return jax.lax.optimization_barrier((x, w["b"]))[1]

    net, x = {"w": normal(3, 4, 4), "b": normal(3, 4)}, normal(4)
    check_identity({"w": net["w"]}, together, x, {"blocks.w"})
    check_no_identity({"b": net["b"]}, another, x)


# --- loops and branches


def test_sums_that_pile_up_from_zero_scale_from_the_second_round():
    def call(p, xs):
        def body(total, x):
            h = jnp.tanh(x @ p["in"])
            return total + h.sum(), jnp.tanh(total) + h @ p["out"]

        return jax.lax.scan(body, 0.0, xs)[1]

    net, xs = {"in": normal(3, 4), "out": normal(4, 2)}, normal(5, 3)
    (width,) = gn.trace(net, xs, call=call).all_widths
    # Twice as many units are twice the sum, of which the next round takes the tanh.
    assert width.growable
    assert width.exactness("clone")[0] == "not preserving"


@pytest.mark.parametrize(("power", "exact"), [(1, "exact"), (2, "not preserving")])
def test_what_goes_round_is_linear_in_nothing(power, exact):
    def call(p, x):
        h = x @ p["a"]
        if power > 1:
            h, _ = jax.lax.scan(lambda h, _: (h * h, None), h, None, length=1)
        return jnp.sum(h * jnp.tanh(x @ p["b"]), -1)

    net = {"a": normal(3, 4), "b": normal(3, 4)}
    (width,) = gn.trace(net, normal(5, 3), call=call).all_widths
    assert width.exactness("clone")[0] == exact


def test_loops_of_any_kind_share_their_units():
    def looped(p, x):
        h = jnp.tanh(p["in"] @ x)
        h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(p["w"] @ h), h)
        h = jax.lax.while_loop(
            lambda h: jnp.sum(h**2) > 1e-3, lambda h: 0.5 * jnp.tanh(p["w"] @ h), h
        )
        h = jax.lax.cond(x[0] > 0, lambda h: p["w"] @ h, lambda h: h + p["b"], h)
        h = jax.lax.switch(jnp.int32(1), [jnp.sin, jnp.tanh], h)
        return p["out"] @ h

    net = {"in": normal(4, 3), "w": normal(4, 4), "b": normal(4), "out": normal(2, 4)}
    anatomy = gn.trace(net, normal(3), call=looped)
    assert list(sizes(anatomy).values()) == [4]
    (name,) = sizes(anatomy)
    order = {name: [2, 0, 3, 1]}
    permuted = gn.plan(anatomy, {name: 4}, keep=order)(net)
    close(looped(permuted, normal(3)), looped(net, normal(3)))
    plain = lambda p, x: (
        p["out"]
        @ jax.lax.fori_loop(
            0, 3, lambda i, h: jnp.tanh(p["w"] @ h), jnp.tanh(p["in"] @ x)
        )
    )
    anatomy = gn.trace(net, normal(3), call=plain)
    (name,) = sizes(anatomy)
    grown = gn.resize(net, anatomy, {name: 7}, key=jr.key(0))
    close(plain(grown, normal(3)), plain(net, normal(3)))


def test_layers_picked_by_a_counter_are_rows_of_a_table():
    def indexed(p, x):
        body = lambda i, h: h + p["down"][i] @ jnp.tanh(p["up"][i] @ h)
        return p["out"] @ jax.lax.fori_loop(0, 2, body, p["in"] @ x)

    net = {
        "in": normal(4, 3),
        "up": normal(2, 5, 4),
        "down": normal(2, 4, 5),
        "out": normal(2, 4),
    }
    anatomy = gn.trace(net, normal(3), call=indexed)
    assert sorted(sizes(anatomy).values()) == [4, 5]
    for name, size in sizes(anatomy).items():
        grown = gn.resize(net, anatomy, {name: size + 2}, key=jr.key(0))
        close(indexed(grown, normal(3)), indexed(net, normal(3)))


def test_a_counter_that_starts_at_zero_is_no_constant():
    """What is known of a carried number holds for the first round alone."""

    def counting(p, x):
        def body(state, _):
            i, h = state
            row = jax.lax.dynamic_slice(p["t"], (i, 0), (1, *h.shape))[0]
            return (i + 1, h + row), None

        (_, h), _ = jax.lax.scan(body, (0, x @ p["in"]), None, length=3)
        return h @ p["out"]

    net = {"in": normal(3, 4), "t": normal(3, 4), "out": normal(4, 2)}
    anatomy = gn.trace(net, normal(3), call=counting)
    assert list(sizes(anatomy).values()) == [4]
    (name,) = sizes(anatomy)
    members = {(m.path, m.axis) for m in anatomy.widths[name].members}
    assert members == {("in", 1), ("t", 1), ("out", 0)}


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap])
def test_wrapping_changes_no_anatomy(wrap):
    plain = stacked_net()
    x = normal(1, 3) if wrap is jax.vmap else normal(3)
    call = lambda p, x: stacked(p, x)
    inside = (
        (lambda p, x: wrap(lambda x: stacked(p, x))(x))
        if wrap is jax.vmap
        else lambda p, x: wrap(stacked)(p, x)
    )
    anatomy = gn.trace(plain, normal(3), call=call)
    wrapped = gn.trace(plain, x, call=inside)
    assert wrapped.sizes == anatomy.sizes
    for a, b in zip(anatomy.all_widths, wrapped.all_widths, strict=True):
        assert (a.members, a.cover) == (b.members, b.cover)
