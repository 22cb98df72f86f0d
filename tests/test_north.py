"""NORTH: when units are born, how many, and that they say something new."""

import dataclasses

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet.testing import make_case
from growthnet_policies import North
from growthnet_policies._north import most_apart, outside

from .test_candidates import asked
from .test_splitting import fine, Gated, grown, loss, networks


def test_the_effective_dimension_and_what_is_outside():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        units, said = rng.standard_normal((40, 6)), rng.standard_normal((40, 9))
        units[:, 5] = units[:, 0] + units[:, 1]
        units[:, 4] *= 1e-3
        rest, count = outside(units, said, 0.01)
        sizes = np.linalg.svd(units / np.sqrt(40), compute_uv=False)
        assert count == (sizes > 0.01).sum() == 4
        span = np.linalg.svd(units, full_matrices=False)[0][:, :4]
        by_hand = said - span @ (span.T @ said)
        assert np.allclose(rest, by_hand, atol=1e-9)
        chosen, found = [], by_hand
        for _ in range(3):
            shares = (found**2).sum(0) / (said**2).sum(0)
            chosen.append(int(np.argmax(shares)))
            basis = np.linalg.qr(np.concatenate([span, said[:, chosen]], axis=1))[0]
            found = said - basis @ (basis.T @ said)
        assert list(most_apart(rest, said, 3)) == chosen


SLOW = [pytest.param(k, marks=pytest.mark.slow) for k in ("gated", "transformer")]


@pytest.mark.parametrize("kind", ["dense", "convolution", *SLOW])
def test_newborns_are_silent_and_say_something_new(kind):
    with fine():
        net, data, paths = networks()[kind]
        widths = gn.trace(net, data[0][0]).widths
        (name,) = [n for n in widths if paths[0].startswith(n)]
        policy = North(2, every=2, gamma=0.4, epsilon=1e-6, tried=30)
        run = grown(net, data, policy, widths=[name])
        # All directions count: floor(M (1 - 0.4)), but 2 at most.
        assert run.sizes[name] == widths[name].size + min(
            2, int(widths[name].size * 0.6)
        )
        assert np.isclose(loss(net, data, None), loss(run.net, data, None), rtol=1e-12)


def test_units_that_repeat_others_make_nothing_grow():
    with fine():
        net, data, _ = networks()["dense"]
        weight = np.array(net.layers[0].weight)
        first = lambda n: n.layers[0].weight
        policy = North(2, every=2, gamma=0.6, epsilon=1e-6)
        run = grown(net, data, policy, steps=6)
        assert run.sizes == {"layers[0]": 11}
        for other in range(1, 5):
            weight[other] = weight[0]
        bias = lambda n: n.layers[0].bias
        same = eqx.tree_at(first, net, weight)
        same = eqx.tree_at(bias, same, np.full(5, 0.1))
        run = grown(same, data, North(2, every=2, gamma=0.6))
        assert run.sizes == {"layers[0]": 5}


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_preactivations_can_be_orthogonal(kind):
    with jax.enable_x64(True):
        net, (x, _), paths = networks()[kind]
        case = dataclasses.replace(
            make_case("mlp"), net=net, args=(x,), call=lambda net, x: jax.vmap(net)(x)
        )
        policy = North(2, choice="pre", tried=6)

        def question(evidence):
            candidates = evidence.candidates["layers[0]"]
            drawn = candidates.drawn(6, jr.key(3))
            rows = policy._orthogonal(evidence, "layers[0]", drawn)
            return drawn, rows, evidence.units["layers[0]"].producers[0]

        drawn, rows, producer = asked(case, "layers[0]", set(policy.needs), question)
        weight, bias = paths
        z = producer.inputs @ rows[weight].T + rows[bias].T
        open_ = len(net.layers[0].weight)
        across = np.asarray(producer.preactivations[:, :open_].T @ z)
        assert np.abs(across).max() < 1e-8 and np.abs(z).max() > 1e-3
        size = lambda r: (
            (np.asarray(r[weight]) ** 2).sum(1) + np.asarray(r[bias])[:, 0] ** 2
        )
        assert np.allclose(size(rows), size(drawn))


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    net, data, _ = networks()["gated"]
    assert isinstance(net, Gated)
    data = jax.tree.map(lambda a: np.asarray(a, np.float32), data)
    with pytest.raises(ValueError, match="North .* 'up' .* several contractions"):
        grown(net, data, North(choice="pre"))
    with pytest.raises(ValueError, match="choice='best'; one of 'select', 'pre'"):
        North(choice="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="tried=2; a whole number from 4 up"):
        North(tried=2)
