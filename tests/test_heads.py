"""Appending to what a network ends with: a classifier gets another class."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import growthnet as gn

from .zoo import case_of, MODELS


X, Y = jr.normal(jr.key(9), (6, 4)), jnp.arange(6) % 3


def classifier(classes: int = 3) -> eqx.nn.MLP:
    return eqx.nn.MLP(4, classes, 5, 1, key=jr.key(0))


def loss(net, batch, key=None):
    x, y = batch
    each = optax.softmax_cross_entropy_with_integer_labels
    return each(jax.vmap(net)(x), y).mean()


class TwoHeads(eqx.Module):
    """A class and a value from the same features, which go out as well."""

    body: eqx.nn.Linear
    classes: eqx.nn.Linear
    value: eqx.nn.Linear

    def __call__(self, x):
        h = jnp.tanh(self.body(x))
        return jax.nn.softmax(self.classes(h)), self.value(h), h


class ConvHead(eqx.Module):
    stem: eqx.nn.Conv2d
    head: eqx.nn.Conv2d

    def __call__(self, x):
        return self.head(jnp.tanh(self.stem(x)))


@pytest.mark.parametrize("call", [None, loss])
def test_another_class(call):
    net = classifier()
    args = (X[0],) if call is None else ((X, Y),)
    anatomy = gn.trace(net, *args, call=call)
    assert {h.name: h.size for h in anatomy.all_heads} == {"layers[1]": 3}
    assert "`plan_rows` appends" in str(anatomy)
    edit = gn.plan_rows(anatomy, {"layers[1]": 5})
    # A softmax over more classes is another loss.
    assert edit.exactness == ("exact" if call is None else "not preserving")
    more = edit(net, key=jr.key(1))
    assert jax.tree.structure(more) == jax.tree.structure(classifier(5))
    assert (more.out_size, more.layers[1].out_features) == (5, 5)
    assert more.layers[0].weight is net.layers[0].weight
    old, new = more.layers[1].weight[:3], more.layers[1].weight[3:]
    assert (old == net.layers[1].weight).all() and (jnp.abs(new) > 0).all()
    assert jnp.allclose(jax.vmap(more)(X)[:, :3], jax.vmap(net)(X), atol=1e-6)
    assert edit.after == gn.trace(more, *args, call=call)
    assert eqx.tree_equal(edit.inverse()(more), net)
    wide = gn.resize(more, edit.after, {"layers[0]": 9}, key=jr.key(2))
    assert wide.layers[1].weight.shape == (5, 9)
    with pytest.raises(ValueError, match=r"'layers\[1\]': 4"):
        gn.plan(anatomy, {"layers[1]": 4})


def test_adam_comes_along():
    net, optimizer = classifier(), optax.adam(1e-2)
    params = eqx.filter(net, eqx.is_inexact_array)
    state: Any = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        grads = eqx.filter_jit(eqx.filter_grad(loss))(net, (X, Y))
        _, state = jax.jit(optimizer.update)(grads, state, params)
    edit = gn.plan_rows(gn.trace(net, X[0]), {"layers[1]": 4})
    params2 = eqx.filter(edit(net, key=jr.key(0)), eqx.is_inexact_array)
    moved: Any = edit.transfer(optimizer, state, params, params2)
    for leaf in ("mu", "nu"):
        before = getattr(state[0], leaf).layers[1]
        after = getattr(moved[0], leaf).layers[1]
        assert (after.weight[:3] == before.weight).all() and after.bias.shape == (4,)
        assert (after.weight[3:] == 0).all() and jnp.abs(after.weight[:3]).max() > 0


def test_which_ends_are_heads():
    keys = jr.split(jr.key(0), 5)
    linear = lambda out, key: eqx.nn.Linear(4, out, key=key)
    two = TwoHeads(linear(4, keys[0]), linear(3, keys[1]), linear(1, keys[2]))
    anatomy = gn.trace(two, X[0])
    # The features go out, but are read by others.
    assert {h.name: h.size for h in anatomy.all_heads} == {"classes": 3, "value": 1}
    edit = gn.plan_rows(anatomy, {"classes": 4, "value": 2})
    assert [c.exactness for c in edit.changes] == ["not preserving", "exact"]
    assert edit(two, key=keys[3])(X[0])[0].shape == (4,)
    stem = eqx.nn.Conv2d(1, 4, 3, key=keys[3])
    conv = ConvHead(stem, eqx.nn.Conv2d(4, 2, 1, key=keys[4]))
    image = jnp.ones((1, 5, 5))
    anatomy = gn.trace(conv, image)
    more = gn.append_rows(conv, anatomy, {"head": 3}, key=keys[0])
    assert (more(image).shape, more.head.out_channels) == ((3, 3, 3), 3)
    # What has to fit the labels is theirs: one-hot ones here.
    whole = lambda net, x, y: jnp.mean((jax.vmap(net)(x) - y) ** 2)
    assert not gn.trace(classifier(), X, jnp.ones((6, 3)), call=whole).all_heads


def one_more(evidence, key):
    del key
    return gn.Decision({n: gn.Change(mask, 1) for n, mask in evidence.open.items()})


def test_a_run_goes_on_with_another_class():
    adam = optax.adam(1e-2)
    given: Any = {"optimizer": adam, "policy": gn.as_policy(one_more, every=5)}
    given |= {"steps": 10, "batch_size": 3}
    with jax.numpy_dtype_promotion("standard"):
        run = gn.fit(classifier(), loss, (X, Y), key=jr.key(1), **given)
        edit = gn.plan_rows(run.anatomy, {"layers[1]": 4})
        net = edit(run.net, key=jr.key(2))
        before, after = (eqx.filter(n, eqx.is_inexact_array) for n in (run.net, net))
        state: Any = edit.transfer(adam, run.opt_state(adam), before, after)
        given |= {"opt_state": state, "key": jr.key(3)}
        again: Any = gn.fit(net, loss, (X, Y), **given)

        @eqx.filter_jit
        def inside_of(net, state):
            own = {**given, "opt_state": state}
            return gn.grow(net, loss, (X, Y), capacity=12, **own)

        inside = inside_of(net, state).run()
        with pytest.raises(ValueError, match="doesn't belong to these parameters"):
            gn.fit(classifier(), loss, (X, Y), **given)
    assert run.sizes == {"layers[0]": 7} and again.sizes == {"layers[0]": 9}
    assert again.net.layers[1].weight.shape == (4, 9)
    assert run.opt_state(adam)[0].count == 10 == state[0].count
    assert again.opt_state(adam)[0].count == 20
    close = lambda a, b: jnp.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert jax.tree.all(jax.tree.map(close, arrays(inside.net), arrays(again.net)))
    states = inside.opt_state(adam), again.opt_state(adam)
    assert jax.tree.all(jax.tree.map(close, *states))


def arrays(net):
    return eqx.filter(net, eqx.is_inexact_array)


@pytest.mark.slow
def test_every_head_of_the_zoo_gets_a_row_or_says_why_not():
    done, refused = 0, {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name in MODELS:
            case = case_of(name)
            anatomy = gn.trace(case.net, *case.args, call=case.call)
            for head, axis in anatomy.heads.items():
                try:
                    edit = gn.plan_rows(anatomy, {head: axis.size + 1})
                    more = edit(case.net, key=jr.key(0))
                except ValueError as error:
                    refused[name] = str(error)
                    continue
                assert edit.after == gn.trace(more, *case.args, call=case.call)
                done += 1
    assert done >= 62 and len(refused) <= 3
    why = "doesn't work with the rows|no argument of the factory gives"
    assert all(re.search(why, text) for text in refused.values())
