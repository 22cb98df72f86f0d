"""Scores of units against numpy, on networks with closed slots; what a tree holds for
each unit; which bias is added to what reads a width."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet._paths import array_leaves, map_arrays
from growthnet.testing import FAMILIES, make_case
from growthnet_policies import SCORES

from .pruning_cases import Convolutions, evidence_of, square


def all_scores(net, batch, capacity):
    needs = set().union(*(score.needs for score in SCORES.values()))

    def use(evidence):
        key = jr.key(7)
        return {
            name: {s: score.of(evidence, name, key) for s, score in SCORES.items()}
            for name in evidence.open
        }

    return evidence_of(net, square, batch, needs, capacity, use)


def close(a, b):
    scale = max(np.abs(b).max(), 1e-6)
    return np.shape(a) == np.shape(b) and np.allclose(
        a, b, rtol=1e-4, atol=1e-5 * scale
    )


def check(found, units, by_hand):
    for score, expected in by_hand.items():
        values = np.asarray(found[score])
        assert close(values[:units], expected), score
    assert len(by_hand) == len(SCORES) - 1 and len(set(np.asarray(found["random"]))) > 1


def test_scores_of_a_dense_network_by_hand():
    net = eqx.nn.MLP(3, 2, 5, 2, activation=jax.nn.relu, key=jr.key(1))
    x, y = (np.asarray(jr.normal(jr.key(i), (20, n))) for i, n in ((2, 3), (3, 2)))
    capacity = {"layers[0]": 7, "layers[1]": 6}
    found = all_scores(net, (jnp.asarray(x), jnp.asarray(y)), capacity)
    (w0, b0), (w1, b1), (w2, b2) = (
        map(np.asarray, (m.weight, m.bias)) for m in net.layers
    )
    z0 = x @ w0.T + b0
    h0 = np.maximum(z0, 0)
    z1 = h0 @ w1.T + b1
    h1 = np.maximum(z1, 0)
    g_out = 2 * (h1 @ w2.T + b2 - y) / len(x)
    g1 = g_out @ w2
    g0 = (g1 * (z1 > 0)) @ w1
    for name, w, b, v, h, g, z, before in (
        ("layers[0]", w0, b0, w1, h0, g0, z0, x),
        ("layers[1]", w1, b1, w2, h1, g1, z1, h0),
    ):
        gz = g * (z > 0)
        by_hand = {
            "magnitude": np.sqrt((w**2).sum(1) + (v**2).sum(0)),
            "incoming": np.sqrt((w**2).sum(1)),
            "outgoing": np.sqrt((v**2).sum(0)),
            "activation": h.mean(0),
            "variance": h.var(0),
            "nonzero": (h > 0).mean(0),
            "taylor": np.abs((w * (gz.T @ before)).sum(1) + b * gz.sum(0)),
            "fisher": ((len(x) * h * g) ** 2).mean(0) / 2,
            "gate_slope": np.abs((h * g).sum(0)),
        }
        check(found[name], 5, by_hand)


def pixels(images):
    return np.moveaxis(np.asarray(images), 1, -1).reshape(-1, images.shape[1])


def test_scores_of_a_convolutional_network_by_hand():
    net = Convolutions()
    x, y = jr.normal(jr.key(3), (6, 2, 4, 4)), jr.normal(jr.key(4), (6, 2))
    found = all_scores(net, (x, y), {"first": 6, "second": 5})
    h0 = jax.nn.relu(jax.vmap(net.first)(x))
    h1 = jnp.tanh(jax.vmap(net.second)(h0))
    last = lambda h1: jnp.mean(
        jnp.sum((jax.vmap(net.out)(h1.reshape(6, -1)) - y) ** 2, -1)
    )
    rest = lambda h0: last(jnp.tanh(jax.vmap(net.second)(h0)))
    grads = eqx.filter_grad(square)(net, (x, y), None)
    flat = np.asarray(net.out.weight).reshape(2, 3, 4).transpose(1, 0, 2).reshape(3, -1)
    into = np.asarray(net.second.weight).transpose(1, 0, 2, 3).reshape(4, -1)
    for name, layer, grad, v, h, g, units in (
        ("first", net.first, grads.first, into, h0, jax.grad(rest)(h0), 4),
        ("second", net.second, grads.second, flat, h1, jax.grad(last)(h1), 3),
    ):
        w = np.asarray(layer.weight).reshape(units, -1)
        wg = (w * np.asarray(grad.weight).reshape(units, -1)).sum(1)
        wg = wg + np.asarray(layer.bias * grad.bias).reshape(-1)
        a, slope = pixels(h), pixels(h * g)
        by_hand = {
            "magnitude": np.sqrt((w**2).sum(1) + (v**2).sum(1)),
            "incoming": np.sqrt((w**2).sum(1)),
            "outgoing": np.sqrt((v**2).sum(1)),
            "activation": np.abs(a).mean(0),
            "variance": a.var(0),
            "nonzero": (a != 0).mean(0),
            "taylor": np.abs(wg),
            "fisher": ((len(a) * slope) ** 2).mean(0) / 2,
            "gate_slope": np.abs(slope.sum(0)),
        }
        check(found[name], units, by_hand)


def test_the_control_is_another_draw_for_every_width_and_key():
    net = eqx.nn.MLP(3, 1, 6, 2, key=jr.key(1))
    batch = (jnp.ones((2, 3)), jnp.ones((2, 1)))
    score = SCORES["random"]
    keys = [jr.key(1), jr.key(1), jr.key(2)]
    use = lambda e: [[score.of(e, name, k) for name in e.open] for k in keys]
    one, again, other = np.asarray(evidence_of(net, square, batch, set(), None, use))
    assert (one == again).all() and (one != other).all() and (one[0] != one[1]).all()


# --- what a tree holds for each unit


@pytest.mark.parametrize("family", FAMILIES)
def test_moving_rows_is_what_an_edit_does(family):
    case = make_case(family, dtype="float32")
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    for name, width in anatomy.widths.items():
        if not width.growable or width.ordered:
            continue
        order = np.roll(np.arange(width.size), 1)
        tree = case.net
        for member in gn.unit_rows(anatomy, name, tree):
            rows = gn.unit_rows(anatomy, name, tree)[member]
            assert rows.shape[0] == width.size
            moved = {member: rows[order]}
            tree = map_arrays(tree, gn.with_unit_rows(anatomy, name, tree, moved))
        edited = gn.plan(anatomy, {name: width.size}, keep={name: order})(case.net)
        for path, array in array_leaves(edited).items():
            if array.dtype != bool:
                assert (np.asarray(array) == array_leaves(tree)[path]).all(), path


def test_rows_of_something_else_are_refused():
    net = eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0))
    anatomy = gn.trace(net, jnp.ones(3))
    larger = eqx.nn.MLP(3, 1, 5, 1, key=jr.key(0))
    with pytest.raises(ValueError, match=r"'layers.0..weight' has shape \(5, 3\) here"):
        gn.unit_rows(anatomy, "layers[0]", larger)
    with pytest.raises(ValueError, match="unknown width 'layers'"):
        gn.unit_rows(anatomy, "layers", net)
    (other, *_) = gn.trace(larger, jnp.ones(3)).widths["layers[0]"].members
    with pytest.raises(ValueError, match=r"\[0:5\] producer isn't a member of"):
        gn.with_unit_rows(anatomy, "layers[0]", net, {other: jnp.ones((5, 3))})
    recurrent = [jnp.ones((3, 2)), jnp.ones((3, 3)), jnp.ones((2, 3))]
    call = lambda n, x: n[2] @ jnp.tanh(n[1] @ jnp.tanh(n[1] @ jnp.tanh(n[0] @ x)))
    twice = gn.trace(recurrent, jnp.ones(2), call=call)
    rows = gn.unit_rows(twice, "[0]", recurrent)
    with pytest.raises(ValueError, match=r"'\[1\]' is there twice"):
        gn.with_unit_rows(twice, "[0]", recurrent, rows)


# --- which bias takes what


class Layers(eqx.Module):
    """A hidden layer, what reads it, and what happens to that."""

    parts: dict
    after: Any = eqx.field(static=True)

    def __call__(self, x):
        return self.after(self.parts, jnp.tanh(self.parts["w"] @ x))


def bias_of(after, shape=(2,), reader=(2, 4)) -> Any:
    sizes = {"w": (4, 3), "v": reader, "b": shape}
    parts = {k: jr.normal(jr.key(i), s) for i, (k, s) in enumerate(sizes.items())}
    net = Layers(parts, after)
    total = lambda net, batch, key: jnp.mean(jax.vmap(net)(batch[0]) ** 2)

    def use(evidence):
        (consumer,) = evidence.units["parts.w"].consumers
        row = jnp.arange(1.0, 1 + consumer.entries.index.shape[1])
        bias = consumer.bias
        return (None, None) if bias is None else (bias.path, bias.leaf(row))

    batch = (jr.normal(jr.key(9), (5, 3)),)
    given = {"parts.w": 4}
    return evidence_of(net, total, batch, {"activations"}, given, use)


def test_a_bias_takes_what_its_outputs_would_have_got():
    path, array = bias_of(lambda n, h: n["v"] @ h + n["b"])
    assert path == "parts.b" and array.tolist() == [1.0, 2.0]
    turned = lambda n, h: n["b"] + jnp.transpose(jnp.outer(n["v"] @ h, jnp.ones(1)))
    assert bias_of(turned, (1, 2))[0] is None, "an outer product isn't a move"
    turned = lambda n, h: n["b"] + (n["v"] @ h).reshape(3, 2).T
    path, array = bias_of(turned, (2, 3), (6, 4))
    assert array.tolist() == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    path, array = bias_of(lambda n, h: n["v"] @ h + n["b"], (1,))
    assert array.tolist() == [3.0], "one number for both outputs gets both shares"


NOT_A_BIAS = {
    "nothing is added": lambda n, h: n["v"] @ h * n["b"],
    "it is used twice": lambda n, h: n["v"] @ h + n["b"] + jnp.tanh(n["b"]),
    "it is scaled": lambda n, h: n["v"] @ h + 2 * n["b"],
    "outputs go elsewhere too": lambda n, h: (lambda o: (o + n["b"]) * o)(n["v"] @ h),
    "a function comes first": lambda n, h: jnp.tanh(n["v"] @ h) + n["b"],
}


@pytest.mark.parametrize("why", NOT_A_BIAS)
def test_what_is_not_simply_added_is_no_bias(why):
    assert bias_of(NOT_A_BIAS[why]) == (None, None)
