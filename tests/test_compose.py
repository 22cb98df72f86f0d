"""Policies of policies: chains, turns, budgets, conditions; policies of functions."""

import pathlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet.testing import check_policy
from growthnet_policies import (
    EXPLAINABLE,
    explainable,
    Firefly,
    GradientSizeWeight,
    GradMax,
    NestedSize,
    Net2Net,
    Pruning,
    SENN,
    Splitting,
    Tiny,
)

from .helpers import lenient


X = jr.normal(jr.key(0), (32, 3))
Y = jnp.sin(X[:, :1])


def loss(net, batch, key):
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def fit(policy, steps=24, width=4, **options):
    return gn.fit(
        eqx.nn.MLP(3, 1, width, 2, activation=jnp.tanh, key=jr.key(0)),
        loss,
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=policy,
        steps=steps,
        key=jr.key(1),
        **options,
    )


def adding(count=1, every=4, **options):
    def births(evidence, key):
        return {n: gn.Change(m, count, **options) for n, m in evidence.open.items()}

    return gn.as_policy(births, every=every)


def closing(every=4):
    """The last open unit of every width goes."""

    def last(evidence, key):
        stays = lambda m: m & (jnp.cumsum(m) < m.sum())
        return {n: gn.Change(stays(m), 0) for n, m in evidence.open.items()}

    return gn.as_policy(last, every=every)


def sizes(run, width="layers[0]"):
    return [tick.sizes[width] for tick in run.history.ticks]


SIZE_WEIGHT = GradientSizeWeight(target=8, rate=0.2, learning_rate=0.3, every=4)


def test_a_function_is_a_policy():
    assert sizes(fit(adding(2))) == [6, 8, 10, 12, 14, 16]
    with pytest.raises(ValueError, match="needs='loss'; give several names"):
        gn.as_policy(lambda evidence, key: {}, every=1, needs="loss")


def test_beside_one_that_does_nothing_a_policy_does_what_it_does():
    idle = gn.as_policy(lambda evidence, key: {}, every=4)
    alone, beside = fit(SIZE_WEIGHT), fit(gn.chain(SIZE_WEIGHT, idle))
    assert sizes(alone) == sizes(beside) and sizes(alone)[-1] > 4
    (weight, _), own = beside.growing.trainable, alone.growing.trainable
    for name in own:
        np.testing.assert_allclose(weight[name], own[name], rtol=1e-5)
    # Newborns have other keys, so the networks needn't be the same.


def test_what_counts_units_in_order_is_not_chained_with_what_makes_holes():
    with pytest.raises(ValueError, match="_Function may close units of 'layers.0.', a"):
        fit(gn.chain(SIZE_WEIGHT, closing()))
    with pytest.raises(ValueError, match="GradientSizeWeight may close units"):
        fit(gn.chain(SIZE_WEIGHT, gn.during(SIZE_WEIGHT, 8)))
    drawn = adding(1, init="drawn")
    # Those that close nothing may be chained and turned among themselves.
    others = gn.within_budget(gn.chain(gn.during(drawn, 4), drawn), units=99)
    assert sizes(fit(gn.chain(SIZE_WEIGHT, others)))[-1] > 8


def test_births_add_up_and_what_stays_is_what_all_keep():
    assert sizes(fit(gn.chain(adding(2), adding(1)))) == [7, 10, 13, 16, 19, 22]
    assert sizes(fit(gn.chain(adding(1), closing()))) == [4] * 6
    assert sizes(fit(gn.chain(adding(3), closing()))) == [6, 8, 10, 12, 14, 16]


def test_everyone_decides_in_its_turn():
    both = gn.chain(adding(5, every=8), closing(every=4))
    assert both.every == 4
    assert sizes(fit(both)) == [3, 7, 6, 10, 9, 13]


def test_gates_multiply_and_penalties_add_up():
    net = eqx.nn.MLP(3, 1, 4, 2, key=jr.key(0))
    anatomy = gn.trace(net, X[0])
    both = gn.chain(SIZE_WEIGHT, SIZE_WEIGHT)
    (one, two), _ = both.init(anatomy, key=jr.key(0))
    one = jax.tree.map(lambda n: n - 0.5, one)
    total = both.gates((one, two), anatomy, key=None, train=True)
    for name, gate in total.items():
        parts = [
            SIZE_WEIGHT.gates(t, anatomy, key=None, train=True)[name]
            for t in (one, two)
        ]
        np.testing.assert_allclose(gate, parts[0] * parts[1], rtol=1e-6)
    cost = anatomy.params
    added = SIZE_WEIGHT.penalty(one, net, cost) + SIZE_WEIGHT.penalty(two, net, cost)
    np.testing.assert_allclose(both.penalty((one, two), net, cost), added, rtol=1e-6)


class Freezing(gn.NoGrowth):
    """The first layer's weights rest."""

    every: int = eqx.field(static=True, default=4)

    def rates(self, memory, anatomy, open):
        return {"layers[0].weight": jnp.zeros(())}


def test_what_rests_for_one_rests():
    start = eqx.nn.MLP(3, 1, 4, 2, key=jr.key(0)).layers[0].weight
    assert not np.array_equal(fit(gn.NoGrowth()).net.layers[0].weight, start)
    policies = gn.chain(Freezing(), adding(1)), gn.during(Freezing(), 4)
    for policy in (*policies, gn.within_budget(Freezing(), units=9)):
        net = fit(policy, capacity={"*": 16}).growing.net
        frozen = np.asarray(net.layers[0].weight[:4])
        np.testing.assert_array_equal(frozen, start)
        assert (net.layers[0].bias[:4] != 0).all()


def test_conflicts_are_refused_with_both_names():
    values = {"layers[0].bias": jnp.zeros(8)}
    offer = lambda evidence, key: {
        "layers[0]": gn.Change(evidence.open["layers[0]"], 1, values=values)
    }
    offering = gn.as_policy(offer, every=4)
    with pytest.raises(ValueError, match="both bring `values` for 'layers.0.', at st"):
        fit(gn.chain(offering, offering), capacity={"*": 8})
    with pytest.raises(ValueError, match="and only one brings `values`"):
        fit(gn.chain(offering, adding(1)), capacity={"*": 8})
    with pytest.raises(ValueError, match="as 'drawn' and 'zero_out'"):
        fit(gn.chain(SIZE_WEIGHT, adding(1)))
    with pytest.raises(ValueError, match=r"chain\(_Function\); give it two policies"):
        gn.chain(adding(1))


def test_cycles_of_growing_and_pruning():
    cycle = gn.chain(
        gn.during(adding(2), 0, 12, period=16),
        gn.during(closing(), 12, 16, period=16),
    )
    # Steps 4 and 8 grow, 12 prunes, 16 is the first of the next period.
    assert sizes(fit(cycle, steps=32)) == [6, 8, 7, 9, 11, 13, 12, 14]


def test_a_part_of_the_run():
    assert sizes(fit(gn.during(adding(1), 8, 17))) == [4, 5, 6, 7, 7, 7]
    assert sizes(fit(gn.during(adding(1), 12))) == [4, 4, 5, 6, 7, 8]
    for wrong in ((8, 8), (8, 4), (0, 20, 16), (-1, 4)):
        start, stop, *period = wrong
        with pytest.raises(ValueError, match=r"during\("):
            gn.during(adding(1), start, stop, period=period[0] if period else None)


def test_births_end_at_a_budget():
    run = fit(gn.within_budget(adding(3), units=21))
    assert run.sizes == {"layers[0]": 10, "layers[1]": 10}
    run = fit(gn.within_budget(adding(3), params=100))
    assert run.anatomy.params() <= 100
    larger = {name: size + 1 for name, size in run.sizes.items()}
    assert run.anatomy.params(larger) > 100
    # Closings make room again, and go on where there is none.
    run = fit(gn.within_budget(gn.chain(adding(3), closing()), units=12))
    assert sizes(run) == [6] * 6
    with pytest.raises(ValueError, match="give params=, units= or flops="):
        gn.within_budget(adding(1))


def test_births_end_at_a_budget_of_operations():
    net = eqx.nn.MLP(3, 1, 4, 2, activation=jnp.tanh, key=jr.key(0))
    anatomy = gn.trace(net, X[0])
    budget = 3 * anatomy.flops()
    run = fit(gn.within_budget(adding(3), flops=budget), steps=48, anatomy=anatomy)
    assert run.anatomy.flops() <= budget
    larger = {name: size + 1 for name, size in run.sizes.items()}
    assert run.anatomy.flops(larger) > budget


@pytest.mark.parametrize("budget", [{"units": 7}, {"params": 9}, {"flops": 20}])
def test_a_run_that_starts_beyond_its_budget_is_refused(budget):
    (name,) = budget
    why = rf"within_budget\({name}=\d+\): the run starts with \d+, so nothing"
    with pytest.raises(ValueError, match=why):
        fit(gn.within_budget(adding(1), **budget))


# --- conditions


def told(watch, losses, patience, tolerance=0.0):
    """After which of these losses `on_plateau` lets a decision count."""
    policy = gn.on_plateau(
        adding(1), watch=watch, patience=patience, tolerance=tolerance
    )
    anatomy = gn.trace(eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0)), X[0])
    trainable, memory = policy.init(anatomy, key=jr.key(0))
    due = []
    for loss in losses:
        evidence = gn.Evidence(
            jnp.asarray(4),
            {"layers[0]": jnp.ones(4, bool)},
            anatomy=anatomy,
            **{watch: jnp.asarray(loss)},
        )
        decision, trainable, memory, _ = policy.step(
            trainable, memory, evidence, key=jr.key(0)
        )
        due.append(int(decision.widths["layers[0]"].add))
    return due


def test_a_plateau_is_so_many_looks_without_a_fall():
    falls = [8.0, 7.0, 6.0, 5.0, 4.0]
    assert told("loss", falls, 2) == [0] * 5
    assert told("loss", [4.0, 4.0, 4.1, 3.0, 3.1, 3.0], 2) == [0, 0, 1, 0, 0, 1]
    assert told("valid_loss", [4.0, 4.0, 4.0, 4.0], 1) == [0, 1, 0, 1]
    # A fall of less than a tenth is none, and what it is compared with doesn't creep.
    assert told("loss", [4.0, 3.8, 3.5], 1, 0.1) == [0, 1, 0]
    assert told("loss", [4.0, 3.8, 3.5], 2, 0.1) == [0, 0, 0]
    # Losses below 0 fall too.
    assert told("loss", [-1.0, -2.0, -3.0, -3.0], 1) == [0, 0, 0, 1]


def test_growth_on_a_plateau_in_a_run():
    grows = gn.on_plateau(adding(2), patience=2, watch="loss")
    run = gn.fit(
        eqx.nn.MLP(3, 1, 4, 2, key=jr.key(0)), loss, (X, Y), optimizer=optax.sgd(0.0),
        policy=grows, steps=24, key=jr.key(1),
    )  # fmt: skip
    # The first look has nothing to compare with; the next two see no fall.
    assert sizes(run) == [4, 4, 6, 6, 6, 8]


@pytest.mark.usefixtures("unchecked")
def test_a_plateau_of_nothing_is_refused():
    for given, why in (
        ({"patience": 0}, "patience=0; a whole"),
        ({"tolerance": -1.0}, "tolerance=-1.0; a number"),
        ({"watch": "accuracy"}, "watch='accuracy'; 'loss' or"),
    ):
        wrong: Any = given
        with pytest.raises(ValueError, match=why):
            gn.on_plateau(adding(1), **wrong)


def test_decisions_count_when_and_where_a_condition_holds():
    first = lambda evidence, key: {
        "layers[0]": (evidence.step > 8) & (evidence.sizes["layers[0]"] < 6)
    }
    late = gn.provided(adding(1), lambda evidence, key: evidence.step > 12)
    run = fit(gn.chain(gn.provided(adding(1), first), late))
    assert sizes(run) == [4, 4, 5, 7, 8, 9]
    assert sizes(run, "layers[1]") == [4, 4, 4, 5, 6, 7]
    unknown = gn.provided(adding(1), lambda evidence, key: {"layers[7]": True})
    with pytest.raises(
        ValueError, match=r"speaks of 'layers\[7\]'; the widths of this"
    ):
        fit(unknown)
    with pytest.raises(ValueError, match="provided: Net2Net moves survivors"):
        fit(gn.provided(Net2Net(every=4), first))
    with pytest.raises(ValueError, match="needs='loss'; give several names"):
        gn.provided(adding(1), first, needs="loss")


def loud(every=4):
    """Two units at a time that are read with random weights: better or worse."""

    def births(evidence, key):
        candidates = evidence.candidates["layers[0]"]
        rows = candidates.drawn(2, key)
        noise = lambda row: row + 0.5 * jr.normal(key, row.shape)
        return {"layers[0]": candidates.change(jax.tree.map(noise, rows))}

    return gn.as_policy(births, every=every, needs=["candidates"])


def changes_of_loss(policy, **options):
    options = {"optimizer": optax.sgd(0.0), "capacity": {"*": 64}, **options}
    run = gn.fit(
        eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jr.key(0)), loss, (X, Y),
        policy=policy, steps=48, key=jr.key(1), **options,
    )  # fmt: skip
    return [e.loss_after - e.loss_before for e in run.history.events]


def test_decisions_that_count_if_they_pay_lower_the_loss():
    both = changes_of_loss(loud())
    assert min(both) < 0 < max(both) and len(both) == 12
    paid = changes_of_loss(gn.if_it_pays(loud()))
    assert max(paid) < 0 and 1 <= len(paid) < 12
    # Where there is no room, it is made, and then it is tried.
    tight = changes_of_loss(gn.if_it_pays(loud()), capacity=None)
    np.testing.assert_allclose(tight, paid, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_pays_may_be_asked_of_several_batches_and_by_more():
    options = {"batch_size": 4, "capacity": {"*": 64}}
    one = changes_of_loss(gn.if_it_pays(loud()), **options)
    assert max(one) < 0
    two = changes_of_loss(gn.if_it_pays(loud(), batches=2), **options)
    more = changes_of_loss(gn.if_it_pays(loud(), tolerance=0.2), **options)
    assert len(more) < len(one)
    assert 1 <= len(two) and two != one


@pytest.mark.usefixtures("unchecked")
def test_what_can_not_pay_is_refused():
    for wrong, why in (
        (lambda: gn.if_it_pays(loud(), batches=0), "batches=0; a whole number"),
        (lambda: gn.if_it_pays(Net2Net(every=4)), "if_it_pays: Net2Net promises"),
        (lambda: gn.if_it_pays(gn.fading(closing(), 2)), "if_it_pays around `fading`"),
    ):
        with pytest.raises(ValueError, match=why):
            wrong()


# --- soft removal


def test_a_fading_unit_is_closed_when_it_says_nothing():
    predict = lambda net, batch: jax.vmap(net)(batch[0])
    prunes = Pruning("incoming", ratio=0.5, start=4, every=4)
    run = fit(gn.fading(prunes, 4), 24, width=8, predict=predict)
    # Chosen at 4, turned down at 4, 8, 12 and 16, closed at 20.
    assert sizes(run) == [8, 8, 8, 8, 4, 4]
    assert all(e.output_change == 0 for e in run.history.events)


@pytest.mark.slow
def test_fading_goes_with_schedules_births_and_edits():
    predict = lambda net, batch: jax.vmap(net)(batch[0])
    hard = Pruning("incoming", ratio=0.5, start=4, every=4)
    events = fit(hard, 24, width=8, predict=predict).history.events
    assert max(event.output_change or 0 for event in events) > 1e-3
    # A run that ends earlier has them turned down so far.
    half = fit(gn.fading(hard, 4), 10, width=8)
    (_, gates) = half.growing.trainable
    assert sorted(set(np.asarray(gates["layers[0]"].array[:8]))) == [0.5, 1]
    assert half.sizes == {"layers[0]": 8, "layers[1]": 8}
    prunes = Pruning("magnitude", ratio=0.75, start=4, end=12, every=4)
    run = fit(gn.fading(prunes, 2), 32, width=8)
    assert run.sizes == {"layers[0]": 2, "layers[1]": 2}
    assert sizes(run) == sorted(sizes(run), reverse=True)
    both = gn.chain(gn.during(adding(1), 0, 9), gn.fading(closing(), 2))
    grown = fit(both, 32, buckets=gn.Buckets(ratio=1))
    assert sizes(grown)[:2] == [5, 6] and sizes(grown)[-1] < 6
    gates = grown.growing.trainable[1][1]["layers[0]"].array
    assert gates.shape == (grown.growing.open["layers[0]"].size,)


def test_somebody_stays_and_what_can_not_fade_is_refused():
    nobody = lambda evidence, key: {
        n: gn.Change(jnp.zeros_like(m), 0) for n, m in evidence.open.items()
    }
    run = fit(gn.fading(gn.as_policy(nobody, every=4), 1))
    assert run.sizes == {"layers[0]": 1, "layers[1]": 1}
    assert np.abs(run.net.layers[1].weight).max() > 0
    absorbs = Pruning(ratio=0.5, start=4, every=4, removal="absorb")
    for policy, why in (
        (absorbs, "Pruning brings `rewrite` for survivors"),
        (GradMax(every=4), "GradMax brings `values` for newborns"),
    ):
        with pytest.raises(ValueError, match=why):
            fit(gn.fading(policy, 2))
    for policy in (SIZE_WEIGHT, NestedSize(until=8, every=4)):
        with pytest.raises(ValueError, match="counts the units of a width in order"):
            gn.fading(policy, 2)
    with pytest.raises(ValueError, match="GradientSizeWeight counts the units"):
        fit(gn.chain(SIZE_WEIGHT, gn.fading(closing(), 2)))
    soft = gn.chain(adding(1), gn.fading(closing(), 2))
    for around in (
        lambda: gn.during(soft, 8),
        lambda: gn.provided(soft, lambda evidence, key: True),
        lambda: gn.on_plateau(soft),
    ):
        with pytest.raises(ValueError, match="around `fading`: gates would fall"):
            around()
    with pytest.raises(ValueError, match=r"fading\(turns=0\); a whole number"):
        gn.fading(closing(), 0)


# --- the page


@pytest.mark.parametrize(
    "name",
    [
        "policy",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("one_width", "tested", "guarded", "smaller", "turns")
        ),
    ],
)
def test_what_the_page_composes_runs(name):
    page = pathlib.Path(__file__).parent.parent / "docs" / "policies.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    net = eqx.nn.MLP(3, 1, 4, 2, activation=jnp.tanh, key=jr.key(0))
    scope: dict[str, Any] = {
        "gn": gn, "jax": jax, "jnp": jnp, "EXPLAINABLE": EXPLAINABLE,
        "explainable": explainable, "Firefly": Firefly, "GradMax": GradMax,
        "Net2Net": Net2Net, "Pruning": Pruning, "SENN": SENN,
        "Splitting": Splitting, "Tiny": Tiny, "anatomy": gn.trace(net, X[0]),
    }  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks[:2]:
            exec(compile(block, "docs/policies.md", "exec"), scope)
        # Beside `valid`, some data of the same kind.
        given = {"anatomy": scope["anatomy"], "valid": (X[::-1], Y[::-1])}
        run = fit(scope[name], 20, **given)
        assert run.history.ticks[-1].step == 20


@pytest.mark.slow
def test_compositions_keep_the_rules():
    for policy in (
        gn.chain(adding(2), closing()),
        gn.during(SIZE_WEIGHT, 4),
        gn.within_budget(SIZE_WEIGHT, units=12),
        gn.on_plateau(adding(1), patience=1),
        gn.provided(adding(1), lambda evidence, key: evidence.loss < 9, needs=["loss"]),
        gn.fading(closing(), 2),
        adding(1),
    ):
        check_policy(policy)
