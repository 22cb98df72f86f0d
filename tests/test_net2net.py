"""Net2Net: copies share out, whatever the network; in a run as in an edit."""

from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet.testing import make_case
from growthnet_policies import Firefly, Net2Net, Splitting
from growthnet_policies._copies import copied

from .test_splitting import fine, networks


def grown(net, call, args, policy, steps=2, **options):
    """What a policy makes of a network that rests, and that network's outputs."""
    one = lambda batch: jax.tree.map(lambda x: x[0], batch)

    def loss(net, batch, key):
        del key
        leaves = jax.tree.leaves(call(net, *one(batch)))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    run = gn.fit(
        net, loss, jax.tree.map(lambda x: x[None], args), optimizer=optax.sgd(0.0),
        policy=policy, steps=steps, key=jr.key(1), chunk=1,
        anatomy=gn.trace(net, *args, call=call), **options,
    )  # fmt: skip
    return run, call(run.net, *args)


def same(found, wanted, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.abs(a - b).max() <= rtol * max(1, np.abs(b).max())


FEW = ("mlp", "recycled")
SLOW = (
    "arrays", "pairs", "sequential", "residual", "fused", "two_by_two", "factored",
    "experts", "counting", "concatenating",
)  # fmt: skip


@pytest.mark.parametrize(
    "family, split",
    [
        *((family, "unequal") for family in FEW),
        pytest.param("mlp", "equal", marks=pytest.mark.slow),
        *(pytest.param(f, "unequal", marks=pytest.mark.slow) for f in SLOW),
    ],
)
def test_the_function_stays(family, split):
    with fine():
        case = make_case(family, dtype="float64")
        call = case.call or (lambda net, *args: net(*args))
        # Five births to three units: some are copied more than once.
        policy = Net2Net(5, every=2, split=split, until=12)
        run, found = grown(case.net, call, case.args, policy, steps=4)
        assert all(size > case.widths[n] for n, size in run.sizes.items())
        same(found, call(case.net, *case.args), 1e-10)


@hypothesis.given(st.data())
def test_the_shares_of_a_unit_and_its_copies_add_up(data):
    capacity = 9
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=9, max_size=9)))
    mask[data.draw(st.integers(0, 8))] = True
    sources = data.draw(
        st.lists(st.sampled_from(list(np.flatnonzero(mask))), min_size=4, max_size=4)
    )
    births = data.draw(st.integers(0, min(4, capacity - mask.sum())))
    split = data.draw(st.sampled_from(("unequal", "equal")))
    found = copied(jnp.asarray(mask), jnp.asarray(sources), births, split)
    source, share, born = map(np.asarray, found)
    assert born.sum() == births and not (born & mask).any()
    assert list(source[born]) == sources[:births]
    there = mask | born
    assert (source[mask] == np.flatnonzero(mask)).all()
    for unit in np.flatnonzero(mask):
        own = share[there & (source == unit)]
        assert np.isclose(own.sum(), 1, atol=1e-6)
        if split == "unequal":
            assert len(set(np.round(own, 4))) == len(own)
        else:
            assert np.allclose(own, 1 / len(own))


BATCHED = lambda net, x: jax.vmap(net)(x)


@pytest.mark.parametrize(
    "kind",
    [
        "convolution",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("gated", "transformer")),
    ],
)
def test_all_widths_of_real_layers_at_once(kind):
    with fine():
        net, (x, _), _ = networks()[kind]
        anatomy = gn.trace(net, x, call=BATCHED)
        policy = Net2Net(2, every=2)
        able = {n for n, w in anatomy.widths.items() if w.gateable != "no"}
        for name in sorted(able):
            try:
                policy.init(anatomy.only(name), key=None)
            except ValueError as error:
                assert "Net2Net can't copy units of" in str(error)
                able.remove(name)
        run, found = grown(net, BATCHED, (x,), policy, widths=able)
        assert able and run.sizes.keys() == able
        assert all(n == anatomy.sizes[name] + 2 for name, n in run.sizes.items())
        same(found, BATCHED(net, x), 1e-10)


def mlp(width=4):
    return eqx.nn.MLP(3, 2, width, 2, activation=jnp.tanh, key=jr.key(2))


X = jr.normal(jr.key(0), (20, 3))


def test_copies_are_of_the_units_that_are_chosen():
    policy = Net2Net(2, every=2, choose="outgoing", split="equal")
    run, _ = grown(mlp(), BATCHED, (X,), policy)
    before, after = mlp().layers, run.net.layers
    assert before[0].bias is not None
    loud = np.argsort(-np.linalg.norm(before[1].weight, axis=0))[:2]
    np.testing.assert_array_equal(after[0].weight[4:], before[0].weight[loud])
    np.testing.assert_array_equal(after[0].bias[4:], before[0].bias[loud])
    # The second layer's own copies aside.
    halves = np.asarray(before[1].weight)[:, loud] / 2
    np.testing.assert_allclose(after[1].weight[:4, 4:], halves, rtol=1e-6)
    np.testing.assert_allclose(after[1].weight[:4, loud], halves, rtol=1e-6)


@pytest.mark.slow
def test_random_copies_are_drawn_from_all_units_and_not_by_capacity():
    sizes, nets = [], []
    for capacity in (12, 40):
        run, _ = grown(
            mlp(), BATCHED, (X,), Net2Net(7, every=2), capacity=capacity,
            widths="layers[0]",
        )  # fmt: skip
        sizes.append(run.sizes["layers[0]"])
        nets.append(run.net)
    assert sizes == [11, 11] and eqx.tree_equal(*nets)
    rows = [tuple(row) for row in np.asarray(nets[0].layers[0].weight)]
    assert 1 < len(set(rows[4:])) and set(rows[4:]) <= set(rows[:4])


@pytest.mark.slow
def test_unequal_shares_and_noise_tell_copies_apart_and_equal_ones_do_not():
    def apart(**options):
        policy = Net2Net(4, every=2, until=8, choose="outgoing", **options)
        loss = lambda net, batch, key: jnp.mean(
            (jax.vmap(net)(batch) - jnp.sin(3 * batch[:, :2])) ** 2
        )
        run = gn.fit(
            mlp(), loss, X, optimizer=optax.sgd(0.1), policy=policy, steps=40,
            key=jr.key(1), widths="layers[0]",
        )  # fmt: skip
        weight = np.asarray(run.net.layers[0].weight)
        return np.abs(weight[4:, None] - weight[None, :4]).max(-1).min(1)

    assert apart(split="equal").max() < 1e-5
    assert apart().min() > 1e-3 and apart(split="equal", noise=0.1).min() > 1e-3


@pytest.mark.slow
def test_noise_is_that_of_a_fresh_unit():
    run, found = grown(mlp(), BATCHED, (X,), Net2Net(1, every=2, noise=0.1))
    rows = np.asarray(run.net.layers[0].weight)
    off = np.abs(rows[4] - rows[:4]).max(1).min()
    assert 0 < off <= 0.1 / np.sqrt(3)
    assert not Net2Net(noise=0.1).preserves and Net2Net().preserves
    change = np.abs(found - BATCHED(mlp(), X)).max()
    assert 0 < change < 0.1


def test_a_width_without_room_does_not_leave_the_others_wrong():
    """One width is full in a run that can't be given room: the others' copies mustn't
    count on its."""
    anatomy = gn.trace(mlp(), X, call=BATCHED)
    loss = lambda net, batch, key: jnp.sum(jax.vmap(net)(batch) ** 2)
    grown = gn.grow(
        mlp(), loss, X, optimizer=optax.sgd(0.0), policy=Net2Net(2, every=2), steps=4,
        key=jr.key(0), capacity={"layers[0]": 5, "layers[1]": 8}, overflow="hold",
        anatomy=anatomy,
    )  # fmt: skip
    run = grown.run()
    assert run.sizes == {"layers[0]": 4, "layers[1]": 8}
    same(BATCHED(run.net, X), BATCHED(mlp(), X), 1e-5)


def test_a_budget_takes_copies_as_a_whole_or_not_at_all():
    for units, size in ((11, 4), (12, 6)):
        policy = gn.within_budget(Net2Net(2, every=2), units=units)
        run, found = grown(mlp(), BATCHED, (X,), policy)
        assert run.sizes == {"layers[0]": size, "layers[1]": size}
        same(found, BATCHED(mlp(), X), 1e-5)


def test_newborns_have_their_own_slots_where_others_close_units():
    """Values are for the slots that were free when they were made, so newborns don't
    take those that a neighbour in the chain leaves."""
    loud = np.argsort(-np.linalg.norm(mlp().layers[1].weight, axis=0))

    def quietest(evidence, key):
        mask = evidence.open["layers[0]"]
        return {"layers[0]": gn.Change(mask & (jnp.arange(mask.size) != loud[-1]), 0)}

    goes = gn.as_policy(quietest, every=2)
    copies = Net2Net(1, every=2, choose="outgoing")
    options: dict[str, Any] = {"widths": "layers[0]"}
    alone, wanted = grown(mlp(), BATCHED, (X,), goes, **options)
    rooms: Any = ({}, {"capacity": {"layers[0]": 4}})
    for room in rooms:
        both = gn.chain(copies, goes)
        run, found = grown(mlp(), BATCHED, (X,), both, **options, **room)
        assert (alone.sizes, run.sizes) == ({"layers[0]": 3}, {"layers[0]": 4})
        same(found, wanted, 1e-5)


@pytest.mark.parametrize(
    "family, why",
    [
        ("autoencoder", "a tied leaf can't share"),
        ("layer_norm", "what has to be scaled"),
    ],
)
def test_what_copies_can_not_share_is_refused(family, why):
    case = make_case(family)
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    with pytest.raises(ValueError, match=f"Net2Net can't copy units of .*{why}"):
        Net2Net().init(anatomy, key=jr.key(0))


@pytest.mark.parametrize("policy", [Net2Net(), Splitting(), Firefly()])
def test_masks_are_refused(policy):
    net = {"in": jnp.ones((4, 3)), "mask": jnp.ones(4, bool), "out": jnp.ones((2, 4))}

    def call(net, x):
        hidden = jnp.where(net["mask"], jnp.tanh(net["in"] @ x), 0)
        return net["out"] @ hidden

    anatomy = gn.trace(net, X[0], call=call)
    with pytest.raises(ValueError, match=r"a newborn doesn't have .* mask"):
        policy.init(anatomy, key=jr.key(0))


@pytest.mark.usefixtures("unchecked")
def test_numbers_out_of_range_are_refused():
    for given, why in (
        ({"add": 0}, "add=0; a whole"),
        ({"split": "half"}, "split='half'; 'unequal'"),
        ({"noise": -1.0}, "noise=-1.0; a number"),
        ({"choose": "best"}, "score='best'; use one of"),
    ):
        wrong: Any = given
        with pytest.raises(ValueError, match=why):
            Net2Net(**wrong)
