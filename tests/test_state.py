"""Networks with state: what a call brings back, running statistics, several calls."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import growthnet as gn


@pytest.fixture(autouse=True)
def standard_promotion():
    """Equinox's BatchNorm mixes floats with its integer counter."""
    with jax.numpy_dtype_promotion("standard"):
        yield


X = jr.normal(jr.key(0), (16, 3))


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, width, mode, key):
        a, b = jr.split(key)
        self.first = eqx.nn.Linear(3, width, key=a)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode=mode)
        self.last = eqx.nn.Linear(width, 2, key=b)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(x)), state


def normed(mode="batch", width=4, seed=0):
    return eqx.nn.make_with_state(Normed)(width, mode, jr.key(seed))


def train(net, x):
    model, state = net
    axes = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(model, axis_name="batch", **axes)(x, state)


def predict(net, x):
    return train(eqx.nn.inference_mode(net), x)[0]


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("call", [train, predict])
def test_state_that_comes_back_is_the_networks_own(mode, call):
    anatomy = gn.trace(normed(mode), X, call=call)
    width = anatomy.widths["[0].first"]
    assert (width.size, width.gateable, len(anatomy.widths)) == (4, "any", 1)
    assert [(m.path, m.axis) for m in width.members] == [
        ("[0].first.weight", 0),
        ("[0].first.bias", 0),
        ("[0].norm.weight", 0),
        ("[0].norm.bias", 0),
        ("[0].last.weight", 1),
        (f"[1].norm.{mode}_state_index[0]", 0),
        (f"[1].norm.{mode}_state_index[1]", 0),
    ]
    assert [width.members[i].path for i in width.cover] == ["[0].last.weight"]
    assert {f.name for f in anatomy.fixed} == {"[0].first.weight:1", "[0].last"}


@pytest.mark.parametrize("part", ["whole", "state", "with None", "jitted"])
def test_aux_brings_leaves_back(part):
    def call(net, x):
        out, state = train(net, x)
        back = {"whole": (net[0], state), "state": state, "with None": (None, state)}
        return out, gn.Aux(net=back[part], metrics={"mean": jnp.mean(out)})

    net = normed()
    expected = gn.trace(net, X, call=train)
    if part == "jitted":
        part = "whole"
        found = gn.trace(net, X, call=lambda net, x: eqx.filter_jit(call)(net, x))
    else:
        found = gn.trace(net, X, call=call)
    assert found.all_widths == expected.all_widths
