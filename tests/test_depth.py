"""Depth edits: blocks that come in as the identity, and blocks that go."""

import pathlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._history.records import Tick
from growthnet._paths import array_leaves

from .depth_cases import FAMILIES, Residual, Scaled, Stack


def traced(net, *shape, call=None, dtype="float32"):
    return gn.trace(net, jax.ShapeDtypeStruct(shape, dtype), call=call)


def mlp(**options):
    return eqx.nn.MLP(3, 2, 4, 2, key=jr.key(0), **options)


def stack(block: Any = Residual, depth=2):
    return Stack(block, 4, 5, depth, key=jr.key(0))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"attention", "sequential"}))
def test_sites_are_where_the_families_say(name):
    # The two others have more: inside of blocks, or without an activation.
    family = FAMILIES[name]
    net = family.make(4, 2, jr.key(0))
    anatomy = traced(net, *family.inputs(4), call=family.call)
    kinds = {s.name: s.kind for s in gn.sites(anatomy) if s.kind != "no"}
    assert kinds == dict.fromkeys(family.at(2), family.kind)


def test_sites_tell_the_cover_or_the_reason():
    found = {s.name: s for s in gn.sites(traced(stack(), 4))}
    assert found["blocks[1]"].cover == ("blocks[1].out.weight", "blocks[1].out.bias")
    assert str(found["blocks[1]"]).startswith(
        "blocks[1]: residual (a copy of blocks[0]"
    )
    first, second, *_ = gn.sites(traced(mlp(activation=jax.nn.gelu), 3))
    assert "can't be called" in first.why and "(3,)" in first.why
    assert "activation, applied twice" in second.why
    assert str(second).startswith("layers[1]: no exact block (with the identity")


def test_what_is_used_last_is_zeroed_whatever_the_order_of_leaves():
    (site,) = [s for s in gn.sites(traced(stack(Scaled), 4)) if s.name == "blocks[0]"]
    assert site.cover == ("blocks[0].gain",)


@pytest.mark.parametrize(
    "activation, exact",
    [
        (jax.nn.relu, True),
        (jnp.abs, True),
        (lambda x: jnp.clip(x, -1, 1), True),
        (lambda x: x, True),
        (jax.nn.gelu, False),
        (jnp.tanh, False),
        (jax.nn.leaky_relu, False),
        (jax.nn.softplus, False),
    ],
)
def test_a_layer_is_exact_where_the_activation_is_idempotent(activation, exact):
    anatomy = traced(mlp(activation=activation), 3)
    if exact:
        assert gn.plan_deepen(anatomy, "layers[1]").exactness == "exact"
        return
    with pytest.raises(ValueError, match=r"applied twice, isn't what it is once"):
        gn.plan_deepen(anatomy, "layers[1]")
    edit = gn.plan_deepen(anatomy, "layers[1]", allow_drift=True)
    assert edit.exactness == "not preserving" and "applied twice" in edit.why
    assert (np.asarray(edit(mlp()).layers[1].weight) == np.eye(4)).all()


def test_it_is_the_middle_of_a_layer_of_another_size():
    net = eqx.nn.MLP(3, 2, 5, 1, key=jr.key(0))
    edit = gn.plan_deepen(traced(net, 3), "layers[1]")
    assert edit(net).layers[1].in_features == edit(net).layers[1].out_features == 5
    wide = gn.resize(net, edit.before, {"layers[0]": 7}, key=jr.key(1))
    again = gn.deepen(wide, traced(wide, 3), "layers[1]")
    assert again.width_size == 7 and again.depth == 2
    assert again.layers[1].weight.shape == (7, 7)


class Convolutions(eqx.Module):
    layers: list

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x.mean((1, 2))


def test_a_given_block_is_checked():
    net = stack()
    anatomy = traced(net, 4)
    block = Residual(4, 3, key=jr.key(5))
    with pytest.raises(ValueError, match="the block isn't the identity there"):
        gn.plan_deepen(anatomy, "blocks[1]", block)
    zero = lambda b: eqx.tree_at(
        lambda b: (b.out.weight, b.out.bias), b, replace_fn=jnp.zeros_like
    )
    edit = gn.plan_deepen(anatomy, "blocks[1]", zero(block))
    assert edit.exactness == "exact" and "the given block comes in" in edit.explain()
    made = edit(net)
    assert eqx.tree_equal(made.blocks[1], zero(block)) and made.depth == 3
    assert made.blocks[1].into.weight is not block.into.weight
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(made(x), net(x))
    draw = lambda key: zero(Residual(4, 3, key=key))
    edit = gn.plan_deepen(anatomy, "blocks[1]", draw)
    drawn = edit(net, key=jr.key(1))
    assert eqx.tree_equal(drawn.blocks[1], draw(jr.key(1)))
    with pytest.raises(ValueError, match=r"blocks\[1\] draws its numbers: pass `key=`"):
        edit(net)


def test_a_list_is_a_run_of_entries():
    net = FAMILIES["sequential"].make(4, 1, jr.key(0))
    linear = eqx.tree_at(
        lambda l: (l.weight, l.bias),
        eqx.nn.Linear(4, 4, key=jr.key(0)),
        (jnp.eye(4), jnp.zeros(4)),
    )
    run = [linear, eqx.nn.Lambda(jax.nn.relu)]
    edit = gn.plan_deepen(traced(net, 3), "layers[2]", run)
    assert edit.exactness == "exact" and len(edit(net).layers) == 5
    named = gn.plan_deepen(edit.after, "layers[4]", "layers[2:4]")
    assert named.exactness == "exact" and len(named(edit(net)).layers) == 7


class Counted(eqx.Module):
    layers: list
    count: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)

    def __check_init__(self):
        if len(self.layers) != self.count:
            raise ValueError("layers and count differ")

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.sum()


class Wired(eqx.Module):
    """The depth is in the code."""

    layers: list

    def __call__(self, x):
        return self.layers[1](self.layers[0](x)).sum()


class Labelled(eqx.Module):
    layers: list
    label: int = eqx.field(static=True)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.sum()


def two_blocks():
    return [Residual(4, 5, key=k) for k in jr.split(jr.key(0))]


def test_fields_that_count_layers_follow_or_are_told():
    net = Counted(two_blocks(), 2, 2)
    edit = gn.plan_deepen(traced(net, 4), "layers[1]")
    assert (edit(net).count, edit(net).hidden) == (3, 2)
    assert "perhaps no longer true: Counted.hidden = 2" in edit.explain()
    assert edit.inverse()(edit(net)).count == 2
    edit = gn.plan_deepen(traced(Labelled(two_blocks(), 2), 4), "layers[1]")
    assert "perhaps no longer true: Labelled.label = 2" in edit.explain()


def test_a_depth_that_is_in_the_code_is_noticed():
    anatomy = traced(Wired(two_blocks()), 4)
    with pytest.raises(ValueError, match="is the depth fixed in code"):
        gn.plan_deepen(anatomy, "layers[1]")
    with pytest.raises(ValueError, match="can't be removed: the network can't be call"):
        gn.plan_remove_block(anatomy, "layers[1]")


# --- trees shaped like the network


def test_gradients_and_averages_follow():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[1]", init="drawn")
    deep = edit(net, key=jr.key(3))
    average = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, net)
    after = edit(average, key=jr.key(3))
    drawn = deep.blocks[1].into.weight
    assert (after.blocks[1].into.weight == drawn).all() and drawn.any()
    assert (after.blocks[2].into.weight == 2 * deep.blocks[2].into.weight).all()
    grads = eqx.filter_grad(lambda net: net(jnp.ones(4)).sum())(net)
    moved = edit(grads, zeros=True)
    assert jtu.tree_structure(moved) == jtu.tree_structure(
        eqx.filter(deep, eqx.is_inexact_array)
    )
    assert not any(x.any() for x in jtu.tree_leaves(moved.blocks[1]))
    assert moved.blocks[2].out.weight is grads.blocks[1].out.weight


def test_trees_keep_their_precision_and_their_kind():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[1]", init="drawn")
    half = jax.tree.map(lambda x: x.astype("bfloat16"), eqx.filter(net, eqx.is_array))
    leaves = jtu.tree_leaves(edit(half, key=jr.key(3)))
    assert {str(x.dtype) for x in leaves} == {"bfloat16"}
    plain = jax.tree.map(np.asarray, eqx.filter(net, eqx.is_array))
    leaves = jtu.tree_leaves(edit(plain, key=jr.key(3)))
    assert all(type(x) is np.ndarray for x in leaves)
    described = edit(eqx.filter_eval_shape(lambda: net))
    assert jtu.tree_structure(described) == jtu.tree_structure(edit(net, key=jr.key(3)))


def test_no_buffer_is_shared():
    deep = gn.deepen(stack(), traced(stack(), 4), "blocks[1]")
    places = [x.unsafe_buffer_pointer() for x in array_leaves(deep).values()]
    assert len(set(places)) == len(places)


def test_a_frozen_part_stays_frozen():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[2]")
    trained = eqx.tree_at(
        lambda n: n.blocks[1].norm, eqx.filter(net, eqx.is_array), None
    )
    moved = edit(trained)
    assert moved.blocks[2].norm is None or not jtu.tree_leaves(moved.blocks[2].norm)
    assert moved.blocks[2].into.weight.shape == (5, 4)


# --- removal


def test_removing_a_block_that_does_something_says_so():
    net, anatomy = stack(depth=3), traced(stack(depth=3), 4)
    edit = gn.plan_remove_block(anatomy, "blocks[1]", net=net)
    assert edit.exactness == "not preserving" and edit.why
    assert edit.renames == {"blocks[2].into": "blocks[1].into"}
    assert "width that is gone: blocks[1].into" in edit.explain()
    small = gn.remove_block(net, anatomy, "blocks[1]")
    assert small.depth == 2 and eqx.tree_equal(small.blocks[1], net.blocks[2])
    with pytest.raises(ValueError, match=r"removal of blocks\[1\] has no inverse"):
        edit.inverse()


def test_removing_the_identity_is_exact():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[1]")
    removal = gn.plan_remove_block(edit.after, "blocks[1]", net=edit(net))
    assert removal.exactness == "exact"
    assert gn.plan_remove_block(edit.after, "blocks[1]").exactness == "not preserving"


def test_the_state_of_a_removed_block_goes():
    net, anatomy = stack(depth=3), traced(stack(depth=3), 4)
    edit = gn.plan_remove_block(anatomy, "blocks[1]")
    params = eqx.filter(net, eqx.is_array)
    state = jax.tree.map(lambda x: x + 1, optax.adam(0.1).init(params))
    moved, report = edit.transfer(
        optax.adam(0.1), state, params, edit(params), report=True
    )
    assert eqx.tree_equal(moved[0].mu, edit(state[0].mu))
    assert moved[0].count == 1
    gone = [row.path for row in report.rows if row.action == "gone"]
    assert len(gone) == 12 and all("blocks[1]" in path for path in gone)


def test_a_state_that_mixes_all_parameters_is_reset():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[1]")
    optimizer = optax.flatten(optax.trace(0.9))
    params = eqx.filter(net, eqx.is_array)
    state = optimizer.init(params)
    moved, report = edit.transfer(optimizer, state, params, edit(params), report=True)
    fresh = optimizer.init(edit(params))
    assert jtu.tree_structure(moved) == jtu.tree_structure(fresh)
    assert {row.action for row in report.rows} == {"reset"}


# --- what goes wrong


@pytest.mark.parametrize(
    "at, text",
    [
        (
            "blocks[9]",
            r"unknown place 'blocks\[9\]'; a block can come in at blocks\[0\] ",
        ),
        ("layers[0]", r"unknown place 'layers\[0\]'; .* blocks\[0\] to blocks\[2\]"),
        ("blocks", "unknown place 'blocks'"),
        ("blocks[0:2]", "unknown place"),
        (2, "unknown place 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_unknown_places_are_told(at, text):
    with pytest.raises(ValueError, match=text):
        gn.plan_deepen(traced(stack(), 4), at)


@pytest.mark.parametrize("at", ["blocks[2]", "blocks[1:1]", "blocks[0:3]", "x[0]"])
def test_what_isnt_there_cant_be_removed(at):
    with pytest.raises(
        ValueError, match=r"blocks that may go are blocks\[0\] to blocks\[1"
    ):
        gn.plan_remove_block(traced(stack(), 4), at)


def test_a_network_without_lists():
    anatomy = traced(eqx.nn.Linear(3, 2, key=jr.key(0)), 3)
    assert gn.sites(anatomy) == ()
    with pytest.raises(ValueError, match="no place: it has no list of layers"):
        gn.plan_deepen(anatomy, "layers[0]")


@pytest.mark.usefixtures("unchecked")
def test_blocks_that_dont_fit():
    net, anatomy = mlp(), traced(mlp(), 3)
    with pytest.raises(ValueError, match=r"(?s)no block fits at layers\[0\].*\(4, 3\)"):
        gn.plan_deepen(anatomy, "layers[0]")
    wrong = eqx.nn.Linear(4, 5, key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"(?s)no block fits at layers\[1\].*given block"
    ):
        gn.plan_deepen(anatomy, "layers[1]", wrong)
    with pytest.raises(ValueError, match=r"layers\[0\] can't be removed.*\(4, 3\)"):
        gn.plan_remove_block(anatomy, "layers[0]")
    with pytest.raises(ValueError, match="name an entry of the same list"):
        gn.plan_deepen(_two_lists(), "a[0]", "b[0]")
    with pytest.raises(ValueError, match="init='zero'; a block's init is"):
        gn.plan_deepen(anatomy, "layers[1]", init="zero")  # pyright: ignore
    edit = gn.plan_deepen(anatomy, "layers[1]")
    with pytest.raises(ValueError, match="can't run under jit"):
        jax.jit(lambda n: eqx.filter(edit(n), eqx.is_array))(
            eqx.filter(net, eqx.is_array)
        )
    with pytest.raises(ValueError, match="doesn't fit this anatomy"):
        edit(eqx.nn.MLP(3, 2, 5, 2, key=jr.key(0)))


def _two_lists():
    net = {"a": two_blocks(), "b": two_blocks()}

    def call(net, x):
        for block in (*net["a"], *net["b"]):
            x = block(x)
        return x

    return traced(net, 4, call=call)


def test_a_drawn_block_needs_a_key():
    net, anatomy = stack(), traced(stack(), 4)
    edit = gn.plan_deepen(anatomy, "blocks[1]", init="drawn")
    with pytest.raises(ValueError, match=r"blocks\[1\] draws its numbers: pass `key=`"):
        edit(net)


def test_layers_with_state_elsewhere_are_refused():
    class Normed(eqx.Module):
        layers: list

        def __call__(self, x, state):
            for layer in self.layers:
                x, state = layer(x, state, inference=True)
            return x

    make = lambda: Normed(
        [eqx.nn.BatchNorm(4, "batch", mode="batch") for _ in range(2)]
    )
    net, state = eqx.nn.make_with_state(make)()
    with jax.numpy_dtype_promotion("standard"):
        anatomy = gn.trace((net, state), jnp.ones(4), call=lambda n, x: n[0](x, n[1]))
        with pytest.raises(ValueError, match="keeps its state in an `eqx.nn.State`"):
            gn.plan_deepen(anatomy, "[0].layers[1]")


# --- several edits, and what is left of them


def test_grow_deepen_grow_and_train():
    net = mlp()
    optimizer = optax.adam(1e-2)
    params = eqx.filter(net, eqx.is_array)
    state = optimizer.init(params)
    x, anatomy = jnp.ones(3), traced(net, 3)
    wanted = net(x)
    for step in range(3):
        edit = (
            gn.plan_deepen(anatomy, "layers[1]")
            if step == 1
            else gn.plan(anatomy, {"layers[*]": 6 + step})
        )
        new = edit(net, key=jr.key(step))
        params, params2 = (eqx.filter(n, eqx.is_array) for n in (net, new))
        state = edit.transfer(optimizer, state, params, params2)
        net, anatomy = new, edit.after
    assert anatomy.sizes == {"layers[0]": 8, "layers[1]": 8, "layers[2]": 8}
    np.testing.assert_allclose(net(x), wanted, atol=1e-6)
    assert jtu.tree_structure(state) == jtu.tree_structure(
        optimizer.init(eqx.filter(net, eqx.is_array))
    )


def test_the_history_follows_new_names(tmp_path):
    edit = gn.plan_deepen(traced(mlp(), 3), "layers[1]")
    tick = lambda step, sizes: Tick(step, 1.0, sizes, 9, 0.0, 1)
    event = gn.GrowthEvent(
        10, "layers", 3, 4, "deepened", 1.0, 1.0, renames=edit.renames
    )
    grown = gn.GrowthEvent(15, "layers[2]", 5, 7, "resized", 1.0, 1.0)
    new = {"layers[0]": 4, "layers[1]": 4, "layers[2]": 7}
    ticks = [tick(10, {"layers[0]": 4, "layers[1]": 5}), tick(20, new)]
    history = gn.History(ticks, [event, grown])
    assert history.widths == ("layers[0]", "layers[2]", "layers[1]")
    assert history.sizes_of("layers[0]") == ([0, 10, 20], [4, 4, 4])
    assert history.sizes_of("layers[1]") == ([0, 20], [0, 4])
    assert history.sizes_of("layers[2]") == ([0, 10, 15, 20], [5, 5, 7, 7])
    history.to_jsonl(tmp_path / "run.jsonl")
    assert gn.History.from_jsonl(tmp_path / "run.jsonl").events == history.events
    assert "deepened" in history.table()


def test_flax_lists_are_lists():
    nnx = pytest.importorskip("flax.nnx")

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.into = nnx.Linear(4, 5, rngs=rngs)
            self.out = nnx.Linear(5, 4, rngs=rngs)

        def __call__(self, x):
            return x + self.out(jnp.tanh(self.into(x)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    net = Net(nnx.Rngs(0))
    edit = gn.plan_deepen(traced(net, 3, 4), "blocks[1]")
    deep, x = edit(net), jnp.arange(12.0).reshape(3, 4)
    assert edit.exactness == "exact" and len(deep.blocks) == 3
    np.testing.assert_array_equal(deep(x), net(x))
    params, params2 = nnx.state(net, nnx.Param), nnx.state(deep, nnx.Param)
    state = jax.tree.map(lambda x: x + 1, optax.adam(0.1).init(params))
    moved = edit.transfer(optax.adam(0.1), state, params, params2)
    mu, old = moved[0].mu, state[0].mu
    assert (
        mu["blocks"][2]["out"]["kernel"][...] == old["blocks"][1]["out"]["kernel"][...]
    ).all()
    assert not mu["blocks"][1]["out"]["kernel"][...].any()


def test_the_page_runs(capsys):
    page = pathlib.Path(__file__).parent.parent / "docs" / "depth.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    scope = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)
    printed = capsys.readouterr().out
    assert len(blocks) == 5 and "layers[2] identity" in printed
    assert "the identity as weights the outputs change" in printed
