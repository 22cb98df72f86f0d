"""Flax NNX modules: read, edited, gated and trained as Equinox modules are."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from flax import nnx

import growthnet as gn
import growthnet.flax as gf
from growthnet._paths import array_leaves
from growthnet.testing import (
    alive_newborns,
    Case,
    check_network,
    optimizer_follows,
    Resize,
)

from .helpers import Grow, lenient


X = jr.normal(jr.key(0), (16, 4))
Y = jnp.sin(X @ jnp.ones((4, 3)))


class MLP(nnx.Module):
    def __init__(self, sizes=(6, 5), *, rngs):
        first, second = sizes
        self.into = nnx.Linear(4, first, rngs=rngs)
        middle = nnx.Linear(first, second, rngs=rngs)
        self.layers = nnx.List([middle, nnx.Linear(second, 3, rngs=rngs)])

    def __call__(self, x):
        x = jnp.tanh(self.into(x))
        return self.layers[1](jnp.tanh(self.layers[0](x)))


class Normed(nnx.Module):
    def __init__(self, hidden=6, *, rngs):
        self.into = nnx.Linear(4, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.drop = nnx.Dropout(0.25, rngs=rngs)
        self.out = nnx.Linear(hidden, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(jnp.tanh(self.norm(self.into(x)))))


class Block(nnx.Module):
    def __init__(self, hidden=5, drop=0.1, *, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.mix = nnx.MultiHeadAttention(
            2,
            4,
            qkv_features=6,
            dropout_rate=drop,
            deterministic=True,
            decode=False,
            rngs=rngs,
        )
        self.up = nnx.Linear(4, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.mix(self.norm(x))
        return x + self.down(nnx.gelu(self.up(x)))


def made(cls, *args):
    """A module with generic numbers: biases and statistics aren't zero."""
    module = cls(*args, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)

    def shake(leaf):
        noise = 1 + 0.3 * rng.random(leaf.shape).astype("float32")
        return leaf + noise if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(shake, module)


def statics(module):
    """The sizes that a module states about itself."""
    return {
        (path, name): value
        for path, part in nnx.iter_modules(module)
        for name, value in vars(part).items()
        if isinstance(value, int | tuple)
    }


def test_the_core_comes_to_know_flax_by_itself():
    anatomy = gn.trace(made(MLP), X)
    assert anatomy.sizes == {"into": 6, "layers[0]": 5}
    assert [leaf.path for leaf in anatomy.leaves] == [
        "into.bias",
        "into.kernel",
        "layers[0].bias",
        "layers[0].kernel",
        "layers[1].bias",
        "layers[1].kernel",
    ]
    assert "it is axis 1 of the input `x`" in str(anatomy)


def test_a_resized_module_is_a_new_one_and_as_if_built_so():
    net = made(MLP)
    before = jax.tree.leaves(net)
    edit = gn.plan(gn.trace(net, X), {"into": 9, "layers[0]": 5})
    wider = edit(net, key=jr.key(0))
    assert isinstance(wider, MLP) and wider is not net
    assert jax.tree.structure(wider) == jax.tree.structure(made(MLP, (9, 5)))
    assert statics(wider) == statics(made(MLP, (9, 5)))
    assert jnp.allclose(wider(X), net(X), atol=1e-6)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(net), strict=True))
    assert (net.into.out_features, net.layers[0].in_features) == (6, 6)
    assert wider.into.bias is not None
    wider.into.bias[...] += 1  # Writing to one leaves the other alone.
    assert jnp.array_equal(net.into.bias[...], before[0])


def built(sizes):
    return made(MLP, (sizes["into"], sizes["layers[0]"]))


def test_laws_hold_for_an_mlp():
    report = check_network(made(MLP), X, build=built, examples=2)
    assert {w.name for w in report.anatomy.all_widths} == {"into", "layers[0]"}
    case = Case("mlp", made(MLP), (X,))
    optimizer_follows(case, Resize({"into": 8, "layers[0]": 3}))
    alive_newborns(case, Resize({"into": 8}))


@pytest.mark.parametrize("train", [False, True])
def test_laws_hold_with_batch_normalisation(train):
    net = made(Normed)
    net.drop.deterministic = True
    call = None if train else gf.call(train=False)
    check_network(net, X, call=call, examples=1)


def test_laws_hold_for_a_transformer_block():
    report = check_network(made(Block), X, examples=1)
    assert {"mix.value", "up"} <= set(report.anatomy.widths)
    assert report.anatomy.widths["mix.value"].exactness("zero_out")[0] == "exact"


def test_attention_tells_the_truth_about_its_sizes():
    net = made(Block)
    anatomy = gn.trace(net, X)
    heads = gn.plan(anatomy, {"mix.key": 3}, allow_drift=True)
    mix = heads(net, key=jr.key(0)).mix
    assert (mix.num_heads, mix.num_kv_heads, mix.head_dim) == (3, 3, 3)
    assert mix.qkv_features == 9
    assert mix.query.out_features == mix.out.in_features == (3, 3)
    assert (mix.in_features, mix.out_features) == (4, 4)
    assert "no single true value" not in heads.explain()
    values = gn.plan(anatomy, {"mix.value": 5})
    wider = values(net, key=jr.key(0))
    assert wider.mix.value.out_features == wider.mix.out.in_features == (2, 5)
    assert "mix.head_dim = 3 (queries and keys have 3 per head" in values.explain()
    assert jnp.allclose(wider(X), net(X), atol=1e-6)
    # Without dropout Flax calls JAX's attention, which wants values as wide as keys.
    alike = gn.trace(made(Block, 5, 0.0), X).widths
    assert alike["mix.key"].growable and not alike["mix.value"].growable
    assert "value shape should be" in alike["mix.value"].reasons[0]


class Many(nnx.Module):
    """One of each layer whose sizes follow its arrays."""

    def __init__(self, d=4, *, rngs):
        self.general = nnx.LinearGeneral(4, (d,), rngs=rngs)
        self.einsum = nnx.Einsum("...a,ab->...b", (d, 4), (4,), rngs=rngs)
        self.lora = nnx.LoRALinear(4, d, lora_rank=2, rngs=rngs)
        self.norm = nnx.RMSNorm(4, rngs=rngs)
        self.back = nnx.Linear(d, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.einsum(jnp.tanh(self.general(x)))
        return x + self.back(jnp.tanh(self.lora(self.norm(x))))


def test_static_fields_of_other_layers_are_true():
    net = made(Many, 7)
    anatomy = gn.trace(net, X)
    assert anatomy.sizes == {"general": 7, "lora": 7, "lora.lora": 2}
    other = gn.resize(
        net, anatomy, {"general": 9, "lora": 5, "lora.lora": 3}, key=jr.key(0)
    )
    assert other.general.out_features == (9,)
    assert other.einsum.kernel_shape == (9, 4)
    assert other.lora.out_features == other.lora.lora.out_features == 5
    assert other.back.in_features == 5


class Grouped(nnx.Module):
    def __init__(self, *, rngs):
        self.into = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.into(x))))


def test_the_number_of_groups_is_found_by_search():
    net, x = made(Grouped), X[:, None]
    anatomy = gn.trace(net, x)
    assert anatomy.sizes == {"into": 4, "into/1": 2}
    wider = gn.resize(net, anatomy, {"into": 6}, key=jr.key(0))
    assert (wider.norm.num_groups, wider.norm.group_size) == (6, 2)
    assert wider.into.out_features == 12
    assert jnp.allclose(wider(x), net(x), atol=1e-5)


def step_cell(net, x):
    cell, out = net
    carry = cell.initialize_carry(x.shape, nnx.Rngs(0))
    carry, _ = cell(carry, x)
    return out(cell(carry, x)[1])


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_recurrent_cells_in_a_tuple_of_modules(cell):
    net = (made(cell, 4, 5), made(nnx.Linear, 5, 2))
    anatomy = gn.trace(net, X, call=step_cell)
    (width,) = anatomy.all_widths
    assert width.size == 5 and width.growable
    wider = gn.resize(net, anatomy, {width.name: 7}, key=jr.key(0))
    assert wider[0].hidden_features == wider[1].in_features == 7
    assert jnp.allclose(step_cell(wider, X), step_cell(net, X), atol=1e-6)


class Image(nnx.Module):
    """Convolutions with normalisation, a depthwise one among them, and pooling."""

    def __init__(self, first=3, second=4, *, rngs):
        self.one = nnx.Conv(2, first, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(first, rngs=rngs)
        self.deep = nnx.Conv(first, first, (3, 3), feature_group_count=first, rngs=rngs)
        self.two = nnx.Conv(first, second, (2, 2), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(second, second, (2, 2), rngs=rngs)
        self.out = nnx.Linear(second, 3, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.deep(nnx.relu(self.norm(self.one(x)))))
        x = nnx.max_pool(nnx.relu(self.two(x)), (2, 2))
        return self.out(jnp.mean(nnx.relu(self.up(x)), (-3, -2)))


PICTURES = jr.normal(jr.key(2), (2, 6, 6, 2))


def test_a_convolutional_network_in_training_and_inference():
    net = made(Image)
    train, predict = gf.call(train=True), gf.call(train=False)
    anatomy = gn.trace(net, PICTURES, call=train, also=[predict])
    assert anatomy.sizes == {"one": 3, "two": 4, "up": 4}
    assert all(w.growable for w in anatomy.all_widths)
    edit = gn.plan(anatomy, {"one": 5, "two": 6, "up": 3}, allow_drift=True)
    other = edit(net, key=jr.key(0))
    assert (other.deep.feature_group_count, other.deep.in_features) == (5, 5)
    assert other.deep.kernel_shape == (3, 3, 1, 5)
    assert (other.two.in_features, other.two.out_features) == (5, 6)
    assert other.two.kernel_size == (2, 2)
    assert (other.up.in_features, other.up.out_features) == (6, 3)
    assert other.norm.num_features == 5
    grown = gn.resize(net, anatomy, {"one": 5, "two": 6}, key=jr.key(0))
    for call in (train, predict):
        (a, _), (b, _) = call(net, PICTURES), call(grown, PICTURES)
        assert jnp.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_laws_hold_for_a_convolutional_network(train):
    check_network(made(Image), PICTURES, call=gf.call(train=train), examples=1)


class Language(nnx.Module):
    """Tied embeddings, as Flax ties them."""

    def __init__(self, d=4, *, rngs):
        self.embed = nnx.Embed(7, d, rngs=rngs)
        self.up = nnx.Linear(d, 6, rngs=rngs)
        self.down = nnx.Linear(6, d, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.embed.attend(x + self.down(jnp.tanh(self.up(x))))


def test_tied_embeddings():
    net, tokens = made(Language), jnp.arange(5)
    anatomy = gn.trace(net, tokens)
    assert anatomy.sizes == {"down": 4, "up": 6}
    wider = gn.resize(net, anatomy, {"up": 9, "down": 6}, key=jr.key(0))
    assert wider.embed.features == wider.up.in_features == wider.down.out_features == 6
    assert wider.embed.num_embeddings == 7
    assert jnp.allclose(wider(tokens), net(tokens), atol=1e-5)


# --- state


def test_state_that_a_call_writes_is_not_an_output():
    net = made(Normed)
    anatomy = gn.trace(net, X)
    (width,) = anatomy.all_widths
    paths = {m.path for m in width.members}
    assert {"norm.bias", "norm.mean", "norm.scale", "norm.var"} < paths
    wider = gn.resize(net, anatomy, {"into": 8}, key=jr.key(0))
    assert wider.norm.num_features == 8
    assert (wider.norm.mean[...][6:] == 0).all()
    assert (wider.norm.var[...][6:] == 1).all()
    assert jnp.array_equal(wider.norm.mean[...][:6], net.norm.mean[...])
    assert wider.drop.rngs.key == net.drop.rngs.key


def test_a_pure_call_leaves_its_module_alone():
    net = made(Normed)
    mean = net.norm.mean[...]
    y, aux = jax.jit(gf.call(train=True))(net, X)
    assert jnp.array_equal(net.norm.mean[...], mean)
    assert not jnp.array_equal(aux.net.norm.mean[...], mean)
    assert int(aux.net.drop.rngs.count[...]) == 1
    assert jax.tree.structure(aux.net) == jax.tree.structure(net)
    again, _ = gf.call(train=False)(net, X)
    net.eval()
    assert jnp.allclose(again, net(X), atol=1e-6)
    assert not jnp.allclose(again, y, atol=1e-2)


def test_a_call_can_be_any_method():
    net = made(nnx.Embed, 5, 4)
    (output, aux), direct = gf.call("attend")(net, X), net.attend(X)
    assert jnp.array_equal(output, direct)
    assert jnp.array_equal(aux.net.embedding[...], net.embedding[...])
    by_function, _ = gf.call(lambda embed, x: embed.attend(x))(net, X)
    assert jnp.array_equal(by_function, direct)


class Tied(nnx.Module):
    """Two layers with one kernel between them."""

    def __init__(self, *, rngs):
        self.one = nnx.Linear(4, 6, rngs=rngs)
        self.other = nnx.Linear(4, 6, rngs=rngs)
        self.other.kernel = self.one.kernel
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.one(x)) * jnp.tanh(self.other(2 * x)))


def test_a_shared_variable_is_one_leaf_and_stays_shared():
    net = Tied(rngs=nnx.Rngs(0))
    anatomy = gn.trace(net, X)
    paths = [leaf.path for leaf in anatomy.leaves]
    assert "one.kernel" in paths and "other.kernel" not in paths
    wider = gn.resize(net, anatomy, {"one": 9}, key=jr.key(0))
    assert wider.other.kernel is wider.one.kernel
    assert wider.other.out_features == 9
    assert jnp.allclose(wider(X), net(X), atol=1e-6)
    grower = gn.Grower(gn.NoGrowth(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="one variable at several places"):
        grower.init(net, anatomy, key=jr.key(0))


# --- capacity and gates


def test_reserve_gate_and_compact():
    net = made(MLP)
    anatomy = gn.trace(net, X)
    reserved = gn.reserve(net, anatomy, {"*": 8})
    assert reserved.net.into.out_features == 8
    assert jnp.allclose(reserved.net(X), net(X), atol=1e-6)
    opened = gn.open_units(reserved, {"into": 1}, key=jr.key(1))
    assert jnp.allclose(opened.net(X), net(X), atol=1e-6)
    compact = gn.compact(opened)
    assert (compact.into.out_features, compact.layers[0].out_features) == (7, 5)
    assert jnp.array_equal(compact.into.kernel[..., :6], net.into.kernel[...])

    def loudness(gates):
        return jnp.sum(gn.gate(net, anatomy, {"into": gates})(X))

    assert bool((jax.grad(loudness)(jnp.ones(6)) != 0).all())


# --- training


def squares(net, batch, key):
    x, y = batch
    return jnp.mean((net(x) - y) ** 2), gn.Aux(net=net)


def fit(net, *, optimizer=None, **options):
    optimizer = optimizer or lenient(optax.adamw(1e-2, weight_decay=0.1))
    given = {"policy": Grow(), "steps": 12, "key": jr.key(1), **options}
    return gn.fit(net, given.pop("loss", squares), (X, Y), optimizer=optimizer, **given)


def test_a_run_moves_running_statistics_and_bears_them_as_new():
    net = made(Normed)
    anatomy = gn.trace(net, X, call=gf.call(train=True), also=[gf.call(train=False)])
    run = fit(net, anatomy=anatomy, steps=10)
    assert run.sizes == {"into": 10}
    assert isinstance(run.net, Normed) and run.net.norm.num_features == 10
    mean, var = run.net.norm.mean[...], run.net.norm.var[...]
    assert (mean[:6] != net.norm.mean[...]).all()
    assert (mean[8:] == 0).all() and (var[8:] == 1).all()
    assert (mean[6:8] != 0).all() and (var[6:8] != 1).all()
    seen = [module.drop.rngs for module in (net, run.net)]
    assert [int(rngs.count[...]) for rngs in seen if rngs is not None] == [0, 10]


def test_a_run_is_read_through_its_loss_alone():
    run = fit(made(Normed))
    assert run.sizes == {"into": 10}


class Odds(nnx.Module):
    def __init__(self, *, rngs):
        self.lora = nnx.LoRALinear(4, 4, lora_rank=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.plain = jnp.ones(4)
        self.whole = nnx.Param(jnp.ones(4, int))


@pytest.mark.parametrize(
    "spec, expected",
    [
        (
            lambda net: None,
            "lora.bias lora.kernel lora.lora.lora_a lora.lora.lora_b norm.bias "
            "norm.scale",
        ),
        (lambda net: nnx.LoRAParam, "lora.lora.lora_a lora.lora.lora_b"),
        (
            lambda net: nnx.LoRALinear,
            "lora.bias lora.kernel lora.lora.lora_a lora.lora.lora_b",
        ),
        (lambda net: nnx.BatchNorm, "norm.bias norm.scale"),
        (lambda net: nnx.BatchStat, "norm.mean norm.var"),
        (lambda net: gf.trainable(net, nnx.BatchStat), "norm.mean norm.var"),
        (
            lambda net: gf.trainable(net, nnx.PathContains("norm")),
            "norm.bias norm.mean norm.scale norm.var",
        ),
        (
            lambda net: lambda leaf: leaf.ndim > 1,
            "lora.kernel lora.lora.lora_a lora.lora.lora_b",
        ),
    ],
)
def test_what_is_trained(spec, expected):
    net = Odds(rngs=nnx.Rngs(0))
    grower = gn.Grower(gn.NoGrowth(), optax.sgd(1), trainable=spec(net))
    assert list(array_leaves(grower.trainable.of(net))) == expected.split()


# --- nnx.Optimizer


def descend(module, optimizer):
    loss = lambda module: jnp.mean((module(X) - Y) ** 2)
    with jax.numpy_dtype_promotion("standard"):
        optimizer.update(module, nnx.grad(loss)(module))


@pytest.mark.parametrize(
    "tx", [optax.adam(1e-2), optax.sgd(1e-2, momentum=0.9)], ids=["adam", "momentum"]
)
def test_an_nnx_optimizer_goes_along(tx):
    net = made(MLP)
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
    for _ in range(3):
        descend(net, optimizer)
    before = jax.tree.leaves(nnx.as_pure(optimizer.opt_state))
    edit = gn.plan(gn.trace(net, X), {"into": 9})
    wider = edit(net, key=jr.key(0))
    moved, report = gf.transfer(edit, optimizer, wider, report=True)
    assert moved is not optimizer and int(moved.step[...]) == 3
    assert not any(row.action == "reset" for row in report.rows)
    fresh = nnx.Optimizer(wider, tx, wrt=nnx.Param)
    assert jax.tree.structure(moved.opt_state) == jax.tree.structure(fresh.opt_state)
    after = jax.tree.leaves(nnx.as_pure(moved.opt_state))
    for old, new in zip(before, after, strict=True):
        kept = new[tuple(slice(n) for n in old.shape)]
        assert kept.tobytes() == old.tobytes()
        born = np.array(new)
        born[tuple(slice(n) for n in old.shape)] = 0
        assert not born.any()
    descend(wider, moved)
    descend(net, optimizer)
    assert int(moved.step[...]) == int(optimizer.step[...]) == 4
    # The survivors of an exact growth get the same first update but for the clipping
    # of nothing: their gradients are the same.
    assert jnp.allclose(wider.into.kernel[...][:, :6], net.into.kernel[...], atol=1e-5)


def test_an_optimizer_of_some_parameters_goes_along():
    net = made(Many, 7)
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.LoRAParam)
    edit = gn.plan(gn.trace(net, X), {"lora": 9})
    wider = edit(net, key=jr.key(0))
    moved = gf.transfer(edit, optimizer, wider)
    shapes = [leaf.shape for leaf in jax.tree.leaves(moved.opt_state)]
    assert shapes == [(), (4, 2), (2, 9), (4, 2), (2, 9)]


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_optimizer_is_refused():
    net = made(MLP)
    edit = gn.plan(gn.trace(net, X), {"into": 9})
    state: Any = optax.adam(1e-2).init(nnx.state(net))
    with pytest.raises(ValueError, match="moves an nnx.Optimizer"):
        gf.transfer(edit, state, edit(net, key=jr.key(0)))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    with pytest.raises(ValueError, match="doesn't fit"):
        gf.transfer(edit, optimizer, net)


# --- documentation


def test_the_documentation_runs():
    text = (Path(__file__).parent.parent / "docs" / "flax.md").read_text("utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) >= 4
    scope: dict[str, Any] = {}
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            exec(compile(block, "docs/flax.md", "exec"), scope)
    assert scope["wider"].norm.num_features == 32
    assert int(scope["optimizer"].step[...]) == 2
    assert scope["run"].net.hidden.out_features > 16
    assert scope["linen2"].sizes == {"hidden": 24}
