"""Lookups and writes by index: what is taken whole stays, the rest is rigid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax

import growthnet as gn

from .helpers import check_resizes, cover, normal, roles, sizes


pytestmark = pytest.mark.usefixtures("x64")


# --- embeddings

TOKENS = jnp.asarray([1, 3, 3, 0, 2])
LOOKUPS = {
    "indexing": lambda table, i: table[i],
    "take": lambda table, i: jnp.take(table, i, axis=0),
    "take, clipped": lambda table, i: jnp.take(table, i, axis=0, mode="clip"),
    "take, filled": lambda table, i: jnp.take(table, i, axis=0, fill_value=0),
    "one by one": lambda table, i: jax.vmap(lambda j: table[j])(i),
    "dynamic slices": lambda table, i: jax.vmap(
        lambda j: lax.dynamic_slice(table, (j, 0 * j), (1, table.shape[1]))[0]
    )(i),
    "one hot": lambda table, i: jax.nn.one_hot(i, table.shape[0]) @ table,
    "under jit": jax.jit(lambda table, i: table.at[i].get(mode="fill")),
}


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize("rows, size", [(7, 4), (5, 5)])
def test_rows_of_a_table_are_what_comes_in(name, rows, size):
    def call(net, i):
        h = LOOKUPS[name](net["table"], i) + net["xpos"]
        return jnp.tanh(jnp.tanh(h) @ net["up"]) @ net["xdown"]

    net = {
        "table": normal(rows, size),
        "up": normal(size, 3),
        "xdown": normal(3, 2),
        "xpos": normal(5, size),
    }
    anatomy = gn.trace(net, TOKENS, call=call)
    assert sizes(anatomy) == {"table": size, "up": 3}
    found = roles(anatomy, "table")
    assert "producer" in found["table:1"]
    assert found["up:0"] == {"consumer"} and found["xpos:1"] == {"offset"}
    assert cover(anatomy, "table") == {"up:0"}
    if name in ("indexing", "one by one", "take"):
        check_resizes(net, TOKENS, call=call)


def tied(net, i):
    h = net["table"][i]
    h = h + jnp.tanh(h @ net["up"]) @ net["xdown"]
    return h @ net["table"].T


def test_a_tied_head():
    net = {"table": normal(7, 4), "up": normal(4, 6), "xdown": normal(6, 4)}
    anatomy = gn.trace(net, TOKENS, call=tied)
    assert sizes(anatomy) == {"table": 4, "up": 6}
    assert anatomy.widths["table"].gateable == "binary"
    check_resizes(net, TOKENS, call=tied)


def test_an_embedding_layer_and_its_static_fields():
    keys = jr.split(jr.key(0), 3)
    net = {
        "embed": eqx.nn.Embedding(7, 4, key=keys[0]),
        "mlp": eqx.nn.MLP(4, 4, 6, 1, key=keys[1]),
        "read": eqx.nn.Linear(4, 7, key=keys[2]),
    }

    def call(net, i):
        h = jax.vmap(net["embed"])(i)
        return jax.vmap(net["read"])(h + jax.vmap(net["mlp"])(h))

    anatomy = gn.trace(net, TOKENS, call=call)
    assert sizes(anatomy) == {"embed": 4, "mlp.layers[0]": 6}
    grown = gn.resize(net, anatomy, {"embed": 9}, key=jr.key(1))
    assert (grown["embed"].num_embeddings, grown["embed"].embedding_size) == (7, 9)
    assert (grown["mlp"].in_size, grown["mlp"].out_size) == (9, 9)
    check_resizes(net, TOKENS, call=call)


def test_an_embedding_under_dropout_still_produces():
    def call(net, i, key):
        h = net["table"][i]
        keep = jr.bernoulli(key, 0.5, h.shape)
        return jnp.where(keep, h / 0.5, 0) @ net["up"]

    net = {"table": normal(7, 4), "up": normal(4, 2)}
    anatomy = gn.trace(net, TOKENS, jr.key(0), call=call)
    assert sizes(anatomy) == {"table": 4}


def test_products_of_two_tables():
    """Matrix factorisation: users times items."""

    def call(net, i, j):
        return (net["users"][i] * net["xitems"][j]).sum(-1)

    net = {"users": normal(7, 4), "xitems": normal(9, 4)}
    anatomy = gn.trace(net, TOKENS, TOKENS, call=call)
    assert sizes(anatomy) == {"users": 4}
    check_resizes(net, TOKENS, TOKENS, call=call)


# --- weights picked by data


def experts(net, x):
    """The best expert of each row."""
    choice = jnp.argmax(x @ net["route"], axis=-1)

    def one(row, e):
        h = jax.nn.relu(row @ net["up"][e] + net["bias"][e])
        return h @ net["xdown"][e]

    return jax.vmap(one)(x, choice)


def test_experts_are_weights():
    net = {
        "bias": normal(4, 5),
        "route": normal(3, 4),
        "up": normal(4, 3, 5),
        "xdown": normal(4, 5, 2),
    }
    anatomy = gn.trace(net, normal(6, 3), call=experts)
    assert sizes(anatomy) == {"up": 5}
    assert roles(anatomy, "up") == {
        "up:2": {"producer"},
        "bias:1": {"offset"},
        "xdown:1": {"consumer"},
    }
    rigid = anatomy.widths["route"]
    assert "index of a unit as a number" in rigid.reasons[0]
    check_resizes(net, normal(6, 3), call=experts)


def test_an_axis_that_is_looked_up_says_so():
    def call(net, x):
        scores = x @ net["a"] + net["bias"][None]
        return net["bias"][jnp.argmax(x.mean(1))] * (scores @ net["xread"])

    net = {"a": normal(3, 4), "bias": normal(4), "xread": normal(4, 2)}
    anatomy = gn.trace(net, normal(5, 3), call=call)
    assert sizes(anatomy) == {}
    assert "table: bias (4 rows)" in str(anatomy)


def test_a_ragged_product_is_a_mixture_of_experts():
    def call(net, x, counts):
        h = jax.nn.relu(lax.ragged_dot(x, net["up"], counts))
        return lax.ragged_dot(h, net["xdown"], counts)

    net = {"up": normal(3, 4, 5), "xdown": normal(3, 5, 2)}
    counts = jnp.asarray([2, 1, 3], "int32")
    anatomy = gn.trace(net, normal(6, 4), counts, call=call)
    assert sizes(anatomy) == {"up": 5}
    assert cover(anatomy, "up") == {"xdown:1"}
    check_resizes(net, normal(6, 4), counts, call=call)


def test_entries_out_of_bounds_that_are_filled_are_not_silent():
    """A weight that is 1 where its index is out of bounds can't be zeroed."""

    def filled(value):
        def call(net, x, i):
            h = jnp.cos(x @ net["up"])
            down = net["xdown"].at[i].get(mode="fill", fill_value=value)
            return jnp.einsum("bh,bho->bo", h, down)

        return call

    net = {"up": normal(3, 4), "xdown": normal(6, 4, 2)}
    for value, exact in ((1.0, "not preserving"), (0.0, "exact")):
        anatomy = gn.trace(net, normal(5, 3), TOKENS, call=filled(value))
        assert anatomy.widths["up"].exactness("zero_out")[0] == exact


# --- batches of lookups


@pytest.mark.parametrize("size", [5, 4])
def test_batched_tables(size):
    """One table per entry: the entries are shared, the rest is as before."""

    def call(net, i):
        h = jax.vmap(lambda table, j: table[j])(net["tables"], i)
        return jnp.tanh(h) @ net["xread"]

    net = {"tables": normal(5, 7, size), "xread": normal(size, 2)}
    anatomy = gn.trace(net, TOKENS, call=call)
    assert sizes(anatomy) == {"tables": size}
    check_resizes(net, TOKENS, call=call)


def test_units_picked_for_every_row_are_rigid():
    def call(net, x):
        h = jax.nn.relu(x @ net["up"])
        return jnp.take_along_axis(h, jnp.argsort(x, axis=-1), axis=-1) @ net["xread"]

    net = {"up": normal(3, 4), "xread": normal(3, 2)}
    width = gn.trace(net, normal(5, 3), call=call).widths["up"]
    assert not width.growable
    assert "its entries are looked up by index" in width.reasons[0]


def test_a_lookup_beside_a_width_leaves_it_alone():
    def call(net, x, i):
        h = jax.nn.relu(x @ net["up"])
        return h[i, :] @ net["xread"], h[jnp.asarray([0, 2])] @ net["xread"]

    net = {"up": normal(3, 4), "xread": normal(4, 2)}
    for i in (1, TOKENS):
        assert sizes(gn.trace(net, normal(5, 3), i, call=call)) == {"up": 4}
    check_resizes(net, normal(5, 3), TOKENS, call=call)


# --- slices with known starts


def sliced_by(how):
    def call(net, x):
        h = x @ net["both"]
        n = h.shape[1] // 2
        return (how(h, 0, n) * jax.nn.sigmoid(how(h, n, n))) @ net["xread"]

    return call


SLICES = {
    "static": lambda h, start, n: h[:, start : start + n],
    "dynamic": lambda h, start, n: lax.dynamic_slice(h, (0, start), (h.shape[0], n)),
    "along an axis": lambda h, start, n: lax.dynamic_slice_in_dim(h, start, n, 1),
    "clamped": lambda h, start, n: lax.dynamic_slice_in_dim(
        h, start and start + 1, n, 1
    ),
}


@pytest.mark.parametrize("name", SLICES)
def test_a_dynamic_slice_at_a_known_start_is_a_slice(name):
    net = {"both": normal(3, 8), "xread": normal(4, 2)}
    call = sliced_by(SLICES[name])
    anatomy = gn.trace(net, normal(5, 3), call=call)
    assert sizes(anatomy) == {"both": 4}
    assert [m.span for m in anatomy.widths["both"].members][:2] == [(0, 4), (4, 8)]
    check_resizes(net, normal(5, 3), call=call)


def test_a_slice_at_a_start_that_is_data_is_rigid():
    def call(net, x, i):
        h = x @ net["up"]
        return lax.dynamic_slice_in_dim(h, i, 2, 1) @ net["xread"]

    net = {"up": normal(3, 4), "xread": normal(2, 2)}
    width = gn.trace(net, normal(5, 3), jnp.asarray(1), call=call).widths["up"]
    assert "its entries are looked up by index" in width.reasons[0]


def test_stacked_layers_picked_by_a_counter_keep_their_roles():
    def call(net, x):
        for i in range(3):
            layer = lax.dynamic_index_in_dim(net["up"], jnp.asarray(i), 0, False)
            x = x + jax.nn.relu(x @ layer) @ net["xdown"][i]
        return x

    net = {"up": normal(3, 4, 5), "xdown": normal(3, 5, 4)}
    anatomy = gn.trace(net, normal(6, 4), call=call)
    assert sizes(anatomy) == {"up": 5}
    assert cover(anatomy, "up") == {"xdown:1"}


# --- writing

WRITES = {
    "a row": lambda h, v: h.at[1].set(v[1]),
    "rows by data": lambda h, v: h.at[jnp.argsort(v.mean(1))].add(v),
    "update slice": lambda h, v: lax.dynamic_update_slice(h, v[:2], (1, 0)),
    "update slice by data": lambda h, v: lax.dynamic_update_slice(
        h, v[:2], (jnp.argmax(v.mean(1)).astype("int32"), jnp.int32(0))
    ),
    "a batch of updates": lambda h, v: jax.vmap(lambda row, new: row.at[:].set(new))(
        h, v
    ),
    "scatter min": lambda h, v: h.at[0:2].min(v[0:2]),
    "cache": lambda h, v: lax.dynamic_update_slice(
        jnp.zeros((9, v.shape[1])), v, (2, 0)
    )[:5],
    "segment sum": lambda h, v: (
        h + jax.ops.segment_sum(v, jnp.asarray([0, 0, 1, 2, 1]), 5)
    ),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("size", [4, 5])
def test_writing_rows_shares_what_is_written_whole(name, size):
    def call(net, x):
        a, b = x @ net["a"], jnp.tanh(x @ net["b"])
        return WRITES[name](a, b) @ net["xread"]

    net = {"a": normal(3, size), "b": normal(3, size), "xread": normal(size, 2)}
    anatomy = gn.trace(net, normal(5, 3), call=call)
    only = {"b": size} if name == "cache" else {"a": size}
    assert sizes(anatomy) == only
    if size == 4:
        check_resizes(net, normal(5, 3), call=call)


def test_writing_units_by_index_is_rigid():
    def call(net, x, i):
        h = x @ net["a"]
        return h.at[:, i].set(0.0) @ net["xread"]

    net = {"a": normal(3, 4), "xread": normal(4, 2)}
    width = gn.trace(net, normal(5, 3), jnp.asarray(1), call=call).widths["a"]
    assert "its entries are written by index" in width.reasons[0]
    fixed = gn.trace(net, normal(5, 3), 1, call=call)
    assert sizes(fixed) == {"a": 2}


def test_writing_one_half_of_the_units_splits_them():
    def call(net, x):
        h = x @ net["a"]
        n = net["xread"].shape[0]
        return h.at[:, :n].multiply(2.0)[:, :n] @ net["xread"] + h[:, n:].sum(
            1, keepdims=True
        )

    net = {"a": normal(3, 7), "xread": normal(4, 2)}
    anatomy = gn.trace(net, normal(5, 3), call=call)
    assert anatomy.widths["a"].size == 4
    check_resizes(net, normal(5, 3), call=call)


def test_weights_written_into_zeros_stay_weights():
    """A kernel placed in a larger one of zeros is zero where its leaf is."""

    def call(net, x):
        h = jnp.cos(x @ net["up"])
        full = jnp.zeros((h.shape[1], 3)).at[:, :2].set(net["xread"])
        return h @ full

    def ones(net, x):
        h = jnp.cos(x @ net["up"])
        full = jnp.ones((h.shape[1], 3)).at[:, :2].set(net["xread"])
        return h @ full

    def beside(net, x):
        h = jnp.cos(x @ net["up"])
        full = jnp.concatenate([net["xread"], jnp.ones((h.shape[1], 1))], 1)
        return h @ full

    net = {"up": normal(3, 4), "xread": normal(4, 2)}
    check_resizes(net, normal(5, 3), call=call)
    for other in (ones, beside):
        width = gn.trace(net, normal(5, 3), call=other).widths["up"]
        assert width.exactness("zero_out")[0] == "not preserving"


def test_a_padded_weight_is_zero_only_if_padded_with_zeros():
    def padded(with_):
        def call(net, x):
            full = jnp.pad(net["xread"], ((0, 0), (0, 1)), constant_values=with_)
            return jnp.cos(x @ net["up"]) @ full

        return call

    net = {"up": normal(3, 4), "xread": normal(4, 2)}
    check_resizes(net, normal(5, 3), call=padded(0.0))
    width = gn.trace(net, normal(5, 3), call=padded(1.0)).widths["up"]
    assert width.exactness("zero_out")[0] == "not preserving"


def test_indices_that_a_leaf_holds_count_nothing_that_can_grow():
    def call(net, x):
        return (x @ net["up"])[:, net["order"]] @ net["xread"]

    net = {"order": jnp.asarray([2, 0, 1]), "up": normal(3, 4), "xread": normal(3, 2)}
    anatomy = gn.trace(net, normal(5, 3), call=call)
    assert sizes(anatomy) == {}
