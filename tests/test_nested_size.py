"""The nested size: what it draws, what it decides, and that it finds a size."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import NestedSize

from .helpers import lenient


NAME = "layers[0]"
X = jr.normal(jr.key(0), (512, 3))
CLEAN = jnp.tanh(X @ jnp.array([[1.0], [-2.0], [0.5]]))
Y = CLEAN + 0.2 * jr.normal(jr.key(1), CLEAN.shape)
HALF = (X[:256], Y[:256])


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp(width, depth=1):
    return eqx.nn.MLP(3, 1, width, depth, activation=jnp.tanh, key=jr.key(0))


def options(policy, steps, **changes):
    given = {
        "optimizer": lenient(optax.adam(2e-2)),
        "policy": policy,
        "steps": steps,
        "valid": (X[256:], Y[256:]),
    }
    return {**given, **changes}


def evidence(losses, units, step=0):
    """As if the held-out loss at n units were `losses[n - 1]`."""
    mask = jnp.arange(len(losses)) < int(units)
    at = lambda gates: jnp.asarray(losses)[jnp.sum(gates[NAME]) - 1]
    return gn.Evidence(jnp.asarray(step), {NAME: mask}, valid_at=at)


def decided(policy, losses, drawn, step=0):
    seen = evidence(losses, int(drawn[1]), step)
    trainable = {NAME: jnp.array(drawn, float)}
    memory = None, None
    decision, after, _, _ = policy.step(trainable, memory, seen, key=jr.key(0))
    change = decision.widths[NAME]
    size = int(change.keep.sum() + jnp.maximum(change.add, 0))
    return size, after[NAME].tolist()


def bend(at, capacity=64):
    """A held-out loss that stops improving at a size."""
    return 1 / np.minimum(np.arange(1, capacity + 1), at)


def test_a_width_that_needs_all_of_its_units_grows_and_one_that_does_not_shrinks():
    policy = NestedSize(1_000, 0.01)
    assert decided(policy, bend(64), (10, 20)) == (30, [10, 30])
    assert decided(policy, bend(4), (2, 40)) == (12, [2, 12])
    # At the end of the search it is cut to what it needs; afterwards it rests.
    assert decided(policy, bend(8), (4, 16), step=1_000) == (8, [8, 8])
    assert decided(policy, bend(8), (8, 8), step=1_100) == (8, [8, 8])


def test_tolerance_and_maximum():
    losses = np.where(np.arange(64) < 9, 1.08, 1.0)
    assert decided(NestedSize(9, 0.1), losses, (5, 20), step=9)[0] == 5
    assert decided(NestedSize(9, 0.05), losses, (5, 20), step=9)[0] == 10
    assert decided(NestedSize(99, maximum=20), bend(64), (8, 16))[0] == 20


def test_a_found_size_that_hovers_changes_nothing():
    policy = NestedSize(10_000)
    drawn, sizes = (8, 24), []
    for i in range(40):
        size, drawn = decided(policy, bend(19 if i % 2 else 13), drawn)
        sizes.append(size)
    assert len(set(sizes[3:])) == 1


def test_training_draws_every_size_of_the_range_and_inference_has_all():
    anatomy = gn.trace(mlp(9), X[0])
    policy = NestedSize(100)
    trainable, _ = policy.init(anatomy, key=jr.key(0))
    draw = lambda key: policy.gates(trainable, anatomy, key=key, train=True)[NAME]
    gates = np.asarray(jax.vmap(draw)(jr.split(jr.key(1), 400)))
    assert set(gates.sum(1)) == {5, 6, 7, 8, 9}
    assert (np.diff(gates.astype(int), axis=1) <= 0).all()
    assert policy.gates(trainable, anatomy, key=None, train=False)[NAME].all()


def test_a_tolerance_against_both_is_small_where_little_was_won():
    # Of classes, hardly better than chance: 10 % of the loss is half of what was won.
    wins = jnp.array([2.3 - 0.4 * min(n, 16) / 16 for n in range(33)])
    mask = jnp.arange(32) < 32
    at = lambda gates: wins[jnp.sum(gates[NAME], dtype=jnp.int32)]
    seen = gn.Evidence(jnp.asarray(0), {NAME: mask}, valid_at=at)
    found = {}
    for against in ("loss", "both"):
        policy = NestedSize(100, 0.1, against=against)
        silent = {NAME: jnp.asarray(jnp.inf)} if against == "both" else None
        memory = silent, None
        trainable = {NAME: jnp.array([4.0, 32.0])}
        _, after, (silent, _), _ = policy.step(trainable, memory, seen, key=jr.key(0))
        found[against] = 2 * int(after[NAME][0])
        assert silent is None or jnp.allclose(silent[NAME], 2.3)
    assert found["loss"] <= 10 < 14 <= found["both"] <= 16


def trimmed(policy, now, best, step, silent=None, units=20):
    """The units after a turn, and the best loss."""
    mask = jnp.arange(32) < units
    at = lambda gates: jnp.asarray(1.0)
    number = jnp.asarray(now, float)
    seen = gn.Evidence(jnp.asarray(step), {NAME: mask}, valid_at=at, valid_loss=number)
    memory = None if silent is None else {NAME: jnp.asarray(silent)}
    ranges = {NAME: jnp.array([units, units], float)}
    decision, _, (_, best), _ = policy.step(
        ranges, (memory, jnp.asarray(best)), seen, key=jr.key(0)
    )
    keep = decision.widths[NAME].keep
    assert not jnp.any(jnp.diff(keep.astype(int)) > 0)  # The last ones go.
    return int(keep.sum()), float(best)


def test_the_last_units_go_while_the_loss_is_near_the_best():
    policy = NestedSize(1_000, trim=(1_500, 3_000), trim_tolerance=0.1)
    assert trimmed(policy, 1.05, 1.0, 1_500) == (18, 1.0)  # 8 % of 20, rounded up
    assert trimmed(policy, 1.05, 1.0, 2_900) == (18, 1.0)
    assert trimmed(policy, 0.9, 1.0, 2_900) == (18, pytest.approx(0.9))
    assert trimmed(policy, 1.2, 1.0, 1_500)[0] == 20
    assert trimmed(policy, 0.9, 1.0, 1_400) == (20, pytest.approx(0.9))
    assert trimmed(policy, 1.05, 1.0, 3_000)[0] == 20
    assert trimmed(policy, 1.0, 1.0, 1_500, units=1)[0] == 1
    # Little was won, so little may be lost.
    both = NestedSize(1_000, trim=(1_500, 3_000), trim_tolerance=0.1, against="both")
    assert trimmed(both, 1.04, 1.0, 1_500, silent=2.0)[0] == 18
    assert trimmed(both, 1.06, 1.0, 1_500, silent=2.0)[0] == 20


def test_trimming_finds_fewer_units_than_the_search_alone():
    policy = lambda **more: NestedSize(300, 0.01, every=25, maximum=24, **more)
    sizes, far = {}, {}
    for trim in (None, (500, 900)):
        run = gn.fit(
            mlp(24), loss, HALF, key=jr.key(1),
            **options(policy(trim=trim), 1_200),
        )  # fmt: skip
        sizes[trim] = run.sizes[NAME]
        far[trim] = float(loss(run.net, (X, CLEAN), None))
    assert sizes[500, 900] < sizes[None]
    assert far[500, 900] < 1.1 * far[None]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("trim", [(1_000, 2_000), (2_000, 1_500), 1_500, (1_500,)])
def test_a_trim_that_is_none(trim):
    with pytest.raises(ValueError, match=r"trim=.*(begins a decision after|two train)"):
        NestedSize(1_000, trim=trim)


def test_against_both_finds_few_units_for_a_task_of_one_unit_inside_a_program():
    (size,) = gn.grow(
        mlp(2), loss, HALF, key=jr.key(1), capacity=32,
        **options(NestedSize(600, maximum=32, every=50, against="both"), 900),
    ).sizes.values()  # fmt: skip
    assert size <= 4


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_against():
    with pytest.raises(ValueError, match="against='gain'; one of 'loss', 'both'"):
        NestedSize(100, against="gain")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("start", [2, 24])
def test_few_units_are_found_for_a_task_of_one_unit(start):
    run = gn.fit(
        mlp(start), loss, HALF, key=jr.key(1),
        predict=lambda net, batch: jax.vmap(net)(batch[0]),
        **options(NestedSize(600, every=50), 900),
    )  # fmt: skip
    assert run.sizes[NAME] <= 4
    assert loss(run.net, (X, CLEAN), None) < 5e-3
    assert len(run.history.events) >= 2
    born = [e for e in run.history.events if e.new > e.old]
    assert all(e.output_change is not None and e.output_change < 1e-6 for e in born)
    # It looked at more units than it kept.
    assert max(t.sizes[NAME] for t in run.history.ticks) >= 9


def test_a_population_is_its_members_alone():
    policy = NestedSize(40, every=10, maximum=16)
    given = options(policy, 60, capacity=16)
    data, keys = HALF, jr.split(jr.key(2), 2)
    runs = gn.fit_population([mlp(2), mlp(12)], loss, data, keys=keys, **given)
    for run, start, key in zip(runs, (2, 12), keys, strict=True):
        given["capacity"] = {"*": 16}
        alone = gn.fit(mlp(start), loss, data, key=key, **given)
        assert run.sizes == alone.sizes and not run.overflowed
        sizes = [t.sizes for t in run.history.ticks]
        assert sizes == [t.sizes for t in alone.history.ticks]


def test_two_widths_find_their_sizes_for_themselves():
    run = gn.fit(
        mlp(3, depth=2), loss, HALF, key=jr.key(1),
        **options(NestedSize(100, every=50), 150),
    )  # fmt: skip
    assert set(run.sizes) == {"layers[0]", "layers[1]"}


def test_it_needs_data_that_are_held_out():
    given = options(NestedSize(100), 200, valid=None)
    with pytest.raises(ValueError, match=r"NestedSize needs valid_at .* `valid=`"):
        gn.fit(mlp(2), loss, (X, Y), key=jr.key(0), **given)


@pytest.mark.parametrize(
    "wrong", [{"until": 0}, {"headroom": 0.5}, {"extra": 0}, {"tolerance": -1.0}]
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.* or more"):
        NestedSize(**{"until": 100, **wrong})
