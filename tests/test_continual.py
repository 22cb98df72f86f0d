"""The benchmark of classes that come in turn: its measures, and its arms in small."""

import dataclasses

import jax
import jax.random as jr
import numpy as np
import pytest

from benchmarks.continual import learner, report
from benchmarks.continual.figure import figure
from benchmarks.continual.flops import costs, equal_steps
from benchmarks.continual.settings import ARMS, EQUAL, PHASES, WIDTHS


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def made_up() -> np.ndarray:
    """Two runs in which a class has 0.9 when it comes and loses 0.1 in every phase."""
    found = np.full((2, PHASES, 10), np.nan)
    for phase in range(PHASES):
        for c in range(2 * phase + 2):
            found[:, phase, c] = 0.9 - 0.1 * (phase - c // 2)
    return found


def test_measures_and_figure(tmp_path):
    row = {"accuracy": made_up().tolist(), "rate": 0.01, "flops": 2e9}
    assert report.final(row) == pytest.approx(0.7)
    assert report.by_phase(row)[0] == pytest.approx([0.9, 0.85, 0.8, 0.75, 0.7])
    assert report.learned(row) == pytest.approx(0.9)
    # Four phases lose 0.4, 0.3, 0.2, 0.1.
    assert report.forgotten(row) == pytest.approx(0.25)
    rows = dict.fromkeys(ARMS, row)
    lines = report.table(rows, "replay").splitlines()
    assert len(lines) == 2 + 11 and "+0.00 (+0.00, +0.00)" in lines[2]
    figure(rows, tmp_path / "continual.png")
    assert (tmp_path / "continual.png").stat().st_size > 10_000


def test_a_class_that_gets_better_is_not_forgotten():
    better = made_up()
    better[:, -1] = 1.0
    row = {"accuracy": better.tolist()}
    assert report.forgotten(row) == pytest.approx(-0.1)


@pytest.mark.slow
def test_arms_in_small(monkeypatch):
    monkeypatch.setattr(learner, "LOOK", 4)
    key = jr.key(0)
    centres = jr.normal(key, (10, 784)) / 8
    noise = jr.normal(jr.fold_in(key, 1), (10, 60, 784)) / 16
    x = (centres[:, None] + noise).reshape(-1, 784)
    rows = np.arange(600).reshape(10, 60)
    given = [0, 1], [3e-3] * 2, x, rows[:, :40], (x, rows[:, 40:])
    kinds = "random, old units rest / no replay", "GradMax / replay", "static / replay"
    for name in kinds:
        arm = dataclasses.replace(ARMS[name], steps=30)
        found, units = learner.accuracies(arm, *given)
        assert units.tolist() == [list(arm.widths)] * 2
        for phase in range(PHASES):
            seen = 2 * phase + 2
            assert not np.isnan(found[:, phase, :seen]).any()
            assert np.isnan(found[:, phase, seen:]).all()
        assert found[:, 0, :2].mean() > 0.9
        assert found[:, -1].mean() > 0.5 or "no replay" in name
        if arm.rests:
            _check_rest(arm, given)


def _check_rest(arm, given):
    """Old units keep what makes them; new ones and all that reads them learn."""
    course = learner.Course(arm, *given[:4])
    nets, states = course.phase(0, None, None)
    after, _ = course.phase(1, nets, states)
    old, new = nets.layers[0].weight, after.layers[0].weight
    assert (new[:, : WIDTHS[0]] == old).all() and (new[:, WIDTHS[0] :] != 0).any()
    assert (after.layers[1].weight[:, :2, : WIDTHS[0]] != nets.layers[1].weight).any()


@pytest.mark.slow
def test_flops_are_those_of_matrix_products_and_a_little_more():
    step, turn, value = costs("", 64, 64, 10)
    products = 2 * 64 * (784 * 64 + 64 * 10)
    # Nothing before the first layer asks for gradients.
    least = 2 * products + 2 * 64 * 64 * 10
    assert least < step < 1.2 * least and products < value < 1.1 * products
    assert turn == 0 and costs("GradMax", 52, 64, 10)[1] > products
    assert equal_steps() == EQUAL
