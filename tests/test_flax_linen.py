"""Flax Linen: variables with their factory, and variables alone."""

import re
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
import growthnet.flax as gf
from growthnet.testing import Case, check_network, optimizer_follows, Resize

from .helpers import Grow, lenient


X = jr.normal(jr.key(0), (16, 4))
Y = jnp.sin(X @ jnp.ones((4, 3)))


class MLP(nn.Module):
    features: tuple[int, ...]
    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        for size in self.features:
            x = nn.Dense(size)(x)
            if self.norm:
                x = nn.BatchNorm(use_running_average=not train)(x)
            x = jnp.tanh(x)
        return nn.Dense(3)(x)


class Block(nn.Module):
    hidden: int
    heads: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=3 * self.heads, name="mix"
        )(y, y)
        x = x + y
        y = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y)


def normed(features):
    return MLP(features, norm=True)


def shaken(net):
    """Generic numbers: biases and statistics aren't zero."""
    rng = np.random.default_rng(0)
    noise = lambda x: x + 1 + 0.3 * rng.random(x.shape).astype("float32")
    return jax.tree.map(noise, net)


def linen(make, sizes, x=X):
    return shaken(gf.Linen(make, sizes, x, key=jr.key(0)))


def test_a_network_is_its_variables_and_how_to_build_a_module():
    net = linen(MLP, {"features": (6, 5)})
    assert net.sizes == {"features": (6, 5)}
    assert repr(net) == "Linen(MLP, features=(6, 5))"
    assert jnp.array_equal(net(X), net.module.apply(net.variables, X))
    anatomy = gn.trace(net, X)
    assert anatomy.sizes == {"params.Dense_0": 6, "params.Dense_1": 5}
    assert net.moves(anatomy) == {
        "features[0]": ("params.Dense_0",),
        "features[1]": ("params.Dense_1",),
    }
    wider = gn.resize(net, anatomy, {"params.Dense_0": 9}, key=jr.key(1))
    assert wider.sizes == {"features": (9, 5)}
    assert wider.module.features == (9, 5)
    direct = wider.module.apply(wider.variables, X)
    assert jnp.allclose(direct, net(X), atol=1e-6)
    fresh = gf.Linen(MLP, {"features": (9, 5)}, X, key=jr.key(2))
    assert jax.tree.structure(wider) == jax.tree.structure(fresh)
    given = gf.Linen(MLP, {"features": (9, 5)}, X, variables=wider.variables)
    assert eqx.tree_equal(given, wider)


def test_laws_hold_for_an_mlp():
    def build(sizes):
        features = (sizes["params.Dense_0"], sizes["params.Dense_1"])
        return linen(MLP, {"features": features})

    net = linen(MLP, {"features": (6, 5)})
    check_network(net, X, build=build, examples=2)
    optimizer_follows(Case("linen", net, (X,)), Resize({"params.Dense_0": 8}))


def test_laws_hold_with_batch_normalisation():
    net = linen(normed, {"features": (6,)})
    check_network(net, X, examples=1)

    def train(net, x):
        return net(x, train=True, mutable=["batch_stats"])

    report = check_network(net, X, call=train, examples=1)
    paths = {m.path for w in report.anatomy.all_widths for m in w.members}
    assert "batch_stats.BatchNorm_0.mean" in paths
    grown = gn.resize(net, report.anatomy, {"params.Dense_0": 8}, key=jr.key(0))
    stats = grown.variables["batch_stats"]["BatchNorm_0"]
    assert (stats["mean"][6:] == 0).all() and (stats["var"][6:] == 1).all()


def test_one_argument_may_set_several_widths():
    net = linen(lambda h: MLP((h, 2 * h)), {"h": 4})
    anatomy = gn.trace(net, X)
    names = ("params.Dense_0", "params.Dense_1")
    assert all(anatomy.widths[n].growable for n in names)
    assert net.moves(anatomy) == {"h": names}
    wider = gn.resize(net, anatomy, {names[0]: 6, names[1]: 12}, key=jr.key(1))
    assert wider.sizes == {"h": 6}
    assert jnp.allclose(wider(X), net(X), atol=1e-6)
    check_network(net, X, examples=1)


@pytest.mark.parametrize(
    "sizes, says",
    [
        ({"params.Dense_0": 6}, "here 'params.Dense_1' too. Give"),
        ({"params.Dense_0": 6, "params.Dense_1": 9}, "sets several widths. Give"),
        ({"params.Dense_1": 9}, "{'params.Dense_1': 10, 'params.Dense_0': 5}"),
    ],
)
def test_a_part_of_what_an_argument_sets_is_refused(sizes, says):
    net = linen(lambda h: MLP((h, 2 * h)), {"h": 4})
    anatomy = gn.trace(net, X)
    with pytest.raises(ValueError, match=re.escape(says)):
        gn.plan(anatomy, sizes)
    grower = gn.Grower(gn.NoGrowth(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="a run changes every width for itself"):
        grower.init(net, anatomy, key=jr.key(0))


def test_a_width_that_no_argument_sets_is_rigid():
    net = linen(lambda h: MLP((h, 5)), {"h": 4})
    anatomy = gn.trace(net, X)
    assert anatomy.widths["params.Dense_0"].growable
    stuck = anatomy.widths["params.Dense_1"]
    assert not stuck.growable
    assert "no argument of the factory gives" in stuck.reasons[0]
    also_output = linen(lambda h: nn.Sequential([nn.Dense(h), nn.Dense(h)]), {"h": 4})
    (width,) = gn.trace(also_output, X).all_widths
    assert not width.growable
    assert "argument 'h' sets" in width.reasons[0]


def test_a_transformer_block():
    net = linen(Block, {"hidden": 6, "heads": 2})
    anatomy = gn.trace(net, X)
    moves = net.moves(anatomy)
    assert moves == {"hidden": ("params.up",), "heads": ("params.mix.key",)}
    other = gn.resize(
        net,
        anatomy,
        {"params.up": 8, "params.mix.key": 3},
        key=jr.key(0),
        allow_drift=True,
    )
    assert other.sizes == {"hidden": 8, "heads": 3}
    assert other(X).shape == X.shape
    wider = gn.resize(net, anatomy, {"params.up": 8}, key=jr.key(0))
    assert jnp.allclose(wider(X), net(X), atol=1e-5)


def test_wrong_variables_are_refused():
    net = linen(MLP, {"features": (6, 5)})
    says = r"params.Dense_0.bias' with shape \(6,\); make"
    with pytest.raises(ValueError, match=says):
        gf.Linen(MLP, {"features": (7, 5)}, X, variables=net.variables)
    with pytest.raises(ValueError, match="give `variables`, or a `key`"):
        gf.Linen(MLP, {"features": (7, 5)}, X)


# --- training


def test_a_run_with_running_statistics():
    net = linen(normed, {"features": (6,)})

    def loss(net, batch, key):
        x, y = batch
        out, aux = net(x, train=True, mutable=["batch_stats"])
        return jnp.mean((out - y) ** 2), aux

    run = gn.fit(
        net,
        loss,
        (X, Y),
        optimizer=lenient(optax.adamw(1e-2, weight_decay=0.1)),
        policy=Grow(),
        predict=lambda net, batch: net(batch[0]),
        steps=10,
        key=jr.key(1),
    )
    assert run.net.sizes == {"features": (10,)}
    stats = run.net.variables["batch_stats"]["BatchNorm_0"]
    old = net.variables["batch_stats"]["BatchNorm_0"]
    assert (stats["mean"][:6] != old["mean"]).all()
    assert (stats["var"][8:] == 1).all() and (stats["mean"][8:] == 0).all()
    y: Any = run.net.module.apply(run.net.variables, X)
    assert jnp.allclose(y, run.net(X))


def test_reserve_gate_and_compact():
    net = linen(MLP, {"features": (6, 5)})
    anatomy = gn.trace(net, X)
    reserved = gn.reserve(net, anatomy, {"*": 8})
    assert reserved.net.sizes == {"features": (8, 8)}
    assert jnp.allclose(reserved.net(X), net(X), atol=1e-6)
    opened = gn.open_units(reserved, {"params.Dense_1": 2}, key=jr.key(0))
    assert gn.compact(opened).sizes == {"features": (6, 7)}
    half = gn.gate(net, anatomy, {"params.Dense_0": jnp.full(6, 0.5)})
    assert not jnp.allclose(half(X), net(X))


def test_variables_alone_are_reordered():
    module = MLP((6, 5))
    variables = module.init(jr.key(0), X)
    anatomy = gn.trace(variables, X, call=module.apply)
    (reason, *_) = anatomy.widths["params.Dense_0"].reasons
    assert "ScopeParamShapeError" in reason
    order = np.array([3, 1, 5, 0, 2, 4])
    edit = gn.plan(anatomy, {"params.Dense_0": 6}, keep={"params.Dense_0": order})
    same, before = (
        np.asarray(module.apply(v, X)) for v in (edit(variables), variables)
    )
    assert np.allclose(same, before, atol=1e-6)


def test_variables_alone_grow_by_replay():
    module = MLP((6, 5), norm=True)
    variables = shaken(module.init(jr.key(0), X))
    anatomy = gn.trace(variables, X, call=module.apply, replay=True)
    assert anatomy.sizes == {"params.Dense_0": 6, "params.Dense_1": 5}
    edit = gn.plan(anatomy, {"params.Dense_0": 9})
    wider = edit(variables, key=jr.key(1))
    assert wider["batch_stats"]["BatchNorm_0"]["var"].shape == (9,)
    program, before = edit.after.program(), np.asarray(module.apply(variables, X))
    assert np.allclose(program(wider, X), before, atol=1e-5)
