"""Residual fitting: it grows on what can be explained and on nothing else; what it adds
is the probe that was tested; and no example has two uses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import (
    _residual_fitting,
    EXPLAINABLE,
    explainable,
    Explained,
    ResidualFitting,
)
from growthnet_policies._residual_fitting import parted

from .helpers import lenient


NAME = "layers[0]"
KEYS = jr.split(jr.key(0), 4)
X, X2 = jr.normal(KEYS[0], (150, 3)), jr.normal(KEYS[1], (150, 3))
NOISE, NOISE2 = jr.normal(KEYS[2], (150, 1)), jr.normal(KEYS[3], (150, 1))


def wave(x):
    return jnp.sin(x @ jnp.ones((3, 1)))


SIGNAL = (X, wave(X) + 0.1 * NOISE), (X2, wave(X2) + 0.1 * NOISE2)


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp(width=2, depth=1, key: Any = KEYS[0]):
    return eqx.nn.MLP(3, 1, width, depth, activation=jnp.tanh, key=key)


def fit(policy, net: Any = None, data=SIGNAL, steps=20, rate=0.0, **options):
    return gn.fit(
        mlp() if net is None else net,
        loss,
        data[0],
        valid=data[1],
        optimizer=options.pop("optimizer", optax.sgd(rate)),
        policy=policy,
        steps=steps,
        key=jr.key(1),
        **options,
    )


def policy(units=3, **options):
    return ResidualFitting(units, **{"every": 10, "steps": 20, **options})


# --- the test


class Watch(gn.NoGrowth):
    """Asks once what could be explained, on batches that it is given."""

    batches: Any = None
    every: int = eqx.field(static=True, default=2)
    needs: frozenset[str] = eqx.field(static=True, default=EXPLAINABLE)

    def init(self, anatomy, *, key):
        del key
        rows = {"layers[0].weight": 3, "layers[0].bias": 1, "layers[1].weight": 1}
        probes = {p: jnp.zeros((4, n)) for p, n in rows.items()}
        return None, Explained({NAME: jnp.zeros(20)}, {NAME: probes})

    def step(self, trainable, memory, evidence, *, key):
        found = explainable(evidence, *self.batches, key=key, steps=20)
        return gn.Decision(), trainable, found, {}


def explained(*batches):
    """What `explainable` finds on each pair of a train and a test batch."""

    def one(pair):
        return gn.grow(
            mlp(), loss, SIGNAL[0], optimizer=optax.sgd(0.0), steps=2, capacity=4,
            policy=Watch(batches=pair), key=jr.key(1),
        ).state.memory  # fmt: skip

    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    found = jax.jit(jax.vmap(one))(stack)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(batches))]


def test_what_is_explained_and_by_which_probe():
    (x, y), (x2, y2) = SIGNAL
    exact = lambda x: (x, jax.vmap(mlp())(x))
    found, other, opposite, nothing = explained(
        ((x, y), (x2, y2)),
        ((x, y), (x2, -y2)),
        ((x, -y), (x2, y2)),
        (exact(x), exact(x2)),
    )
    assert np.isclose(found.p, 0.05) and found.null.shape == (19,)
    assert found.drop > 0 and (found.null < found.drop).all()
    # The drop is that of the probe, on the data that it was judged on.
    rows = found.probes[NAME]
    hidden = jnp.tanh(x2 @ rows["layers[0].weight"].T + rows["layers[0].bias"].T)
    probe = hidden @ rows["layers[1].weight"]
    merged = jnp.mean((jax.vmap(mlp())(x2) + probe - y2) ** 2)
    before = loss(mlp(), (x2, y2), None)
    assert np.isclose(found.drop, before - merged, rtol=1e-3)
    assert found.drop > 0.1 * before
    # What makes its units depends on the one batch, not on the other.
    made = lambda e: e.probes[NAME]["layers[0].weight"]
    assert np.array_equal(made(found), made(other))
    assert not np.array_equal(found.drops[NAME], other.drops[NAME])
    assert not np.allclose(made(found), made(opposite))
    # It isn't turned on against what it was trained for.
    assert other.drop < 0.1 * found.drop and other.p > 0.05
    assert nothing.drop < 1e-12 and nothing.p > 0.05


class Noting(gn.NoGrowth):
    """Another policy, and the p of every look."""

    inner: Any = None
    looks: int = eqx.field(static=True, default=1)

    def init(self, anatomy, *, key):
        trainable, memory = self.inner.init(anatomy, key=key)
        return trainable, (memory, jnp.ones(self.looks))

    def step(self, trainable, memory, evidence, *, key):
        own, seen = memory
        decided = self.inner.step(trainable, own, evidence, key=key)
        decision, trainable, own, info = decided
        seen = seen.at[evidence.step // self.every - 1].set(own["p"])
        return decision, trainable, (own, seen), info


def on_noise(count, steps, rate, **options):
    """Which runs on pure noise grew, and p of their looks, `[count, looks]`."""
    inner = ResidualFitting(3, every=10, steps=10)
    noting = Noting(10, inner.needs, None, inner, steps // 10)

    def one(key):
        keys = jr.split(key, 6)
        draw = lambda i, n: jr.normal(keys[i], (48, n))
        return gn.grow(
            mlp(3, key=keys[4]), loss, (draw(0, 3), draw(1, 1)),
            valid=(draw(2, 3), draw(3, 1)), optimizer=lenient(optax.adam(rate)),
            policy=noting, steps=steps, key=keys[5], capacity=12, **options,
        )  # fmt: skip

    grown = jax.jit(jax.vmap(one))(jr.split(jr.key(5), count))
    grew = np.asarray(grown.sizes[NAME]) > 3
    return grew, np.asarray(grown.state.memory[1])


def test_on_noise_p_is_a_rank_and_runs_hardly_ever_grow():
    grew, p = on_noise(60, 60, 1e-2)
    assert grew.mean() <= 0.05
    # 360 looks; those of a run aren't independent.
    assert 0.02 <= np.mean(p < 0.051) <= 0.09
    assert 0.4 <= np.mean(p < 0.501) <= 0.6


@pytest.mark.slow
def test_of_200_runs_on_pure_noise_at_most_5_percent_ever_grow(monkeypatch):
    def again(p):
        """Of the looks that succeed, how many are followed by another such?"""
        low = p < 0.051
        return (low[:, 1:] & low[:, :-1]).sum() / low[:, :-1].sum()

    grew, p = on_noise(200, 240, 1e-2)
    assert grew.mean() <= 0.05
    other = again(p)
    print(f"grew {grew.mean()}, p low {np.mean(p < 0.051):.4f}, again {other:.3f}")
    assert other < 0.08 and 0.035 <= np.mean(p < 0.051) <= 0.065
    grew, p = on_noise(200, 240, 1e-2, batch_size=16)
    print(f"batches: grew {grew.mean()}, p low {np.mean(p < 0.051):.4f}")
    assert grew.mean() <= 0.05 and 0.03 <= np.mean(p < 0.051) <= 0.07
    # On the same data, what succeeded by chance succeeds again.
    monkeypatch.setattr(_residual_fitting, "TESTS", 1)
    grew, p = on_noise(200, 240, 1e-2)
    print(f"one part: grew {grew.mean()}, again {again(p):.3f}")
    assert again(p) > 1.5 * other


# --- the policy


def test_what_is_merged_is_f_plus_alpha_g():
    """Nothing is trained here, so what changes is the probe alone."""
    net = mlp(6, depth=2)
    run = fit(policy(), net, widths="layers[1]", capacity={"layers[1]": 9})
    assert run.sizes == {"layers[1]": 9}
    (event,) = run.history.events
    assert event.step == 20 and event.loss_after < event.loss_before
    old, new = net.layers, run.net.layers
    assert eqx.tree_equal(new[0], old[0])
    assert np.array_equal(new[1].weight[:6], old[1].weight)
    assert np.array_equal(new[2].weight[:, :6], old[2].weight)

    def probe(x):
        below = jnp.tanh(old[0](x))
        units = jnp.tanh(new[1].weight[6:] @ below + new[1].bias[6:])
        return new[2].weight[:, 6:] @ units

    f, g = jax.vmap(net)(X2), jax.vmap(probe)(X2)
    assert np.allclose(jax.vmap(run.net)(X2), f + g, atol=1e-6)
    assert np.abs(g).max() > 0.1


class Convolutions(eqx.Module):
    """Convolutions over a short row, flattened into a dense layer."""

    layers: list

    def __init__(self):
        keys = jr.split(jr.key(4), 3)
        self.layers = [
            eqx.nn.Conv1d(1, 3, 3, padding=1, key=keys[0]),
            eqx.nn.Conv1d(3, 4, 2, key=keys[1]),
            eqx.nn.Linear(8, 1, key=keys[2]),
        ]

    def __call__(self, x):
        first, second, last = self.layers
        hidden = jax.nn.gelu(second(jax.nn.gelu(first(x[None]))))
        return last(hidden.reshape(-1))


def test_a_probe_is_of_the_networks_own_kind_and_in_one_width():
    net = Convolutions()
    run = fit(policy(2, level=1.0), net, steps=10, capacity={"*": 8})
    (event,) = run.history.events
    assert event.loss_after < event.loss_before
    start = {"layers[0]": 3, "layers[1]": 4}
    assert run.sizes == {**start, event.width: start[event.width] + 2}
    # Without the newborns it is the network that it was.
    anatomy = gn.trace(run.net, X[0])
    back = gn.resize(run.net, anatomy, start)
    assert eqx.tree_equal(jax.tree.leaves(back), jax.tree.leaves(net))


def test_no_example_has_two_uses():
    parts = parted((jnp.arange(20), jnp.arange(20)[:, None]), 3)
    assert parts[0].shape == (3, 6) and parts[1].shape == (3, 6, 1)
    assert sorted(np.ravel(parts[0])) == list(range(18))

    def seen(spoilt):
        """After the first look, with some examples of `valid` spoilt."""
        x, y = SIGNAL[1]
        memory = gn.grow(
            mlp(), loss, SIGNAL[0], valid=(x, y + 5 * spoilt[:, None]), key=jr.key(1),
            optimizer=optax.sgd(0.0), policy=policy(), steps=10, capacity=8,
        ).state.memory  # fmt: skip
        return {n: memory[n] for n in ("error", "drop", "p")}

    assert _residual_fitting.TESTS == 3

    of = np.arange(len(X2)) % 4
    spoilt = jnp.stack([jnp.asarray(of == part, float) for part in (-1, 0, 1, 2)])
    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(seen))(spoilt))
    plain, stopping, testing, other = [
        {n: v[i].item() for n, v in found.items()} for i in range(4)
    ]
    assert other == plain, "part 2 is for the next look"
    assert stopping["error"] != plain["error"]
    assert {**stopping, "error": plain["error"]} == plain
    assert testing["error"] == plain["error"] and testing["drop"] != plain["drop"]


class Nobody:
    """Candidates that are only counted."""

    def __init__(self, mask):
        self.mask = mask

    def change(self, rows, add):
        return gn.Change(self.mask, add)


@pytest.fixture
def decided(monkeypatch):
    """Sizes look by look, as if errors and drops by width were these."""

    def decide(policy, errors, drops, sizes=None, capacity=32):
        sizes = dict.fromkeys(drops, 4) if sizes is None else sizes
        anatomy = gn.trace(mlp(capacity, depth=len(sizes)), X[0])
        memory = policy.init(anatomy, key=None)[1]
        found = {n: jnp.full(20, 1.0).at[0].set(d) for n, d in drops.items()}
        fake = lambda *args, **options: Explained(found, dict.fromkeys(drops, {}))
        monkeypatch.setattr(_residual_fitting, "explainable", fake)
        seen = [sizes]
        for look, error in enumerate(errors, 1):
            masks = {n: jnp.arange(capacity) < size for n, size in sizes.items()}
            evidence = gn.Evidence(
                jnp.asarray(look * policy.every),
                masks,
                valid=SIGNAL[1],
                batches=lambda n: jax.tree.map(lambda a: a[None], SIGNAL[0]),
                evaluate=lambda decision, error=error: jnp.asarray(error),
                on=lambda batch, error=error: evidence,  # noqa: B023
                candidates={n: Nobody(mask) for n, mask in masks.items()},
            )
            decision, _, memory, _ = policy.step(None, memory, evidence, key=None)
            born = {n: int(c.add) for n, c in decision.widths.items()}
            sizes = {n: min(size + born[n], capacity) for n, size in sizes.items()}
            seen.append(sizes)
        return [tuple(s.values()) for s in seen[1:]]

    return decide


LOW = [8.0, 7.0, 6.0, 5.0, 4.0]


@pytest.mark.parametrize(
    "options, errors, sizes",
    [
        ({}, LOW, [4, 7, 7, 10, 10]),
        ({"level": 1.0}, LOW, [7, 10, 13, 16, 19]),
        ({"level": 0.0049}, LOW, [4, 4, 7, 7, 7]),
        ({"floor": 6.5}, LOW, [4, 7, 7, 7, 7]),
        ({"paid": 0.5}, LOW, [4, 7, 7, 7, 7]),
        ({"paid": 0.4}, [8.0, 7.0, 7.0, 4.0, 4.0], [4, 7, 7, 7, 10]),
        ({"until": 9}, LOW, [4, 7, 7, 7, 7]),
    ],
    ids=["two", "one", "three", "floor", "unpaid", "paid", "until"],
)
def test_conditions(decided, options, errors, sizes):
    found = decided(policy(**options), errors, {NAME: 2.0})
    assert found == [(size,) for size in sizes]


def test_nothing_to_explain_and_which_width(decided):
    assert decided(policy(), LOW, {NAME: 0.5}) == [(4,)] * 5
    nan = decided(policy(), [float("nan")] * 5, {NAME: 2.0})
    assert nan == [(4,)] * 5, "an error that is no number isn't high"
    two = {NAME: 2.0, "layers[1]": 3.0}
    assert decided(policy(), LOW, two)[-1] == (4, 10)
    # The better one is as large as it may be.
    assert decided(policy(until=9), LOW, two)[-1] == (7, 7)


@pytest.mark.slow
def test_where_there_is_no_room_it_looks_again_and_decides_the_same():
    tight, roomy = (fit(policy(), steps=40, capacity={NAME: n}) for n in (3, 16))
    sizes = lambda run: [t.sizes[NAME] for t in run.history.ticks]
    assert sizes(tight) == sizes(roomy) == [2, 5, 5, 8]
    assert [run.history.ticks[-1].traces for run in (tight, roomy)] == [2, 1]


@pytest.mark.parametrize("freeze", [True, False])
def test_what_is_frozen_rests(freeze):
    """Before the growth at step 20 nothing is trained, after it everything, or what was
    born."""
    rate = lambda step: jnp.where(step >= 20, 1e-2, 0.0)
    late = lenient(optax.adamw(rate, weight_decay=0.1))
    net = mlp()
    given = {"optimizer": late, "capacity": {NAME: 8}}
    run = fit(policy(freeze=freeze, until=5), net, steps=30, **given)
    (event,) = run.history.events
    assert event.new == 5
    (old, old_out), (new, new_out) = net.layers, run.net.layers
    pairs = [
        (old.weight, new.weight[:2]),
        (old.bias, new.bias[:2]),
        (old_out.weight, new_out.weight[:, :2]),
        (old_out.bias, new_out.bias),
    ]
    assert all(np.array_equal(a, b) == freeze for a, b in pairs)
    # The newborns learn in any case: they aren't the probe any more.
    assert event.loss_after > run.history.ticks[-1].loss > loss(run.net, SIGNAL[0], 0)


def test_one_chunk_and_single_ticks_agree_bit_for_bit():
    adam = lenient(optax.adam(1e-2))
    given = {"steps": 65, "batch_size": 50, "optimizer": adam, "capacity": {NAME: 16}}
    runs = [fit(policy(batches=2), chunk=n, **given) for n in (1, None)]
    assert len(runs[0].history.events) >= 1
    for run in runs[1:]:
        assert eqx.tree_equal(run.net, runs[0].net)
        assert eqx.tree_equal(run.state, runs[0].state)


# --- errors


@pytest.mark.parametrize(
    "wrong", [{"units": 0}, {"every": 0}, {"batches": 0}, {"shuffles": 9}]
)
def test_numbers_out_of_range(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}; a whole number"):
        ResidualFitting(**wrong)


def test_what_it_cannot_work_on():
    with pytest.raises(ValueError, match="level=0; it is above 0, and 1 at most"):
        ResidualFitting(level=0)
    with pytest.raises(ValueError, match="valid= has 7 examples; .*parts it in 4"):
        fit(policy(), data=(SIGNAL[0], (X2[:7], NOISE2[:7])))
    nothing = gn.Evidence(0, {NAME: jnp.ones(4, bool)})
    with pytest.raises(ValueError, match=r"candidates, on, .*; add `EXPLAINABLE`"):
        explainable(nothing, *SIGNAL, key=None)
    with pytest.raises(ValueError, match=r"widths=\['a'\]; those .*'layers\[0\]'"):
        explainable(nothing, *SIGNAL, key=None, widths=["a"])
    with pytest.raises(ValueError, match=r"needs .*valid .*`valid=`"):
        fit(policy(), data=(SIGNAL[0], None))
    with pytest.raises(ValueError, match=r"shapes \[\(150, 3\), \(\)\]; .* axis"):
        explained(((X, jnp.ones(())), SIGNAL[1]))
