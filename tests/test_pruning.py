"""Pruning: which units go, what becomes of them, and when."""

from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given

import growthnet as gn
from growthnet._paths import array_leaves, map_arrays
from growthnet_policies import Pruning, Score
from growthnet_policies._removals import moments, rewrite
from growthnet_policies._selection import best, normalized, rounded, sizes_within

from .helpers import lenient
from .pruning_cases import Convolutions, evidence_of, square


X = jr.normal(jr.key(0), (24, 3))
Y = jnp.sin(X.sum(-1, keepdims=True))
FIRST, SECOND = "layers[0]", "layers[1]"


def mlp(width=6, depth=1, key=0):
    act = jnp.tanh
    return eqx.nn.MLP(3, 1, width, depth, activation=act, key=jr.key(key))


# --- which units go


def by_hand(scores, open_, first, cost, target, scope, multiple_of, minimum):
    """One unit after the other, in plain Python."""
    queue = []
    for w, (name, score) in enumerate(scores.items()):
        alive = [i for i in np.argsort(-score, kind="stable") if open_[name][i]]
        for rank, i in enumerate(alive):
            if rank >= minimum:
                place = (first[name] - rank - 0.5) / first[name]
                value = float(score[i]) if scope == "global" else np.float32(place)
                queue.append((value, w, i, name))
    sizes = {name: int(mask.sum()) for name, mask in open_.items()}

    def shown():
        up = {n: -(-s // multiple_of) * multiple_of for n, s in sizes.items()}
        up = {n: max(s, minimum) for n, s in up.items()}
        return {n: min(s, int(open_[n].sum())) for n, s in up.items()}

    for *_, name in sorted(queue):
        if cost(shown()) <= target:
            break
        sizes[name] -= 1
    return shown()


CAPACITY = {"a": 7, "b": 5}
unit_cost = lambda sizes: 3 * sizes["a"] + 2 * sizes["b"] + sizes["a"] * sizes["b"]


@eqx.filter_jit
def chosen(scores, open_, first, target, scope, multiple_of, minimum):
    given = {"multiple_of": multiple_of, "minimum": minimum}
    return sizes_within(scores, open_, first, unit_cost, target, scope, **given)


@given(
    st.integers(0, 999),
    st.floats(0, 70),
    st.sampled_from(["layer", "global"]),
    st.sampled_from([(1, 1), (1, 2), (3, 1), (2, 2)]),
)
def test_the_cheapest_units_go_until_the_budget_is_met(seed, target, scope, rounding):
    rng = np.random.default_rng(seed)
    scores = {n: rng.permutation(c).astype(np.float32) for n, c in CAPACITY.items()}
    open_ = {n: rng.random(c) < 0.8 for n, c in CAPACITY.items()}
    open_ = {n: mask | (np.arange(mask.size) == 2) for n, mask in open_.items()}
    first = {n: np.float32(c + rng.integers(3)) for n, c in CAPACITY.items()}
    target = float(np.float32(target))
    given = (scores, open_, first)
    found = chosen(*given, jnp.asarray(target), scope, *rounding)
    found = {n: int(s) for n, s in found.items()}
    assert found == by_hand(*given, unit_cost, target, scope, *rounding)
    for name, size in found.items():
        kept = np.asarray(best(scores[name], open_[name], size))
        assert kept.sum() == size and not (kept & ~open_[name]).any()
        dropped = open_[name] & ~kept
        if dropped.any():
            assert scores[name][kept].min() > scores[name][dropped].max()


def test_scores_are_compared_in_units_of_their_width():
    score, mask = np.array([3.0, 4.0, 99.0], np.float32), np.array([True, True, False])
    scales: dict[Any, float] = {"mean": 3.5, "max": 4.0, "norm": 5.0, "none": 1.0}
    for by, scale in scales.items():
        assert np.allclose(normalized(score, mask, by)[:2], score[:2] / scale)
    assert (np.asarray(normalized(0 * score, mask, "mean")) == 0).all()
    sizes = [int(rounded(n, 10, 4, 2)) for n in (0, 1, 4, 5, 9, 10)]
    assert sizes == [2, 4, 4, 8, 10, 10]


# --- what becomes of them


def without(net, batch, keep, removal, rewrite=rewrite, ridge=1e-6):
    """The network without the units that aren't kept."""
    sizes = {name: mask.size for name, mask in keep.items()}

    def use(evidence):
        return {
            name: rewrite(
                evidence, name, mask, moments(evidence, name, removal),
                removal, ridge, "a test",
            )
            for name, mask in keep.items()
        }  # fmt: skip

    if removal != "silence":
        needs = {"network", "activations"}
        found = evidence_of(net, square, batch, needs, sizes, use)
        for values in found.values():
            net = map_arrays(net, values)
    call = lambda net, x: jax.vmap(net)(x)
    anatomy = gn.trace(net, batch[0], call=call)
    kept = {n: np.flatnonzero(mask) for n, mask in keep.items()}
    sizes = {n: k.size for n, k in kept.items()}
    return gn.plan(anatomy, sizes, keep=kept)(net)


def constant(layer, units):
    """The layer with some units that are the same whatever comes in."""
    weight = layer.weight.at[jnp.asarray(units)].set(0.0)
    return eqx.tree_at(lambda n: n.weight, layer, weight)


def off(net, other, x):
    return float(jnp.abs(jax.vmap(net)(x) - jax.vmap(other)(x)).max())


def absorbing_is_exact_for_constant_units(rewrite):
    net = mlp(depth=2)
    layers = (constant(net.layers[0], [1, 4]), constant(net.layers[1], [0]))
    net = eqx.tree_at(lambda n: n.layers[:2], net, layers)
    keep = {FIRST: jnp.arange(6) % 3 != 1, SECOND: jnp.arange(6) > 0}
    new = without(net, (X, Y), keep, "absorb", rewrite)
    assert off(net, new, X) < 1e-5, "a constant unit was not absorbed"
    assert off(net, without(net, (X, Y), keep, "silence"), X) > 1e-2


def refitting_is_never_worse_than_absorbing(rewrite):
    rng = np.random.default_rng(0)
    for seed in range(2):
        net = mlp(key=seed)
        keep = {FIRST: jnp.asarray(rng.permutation(6) < 3)}
        true = jax.vmap(net)(X)
        errors = [
            float(jnp.mean((jax.vmap(small)(X) - true) ** 2))
            for small in (
                without(net, (X, Y), keep, "refit", rewrite),
                without(net, (X, Y), keep, "absorb"),
            )
        ]
        assert errors[0] <= errors[1] * (1 + 1e-4), "refitting is worse"


def refitting_gives_the_least_squares_weights(rewrite):
    net, keep = mlp(), np.array([True, False, True, True, False, True])
    new = without(net, (X, Y), {FIRST: jnp.asarray(keep)}, "refit", rewrite, 0.0)
    hidden = np.tanh(np.asarray(jax.vmap(net.layers[0])(X)))[:, keep]
    table = np.concatenate([hidden, np.ones((len(X), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(table, np.asarray(jax.vmap(net)(X)), rcond=None)
    for found, expected in zip(new.layers[1].weight[0], weights[:-1], strict=True):
        assert np.allclose(found, expected, atol=1e-3), "not the least squares"
    assert np.allclose(new.layers[1].bias, weights[-1], atol=1e-3), "nor the bias"
    assert eqx.tree_equal(new.layers[0].weight, net.layers[0].weight[keep])


REMOVALS = [
    absorbing_is_exact_for_constant_units,
    refitting_is_never_worse_than_absorbing,
    refitting_gives_the_least_squares_weights,
]


@pytest.mark.parametrize("law", REMOVALS)
def test_removals_keep_their_promises(law):
    law(rewrite)


def changed(**how):
    """A removal whose result, by leaf, is spoiled."""

    def spoiled(evidence, *args):
        old = array_leaves(evidence.network)
        new = rewrite(evidence, *args) or {}
        spoil = {path: how[path.rpartition(".")[2]] for path in new}
        return {path: spoil[path](old[path], array) for path, array in new.items()}

    return spoiled


same = lambda old, new: new
MUTANTS = {
    "the bias forgets": changed(bias=lambda old, new: old, weight=same),
    "twice as much": changed(bias=lambda old, new: 2 * new - old, weight=same),
    "the wrong sign": changed(bias=same, weight=lambda old, new: 2 * old - new),
    "weights stay": changed(bias=same, weight=lambda old, new: old),
}
CAUGHT = {
    "the bias forgets": REMOVALS[:1],
    "twice as much": REMOVALS[:1],
    "the wrong sign": REMOVALS[1:],
    "weights stay": REMOVALS[2:],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_removals_are_noticed(name):
    for law in CAUGHT[name]:
        with pytest.raises(AssertionError, match="not absorbed|is worse|least squares"):
            law(MUTANTS[name])


def test_constant_channels_are_absorbed_where_nothing_is_padded():
    net = Convolutions(padding=0)
    net = eqx.tree_at(lambda n: n.first, net, constant(net.first, [1]))
    net = eqx.tree_at(lambda n: n.second, net, constant(net.second, [2]))
    x, y = jr.normal(jr.key(3), (6, 2, 4, 4)), jr.normal(jr.key(4), (6, 2))
    keep = {"first": jnp.arange(4) != 1, "second": jnp.arange(3) != 2}
    assert off(net, without(net, (x, y), keep, "refit"), x) < 1e-5
    assert off(net, without(net, (x, y), keep, "silence"), x) > 1e-3


def test_what_nothing_can_absorb_is_refused():
    net = eqx.nn.MLP(3, 1, 4, 1, use_final_bias=False, key=jr.key(0))
    with pytest.raises(ValueError, match=r"Pruning: 'layers.1..weight', .*has no bias"):
        pruned(net, Pruning("random", ratio=0.5, start=1, every=1, removal="absorb"))


# --- when


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def fit(net, policy, steps, **options):
    given = {"optimizer": lenient(optax.adam(1e-2)), "key": jr.key(1), **options}
    return gn.fit(net, loss, (X, Y), policy=policy, steps=steps, **given)


def pruned(net, policy, **options):
    """After training: a look at the data and no step."""
    return fit(net, policy, 1, optimizer=optax.set_to_zero(), **options)


def sizes_of(run):
    return [tuple(tick.sizes.values()) for tick in run.history.ticks]


def test_units_go_by_the_cubic_schedule():
    net = mlp(16, depth=2)
    run = fit(net, Pruning(ratio=0.75, start=4, end=12, every=2), 18)
    way = [1 - (1 - t) ** 3 for t in (0, 0.25, 0.5, 0.75, 1)]
    totals = [32, *(round(32 * (1 - 0.75 * t)) for t in way), 8, 8, 8]
    assert [sum(sizes) for sizes in sizes_of(run)] == totals
    # The same fraction of both widths, to one unit.
    assert all(abs(a - b) <= 1 for a, b in sizes_of(run)) and run.sizes[FIRST] == 4


@pytest.mark.parametrize("amount", [{"units": 12}, {"ratio": 0.4}])
def test_the_schedule_begins_with_the_units_that_growth_has_made(amount):
    grows = gn.as_policy(
        lambda evidence, key: {n: gn.Change(m, 4) for n, m in evidence.open.items()},
        every=2,
    )
    prunes = Pruning(**amount, start=10, end=18, every=2)
    run = fit(mlp(4), gn.chain(gn.during(grows, 0, 9), prunes), 22)
    way = [(1 - t) ** 3 for t in (0, 0.25, 0.5, 0.75, 1)]
    falls = [int(12 + 8 * part + (0.5 if "ratio" in amount else 0)) for part in way]
    assert [sum(sizes) for sizes in sizes_of(run)] == [8, 12, 16, 20, *falls, 12, 12]


def test_all_at_once_means_once():
    class Regrowing(Pruning):
        """Gets its units back."""

        def step(self, trainable, memory, evidence, *, key):
            step = super().step(trainable, memory, evidence, key=key)
            births = jnp.where(evidence.step == 6, 3, 0)
            widths = {n: gn.Change(c.keep, births) for n, c in step[0].widths.items()}
            return gn.Decision(widths), *step[1:]

    policy: Any = Regrowing
    run = fit(mlp(), policy(ratio=0.5, start=3, every=2), 12)
    assert sizes_of(run) == [(6,), (3,), (6,), (6,), (6,), (6,)]


@pytest.mark.parametrize(
    ("scope", "multiple_of", "what"),
    [
        ("global", 1, "params"),
        ("global", 1, "flops"),
        pytest.param("layer", 2, "params", marks=pytest.mark.slow),
    ],
)
def test_a_budget_is_kept_to(scope, multiple_of, what):
    net = eqx.nn.MLP(3, 2, 9, 2, key=jr.key(3))
    given: dict[str, Any] = {"scope": scope, "multiple_of": multiple_of, what: 60}
    anatomy = gn.trace(net, X[0])
    if what == "flops":
        given[what] = 0.4 * anatomy.flops()
    run = pruned(net, Pruning(start=1, every=1, **given), anatomy=anatomy)
    count = getattr(run.anatomy, what)
    assert count(run.sizes) <= given[what]
    assert all(size % multiple_of == 0 for size in run.sizes.values())
    most = max(count({**run.sizes, n: s + 1}) for n, s in run.sizes.items())
    assert most > given[what] or multiple_of > 1


def test_a_look_after_training_is_a_resize_to_the_best_units():
    net = mlp(7)
    run = pruned(net, Pruning("outgoing", units=3, start=1, every=1))
    score = np.abs(np.asarray(net.layers[1].weight[0]))
    keep = np.sort(np.argsort(-score)[:3])
    anatomy = gn.trace(net, X[0])
    expected = gn.resize(net, anatomy, {FIRST: 3}, keep={FIRST: keep}, key=None)
    assert eqx.tree_equal(run.net, expected)


def test_a_threshold_is_in_units_of_the_mean():
    net = mlp(7)
    norms = np.linalg.norm(np.asarray(net.layers[0].weight), axis=1)
    run = pruned(net, Pruning("incoming", threshold=0.9, start=1, every=1))
    assert run.sizes[FIRST] == (norms >= 0.9 * norms.mean()).sum() < 7


class Host(Pruning):
    on_host = True


OnHost: Any = Host


@pytest.mark.parametrize(
    ("score", "removal"),
    [
        ("taylor", "silence"),
        pytest.param("fisher", "refit", marks=pytest.mark.slow),
    ],
)
def test_on_the_host_it_is_the_same_run(score, removal):
    given: dict[str, Any] = {"ratio": 0.5, "start": 2, "end": 6, "every": 2}
    given |= {"score": score, "removal": removal}
    traced, host = (fit(mlp(depth=2), p(**given), 8) for p in (Pruning, OnHost))
    assert traced.sizes == {FIRST: 3, SECOND: 3}
    if removal == "silence":
        losses = [[tick.loss for tick in run.history.ticks] for run in (traced, host)]
        assert losses[0] == losses[1]
        assert eqx.tree_equal(traced.net, host.net), "bit for bit"
    # Weights that are computed op by op differ from a program's by rounding.
    assert sizes_of(traced) == sizes_of(host)
    assert eqx.tree_equal(traced.net, host.net, rtol=1e-3, atol=1e-4)


def test_more_batches_give_other_moments():
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
    runs = []
    for data, number in (((X, Y), 1), (batches, 3)):
        policy = Pruning(
            "activation", ratio=0.5, start=3, every=3, removal="refit", batches=number
        )
        runs.append(
            gn.fit(
                mlp(), loss, data, optimizer=optax.set_to_zero(), policy=policy,
                steps=3, key=jr.key(0),
            )
        )  # fmt: skip
    weights = [run.net.layers[1].weight for run in runs]
    assert np.allclose(weights[0], weights[1], atol=1e-4)


def test_members_of_a_population_prune_by_their_own_numbers():
    runs = gn.fit_population(
        mlp(8), loss, (X, Y), keys=jr.split(jr.key(0), 3), capacity=8, steps=4,
        optimizer=lenient(optax.adam(1e-2)), hyper=jnp.array([0.0, 0.5, 0.75]),
        policy=lambda ratio: Pruning("taylor", ratio=ratio, start=2, every=2),
    )  # fmt: skip
    assert [run.sizes[FIRST] for run in runs] == [8, 4, 2]


def test_scores_of_weights_work_in_your_own_loop():
    def loop(policy):
        grower = gn.Grower(policy, lenient(optax.sgd(0.1)))
        model, state = grower.init(mlp(), gn.trace(mlp(), X[0]), key=jr.key(0))
        objective = grower.loss(lambda net: loss(net, (X, Y), None), state)
        _, grads = eqx.filter_jit(eqx.filter_value_and_grad(objective))(model)
        return grower.step(model, grads, state)[0]

    model = loop(Pruning("taylor", ratio=0.5, start=1, every=1))
    assert int(model.open[FIRST].sum()) == 3
    with pytest.raises(ValueError, match="Pruning needs activations"):
        loop(Pruning("variance", ratio=0.5, start=1, every=1))


def test_a_function_is_a_score():
    order = lambda evidence, name, key: (
        -jnp.arange(len(evidence.open[name]), dtype=float)
    )
    first = Score(order, frozenset())
    run = pruned(mlp(), Pruning(first, ratio=0.5, start=1, every=1))
    assert eqx.tree_equal(run.net.layers[0].weight, mlp().layers[0].weight[:3])
    wrong = Score(lambda evidence, name, key: jnp.ones(2), frozenset())
    with pytest.raises(ValueError, match=r"score of 'layers.0.' has shape \(2,\); one"):
        pruned(mlp(), Pruning(wrong, ratio=0.5, start=1, every=1))


WRONG: dict[str, Any] = {
    "give one of ratio, units, params, flops, threshold; got none": {},
    "got ratio and units": {"ratio": 0.5, "units": 3},
    r"ratio=1.0; the fraction that goes is in \[0, 1\)": {"ratio": 1.0},
    "start=5, end=5; it ends after it starts": {"ratio": 0.5, "start": 5, "end": 5},
    "score='weight'; use one of magnitude, incoming": {"ratio": 0.5, "score": "weight"},
    "scope='all'; one of 'layer', 'global'": {"ratio": 0.5, "scope": "all"},
    "removal='merge'; one of 'silence', 'abs": {"ratio": 0.5, "removal": "merge"},
    "multiple_of=0; a whole number from 1 up": {"ratio": 0.5, "multiple_of": 0},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", WRONG)
def test_bad_arguments_are_refused(message):
    with pytest.raises(ValueError, match=message):
        Pruning(**{"start": 1, **WRONG[message]})


def test_a_budget_that_no_sizes_meet_is_refused():
    for budget in ({"units": 3}, {"params": 9}, {"flops": 9}):
        given: Any = budget
        policy = Pruning(start=1, minimum=2, every=1, **given)
        with pytest.raises(ValueError, match=r"the smallest sizes, layers\[0\] 2, "):
            pruned(mlp(depth=2), policy)
