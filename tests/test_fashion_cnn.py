"""The benchmark of the Fashion-MNIST CNN: what its numbers are made of."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from benchmarks.fashion_cnn import arms, report, rule, run, settings
from benchmarks.fashion_cnn.figure import figure
from benchmarks.fashion_cnn.task import loss, network, params, WIDTHS


SIZES = [(2, 3, 4, 5), settings.HAND]


@pytest.fixture(autouse=True, scope="module")
def plain_jax():
    """The benchmarks are written for JAX as it comes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("sizes", SIZES)
def test_parameters_are_those_of_the_network(sizes):
    anatomy = gn.trace(network(sizes, jr.key(0)), jnp.zeros((1, 28, 28)))
    assert tuple(anatomy.sizes[name] for name in WIDTHS) == sizes
    assert params(sizes) == anatomy.params()


def test_all_shapes_are_within_the_budget():
    spent = {name: params(shape) for name, shape in settings.SHAPES.items()}
    assert all(0.98 <= n / settings.BUDGET <= 1 for n in spent.values())
    assert params(settings.START) < settings.BUDGET < params(settings.LARGE)


def test_the_largest_singular_value():
    matrix = np.random.default_rng(0).normal(size=(7, 4))
    wanted = np.linalg.svd(matrix, compute_uv=False)[0]
    assert rule.largest(jnp.asarray(matrix)) == pytest.approx(wanted, rel=0.05)


@pytest.mark.slow
def test_growth_goes_where_a_parameter_is_worth_most_and_ends_at_the_budget(
    monkeypatch,
):
    x, y = jr.normal(jr.key(0), (64, 1, 28, 28)), jnp.arange(64) % 10
    monkeypatch.setattr(settings, "BUDGET", 1_200)
    fitted = gn.fit(
        network((2, 3, 4, 5), jr.key(1)), loss, (x, y), optimizer=optax.adam(1e-3),
        policy=settings.grows(), steps=4 * settings.EVERY, key=jr.key(2), batch_size=4,
    )  # fmt: skip
    sizes: Any = tuple(fitted.sizes[name] for name in WIDTHS)
    births = np.subtract(sizes, (2, 3, 4, 5))
    assert 0.8 * 1_200 < params(sizes) <= 1_200
    assert len(set(births.tolist())) > 1


def test_without_a_measure_all_widths_grow_alike():
    anatomy = gn.trace(network((2, 3, 4, 5), jr.key(0)), jnp.zeros((1, 28, 28)))
    policy = rule.Proportional(0.5, 10, weighted=False)
    seen: Any = SimpleNamespace(
        open={name: jnp.arange(8) < n for name, n in anatomy.sizes.items()}
    )
    changes = policy.step(None, None, seen, key=jr.key(1))[0].widths
    assert [int(changes[name].add) for name in WIDTHS] == [1, 2, 2, 2]
    assert not policy.needs


@pytest.mark.slow
def test_operations_are_counted_beyond_the_budget_too():
    """The capacity of a run may have more parameters than its units."""
    sizes, arm = (4, 4, 8, 8), settings.ARMS["grown"]
    costs = [arms.executed(arm, settings.START, 100, np.array([sizes] * 2))]
    room = arms._costs(arm, (64, 64, 64, 64))
    assert 100 * arms.per_step(settings.START) < costs[0] < 100 * room[0]


def row(error, sizes, flops):
    return {
        "rate": 1e-3, "steps": [10, 10], "final": [sizes, sizes], "flops": [flops] * 2,
        "needed": [flops] * 2, "test": [error, error + 1], "test_loss": [0.3, 0.4],
        "valid": [error, error], "valid_loss": [error, 20 - error],
        "seconds": 1.0, "cpu_seconds": 1.0, "path": [[sizes], [sizes]],
    }  # fmt: skip


def test_tables_and_a_figure(tmp_path):
    made = {**{f"static {n}": shape for n, shape in settings.SHAPES.items()}}
    made |= {"grown": (9, 9, 9, 9), "even": (9, 9, 9, 9)}
    for i, (name, sizes) in enumerate(made.items()):
        text = json.dumps(row(10 + i, list(sizes), 1e11 * (i + 1)))
        (tmp_path / f"{name}.json").write_text(text)
    rows = report.gathered(tmp_path)
    # By seed the one with the least held-out loss; all three are paid for.
    assert rows[report.SWEEP]["test"] == [10, 13]
    assert rows[report.SWEEP]["flops"] == [6e11, 6e11]
    assert len(report.table(rows).splitlines()) == 2 + len(rows)
    assert "| even | -1.00 (-1.00, -1.00) |" in report.pairs(rows)
    figure(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no results of 'final'"):
        run.load(tmp_path, "final")
