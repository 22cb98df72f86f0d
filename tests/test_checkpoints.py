"""Runs that are saved and go on: what they are made of, bit for bit."""

import equinox as eqx
import jax
import pytest

import growthnet as gn

from . import checkpoint_cases as cases


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    kept = gn.Checkpoints(tmp_path, every=7, keep=None)
    whole = cases.fit(name, checkpoint=kept)
    steps = [int(path.stem[5:]) for path in kept.paths()]
    assert steps == [10, 15, 25, 30, 35, 40], "at whole ticks, and at the end"
    assert len({str(t.sizes) for t in whole.history.ticks}) > 1, "its size changes"
    run = cases.fit(name, resume=kept.paths()[1])
    assert run.history.ticks[0].step == 5 and int(run.state.step) == 40
    assert cases.content(run) == cases.content(whole)
    assert run.growing.anatomy == whole.growing.anatomy
    assert eqx.tree_equal(run.net, whole.net)
    assert jax.tree.structure(run.net) == jax.tree.structure(whole.net)
    assert repr(run.net) == repr(whole.net)
