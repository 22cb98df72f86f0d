"""What a decision writes: newborn values by width, and other values for survivors."""

import functools as ft
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
from growthnet._capacity.capacity import change_openings
from growthnet._paths import array_leaves
from growthnet._policies.rewrite import rewritten
from growthnet._policies.turn import propose

from .helpers import lenient


X = jr.normal(jr.key(0), (32, 3))
Y = jnp.sin(X.sum(-1, keepdims=True))
FIRST, SECOND = "layers[0]", "layers[1]"
WIDTHS = (FIRST, SECOND)


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp():
    return eqx.nn.MLP(3, 1, 4, 2, activation=jnp.tanh, key=jr.key(0))


def net_arrays(net):
    return {path: np.asarray(leaf) for path, leaf in array_leaves(net).items()}


CAPACITY = {FIRST: 7, SECOND: 6}


class Anything(gn.NoGrowth):
    """Has a turn, so that there is room; decides nothing."""

    def step(self, trainable, memory, evidence, *, key):
        del evidence, key
        return gn.Decision(), trainable, memory, {}


def reserved():
    grower = gn.Grower(Anything(), optax.sgd(0.0), capacity=CAPACITY)
    return grower, *grower.init(mlp(), gn.trace(mlp(), X[0]), key=jr.key(1))


GROWER, GROWING, STATE = reserved()


@eqx.filter_jit
def proposed(decision):
    return propose(GROWER, GROWING, STATE, decision)


def random_values(seed, paths):
    rng = np.random.default_rng(seed)
    shapes = {path: leaf.shape for path, leaf in array_leaves(GROWING.net).items()}
    return {p: rng.normal(size=shapes[p]).astype(np.float32) for p in paths}


# A width's newborns: rows of the first, an entry of the second, columns of the third.
MEMBERS = {
    FIRST: ("layers[0].weight", "layers[0].bias", "layers[1].weight"),
    SECOND: ("layers[1].weight", "layers[1].bias", "layers[2].weight"),
}
TOLD = st.sampled_from([(), MEMBERS[FIRST][:2], MEMBERS[FIRST]])


def told(width, like):
    """The same choice of members for either width."""
    return tuple(MEMBERS[width][MEMBERS[FIRST].index(path)] for path in like)


@given(
    st.fixed_dictionaries({w: TOLD for w in WIDTHS}),
    st.fixed_dictionaries({w: st.sampled_from(["zero_out", "drawn"]) for w in WIDTHS}),
    st.integers(0, 99),
)
def test_each_width_gives_its_own_newborns_their_values(choice, inits, seed):
    values = {
        w: random_values(seed + i, told(w, choice[w])) for i, w in enumerate(WIDTHS)
    }
    changes = {
        w: gn.Change(GROWING.open[w], 2, inits[w], values[w] or None) for w in WIDTHS
    }
    grown = proposed(gn.Decision(changes))
    net, old = net_arrays(grown.net), net_arrays(GROWING.net)
    born = {w: np.asarray(grown.open[w] & ~GROWING.open[w]) for w in WIDTHS}
    assert all(mask.sum() == 2 for mask in born.values())
    for w in WIDTHS:
        made, bias, _ = MEMBERS[w]
        if bias in values[w]:
            assert (net[bias][born[w]] == values[w][bias][born[w]]).all()
        assert (net[bias][~born[w]] == old[bias][~born[w]]).all(), made
    rows = net["layers[0].weight"][born[FIRST]]
    if MEMBERS[FIRST][0] in values[FIRST]:
        assert (rows == values[FIRST][MEMBERS[FIRST][0]][born[FIRST]]).all()
    columns = net["layers[2].weight"][:, born[SECOND]]
    last = values[SECOND].get("layers[2].weight")
    if last is not None:
        assert (columns == last[:, born[SECOND]]).all()
    else:
        assert (columns == 0).all() == (inits[SECOND] == "zero_out")
    # The leaf between: the second width's newborns are its rows, the first's columns.
    between, path = net["layers[1].weight"], "layers[1].weight"
    alive = {w: np.asarray(GROWING.open[w]) for w in WIDTHS}
    pick = lambda array, rows, columns: array[np.ix_(rows, columns)]
    made, read = values[SECOND].get(path), values[FIRST].get(path)
    if made is not None:
        at = born[SECOND], alive[FIRST]
        assert (pick(between, *at) == pick(made, *at)).all()
    crossing = pick(between, born[SECOND], born[FIRST])
    outgoing = pick(between, alive[SECOND], born[FIRST])
    if read is not None:
        assert (outgoing == pick(read, alive[SECOND], born[FIRST])).all()
        assert (crossing == pick(read, born[SECOND], born[FIRST])).all()
    elif inits[FIRST] == "zero_out":
        assert (outgoing == 0).all() and (crossing == 0).all()
    elif made is not None:
        assert (crossing == pick(made, born[SECOND], born[FIRST])).all()
    else:
        assert (crossing != 0).all()


# --- survivors


def rewrites(seed, paths):
    return random_values(seed, paths) if paths else None


LEAVES = tuple(array_leaves(GROWING.net))


@given(
    st.lists(st.sampled_from(LEAVES), unique=True).map(lambda x: tuple(sorted(x))),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_survivors_take_what_is_given_and_nobody_else(paths, stays, add, seed):
    keep = np.zeros(7, bool)
    keep[:4] = stays
    if not keep.any():
        keep[0] = True
    given = random_values(seed, LEAVES)
    change = lambda rewrite: gn.Change(jnp.asarray(keep), add, rewrite=rewrite)
    present = dict(array_leaves(GROWING.net))
    asked = {p: jnp.asarray(given[p]) if p in paths else present[p] for p in LEAVES}
    grown = proposed(gn.Decision({FIRST: change(asked)}))
    plain = proposed(gn.Decision({FIRST: change(present)}))
    net, other = net_arrays(grown.net), net_arrays(plain.net)
    # Axes of the first width: rows here, columns there; none in the other leaves.
    axes = {"layers[0].weight": 0, "layers[0].bias": 0, "layers[1].weight": 1}
    alive = np.asarray(GROWING.open[SECOND])
    own = {"layers[1].weight": 0, "layers[1].bias": 0, "layers[2].weight": 1}
    for path in LEAVES:
        where = np.full(net[path].shape, path in paths)
        for width, at in ((keep, axes), (alive, own)):
            if path in at:
                mask = np.moveaxis(where, at[path], 0)
                mask[~width] = False
        expected = np.where(where, given[path], other[path])
        assert (net[path] == expected).all(), path


def test_where_two_widths_rewrite_an_entry_their_moves_add_up():
    path = "layers[1].weight"
    old = net_arrays(GROWING.net)
    moves = [random_values(i, (path, "layers[2].bias")) for i in range(2)]
    given = [{p: old[p] + m[p] for p in m} for m in moves]
    changes = {
        w: gn.Change(GROWING.open[w], 0, rewrite=v)
        for w, v in zip(WIDTHS, given, strict=True)
    }
    net = net_arrays(proposed(gn.Decision(changes)).net)
    both = {p: old[p] + moves[0][p] + moves[1][p] for p in moves[0]}
    assert np.allclose(net["layers[2].bias"], both["layers[2].bias"], atol=1e-6)
    assert np.allclose(net[path][:4, :4], both[path][:4, :4], atol=1e-6)
    assert (net[path][4:] == 0).all() and (net[path][:, 4:] == 0).all()


def test_a_leaf_that_reads_two_widths_is_rewritten_by_each_in_its_own_part():
    net = {"a": jnp.ones((3, 3)), "b": jnp.ones((2, 3)), "v": jnp.ones((1, 5))}
    read = lambda n, x: n["v"] @ jnp.tanh(jnp.concatenate([n["a"] @ x, n["b"] @ x]))
    grower = gn.Grower(Anything(), optax.sgd(0.0), capacity={"a": 3, "b": 2})
    growing, state = grower.init(net, gn.trace(net, X[0], call=read), key=jr.key(1))
    whole = jnp.ones(3, bool), jnp.ones(2, bool)
    changes = {
        "a": gn.Change(whole[0], 0, rewrite={"v": jnp.full((1, 5), 2.0)}),
        "b": gn.Change(whole[1], 0, rewrite={"v": jnp.full((1, 5), 3.0)}),
    }
    # A program of its own, since mutants are in it.
    change = eqx.filter_jit(lambda g, s, d: propose(grower, g, s, d))
    new = change(growing, state, gn.Decision(changes)).net["v"]
    assert new.tolist() == [[2.0, 2.0, 2.0, 3.0, 3.0]]


def merged_values(net, anatomy, before, kept, after, words, drawn, values, valued):
    together = {p: v for own in values.values() for p, v in own.items()}
    alike = dict.fromkeys(values, together), valued
    return change_openings(net, anatomy, before, kept, after, words, drawn, *alike)


def last_one_counts(anatomy, arrays, rewrites, kept):
    new, written = {}, {}
    for name, values in rewrites.items():
        found = rewritten(anatomy, arrays, {name: values}, kept)
        new, written = {**new, **found[0]}, {**written, **found[1]}
    return new, written


def widths_alone(anatomy, arrays, rewrites, kept):
    own = {name: {m.path for m in anatomy.widths[name].members} for name in rewrites}
    few = {
        name: {p: v for p, v in (values or {}).items() if p in own[name]}
        for name, values in rewrites.items()
    }
    return rewritten(anatomy, arrays, few, kept)


def all_of_the_leaf(anatomy, name, path, kept):
    del anatomy, name, path, kept
    return jnp.ones((), bool)


ALL = {w: MEMBERS[FIRST] for w in WIDTHS}
BOTH = dict.fromkeys(WIDTHS, "zero_out")
MUTANTS: dict[str, Any] = {
    "values of all widths together": (
        "growthnet._policies.turn.change_openings",
        merged_values,
        lambda: inner(test_each_width_gives_its_own_newborns_their_values)(
            ALL, BOTH, 0
        ),
    ),
    "the last width counts": (
        "growthnet._policies.turn.rewritten",
        last_one_counts,
        test_where_two_widths_rewrite_an_entry_their_moves_add_up,
    ),
    "biases of consumers stay": (
        "growthnet._policies.turn.rewritten",
        widths_alone,
        lambda: inner(test_survivors_take_what_is_given_and_nobody_else)(
            ("layers[1].bias",), [True] * 4, 0, 0
        ),
    ),
    "all of the leaf": (
        "growthnet._policies.rewrite._of_survivors",
        all_of_the_leaf,
        test_a_leaf_that_reads_two_widths_is_rewritten_by_each_in_its_own_part,
    ),
}


def inner(test):
    return test.hypothesis.inner_test


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_writes_are_noticed(name, monkeypatch):
    where, mutant, law = MUTANTS[name]
    law()
    monkeypatch.setattr(where, mutant)
    again = eqx.filter_jit(lambda d: propose(GROWER, GROWING, STATE, d))
    monkeypatch.setitem(globals(), "proposed", again)
    with pytest.raises(AssertionError, match="assert"):
        law()


class Compensate(gn.AbstractPolicy):
    """At some steps: a unit goes, its half goes to the consumers' bias, the others are
    read less; and some units are born."""

    add: int = eqx.field(static=True, default=0)
    at: tuple = eqx.field(static=True, default=(4, 8))
    every: int = eqx.field(static=True, default=4)
    needs: frozenset[str] = eqx.field(
        static=True, default=frozenset({"network", "evaluate"})
    )
    optimizer: None = None

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, jnp.zeros(())

    def step(self, trainable, memory, evidence, *, key):
        del key, memory
        mask = jnp.asarray(evidence.open[FIRST])
        now = jnp.any(jnp.asarray(self.at, jnp.int32) == evidence.step)
        weight = evidence.network.layers[1].weight
        bias = evidence.network.layers[1].bias
        gone = now & mask & (jnp.cumsum(mask) == 1)
        share = jnp.sum(weight * gone.astype(weight.dtype)[None], axis=1)
        factor = jnp.where(now, 0.75, 1.0).astype(weight.dtype)
        rewrite = {
            "layers[1].weight": weight * factor,
            "layers[1].bias": bias + 0.5 * share,
        }
        add = jnp.where(now, self.add, 0)
        change = gn.Change(mask & ~gone, add, rewrite=rewrite)
        decision = gn.Decision({FIRST: change})
        tried = jnp.zeros(())
        if evidence.evaluate is not None:
            tried = jnp.asarray(evidence.evaluate(decision))
        return decision, trainable, tried, {}


class OnHost(Compensate):
    on_host = True


def fit(policy, *, optimizer=None, steps=10, **options):
    return gn.fit(
        mlp(),
        loss,
        (X, Y),
        optimizer=optimizer or lenient(optax.adam(1e-2)),
        policy=policy,
        steps=steps,
        key=jr.key(1),
        **{"buckets": gn.Buckets(), **options},
    )


@ft.cache
def four_steps(*at):
    return fit(Compensate(at=at), steps=4)


def test_a_decision_rewrites_what_it_says_and_evaluate_knows_it():
    before, run = four_steps().net, four_steps(4)
    old, new = before.layers, run.net.layers
    assert eqx.tree_equal(new[0].weight, old[0].weight[1:])
    assert eqx.tree_equal(new[1].weight, 0.75 * old[1].weight[:, 1:])
    bias = old[1].bias + 0.5 * old[1].weight[:, 0]
    assert np.allclose(new[1].bias, bias, rtol=1e-6)
    assert eqx.tree_equal(new[2], old[2])
    (event,) = run.history.events
    assert np.isclose(run.state.memory, event.loss_after, rtol=1e-6)
    assert np.isclose(loss(run.net, (X, Y), None), event.loss_after, rtol=1e-6)


def test_the_optimizer_keeps_what_it_holds_about_rewritten_entries():
    old, new = (named(run.state.opt_state) for run in (four_steps(), four_steps(4)))
    closed = 0
    for path, array in old.items():
        expected = array.copy()
        if path.endswith("layers[0].weight") or path.endswith("layers[0].bias"):
            expected[closed] = 0
        elif path.endswith("layers[1].weight"):
            expected[:, closed] = 0
        assert (new[path] == expected).all(), path
    assert any(path.endswith("mu.layers[1].bias") for path in old)


def named(state):
    return {path: np.array(leaf) for path, leaf in array_leaves(state).items()}


def test_copies_of_parameters_follow():
    free = optax.contrib.schedule_free_sgd(0.05, b1=0.9)
    run = fit(Compensate(), optimizer=lenient(free), steps=4)
    net, copy = run.growing.net, run.state.opt_state.z
    assert eqx.tree_equal(copy.layers[1].bias, net.layers[1].bias)
    assert not np.allclose(copy.layers[2].weight, net.layers[2].weight, atol=1e-5)


def test_the_same_run_with_room_without_and_on_the_host():
    roomy, tight, host = (
        fit(Compensate(4), capacity={"*": 12}),
        fit(Compensate(4)),
        fit(OnHost(4)),
    )
    kinds = [[event.kind for event in run.history.events] for run in (roomy, tight)]
    assert kinds == [["opened", "opened"], ["opened", "resized"]]
    assert roomy.sizes == tight.sizes == {FIRST: 10, SECOND: 4}
    both = roomy.net.layers, tight.net.layers
    assert eqx.tree_equal(*both, rtol=1e-4, atol=1e-5)
    check_twins(tight, host)


def check_twins(*twins):
    """The same run bit for bit."""
    assert eqx.tree_equal(*(twin.net for twin in twins))
    losses = [[tick.loss for tick in twin.history.ticks] for twin in twins]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("add", [0, 4])
def test_the_same_run_with_a_resize_for_every_decision(add):
    one = gn.Buckets(ratio=1)
    tight, resized, host = (
        fit(Compensate(add)),
        fit(Compensate(add), buckets=one),
        fit(OnHost(add), buckets=one),
    )
    assert [event.kind for event in resized.history.events][-1] == "resized" or not add
    both = resized.net.layers, tight.net.layers
    assert eqx.tree_equal(*both, rtol=1e-4, atol=1e-5)
    check_twins(resized, host)


class DrawnOnHost(OnHost):
    """Its newborns are drawn, covers too."""

    def step(self, trainable, memory, evidence, *, key):
        del key
        add = 5 if evidence.step == 4 else 0
        change = gn.Change(evidence.open[FIRST], add, init="drawn")
        return gn.Decision({FIRST: change}), trainable, memory, {}


def test_how_newborns_are_made_waits_for_room_too():
    run = fit(DrawnOnHost(), steps=4)
    assert run.sizes[FIRST] == 9
    assert (np.asarray(run.net.layers[1].weight)[:, 4:] != 0).all()


def test_a_rewrite_without_a_change_of_size_is_done():
    class Shrink(Compensate):
        def step(self, trainable, memory, evidence, *, key):
            del key
            weight = evidence.network.layers[1].weight
            factor = jnp.where(evidence.step == 4, 0.5, 1.0).astype(weight.dtype)
            rewrite = {"layers[1].weight": weight * factor}
            change = gn.Change(evidence.open[FIRST], 0, rewrite=rewrite)
            return gn.Decision({FIRST: change}), trainable, memory, {}

    run = fit(Shrink(), optimizer=optax.sgd(0.0), steps=9)
    (event,) = run.history.events
    told = (event.step, event.width, event.kind, event.old, event.new, event.closed)
    assert told == (4, FIRST, "rewritten", 4, 4, 0)
    assert event.loss_after != event.loss_before
    assert eqx.tree_equal(run.net.layers[1].weight, 0.5 * mlp().layers[1].weight)
    assert eqx.tree_equal(run.net.layers[0], mlp().layers[0])


def test_members_of_a_population_rewrite_for_themselves():
    nets = [eqx.nn.MLP(3, 1, n, 2, activation=jnp.tanh, key=jr.key(n)) for n in (4, 6)]
    options: dict[str, Any] = {
        "optimizer": lenient(optax.adam(1e-2)),
        "policy": Compensate(1),
        "steps": 10,
    }
    keys = jr.split(jr.key(3), 2)
    _, run = gn.fit_population(nets, loss, (X, Y), keys=keys, capacity=8, **options)
    alone = gn.fit(nets[1], loss, (X, Y), key=keys[1], capacity={"*": 8}, **options)
    assert eqx.tree_equal(run.net, alone.net, rtol=1e-4, atol=1e-5)


def test_held_capacities_do_a_change_with_a_rewrite_as_a_whole_or_not_at_all():
    def grown(capacity):
        return gn.grow(
            mlp(), loss, (X, Y), optimizer=optax.sgd(0.0), policy=Compensate(3),
            steps=4, key=jr.key(1), capacity=capacity, overflow="hold",
        ).run()  # fmt: skip

    assert eqx.tree_equal(grown(5).net, mlp())
    assert grown(6).sizes[FIRST] == 6


def test_a_decision_on_weights_that_are_no_more_is_dropped():
    grower = gn.Grower(
        Compensate(6, needs=frozenset({"network"})), lenient(optax.sgd(0.05))
    )

    @eqx.filter_jit
    def train(model, state):
        objective = grower.loss(lambda net: loss(net, (X, Y), None), state)
        _, grads = eqx.filter_value_and_grad(objective)(model)
        return grower.step(model, grads, state)

    start = grower.init(mlp(), gn.trace(mlp(), X[0]), key=jr.key(1))
    for wait, sizes in ((0, 9), (1, 4)):
        model, state = start
        for _ in range(4 + wait):
            model, state = train(model, state)
        model, state = grower.resize(model, state)
        assert int(model.open[FIRST].sum()) == sizes


class Faulty(Compensate):
    rewrite: Any = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        change = gn.Change(evidence.open[FIRST], 0, rewrite=self.rewrite)
        return gn.Decision({FIRST: change}), trainable, memory, {}


FAULTS = {
    "Faulty: rewrite of 'x' for .*, which isn't a leaf of the network .layers": "x",
    "rewrite of 'layers.0..bias' for .* has shape .3,.; the leaf has .8,.": (
        "layers[0].bias"
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_bad_rewrites_are_refused(message):
    with pytest.raises(ValueError, match=message):
        fit(Faulty(rewrite={FAULTS[message]: jnp.zeros(3)}))
