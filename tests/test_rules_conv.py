"""Convolutions and what slides beside them: channels are units, positions are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax

import growthnet as gn

from .helpers import check_resizes, cover, normal, roles, sizes


pytestmark = pytest.mark.usefixtures("x64")


# --- one convolution between two others


def between(middle, channels):
    """`up` makes `channels` channels, `middle` is tested, `down` reads its result."""

    def call(net, x):
        h = lax.conv(x[None], net["up"], (1, 1), "SAME")
        h = jax.nn.relu(middle(jax.nn.relu(h), net["mid"]))
        h = lax.conv(h, net["xdown"], (1, 1), "VALID")
        return h.sum((2, 3))

    def make(kernel, out=None):
        return {
            "up": normal(channels, 3, 3, 3),
            "mid": kernel,
            "xdown": normal(2, out or channels, 1, 1),
        }

    return call, make


def conv(**options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lambda x, w: lax.conv_general_dilated(x, w, **options)


PLAIN = {
    "plain": conv(),
    "valid": conv(padding="VALID"),
    "strided": conv(window_strides=(2, 2)),
    "dilated": conv(rhs_dilation=(2, 2)),
    "transposed": conv(lhs_dilation=(2, 2), padding=((1, 1), (1, 1))),
    "unequal padding": conv(padding=((0, 2), (1, 0))),
    "under vmap": lambda x, w: jax.vmap(lambda row: conv()(row[None], w)[0])(x),
    "under jit and remat": jax.jit(jax.checkpoint(conv())),
}


@pytest.mark.parametrize("name", PLAIN)
def test_output_channels_are_the_kernels_and_input_channels_are_consumed(name):
    call, make = between(PLAIN[name], 4)
    net, x = make(normal(6, 4, 3, 3), 6), normal(3, 6, 6)
    anatomy = gn.trace(net, x, call=call)
    assert sizes(anatomy) == {"mid": 6, "up": 4}
    assert roles(anatomy, "up") == {"up:0": {"producer"}, "mid:1": {"consumer"}}
    assert roles(anatomy, "mid") == {"mid:0": {"producer"}, "xdown:1": {"consumer"}}
    assert cover(anatomy, "up") == {"mid:1"}
    mid = next(leaf for leaf in anatomy.leaves if leaf.path == "mid")
    assert mid.fan_in == (1, 2, 3), "the window is summed as well"
    if name in ("plain", "transposed", "under vmap"):
        check_resizes(net, x, call=call)


LAYOUTS = [
    (("NHWC", "HWIO", "NHWC"), (3, 3, 4, 6), "mid:2", "mid:3"),
    (("NCHW", "OIHW", "NHWC"), (6, 4, 3, 3), "mid:1", "mid:0"),
    (("CNWH", "IOWH", "HNWC"), (4, 6, 3, 3), "mid:0", "mid:1"),
]


@pytest.mark.parametrize("specs, shape, inner, outer", LAYOUTS)
def test_any_order_of_dimensions(specs, shape, inner, outer):
    lhs, _, out = specs

    def call(net, x):
        h = jnp.einsum("chw,ce->ehw", x, net["up"])[None]
        h = jnp.transpose(h, ["NCHW".index(c) for c in lhs])
        h = lax.conv_general_dilated(h, net["mid"], (1, 1), "SAME", None, None, specs)
        h = jnp.transpose(h, [out.index(c) for c in "NHWC"])
        return h @ net["xdown"]

    net = {"up": normal(3, 4), "mid": normal(*shape), "xdown": normal(6, 2)}
    anatomy = gn.trace(net, normal(3, 5, 5), call=call)
    assert sizes(anatomy) == {"mid": 6, "up": 4}
    assert cover(anatomy, "up") == {inner}
    assert set(roles(anatomy, "mid")) == {outer, "xdown:0"}
    check_resizes(net, normal(3, 5, 5), call=call)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_number_of_positions(rank):
    keys = jr.split(jr.key(0), 3)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv(rank, 3, 5, 2, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.ConvTranspose(rank, 5, 4, 2, 2, key=keys[1]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Conv(rank, 4, 2, 1, key=keys[2]),
        ]
    )
    x = normal(3, *(4,) * rank)
    anatomy = gn.trace(net, x)
    assert sizes(anatomy) == {"layers[0]": 5, "layers[2]": 4}
    check_resizes(net, x)


def test_sizes_that_coincide_change_nothing():
    def widths(c, hw):
        call, make = between(conv(), c)
        return gn.trace(make(normal(c, c, 3, 3)), normal(3, hw, hw), call=call)

    equal, distinct = widths(3, 3), widths(5, 7)
    assert sizes(equal) == {"mid": 3, "up": 3}
    assert sizes(distinct) == {"mid": 5, "up": 5}
    for name in ("up", "mid"):
        assert roles(equal, name) == roles(distinct, name)
        assert cover(equal, name) == cover(distinct, name)


# --- groups


def grouped(groups, inner, each, x=(3, 4, 4)):
    """`groups * inner` channels to `groups * each`; groups as the kernel says."""

    def middle(h, w):
        return conv(feature_group_count=h.shape[1] // w.shape[1])(h, w)

    call, make = between(middle, groups * inner)
    net = make(normal(groups * each, inner, 3, 3), groups * each)
    return net, call, normal(*x)


def test_depthwise():
    net, call, x = grouped(4, 1, 1)
    anatomy = gn.trace(net, x, call=call)
    assert sizes(anatomy) == {"up": 4}
    assert roles(anatomy, "up") == {
        "up:0": {"producer"},
        "mid:0": {"scale"},
        "xdown:1": {"consumer"},
    }
    assert cover(anatomy, "up") == {"xdown:1"}
    check_resizes(net, x, call=call)


def test_depthwise_with_a_multiplier():
    net, call, x = grouped(4, 1, 2)
    anatomy = gn.trace(net, x, call=call)
    assert sizes(anatomy) == {"mid": 2, "up": 4}
    assert roles(anatomy, "mid") == {"mid:0": {"producer"}, "xdown:1": {"consumer"}}
    assert roles(anatomy, "up")["mid:0"] == {"scale"}
    check_resizes(net, x, call=call)


def test_groups_of_several_channels():
    net, call, x = grouped(3, 2, 4)
    anatomy = gn.trace(net, x, call=call)
    assert sizes(anatomy) == {"mid": 4, "up": 3, "up/1": 2}
    assert roles(anatomy, "up") == {
        "up:0": {"producer"},
        "mid:0": {"scale"},
        "xdown:1": {"consumer"},
    }
    assert cover(anatomy, "up/1") == {"mid:1"}
    check_resizes(net, x, call=call)


def test_groups_of_sizes_that_coincide():
    net, call, x = grouped(3, 3, 3, (3, 3, 3))
    anatomy = gn.trace(net, x, call=call)
    assert sizes(anatomy) == {"mid": 3, "up": 3, "up/1": 3}
    assert cover(anatomy, "up/1") == {"mid:1"}
    assert cover(anatomy, "up") == {"xdown:1"}


def test_groups_that_cut_through_segments_are_rigid():
    def call(net, x):
        parts = [lax.conv(x[None], w, (1, 1), "SAME") for w in net["ups"]]
        h = jnp.concatenate([jax.nn.relu(p) for p in parts], 1)
        return conv(feature_group_count=2)(h, net["mid"]).sum((2, 3))

    net = {"ups": [normal(2, 3, 3, 3), normal(4, 3, 3, 3)], "mid": normal(2, 3, 3, 3)}
    anatomy = gn.trace(net, normal(3, 4, 4), call=call)
    assert sizes(anatomy) == {}
    assert "groups cut through its units" in str(anatomy)


def test_stacked_convolutions_become_groups_under_vmap():
    """An ensemble: `vmap` over kernels and inputs is one grouped convolution."""

    def call(net, x):
        def one(up, down):
            h = jax.nn.relu(lax.conv(x[None], up, (1, 1), "SAME"))
            return lax.conv(h, down, (1, 1), "SAME").mean((0, 2, 3))

        return jax.vmap(one)(net["a"], net["b"])

    net = {"a": normal(4, 5, 3, 3, 3), "b": normal(4, 2, 5, 3, 3)}
    anatomy = gn.trace(net, normal(3, 6, 6), call=call)
    assert sizes(anatomy) == {"a": 5}
    assert cover(anatomy, "a") == {"b:2"}
    check_resizes(net, normal(3, 6, 6), call=call)


# --- positions


def test_positions_made_by_a_layer_are_rigid_under_a_window():
    """A decoder: a linear layer makes `channels * height * width`."""

    def call(net, x):
        h = (x @ net["lift"]).reshape(1, net["conv"].shape[1], 4, 5)
        return lax.conv(h, net["conv"], (1, 1), "SAME").sum(1)

    net = {"lift": normal(3, 6 * 20), "conv": normal(2, 6, 3, 3)}
    anatomy = gn.trace(net, normal(3), call=call)
    assert sizes(anatomy) == {"conv": 2, "lift": 6}
    rigid = [w for w in anatomy.all_widths if not w.growable]
    assert [w.size for w in rigid] == [4, 5]
    assert all("slides a window along it" in w.reasons[0] for w in rigid)
    check_resizes(net, normal(3), call=call)


def windowed(net, x):
    h = (x @ net["lift"]).reshape(1, 6, 4, 5)
    h = lax.conv(h, net["conv"], (1, 1), "SAME")
    return h.reshape(-1) @ net["xread"]


def test_a_window_says_where_it_slides():
    net = {"lift": normal(3, 120), "conv": normal(2, 6, 3, 3), "xread": normal(40, 2)}
    anatomy = gn.trace(net, normal(3), call=windowed)
    rigid = {w.size: w.reasons[0] for w in anatomy.all_widths if not w.growable}
    assert {4, 5} <= set(rigid)
    assert "a convolution slides a window along it, at test_rules_conv.py" in rigid[4]


def test_a_convolution_of_one_by_one_leaves_positions_alone():
    """What a linear layer made is a width even then."""

    def call(net, x):
        h = jnp.einsum("ct,tu->cu", x, net["time"])[None]
        h = jax.nn.relu(lax.conv_general_dilated(h, net["mix"], (1,), "VALID"))
        return h[0] @ net["xread"]

    net = {"time": normal(5, 7), "mix": normal(4, 3, 1), "xread": normal(7, 2)}
    anatomy = gn.trace(net, normal(3, 5), call=call)
    assert sizes(anatomy) == {"time": 7}
    assert cover(anatomy, "time") == {"xread:0"}
    check_resizes(net, normal(3, 5), call=call)


# --- both sides are data, both are weights


def test_a_kernel_made_by_a_network():
    def call(net, x):
        kernel = (x.mean((1, 2)) @ net["hyper"]).reshape(net["up"].shape[0], 2, 3, 3)
        h = lax.conv(x[None], net["up"], (1, 1), "SAME")
        return lax.conv(jnp.tanh(h), kernel.transpose(1, 0, 2, 3), (1, 1), "SAME")

    net = {"up": normal(5, 3, 3, 3), "hyper": normal(3, 5 * 18)}
    width = gn.trace(net, normal(3, 4, 4), call=call).widths["hyper"]
    assert (width.size, width.growable) == (5, True)
    assert {m.path for m in width.members} == {"hyper", "up"}
    check_resizes(net, normal(3, 4, 4), call=call)


def test_weights_convolved_with_weights_are_factors():
    def call(net, x):
        inner = net["inner"].transpose(1, 0, 2, 3)
        kernel = conv(padding=((2, 2), (2, 2)))(net["outer"], inner)
        h = jax.nn.relu(lax.conv(x[None], kernel, (1, 1), "SAME"))
        return lax.conv(h, net["read"], (1, 1), "SAME")

    net = {
        "inner": normal(4, 3, 3, 3),
        "outer": normal(5, 4, 3, 3),
        "read": normal(2, 5, 1, 1),
    }
    anatomy = gn.trace(net, normal(3, 6, 6), call=call)
    assert sizes(anatomy) == {"inner": 4, "outer": 5}
    assert roles(anatomy, "inner") == {"inner:0": {"factor"}, "outer:1": {"factor"}}
    check_resizes(net, normal(3, 6, 6), call=call)


def test_groups_of_weights_with_weights_and_groups_of_the_batch_are_said():
    def blurred(net, x):
        kernel = conv(feature_group_count=net["w"].shape[1])(net["w"], net["blur"])
        return lax.conv(x[None], kernel, (1, 1), "SAME").sum((2, 3)) @ net["xread"]

    net = {"w": normal(4, 3, 3, 3), "blur": normal(3, 1, 3, 3), "xread": normal(4, 2)}
    anatomy = gn.trace(net, normal(3, 5, 5), call=blurred)
    assert sizes(anatomy) == {}
    assert "weights convolved with weights in groups" in str(anatomy)

    def batched(net, x):
        h = lax.conv(x, net["up"], (1, 1), "SAME")
        return conv(batch_group_count=2)(h, net["mid"]).sum((2, 3)) @ net["xread"]

    net = {"up": normal(4, 3, 3, 3), "mid": normal(6, 4, 3, 3), "xread": normal(6, 2)}
    anatomy = gn.trace(net, normal(4, 3, 5, 5), call=batched)
    assert sizes(anatomy) == {}
    assert "groups along the batch" in str(anatomy)


def test_the_gradient_of_a_convolution_inside_a_network():
    """A step of gradient descent on the kernel, and then the layer (as in MAML)."""

    def call(net, x):
        def forward(kernel):
            h = lax.conv(x[None], net["up"], (1, 1), "SAME")
            return lax.conv(jnp.tanh(h), kernel, (1, 1), "SAME")

        kernel = net["mid"] - 0.1 * jax.grad(lambda k: (forward(k) ** 2).sum())(
            net["mid"]
        )
        return forward(kernel)

    net = {"up": normal(4, 3, 3, 3), "mid": normal(2, 4, 3, 3)}
    anatomy = gn.trace(net, normal(3, 5, 5), call=call)
    assert sizes(anatomy) == {"up": 4}
    check_resizes(net, normal(3, 5, 5), call=call)


# --- whole layers, with their static fields


class Separable(eqx.Module):
    stem: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    pointwise: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, channels, multiplier, out, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Conv2d(3, channels, 3, key=keys[0])
        self.depthwise = eqx.nn.Conv2d(
            channels, channels * multiplier, 3, groups=channels, key=keys[1]
        )
        self.pointwise = eqx.nn.Conv2d(channels * multiplier, out, 1, key=keys[2])
        self.head = eqx.nn.Linear(out * 4, 2, key=keys[3])

    def __call__(self, x):
        x = jax.nn.relu(self.depthwise(jax.nn.relu(self.stem(x))))
        x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(self.pointwise(x)))
        return self.head(x.reshape(-1))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_separable_layer_and_its_static_fields(multiplier):
    net, x = Separable(4, multiplier, 6, jr.key(0)), normal(3, 8, 8)
    anatomy = gn.trace(net, x)
    more = {"depthwise": multiplier} if multiplier > 1 else {}
    assert sizes(anatomy) == {**more, "pointwise": 6, "stem": 4}
    grown = gn.resize(net, anatomy, {"stem": 7}, key=jr.key(1))
    layer = grown.depthwise
    assert (layer.in_channels, layer.out_channels) == (7, 7 * multiplier)
    assert (layer.groups, grown.stem.out_channels) == (7, 7)
    assert grown.pointwise.in_channels == 7 * multiplier
    assert layer.kernel_size == (3, 3)

    built = eqx.filter_eval_shape(Separable, 7, multiplier, 6, jr.key(0))
    assert jax.tree.structure(grown) == jax.tree.structure(built)
    check_resizes(net, x)


class Residual(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    a: eqx.nn.Conv2d
    b: eqx.nn.Conv2d
    short: eqx.nn.Conv2d

    def __init__(self, groups, each, hidden, key):
        keys = jr.split(key, 4)
        channels = groups * each
        self.stem = eqx.nn.Conv2d(3, channels, 3, padding="SAME", key=keys[0])
        self.norm = eqx.nn.GroupNorm(groups, channels)
        self.a = eqx.nn.Conv2d(channels, hidden, 3, 2, padding=1, key=keys[1])
        self.b = eqx.nn.Conv2d(hidden, 5, 3, padding=1, key=keys[2])
        self.short = eqx.nn.Conv2d(channels, 5, 1, 2, key=keys[3])

    def __call__(self, x):
        x = self.stem(x)
        h = self.b(jax.nn.relu(self.a(jax.nn.relu(self.norm(x)))))
        return (h + self.short(x)).mean((1, 2))


def test_a_residual_block_with_group_norm():
    """Whole groups can be added exactly, channels of a group can't."""
    net, x = Residual(3, 2, 4, jr.key(0)), normal(3, 6, 6)
    anatomy = gn.trace(net, x)
    assert sizes(anatomy) == {"a": 4, "stem": 3, "stem/1": 2}
    assert anatomy.widths["stem"].exactness("zero_out")[0] == "exact"
    assert anatomy.widths["stem/1"].exactness("zero_out")[0] == "not preserving"
    grown = gn.resize(net, anatomy, {"stem": 5}, key=jr.key(1))
    assert (grown.norm.groups, grown.norm.channels) == (5, 10)
    built = eqx.filter_eval_shape(Residual, 5, 2, 4, jr.key(0))
    assert jax.tree.structure(grown) == jax.tree.structure(built)
    check_resizes(net, x, but=("stem/1",))


@pytest.mark.parametrize("channels", [(1, 1), (2, 1), (1, 3)])
def test_a_layer_of_one_channel_is_a_width_under_vmap_too(channels):
    """JAX wraps the convolution in reshapes, in which the axis of one channel stands
    beside one of one example."""
    a, b = channels
    keys = jr.split(jr.key(0), 3)
    net = [
        eqx.nn.Conv2d(1, a, 3, padding=1, key=keys[0]),
        eqx.nn.Conv2d(a, b, 1, key=keys[1]),
        eqx.nn.Conv2d(b, 1, 1, key=keys[2]),
    ]

    def call(net, x):
        first, second, last = net
        one = lambda x: last(jnp.cos(second(jnp.cos(first(x)))))
        return jax.vmap(one)(x)

    x = normal(4, 1, 6, 6)
    assert sizes(gn.trace(net, x, call=call)) == {"[0]": a, "[1]": b}
    check_resizes(net, x, call=call)
