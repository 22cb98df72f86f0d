"""Operations as a function of sizes are those of the program at these sizes."""

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn
from growthnet._reading.programs import traced
from growthnet._replay import counts as _counts, flops as _flops
from growthnet._replay.counts import as_count, Count, largest
from growthnet._replay.flops import flops
from growthnet.testing import networks

from .zoo import case_of, MODELS


SIZES = st.sampled_from((1, 2, 3, 4, 6, 9))


def at_sizes(case, anatomy, sizes):
    """Sizes after an edit to these, and the operations of the network that it gives."""
    call = case.call or (lambda net, *args: net(*args))
    edit = gn.plan(anatomy, sizes, allow_drift=True)
    net = edit(case.net, key=jr.key(0))
    return edit.after.sizes, flops(traced(net, call, case.args).closed.jaxpr)


@hypothesis.given(st.data())
def test_operations_are_those_of_the_resized_network(data):
    case = data.draw(networks())
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    names = [w.name for w in anatomy.all_widths if w.growable]
    sizes = {name: data.draw(SIZES, label=name) for name in names}
    after, executed = at_sizes(case, anatomy, sizes)
    assert anatomy.flops(after) == executed
    assert anatomy.flops() == at_sizes(case, anatomy, {})[1]
    # Whatever the widths that a run is about.
    some = names[: len(names) // 2 + 1]
    part = {name: after[name] for name in some}
    assert anatomy.only(some).flops(part) == anatomy.flops(part)


UNTOLD = {"equilibrium": "nobody knows how many operations"}
FEW = set(list(MODELS)[::9])


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_operations_of_the_zoo(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        case = case_of(name)
        anatomy = gn.trace(case.net, *case.args, call=case.call)
        if name in UNTOLD:
            with pytest.raises(ValueError, match=UNTOLD[name]):
                anatomy.flops()
            return
        for turn in range(2):
            growable = [w for w in anatomy.all_widths if w.growable]
            sizes = {w.name: 1 + (5 * i + 3 * turn) % 7 for i, w in enumerate(growable)}
            after, executed = at_sizes(case, anatomy, sizes)
            assert anatomy.flops(after) == executed


def mlp():
    return eqx.nn.MLP(3, 2, 4, 2, key=jr.key(0))


def test_sizes_may_be_traced_real_and_many():
    anatomy = gn.trace(mlp(), jnp.zeros(3))
    names = list(anatomy.widths)
    sizes = np.asarray([[3, 5], [20_000, 30_000], [1, 1]])
    wanted = [anatomy.flops(dict(zip(names, map(int, s), strict=True))) for s in sizes]
    columns = dict(zip(names, jnp.asarray(sizes.T), strict=True))
    np.testing.assert_allclose(jax.jit(anatomy.flops)(columns), wanted, rtol=1e-6)
    columns = dict(zip(names, sizes.T, strict=True))
    np.testing.assert_array_equal(anatomy.flops(columns), wanted)
    slope = jax.grad(anatomy.flops)({names[0]: jnp.asarray(4.0)})[names[0]]
    more = [anatomy.flops({names[0]: size}) for size in (4, 5)]
    assert np.isclose(slope, more[1] - more[0])


class Halting(eqx.Module):
    layer: eqx.nn.Linear
    out: eqx.nn.Linear

    def __call__(self, x):
        x = jax.lax.while_loop(lambda x: x[0] < 0, lambda x: x + 1, x)
        return self.out(jnp.tanh(self.layer(x)))


class Counts(eqx.Module):
    """Counts its units on an axis of its own."""

    layer: eqx.nn.Linear
    out: eqx.nn.Linear

    def __call__(self, x):
        x = jnp.tanh(self.layer(x))
        return self.out(x) + jnp.sum(jnp.cos(jnp.arange(2.0 * x.size)))


@pytest.mark.parametrize(
    "kind, why",
    [
        (Halting, "nobody knows how many operations .* `while_loop`"),
        (Counts, r"at layer \d+ this call executes \d+, and its axes say \d+"),
    ],
)
def test_what_can_not_be_told_is_refused(kind, why):
    keys = jr.split(jr.key(0))
    net = kind(eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1]))
    anatomy = gn.trace(net, jnp.zeros(3))
    assert anatomy.widths["layer"].growable
    with pytest.raises(ValueError, match=why):
        anatomy.flops()
    with pytest.raises(ValueError, match="which=1, but 1 calls were traced"):
        anatomy.flops(which=1)


# --- counts


def expressions():
    """Functions of three sizes, on counts and on numbers alike."""
    leaves = st.one_of(
        st.integers(0, 2).map(lambda i: lambda sizes, most: sizes[i]),
        st.integers(0, 4).map(lambda n: lambda sizes, most: float(n)),
    )
    two = lambda inner: st.tuples(inner, inner)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            two(inner).map(lambda p: lambda s, most: p[0](s, most) + p[1](s, most)),
            two(inner).map(lambda p: lambda s, most: p[0](s, most) * p[1](s, most)),
            two(inner).map(lambda p: lambda s, most: most([f(s, most) for f in p])),
        ),
        max_leaves=8,
    )


def check_counts(expression, sizes):
    names = [Count.size(i) for i in range(3)]
    try:
        count = as_count(expression(names, largest))
    except AssertionError:
        hypothesis.reject()  # A product of two that are the largest of several.
    assert count.at(dict(enumerate(map(float, sizes)))) == expression(sizes, max)


MENU = st.tuples(*[st.sampled_from((1, 2, 3, 7))] * 3)


@hypothesis.given(expressions(), MENU)
def test_counts_are_what_they_count(expression, sizes):
    check_counts(expression, sizes)


def test_a_count_that_covers_too_much_is_noticed(monkeypatch):
    monkeypatch.setattr(_counts, "_within", lambda numbers, larger: True)
    both = lambda sizes, most: most([sizes[0], sizes[1]])
    with pytest.raises(AssertionError, match="assert"):
        check_counts(both, (3, 1, 1))


def test_work_that_is_counted_wrong_is_noticed(monkeypatch):
    work = _flops._work
    fewer = lambda eqn, ins, *rest: work(eqn, [(*ins[0][:-1], 3), *ins[1:]], *rest)
    anatomy = gn.trace(mlp(), jnp.zeros(3))
    on_tape = _flops._of_step

    def broken(step, length):
        with monkeypatch.context() as patch:
            patch.setattr(_flops, "_work", fewer)
            return on_tape(step, length)

    monkeypatch.setattr(_flops, "_of_step", broken)
    _flops._counted.cache_clear()
    with pytest.raises(ValueError, match="operations can't be told from sizes"):
        anatomy.flops()
