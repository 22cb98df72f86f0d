"""The benchmark of the headline in small, and what its numbers are made of."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from benchmarks.headline import by_hand, costs, report, run, seconds, ways
from benchmarks.headline.figure import figure
from benchmarks.headline.greedy import Greedy
from benchmarks.headline.settings import Arm, ARMS, FULL, QUICK
from benchmarks.headline.tasks import Shape, TASKS


SMALL = dataclasses.replace(
    QUICK, steps=80, every=20, seeds=(0, 1), widths=(2, 8), tried=(8,)
)
TASK = TASKS["teacher_6"]


@pytest.fixture(autouse=True, scope="module")
def plain_jax():
    """The benchmarks are written for JAX as it comes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the sweep and of two arms of a task."""
    there = tmp_path_factory.mktemp("headline") / TASK.name
    for only in ("static", "growthnet from 2", "open from 2"):
        run.run(TASK, SMALL, there, only)
    return there


def test_a_small_headline_has_its_tables_and_figure_and_is_not_run_twice(folder):
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    run.run(TASK, SMALL, folder, "static")
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    rows = report.gathered(TASK, SMALL, folder)
    assert set(rows) == {
        "static 2", "static 8", "sweep", "halving", "growthnet from 2", "open from 2"
    }  # fmt: skip
    lines = report.table(TASK, rows, SMALL).splitlines()
    best = report.best_static(rows, SMALL)[0]
    # Two lines above the head and its rule; of the static ones the best and the widest.
    assert len(lines) == 4 + len({best, 8}) + len(rows) - 2
    told = report.bars({TASK.name: rows}, SMALL)
    assert ("holds" in told) or ("fails" in told)
    figure({TASK.name: rows}, None, SMALL, folder / "headline.png")
    assert (folder / "headline.png").stat().st_size > 10_000


def test_open_loop_has_the_sizes_that_it_follows(folder):
    grown, followed = (
        json.loads((folder / f"{name} from 2.json").read_text())
        for name in ("growthnet", "open")
    )
    assert np.ptp(grown["path"]) > 0
    assert followed["path"] == grown["path"]
    assert followed["test_loss"] != grown["test_loss"]


def test_results_that_are_not_there_are_asked_for(folder):
    with pytest.raises(ValueError, match="run it first"):
        run.load(folder, "plateau from 2")
    with pytest.raises(ValueError, match="run them first"):
        seconds.measure(TASKS["digits"], SMALL, folder, "python", 1)


def test_the_sweep_delivers_the_smallest_good_width_and_pays_for_all():
    valid = {"2": [1.0, 0.3], "4": [0.52, 0.31], "8": [0.5, 0.29]}
    rows = {
        f"static {w}": {
            "valid_loss": v, "test_loss": v, "rate": 1e-2, "flops": [10.0 * int(w)] * 2,
            "found": [[int(w)]] * 2, "curve": np.linspace(2, 1, 8)[None] * np.c_[v],
        }
        for w, v in valid.items()
    }  # fmt: skip
    s = dataclasses.replace(SMALL, widths=(2, 4, 8))
    found = report.searched(rows, s)["sweep"]
    assert found["found"] == [[4], [2]]
    assert found["flops"] == [140.0, 140.0]
    assert report.best_static(rows, s) == (8, 4)


def test_halving_pays_for_what_goes_on_and_can_lose_the_best():
    spent = np.array([8.0, 16.0, 32.0, 64.0])
    late = np.array([[4.0] * 8, [3.0] * 8, [2.0] * 8, [9.0] * 7 + [1.0]])
    winner, total = costs.halved(late, spent)
    # All for an eighth, two of them for a quarter, one to the end.
    assert winner == 2
    assert total == spent.sum() / 8 + (16 + 32) / 8 + 32 * 6 / 8


def test_costs_are_those_of_the_arithmetic():
    shape = Shape("numbers", 4, 1)
    assert costs.forward(shape, [8]) == 2 * (4 * 8 + 8) + 8
    seen = {"before": np.full((1, 4, 1), 8), "path": np.full((1, 4, 1), 8)}
    counts = {"valid": 256}
    of = lambda kind: costs.executed(shape, Arm(kind, 8), SMALL, counts, seen)[0]
    one, training = 88, 80 * costs.step(shape, [16], 128)
    # A size of 8 has room for 16: it may grow.
    wide = costs.forward(shape, [16])
    assert of("plateau") == training + 4 * 256 * wide
    look = costs.CANDIDATES * 256 * wide
    assert of("growthnet") == of("plateau") + 2 * look
    assert of("trimmed") == of("plateau") + look
    assert of("static") == 80 * costs.step(shape, [8], 128) + 8 * 256 * one


def test_pruning_asks_what_the_network_is_worth_without_each_unit():
    worth, mask = jnp.array([3.0, 1.0, 2.0, 9.0]), jnp.array([True, True, True, False])
    at = lambda gates: jnp.sum(jnp.where(mask & (gates["w"] == 0), worth, 0.0))
    evidence = gn.Evidence(jnp.asarray(100), {"w": mask}, valid_at=at)
    assert Greedy(start=100, until=200)._without("w", evidence)[:3].tolist() == [
        3.0,
        1.0,
        2.0,
    ]


def test_pruning_shrinks_a_real_network_while_its_loss_allows():
    x = jr.normal(jr.key(0), (64, 2))
    y = jnp.tanh(x[:, :1])
    shape = Shape("numbers", 2, 1)

    def size(tolerance):
        done = gn.grow(
            shape.network(16, jr.key(1)), shape.loss, (x, y), valid=(x, y),
            policy=Greedy(
                start=20, until=80, tolerance=tolerance, share=0.2, every=20
            ),
            optimizer=optax.adam(1e-2), steps=100, key=jr.key(2), capacity=16,
        )  # fmt: skip
        (size,) = done.sizes.values()
        return size

    tolerant, strict = jax.jit(jax.vmap(size))(jnp.array([0.5, -0.5])).tolist()
    assert tolerant < 16 == strict


def test_resizes_by_hand_keep_the_function_until_units_go():
    random = np.random.default_rng(0)
    arrays = by_hand.first_weights(3, 4, 2, random)
    x = random.normal(size=3)
    predict = lambda a: a[2] @ np.tanh(a[0] @ x + a[1]) + a[3]
    grown = by_hand.resized(arrays, 7, random)
    assert [a.shape for a in grown] == [(7, 3), (7,), (2, 7), (2,)]
    assert np.allclose(predict(grown), predict(arrays))
    assert grown[0][4:].any()
    assert not by_hand.resized(arrays, 7)[0][4:].any()
    back = by_hand.resized(grown, 4)
    assert all((a == b).all() for a, b in zip(back, arrays, strict=True))


def test_batches_by_hand_are_permutations():
    rows = by_hand.batches(10, 3, 7, np.random.default_rng(0))
    assert rows.shape == (7, 3)
    assert all(len(set(rows[i : i + 3].flat)) == 9 for i in (0, 3))


def test_a_schedule_is_where_sizes_change():
    s = dataclasses.replace(SMALL, steps=100)
    path = [[2], [5], [5], [3], [4]]
    # What changes after the last step isn't trained any more.
    assert seconds.schedule(path, s) == [(40, 5), (80, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        {"way": "sweep"},
        {"way": "halving"},
        {"way": "by_hand", "start": 2, "schedule": [[40, 6], [80, 3]]},
        {"way": "growthnet", "arm": "growthnet from 2"},
    ],
    ids=lambda way: way["way"],
)
def test_a_way_delivers_a_trained_network(way, tmp_path):
    parts = TASK.data([0])
    arrays: dict[str, Any] = {
        f"{part}_{name}": np.asarray(values[0])
        for part in ("train", "valid")
        for name, values in zip("xy", parts[part], strict=True)
    }
    np.savez(tmp_path / "data.npz", **arrays)
    s = dataclasses.replace(SMALL, steps=160)
    job = {"task": TASK.name, "data": str(tmp_path / "data.npz"), "rate": 1e-2, **way}
    job["settings"] = json.loads(json.dumps(dataclasses.asdict(s)))
    seen = ways.main(job)
    assert seen["valid_loss"] < 0.3
    assert seen["seconds"] > 0


def test_digits_are_parted_once_in_equal_proportions():
    data = TASKS["digits"].data([0])
    assert TASKS["digits"].counts() == {"train": 1_097, "valid": 300, "test": 400}
    for _, y in data.values():
        share = np.bincount(np.asarray(y)) / len(y)
        assert abs(share - 0.1).max() < 0.012
    rows = np.concatenate([np.asarray(x) for x, _ in data.values()])
    assert rows.shape == (1_797, 64)


def test_the_setting_is_one_for_all_tasks():
    policies = {
        arm: made.policy(FULL) for arm, made in ARMS.items() if made.kind == "growthnet"
    }
    a, b = policies.values()
    assert vars(a) == vars(b)
