"""Policies that bring newborn values, or rewrite survivors, take turns in a chain."""

import itertools as it

import equinox as eqx
import hypothesis.strategies as st
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import example, given, settings

import growthnet as gn
from growthnet._policies import combined as _combined, windows as _windows
from growthnet._policies.windows import ALWAYS, apart, hold, Window
from growthnet.testing import check_policy
from growthnet_policies import Pruning, Splitting, Tiny

from .helpers import at_rest
from .test_rewrite import (
    FIRST,
    GROWING,
    inner,
    LEAVES,
    loss,
    MEMBERS,
    mlp,
    net_arrays,
    proposed,
    random_values,
    SECOND,
    X,
    Y,
)


# --- windows


@st.composite
def windows(draw):
    period = draw(st.sampled_from([None, 4, 6, 8, 12]))
    last = 40 if period is None else period
    start = draw(st.integers(0, last - 1))
    return Window(start, draw(st.integers(start + 1, last)), period)


ALTERNATIVES = st.lists(
    st.lists(windows(), min_size=1, max_size=2).map(tuple), min_size=1, max_size=2
).map(tuple)


def in_both(first, second):
    """Steps of more than every common period that are in both."""
    steps = np.arange(96)
    return np.asarray(hold(first, steps)) & np.asarray(hold(second, steps))


@given(ALTERNATIVES, ALTERNATIVES)
@settings(max_examples=150)
@example(((Window(0, 4, 8),),), ((Window(4, 8, 8),),))
@example(((Window(0, 4, None),),), ((Window(4, 5, None),),))
@example(((Window(2, 4, 4),),), ((Window(4, 6, 12),),))
@example(((Window(0, 3, 4),),), ((Window(10, 11, None),),))
def test_windows_apart_have_no_step_in_common(first, second):
    both = in_both(first, second)
    if apart(first, second):
        assert not both.any()
    elif all(len(a) == 1 for a in (*first, *second)):
        assert both.any()  # Where nothing is nested, it is known for certain.
    assert apart(first, second) == apart(second, first)
    assert not in_both(first, ALWAYS).any() if apart(first, ALWAYS) else True


def test_of_windows_with_traced_numbers_nothing_is_known():
    one, other = ((Window(jnp.asarray(0), 4, None),),), ((Window(4, 8, None),),)
    assert not apart(one, other)


# --- decisions


def member(brings, births, seed, which=FIRST):
    """A policy that brings some values and rewrites, always the same."""
    paths, rewritten = brings
    values = random_values(seed, [MEMBERS[which][i] for i in paths])
    other = random_values(seed + 1, LEAVES)

    def decide(evidence, key):
        del key
        mask = evidence.open[which]
        stays = mask & (jnp.cumsum(mask) != 1 + seed % 3)
        now = evidence.anatomy.check(evidence.network, "the network")
        rewrite = {p: jnp.asarray(other[p]) if p in rewritten else now[p] for p in now}
        change = gn.Change(
            stays,
            jnp.asarray(births),
            values=values or None,
            rewrite=rewrite if rewritten else None,
        )
        return {which: change}

    return gn.as_policy(decide, every=1, needs=["network"])


def decision_of(policy, step, **given):
    given = {"network": GROWING.net, "anatomy": GROWING.anatomy, **given}
    evidence = gn.Evidence(jnp.asarray(step), GROWING.open, **given)
    own = policy.init(GROWING.anatomy, key=jr.key(0))
    return policy.step(*own, evidence, key=jr.key(0))[0]


# As many forms of decisions as programs are compiled: few.
BRINGS = st.sampled_from([((0, 1, 2), LEAVES[:1]), ((0, 1), ()), ((), LEAVES[1:])])
WHO = st.tuples(BRINGS, st.integers(0, 2), st.integers(0, 30))


@given(
    st.tuples(WHO, WHO), st.sampled_from([(2, 5, None), (2, 4, 6)]), st.integers(0, 12)
)
@settings(max_examples=15)
@example(((((0, 1), ()), 1, 0), (((0, 1, 2), LEAVES[:1]), 2, 4)), (2, 4, 6), 3)
@example(((((), LEAVES[1:]), 1, 0), (((0, 1, 2), LEAVES[:1]), 2, 4)), (2, 4, 6), 1)
def test_in_turns_everyone_does_what_it_does_alone(who, cut, step):
    start, stop, period = cut
    one, other = (member(*own) for own in who)
    turns = (
        gn.during(one, 0, start, period=period),
        gn.during(other, start, stop, period=period),
    )
    together = decision_of(gn.chain(*turns), step)
    at = step if period is None else step % period
    if at >= stop:
        alone = gn.Decision({})
    else:
        alone = decision_of(one if at < start else other, step)
    grown, expected = proposed(together), proposed(alone)
    assert eqx.tree_equal(grown.open, expected.open)
    for path, array in net_arrays(expected.net).items():
        assert (net_arrays(grown.net)[path] == array).all(), path


def always_the_first(offers):
    given = [arrays for arrays, _ in offers[::-1] if arrays]
    return {path: array for arrays in given for path, array in arrays.items()} or None


CASES = (
    ((((0, 1, 2), LEAVES[:1]), 1, 0), (((0, 1), ()), 2, 3)),
    ((((0, 1), ()), 1, 0), (((0, 1, 2), LEAVES[:1]), 2, 4)),
)


def in_turns():
    law = inner(test_in_turns_everyone_does_what_it_does_alone)
    for who, step in it.product(CASES, (1, 3)):
        law(who, (2, 4, 6), step)


def no_step_in_common():
    law = inner(test_windows_apart_have_no_step_in_common)
    law(((Window(0, 3, 4),),), ((Window(10, 11, None),),))
    law(((Window(0, 3, None),),), ((Window(2, 4, None),),))


MUTANTS = {
    "periods don't meet": (_windows.math, "gcd", lambda a, b: 0, no_step_in_common),
    "the start alone": (
        _windows, "_apart", lambda a, b: a.start != b.start, no_step_in_common,
    ),
    "the first one's arrays": (_combined, "_picked", always_the_first, in_turns),
    "values for everyone": (_combined, "_all_bring", lambda path, born: True, in_turns),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_turns_are_noticed(name, monkeypatch):
    *where, mutant, law = MUTANTS[name]
    law()
    monkeypatch.setattr(*where, mutant)
    with pytest.raises(AssertionError, match="assert"):
        law()


# --- runs


def tiny(add, **options):
    return Tiny(add, every=4, move=True, **options)


def test_a_run_of_turns_is_the_runs_of_its_parts():
    """On a network that nothing trains, which both move and enlarge."""
    turns = gn.chain(gn.during(tiny(1), 0, 6), gn.during(tiny(2), 6))
    start = mlp()
    one = {"widths": FIRST, "capacity": {FIRST: 8}}
    run = at_rest(start, loss, (X, Y), turns, 8, **one)
    assert [tick.sizes[FIRST] for tick in run.history.ticks] == [5, 7]
    half = at_rest(start, loss, (X, Y), tiny(1), 4, **one).net
    whole = at_rest(half, loss, (X, Y), tiny(2), 4, **one).net
    assert eqx.tree_equal(run.net, whole, rtol=1e-4, atol=1e-5)
    assert not eqx.tree_equal(half.layers[1].bias, start.layers[1].bias)


@pytest.mark.slow
def test_rules_of_different_kinds_take_turns_in_cycles():
    grows = gn.chain(
        gn.during(tiny(1), 0, 6, period=16),
        gn.during(Splitting(every=4), 6, 10, period=16),
    )
    prunes = Pruning("magnitude", ratio=0.3, start=12, every=4, removal="refit")
    policy = gn.chain(grows, gn.during(prunes, 10, 14, period=16))
    run = at_rest(mlp(), loss, (X, Y), policy, 16)
    told = [tick.sizes[FIRST] + tick.sizes[SECOND] for tick in run.history.ticks]
    assert told[:2] == [10, 11] and told[2] < 11 and told[3] == told[2] + 2


def test_overlapping_turns_are_refused_with_their_times():
    both = tiny(1), Splitting(every=4)
    early = gn.during(both[0], 0, 4)
    when = r"Tiny \[0, 6\) and Splitting \[4, 8\) of every 16"
    for policy, why in (
        (gn.chain(gn.during(both[0], 0, 6), gn.during(both[1], 4, 8, period=16)), when),
        (gn.chain(*both), "Tiny always and Splitting always.; let them take turns"),
        (gn.chain(early, both[1]), "let them take turns, as gn.during"),
        (
            gn.chain(
                gn.chain(gn.during(both[0], 0, 4), gn.during(both[0], 8)), both[1]
            ),
            r"chain.Tiny, Tiny. \[0, 4\) or \[8, \d+\) and Splitting always",
        ),
    ):
        with pytest.raises(ValueError, match=why):
            at_rest(mlp(), loss, (X, Y), policy, 8)


def faulty(**wrong):
    def decide(evidence, key):
        mask = evidence.open[FIRST]
        return {FIRST: gn.Change(**{"keep": mask, "add": 1, **wrong})}

    return gn.as_policy(decide, every=4, needs=["network"])


FAULTS = {
    r"keep for 'layers.0.' is bool\(\); it must be bool": {"keep": jnp.asarray(True)},
    r"add for 'layers.0.' is int32\(1,\); it must be one": {"add": jnp.ones(1, int)},
    r"values for 'layers.0..bias' have shape \(1,\); the leaf": {
        "values": {"layers[0].bias": jnp.zeros(1)}
    },
    r"rewrite of 'layers.0..bias' for .* has shape \(1,\); the leaf": {
        "rewrite": {"layers[0].bias": jnp.zeros(1)}
    },
    "rewrite of 'x' for .*, which isn't a leaf": {"rewrite": {"x": jnp.zeros(1)}},
}
AROUND = (
    lambda policy: gn.during(policy, 0, 8),
    lambda policy: gn.chain(gn.NoGrowth(4), policy),
    lambda policy: gn.provided(policy, lambda evidence, key: True),
    lambda policy: gn.on_plateau(policy, watch="loss"),
    lambda policy: gn.if_it_pays(policy),
    lambda policy: gn.fading(policy, 2),
)


@pytest.mark.parametrize("message", FAULTS)
def test_around_a_policy_its_faults_are_named_as_its_own(message):
    for around in AROUND:
        policy = around(faulty(**FAULTS[message]))
        with pytest.raises(ValueError, match=f"^_Function: {message}"):
            decision_of(policy, 4, loss=jnp.ones(()), evaluate=lambda decision: 0.0)


@pytest.mark.slow
def test_turns_keep_the_rules():
    check_policy(gn.chain(gn.during(tiny(1), 0, 6), gn.during(Splitting(every=4), 6)))
