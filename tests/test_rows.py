"""Appending rows to lookup tables."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn


TOKENS = jnp.arange(5)


class Tied(eqx.Module):
    """A language model whose head is its embedding, beside an untied table."""

    embedding: eqx.nn.Embedding
    place: jax.Array
    mlp: eqx.nn.MLP
    bias: jax.Array

    def __init__(self):
        self.embedding = eqx.nn.Embedding(7, 4, key=jr.key(0))
        self.place = jr.normal(jr.key(1), (9, 4)) / 100
        self.mlp = eqx.nn.MLP(4, 4, 8, 1, key=jr.key(2))
        self.bias = jnp.zeros(7)

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens) + self.place[tokens + 1]
        return jax.vmap(self.mlp)(x) @ self.embedding.weight.T + self.bias[None]


class SharedHead(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self):
        embedding = eqx.nn.Embedding(7, 4, key=jr.key(0))
        head = eqx.nn.Linear(4, 7, key=jr.key(1))
        self.shared = eqx.nn.Shared(
            (embedding, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight
        )

    def __call__(self, tokens):
        embedding, head = self.shared()
        return jax.vmap(head)(jnp.tanh(jax.vmap(embedding)(tokens)))


def loss(net, tokens):
    return -jnp.mean(jax.nn.log_softmax(net(tokens))[jnp.arange(5), tokens])


@pytest.mark.parametrize("init", ["drawn", "mean"])
def test_a_vocabulary_and_the_tied_head(init):
    net = Tied()
    anatomy = gn.trace(net, TOKENS)
    assert {t.name: t.size for t in anatomy.all_tables} == {"embedding": 7, "place": 9}
    assert anatomy.sizes == {"embedding": 4, "mlp.layers[0]": 8}
    edit = gn.plan_rows(anatomy, {"embedding": 10}, init=init)
    first, *rest = edit.explain().splitlines()
    assert first.startswith("embedding: 7 -> 10, 3 born by ")
    assert "exact (the output grows with it: it is axis 1 of the output)" in first
    assert "    bias axis 0 [0:7] offset" in rest
    longer = edit(net, key=jr.key(3))
    assert longer.embedding.num_embeddings == 10
    assert (longer.embedding.weight[:7] == net.embedding.weight).all()
    assert (longer.bias == 0).all() and longer.bias.shape == (10,)
    assert longer.place is net.place and longer.mlp.layers[0].weight.shape == (8, 4)
    assert jnp.allclose(longer(TOKENS)[:, :7], net(TOKENS), atol=1e-6)
    assert longer(jnp.array([9])).shape == (1, 10)
    assert edit.after == gn.trace(longer, TOKENS)
    # An ordinary edit goes on from there, and the rows can be taken back.
    wide = gn.resize(longer, edit.after, {"embedding": 6}, key=jr.key(4))
    assert wide.embedding.weight.shape == (10, 6)
    back = edit.inverse()(longer)
    assert eqx.tree_equal(back, net)


def test_what_new_rows_hold():
    table = {"rows": 0.02 * jr.normal(jr.key(0), (500, 8))}
    anatomy = gn.trace(table, TOKENS, call=lambda net, i: net["rows"][i])
    drawn = gn.append_rows(table, anatomy, {"rows": 900}, key=jr.key(1))["rows"]
    assert jnp.std(drawn[500:]) == pytest.approx(0.02, rel=0.05)
    assert jnp.mean(drawn[500:]) == pytest.approx(0, abs=2e-3)
    assert len(np.unique(np.asarray(drawn[500:]), axis=0)) == 400
    mean = gn.append_rows(table, anatomy, {"rows": 502}, init="mean")["rows"]
    assert jnp.allclose(mean[500:], table["rows"].mean(0)[None], atol=1e-7)
    # More rows with the same key are the same rows, and then some.
    more = gn.append_rows(table, anatomy, {"rows": 950}, key=jr.key(1))["rows"]
    assert (more[:900] == drawn).all()


def test_a_shared_head_keeps_true_fields():
    net = SharedHead()
    anatomy = gn.trace(net, TOKENS)
    longer = gn.append_rows(net, anatomy, {"shared.pytree[0]": 9}, key=jr.key(0))
    embedding, head = longer.shared.pytree
    assert (embedding.num_embeddings, head.out_features, head.in_features) == (9, 9, 4)
    assert head.bias.shape == (9,) and longer(TOKENS).shape == (5, 9)
    wide = gn.resize(net, anatomy, {"shared.pytree[0]": 6}, key=jr.key(0))
    embedding, head = wide.shared.pytree
    assert embedding.embedding_size == head.in_features == 6
    assert jnp.allclose(wide(TOKENS), net(TOKENS), atol=1e-6)


def test_the_optimizer_follows():
    net = Tied()
    anatomy = gn.trace(net, TOKENS)
    optimizer = optax.adam(1e-2)
    params = eqx.filter(net, eqx.is_inexact_array)
    state: Any = optimizer.init(params)
    grads = eqx.filter_grad(loss)(net, TOKENS)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(grads, state, params)
    edit = gn.plan_rows(anatomy, {"embedding": 9, "place": 11})
    longer = edit(net, key=jr.key(0))
    params2 = eqx.filter(longer, eqx.is_inexact_array)
    moved: Any = edit.transfer(optimizer, state, params, params2)
    for leaf in ("mu", "nu"):
        before = getattr(state[0], leaf).embedding.weight
        after = getattr(moved[0], leaf).embedding.weight
        assert (after[:7] == before).all() and (after[7:] == 0).all()
    assert moved[0].count == state[0].count == 1


def test_through_the_loss_names_stay_and_the_promise_is_honest():
    """The softmax goes over the vocabulary: a longer one changes the loss."""
    anatomy = gn.trace(Tied(), TOKENS, call=loss)
    assert anatomy.sizes == gn.trace(Tied(), TOKENS).sizes
    edit = gn.plan_rows(anatomy, {"embedding": 10})
    assert edit.exactness == "not preserving"
    assert "goes over its units" in edit.explain()
    assert edit(Tied(), key=jr.key(0)).bias.shape == (10,)


@pytest.mark.usefixtures("unchecked")
def test_errors():
    net = Tied()
    anatomy = gn.trace(net, TOKENS)
    tables = r"Tables: embedding \(7\), place \(9\); heads: none"
    cases: list[tuple[Any, str]] = [
        ({"vocabulary": 9}, f"'vocabulary' is unknown; rows are .* {tables}"),
        ({"mlp.layers[0]": 9}, "is a hidden width, which `plan` resizes"),
        ({"embedding": 6}, "6 rows for 'embedding', which has 7; rows are"),
        ({"embedding": 8.0}, "8.0 rows for 'embedding'"),
    ]
    for rows, text in cases:
        with pytest.raises(ValueError, match=text):
            gn.plan_rows(anatomy, rows)
    with pytest.raises(ValueError, match="init='zeros'; new rows are 'drawn', or"):
        gn.plan_rows(anatomy, {"embedding": 9}, init="zeros")
    with pytest.raises(ValueError, match="rows of 'place' are drawn: pass `key=`"):
        gn.append_rows(net, anatomy, {"place": 12})
    with pytest.raises(ValueError, match="'place' .9. is a lookup table, .*plan_rows"):
        gn.plan(anatomy, {"place": 12})
    anatomy = gn.trace(eqx.nn.Linear(4, 2, key=jr.key(0)), jnp.ones(4))
    text = r"'weight:1' is neither .*: it is axis 0 of the input.* heads: weight \(2\)"
    with pytest.raises(ValueError, match=text):
        gn.plan_rows(anatomy, {"weight:1": 5})
    with pytest.raises(ValueError, match=r"append to it: .*plan_rows\(anatomy, {'wei"):
        gn.plan(anatomy, {"weight": 3})


def test_a_number_of_rows_that_is_fixed_in_the_code():
    net = {"rows": jnp.ones((7, 4))}

    def call(net, tokens):
        return net["rows"].reshape(7, 2, 2)[tokens]

    anatomy = gn.trace(net, TOKENS, call=call)
    with pytest.raises(
        ValueError, match=r"doesn't work with the rows 'rows': 9: TypeE"
    ):
        gn.plan_rows(anatomy, {"rows": 9})
