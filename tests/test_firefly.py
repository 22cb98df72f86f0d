"""Firefly descent: scores add up, and what is taken is what they say."""

import dataclasses

import jax
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet.testing import make_case
from growthnet_policies import Firefly

from .test_candidates import asked
from .test_splitting import loss, networks


def tried(kind, policy):
    """What a policy tries on a network, and the loss: with all of it, before, and after
    what is taken; the name of the width; how many units are taken."""
    net, (x, _), paths = networks()[kind]
    case = dataclasses.replace(
        make_case("mlp"), net=net, args=(x,), call=lambda net, x: jax.vmap(net)(x)
    )
    widths = gn.trace(net, x, call=case.call).widths
    (name,) = [n for n in widths if paths[0].startswith(n)]

    def question(evidence):
        key = jr.key(5)
        found = policy.tried(evidence, name, jr.fold_in(key, 0))
        with_all = evidence.candidates[name].loss(found.born, found.moved)
        decision, *_ = policy.step(None, None, evidence, key=key)
        decisions = (gn.Decision(), decision)
        losses = (with_all, *(evidence.evaluate(d) for d in decisions))
        return found, losses, decision.widths[name].add

    found, losses, count = asked(case, name, policy.needs | {"evaluate"}, question)
    return found, [float(x) for x in losses], name, int(count)


SLOW = [pytest.param(k, marks=pytest.mark.slow) for k in ("gated", "transformer")]


@pytest.mark.parametrize("kind", ["dense", "convolution", *SLOW])
def test_scores_add_up_to_what_the_loss_does(kind):
    with jax.enable_x64(True):
        found, losses, _, count = tried(kind, Firefly(2, epsilon=0.003, points=5))
        with_all, before, after = losses
        assert with_all < before and count == 2
        assert np.isclose(found.scores.sum(), with_all - before, rtol=1e-3)
        assert after < before


def test_scores_are_those_of_an_independent_computation():
    with jax.enable_x64(True):
        policy = Firefly(3, new=1, points=3, epsilon=0.01)  # So two are splits.
        found, (_, _, after), _, count = tried("dense", policy)
        net, (x, _), _ = networks()["dense"]
        x, units = np.asarray(x), 5
        weight, bias, read = (
            np.asarray(net.layers[0].weight),
            np.asarray(net.layers[0].bias)[:, None],
            np.asarray(net.layers[1].weight).T,
        )
        names = ("layers[0].weight", "layers[0].bias", "layers[1].weight")
        whole = (weight, bias, read / 2)
        moved = [np.asarray(found.moved[p])[:units] for p in names]
        born = [np.asarray(found.born[p]) for p in names]
        for one, other, middle in zip(moved, born, whole, strict=True):
            assert np.allclose((one + other[:units]) / 2, middle, atol=1e-12)

        def error(on):
            """With candidates turned on so far: splits first, then new units."""
            every = []
            for i, (one, other, middle) in enumerate(
                zip(moved, born, whole, strict=True)
            ):
                apart, new = on[:units, None] * (one - middle), other[-1:]
                new = new * on[units:, None] if i == 2 else new
                every.append(np.concatenate([middle + apart, middle - apart, new]))
            w, b, v = every
            said = np.tanh(x @ w.T + b[:, 0]) @ v + np.asarray(net.layers[1].bias)
            return np.sin(2 * said).sum()

        def slope(u, i):
            step = 1e-5 * (np.arange(units + 1) == i)
            return (error(u + step) - error(u - step)) / 2e-5

        points = [np.full(units + 1, u) for u in (1 / 6, 1 / 2, 5 / 6)]
        every = range(units + 1)
        by_hand = [np.mean([slope(u, i) for u in points]) for i in every]
        scores = np.append(found.scores[:units], found.scores[-1:])
        assert np.allclose(scores, by_hand, rtol=1e-4, atol=1e-7)
        assert (np.asarray(found.scores[units:-1]) == 0).all()
        on = np.zeros(units + 1)
        on[np.argsort(scores)[:3]] = 1
        assert count == 3 and np.isclose(after, error(on), rtol=1e-9)


def test_training_candidates_pays():
    with jax.enable_x64(True):
        falls = []
        for steps in (0, 20):
            _, (_, before, after), *_ = tried("dense", Firefly(2, steps=steps))
            falls.append(before - after)
        assert 0 < 2 * falls[0] < falls[1]


def test_limits_and_refusals():
    net, data, _ = networks()["dense"]
    data = jax.tree.map(lambda a: np.asarray(a, np.float32), data)
    policy = Firefly(4, every=2, until=7, new=2, steps=2, batches=2)
    run = gn.fit(
        net, loss, data, optimizer=optax.sgd(0.01), policy=policy, steps=4,
        batch_size=10, key=jr.key(0),
    )  # fmt: skip
    assert run.sizes == {"layers[0]": 7}
    case = make_case("autoencoder", seed=0)
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    with pytest.raises(ValueError, match="Firefly can't split .* a tied leaf"):
        Firefly().init(anatomy, key=jr.key(0))
    with pytest.raises(ValueError, match="points=0; a whole number from 1 up"):
        Firefly(points=0)
