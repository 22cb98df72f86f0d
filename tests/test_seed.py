"""The hand-written reference of the founding paper does what its formulas say."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from benchmarks.seed import _method_a as a, _method_b as b
from benchmarks.seed._blocks import setting
from benchmarks.seed._protocol import compare
from benchmarks.seed._stats import ratio
from benchmarks.seed._stored import CONTROL
from benchmarks.seed._tasks import draw, TASKS


@pytest.fixture(autouse=True)
def ordinary_jax():
    """The benchmarks are written for JAX as it comes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def j0_data(k):
    return draw(TASKS["J0"], 32, k, (0,))


def test_the_gate_is_the_formula():
    u = np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    want = [0.0, 0.0, np.sin(np.pi / 8) ** 2, 0.5, 1.0, 1.0]
    np.testing.assert_allclose(a.theta(u), want, atol=1e-7)
    slopes = jax.vmap(jax.grad(a.theta))(jnp.array([0.5, 1e-6, 1 - 1e-6]))
    np.testing.assert_allclose(slopes, [np.pi / 2, 0, 0], atol=1e-5)


def test_the_mask_is_the_formula():
    control = jnp.float32(0.6)
    np.testing.assert_allclose(b.mask(control, 4, True), [1, 1, 0.618, 0], atol=1e-4)
    np.testing.assert_allclose(b.mask(control, 4, False), 4 * [0.6545], atol=1e-4)


@pytest.mark.parametrize("weight", [0.1, 0.3])
def test_the_size_follows_the_law_within_a_tenth(weight):
    k, epochs, record = 32, 8_000, 500
    net = a.init(jr.key(0), k)
    how = setting(k, weight=weight)
    _, sizes = a.train(net, how, *j0_data(k), epochs=epochs, record=record)
    # Before that the data hold the size back at single units.
    at, mean = np.arange(4_000, 8_001, record), np.asarray(sizes).mean(axis=1)[7:]
    want, other = (np.asarray(a.law(at, 1e-3, w)) for w in (weight, 0.5 * weight))
    assert mean == pytest.approx(want, rel=0.1)
    assert mean != pytest.approx(other, rel=0.1)


def test_growth_starts_from_the_size_loss_alone():
    net = a.init(jr.key(0), 3)
    grown, _ = a.train(net, setting(3), *j0_data(3), epochs=1)
    np.testing.assert_allclose(grown.size, 2 * 1e-3 * 0.1 * 5, rtol=1e-6)


def test_dormant_units_have_no_gradient_at_all():
    net = a.init(jr.key(0), 3, start=2.3)
    gradient = jax.jit(a.gradient, static_argnames="loss")
    grads = gradient(net, setting(3), *j0_data(3), loss="square")
    for name in ("size_in", "x_in", "bias", "out"):
        leaf = np.asarray(getattr(grads, name))
        assert np.all(leaf[3:] == 0), name
        assert np.all(leaf[:3] != 0), name


def numpy_loss(p, x, y, weight):
    """The published loss of one network, from its 38 numbers."""
    size, (v, w, bias, out), shift = p[0], p[1:37].reshape(4, 9), p[37]
    u = np.clip(size - np.arange(9), 0, 1)
    gates = np.sin(np.pi * u / 2) ** 2
    hidden = np.tanh(bias + size * v + np.outer(x, w))
    error = shift + hidden @ (gates * out) - y
    return np.mean(error**2) + weight * (size - 5) ** 2


@pytest.mark.parametrize("start", [0.4, 2.7, 5.0])
def test_a_published_run_is_gradient_descent_on_the_published_loss(start):
    x, y = j0_data(1)
    net = a.init(jr.key(1), 1, start)
    how = setting(1, rate=0.05)
    trained, _ = a.train(net, how, x, y, epochs=5)
    p = np.concatenate([np.ravel(leaf) for leaf in net]).astype(np.float64)
    nudges = 1e-5 * np.eye(38)
    for _ in range(5):
        up, down = (
            np.array([numpy_loss(p + s * e, x[:, 0], y[:, 0], 0.1) for e in nudges])
            for s in (1, -1)
        )
        p = p - 0.05 * (up - down) / 2e-5
    ours = np.concatenate([np.ravel(leaf) for leaf in trained])
    moved = np.abs(p - np.concatenate([np.ravel(leaf) for leaf in net])).max()
    assert moved > 1e-3
    np.testing.assert_allclose(ours, p, atol=2e-6)


def test_the_fast_program_is_the_obvious_one():
    k = 8
    flags = np.arange(k)
    net = a.init(jr.key(2), k, start=np.linspace(0, 5, k))
    how = setting(
        k,
        rate=0.03,
        cosine=flags % 2 == 0,
        size_input=flags < 5,
        own_rate=flags == 3,
        ramp=flags == 4,
    )
    x, y = j0_data(k)
    data = x, (y > 0).astype(np.float32)
    fast, _ = a.train(net, how, *data, epochs=50, loss="logistic")
    slow = a.train_vmapped(net, how, *data, epochs=50, loss="logistic")
    for one, two, first in zip(fast, slow, net, strict=True):
        assert np.abs(one - first).max() > 1e-3
        np.testing.assert_allclose(one, two, atol=2e-6)


def test_the_control_takes_the_published_path_whatever_the_task():
    path = np.asarray(b.free_control(jnp.float32(1e-5), 1e-3, 2_001))
    # The authors print after the step of the epoch, which they count from 0.
    for epoch, value in CONTROL.items():
        assert path[epoch] == pytest.approx(value, abs=1e-4)


def train_b(shift, **flags):
    """The end of a short run of one network of method B, and its control's path."""
    net = b.init(jr.key(0), 2, 6, 5, jnp.float32(1e-5), jnp.float32(1.0))
    switches = ("per_unit", "data_gradient", "ramp")
    on = {name: np.array([name in flags]) for name in switches}
    on |= {"rate": np.array([1e-3], np.float32), "cosine": np.array([False])}
    on |= {"size_input": np.ones(1, np.float32), "weight": np.array([0.32], np.float32)}
    how = b.Setting(**on)
    x = np.random.default_rng(0).normal(size=(1, 40, 2)).astype(np.float32)
    y = (np.arange(40) + shift)[None] % 5
    curve = b.free_control(jnp.float32(1e-5), 1e-3, 300)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], net)
    net, path = b.train(one, how, curve, x, y, epochs=300)
    return float(jax.jit(jax.vmap(b.data_loss))(net, how, x, y)[0]), path[0]


def test_only_the_data_gradient_lets_the_data_move_the_control():
    (loss, path), (other_loss, other_path) = train_b(0), train_b(np.arange(40) ** 2)
    assert loss != other_loss
    np.testing.assert_array_equal(path, other_path)
    _, moved = train_b(0, data_gradient=True)
    assert np.abs(moved - path).max() > 1e-4


def test_published_growth_of_method_b_is_an_open_loop_ramp():
    growing, _ = train_b(0)
    ramp, _ = train_b(0, ramp=True)
    per_unit, _ = train_b(0, per_unit=True)
    assert growing == pytest.approx(ramp, rel=1e-5)
    assert per_unit != pytest.approx(growing, rel=1e-3)


def test_the_rate_is_chosen_on_held_out_data_and_the_test_is_read_once():
    stages = []

    def run(jobs, stage):
        stages.append(stage)
        # Held out, a rate of 1 is best; on the test 2 would be.
        best = 1.0 if stage == "held out" else 2.0
        return np.array([np.full((3, 2), 1 + (j.rate - best) ** 2) for j in jobs])

    rows = compare(["static", "growing"], [1.0, 2.0], 2.0, run)["rows"]
    assert stages == ["held out", "test"]
    assert {r["rate"] for r in rows if r["column"] == "tuned"} == {1.0}
    assert {r["mean"] for r in rows if r["column"] == "tuned"} == {2.0}


def test_a_diverged_rate_is_never_chosen():
    def run(jobs, stage):
        return np.array([np.full((2, 1), np.nan if j.rate > 1 else 1.0) for j in jobs])

    rows = compare(["static", "growing"], [2.0, 1.0], 2.0, run)["rows"]
    assert {r["rate"] for r in rows if r["column"] == "tuned"} == {1.0}
    assert {r["diverged"] for r in rows if r["column"] == "published"} == {1.0}


def test_intervals_are_paired():
    losses = np.random.default_rng(0).lognormal(size=(12, 20))
    np.testing.assert_allclose(ratio(2 * losses, losses), 2.0)
    other = np.random.default_rng(1).lognormal(size=(12, 20))
    middle, low, high = ratio(other, losses)
    assert low < 1 < high and low < middle < high and high / low > 1.2


def test_the_best_of_many_is_chosen_on_held_out_data_too():
    arms = ["static", "static, other", "growing", "growing, other", "ramp"]

    def run(jobs, stage):
        level = {"static": 2, "static, other": 1, "growing": 3, "growing, other": 4}
        held_out = stage == "held out"
        worth = [level.get(j.arm, 0) if held_out else arms.index(j.arm) for j in jobs]
        return np.array([np.full((2, 2), float(w)) for w in worth])

    for best in compare(arms, [1.0], 1.0, run)["best"]:
        assert (best["growing"]["arm"], best["static"]["arm"]) == (arms[2], arms[1])
        assert best["ratio"] == (2.0, 2.0, 2.0)
