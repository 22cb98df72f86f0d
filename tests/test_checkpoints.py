"""Runs that are saved and go on: what they are made of, bit for bit."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet.__main__ import main
from growthnet._checkpoints import container as _container
from growthnet._checkpoints.saved import Saved
from growthnet_policies import GradientSizeWeight

from . import checkpoint_cases as cases
from .helpers import lenient


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


def test_programs_of_one_capacity_are_told_apart(tmp_path):
    """A decision of another form, as a host's may be, is another program."""
    kept = gn.Checkpoints(tmp_path, every=5, keep=None)
    whole = cases.fit("linen", checkpoint=kept)
    run = cases.fit("linen", resume=kept.paths()[1])
    assert run.history.ticks[0].step == 5
    assert cases.content(run) == cases.content(whole)


def test_the_ladder_of_capacities_goes_along():
    """By default the first capacity depends on how many steps there are."""
    short = cases.fit("mlp", steps=5, buckets=None)
    long = cases.fit("mlp", steps=10, resume=short, buckets=None)
    assert short.position is not None and long.position is not None
    assert long.position.buckets == short.position.buckets != (2.0, 1, 1)


@pytest.mark.slow
def test_the_ration_of_programs_goes_along(tmp_path):
    kept = gn.Checkpoints(tmp_path, every=5, keep=None)
    with pytest.warns(UserWarning, match="max_traces=1 is spent at step 5"):
        whole = cases.fit("mlp", max_traces=1, checkpoint=kept)
    resumed = cases.fit("mlp", max_traces=1, resume=kept.paths()[2])
    assert cases.content(resumed) == cases.content(whole)


# --- a small run, to be loaded in many ways


def mlp(width=3, inputs=4, **options):
    return eqx.nn.MLP(inputs, 2, width, 1, key=jr.key(0), **options)


def anatomy_of(net):
    dtype = net.layers[0].weight.dtype
    return gn.trace(net, jax.ShapeDtypeStruct((net.in_size,), dtype))


def grower(optimizer=None, **options):
    policy = options.pop("policy", cases.Ages())
    return gn.Grower(policy, optimizer or lenient(optax.adam(1e-2)), **options)


@pytest.fixture(scope="module")
def run():
    """Four units that became more, at step 15."""
    return cases.fit("mlp", steps=15)


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    gn.save(path, run)
    return path


def test_a_whole_run_is_loaded(run, path):
    for net in (
        mlp(activation=jnp.tanh),
        eqx.filter_eval_shape(mlp, activation=jnp.tanh),
    ):
        again = gn.load(path, net, anatomy_of(net), grower())
        assert cases.content(again) == cases.content(run)
        assert eqx.tree_equal(again.net, run.net)
        assert repr(again) == repr(run) == f"Run(step=15, {next(iter(run.sizes))} 8)"


def test_the_network_alone_needs_no_policy_and_no_optimizer(run, path):
    net = eqx.filter_eval_shape(mlp, activation=jnp.tanh)
    alone = gn.load_net(path, net, anatomy_of(net))
    assert eqx.tree_equal(alone, run.net) and alone.width_size == 8


@pytest.mark.parametrize("own", [True, False])
def test_a_loop_of_ones_own_goes_on(own, tmp_path):
    """A decision waits, perhaps with newborns' values of its own."""
    net, loop = mlp(), grower(capacity={"layers[0]": 6})
    model, state = loop.init(net, anatomy_of(net), key=jr.key(2))
    values = {"layers[0].bias": jnp.arange(6.0)} if own else None
    change = gn.Change(jnp.arange(6) < 2, jnp.asarray(7), values=values)
    waiting = (jnp.asarray(True), gn.Decision({"layers[0]": change}))
    state = eqx.tree_at(lambda s: (s.waiting, s.decision), state, waiting)
    gn.save(tmp_path / "run", (model, state))
    again = gn.load(tmp_path / "run", mlp(1), anatomy_of(mlp(1)), loop)
    assert eqx.tree_equal((again.growing, again.state), (model, state))
    assert jax.tree.structure(again.state) == jax.tree.structure(state)
    with jax.numpy_dtype_promotion("standard"):
        pairs = [loop.resize(model, state), loop.resize(again.growing, again.state)]
    assert eqx.tree_equal(*pairs)
    assert int(pairs[1][0].open["layers[0]"].sum()) == (3 if own else 9)


DEEP = eqx.nn.MLP(4, 2, 3, 2, key=jr.key(0))
OTHERS = [
    (
        {"optimizer": optax.adamw(1e-2)},
        "its optimizer is ScaleByAdamState, EmptyState, here .*State, EmptyState, Emp",
    ),
    (
        {"optimizer": optax.sgd(0.1)},
        "the file has 'opt_state.0..count', which the optimizer at hand lacks",
    ),
    (
        {"optimizer": optax.adam(optax.linear_schedule(0.1, 0.0, 9))},
        "the optimizer at hand has 'opt_state.1..count', which the file lacks",
    ),
    (
        {"net": mlp(inputs=5)},
        r"'net.layers\[0\].weight' is float32\[16, 4\] there, and",
    ),
    ({"net": mlp(use_bias=False)}, r"the width 'layers\[0\]' has members \['layers"),
    (
        {"net": mlp(dtype=jnp.bfloat16)},
        r"is float32\[16, 4\] there, and bfloat16\[16, 4\]",
    ),
    ({"policy": cases.Ages(every=7)}, "its `every` is 5, here 7"),
    ({"policy": gn.NoGrowth()}, "its policy is Ages, here NoGrowth"),
    ({"net": DEEP}, r"in which 'layers\[0\]' may change; here it is 'layers\[0\]', 'l"),
    ({"net": DEEP, "widths": "layers[0]"}, r"at hand has 'net.layers\[2\].weight', wh"),
]


@pytest.mark.parametrize("options, text", OTHERS)
def test_what_is_not_as_it_was_is_refused(options, text, path):
    given = dict(options)
    net = given.pop("net", mlp())
    with pytest.raises(gn.CheckpointError, match=text) as caught:
        gn.load(path, net, anatomy_of(net), grower(**given))
    assert str(path) in str(caught.value)


X2 = cases.X.at[3].add(1.0)
FITS = [
    ({"key": jr.key(2)}, r"key is \[0, 1\], here \[0, 2\]; give the key of the run"),
    ({"data": (X2, cases.Y)}, "had other data: they were .*crc32.*same batch_size"),
    ({"batch_size": 12}, "had other data"),
    ({"steps": 10}, "is at step 15, beyond steps=10"),
    ({"data": cases.BATCHES, "batch_size": None}, "had other data"),
]


@pytest.mark.parametrize("options, text", FITS)
def test_a_run_goes_on_with_the_same_arguments_only(options, text, path):
    with pytest.raises(ValueError, match=text):
        cases.fit("mlp", resume=path, **options)


def test_batches_in_another_order_are_noticed(tmp_path):
    kept = gn.Checkpoints(tmp_path)
    cases.fit("nnx", steps=10, checkpoint=kept)
    text = "batch 10 isn't the one that it had; give the same data in the same order"
    with pytest.raises(gn.CheckpointError, match=text):
        cases.fit("nnx", checkpoint=kept, data=cases.BATCHES[::-1])


def test_numbers_of_the_policy_and_of_the_network_are_the_same(tmp_path):
    class Dropped(eqx.Module):
        mlp: eqx.nn.MLP
        drop: eqx.nn.Dropout

        def __call__(self, x):
            return self.drop(self.mlp(x), inference=True)

    def load(p, target):
        net = Dropped(mlp(), eqx.nn.Dropout(p))
        policy = GradientSizeWeight(target)
        anatomy = gn.trace(net, jnp.ones(4))
        loop = grower(policy=policy)
        if not (tmp_path / "run").exists():
            gn.save(tmp_path / "run", loop.init(net, anatomy, key=jr.key(0)))
        return gn.load(tmp_path / "run", net, anatomy, loop)

    load(0.5, 9)
    with pytest.raises(gn.CheckpointError, match=r"net.drop.p is 0.5, here 0.25"):
        load(0.25, 9)
    with pytest.raises(gn.CheckpointError, match="policy.target is 9, here 12"):
        load(0.5, 12)
    with pytest.raises(gn.CheckpointError, match="policy.target is 9, here none"):
        load(0.5, jnp.asarray(9.0))


def test_other_bits_are_not_cast(tmp_path):
    with jax.enable_x64(True):
        net = mlp(dtype=jnp.float64)
        pair = grower().init(net, anatomy_of(net), key=jr.key(0))
        gn.save(tmp_path / "run", pair)
    text = "float64.* there, and float32.*jax_enable_x64 as it was"
    with pytest.raises(gn.CheckpointError, match=text):
        gn.load_net(tmp_path / "run", mlp(), anatomy_of(mlp()))


@pytest.mark.usefixtures("unchecked")
def test_only_runs_are_saved(tmp_path):
    with pytest.raises(ValueError, match="a dict can't be saved; give a run"):
        gn.save(tmp_path / "run", {})  # pyright: ignore[reportArgumentType]


# --- files


def test_foreign_and_newer_files_are_refused(path, tmp_path, monkeypatch):
    other = tmp_path / "other"
    for content, found in ((b"", "it is empty"), (b"PK\3\4 a zip", "it begins with")):
        other.write_bytes(content)
        with pytest.raises(gn.CheckpointError, match=f"isn't a checkpoint.*{found}"):
            gn.load_net(other, mlp(), anatomy_of(mlp()))
    _container.write_container(other, {"x": np.ones(3)}, {"step": 1})
    with pytest.raises(gn.CheckpointError, match="its record has no right 'written'"):
        gn.load_net(other, mlp(), anatomy_of(mlp()))
    with pytest.raises(gn.CheckpointError, match="is a folder without checkpoints"):
        gn.load_net(tmp_path, mlp(), anatomy_of(mlp()))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gn.load_net(tmp_path / "nowhere", mlp(), anatomy_of(mlp()))
    with monkeypatch.context() as patch:
        patch.setattr(_container, "VERSION", 2)
        Saved.read(path).write(other)
    text = "has format 2; this growthnet reads formats up to 1: update growthnet"
    with pytest.raises(gn.CheckpointError, match=text):
        gn.load_net(other, mlp(), anatomy_of(mlp()))


def test_the_newest_whole_checkpoint_is_taken(path, tmp_path):
    kept = gn.Checkpoints(tmp_path, keep=2)
    saved = Saved.read(path)
    assert kept.newest() is None
    at = lambda step: dataclasses.replace(saved, record={**saved.record, "step": step})
    for step in (10, 20, 30):
        kept.write(at(step))
    assert [int(p.stem[5:]) for p in kept.paths()] == [20, 30]
    kept.paths()[1].write_bytes(kept.paths()[1].read_bytes()[:-9])
    with pytest.warns(UserWarning, match="cut short.*going on from .*step-0000000020"):
        newest = kept.newest()
    assert newest is not None and newest.step == 20
    (tmp_path / ".step-0000000025.safetensors.77.part").write_bytes(b"half")
    kept.write(at(25))
    assert [int(p.stem[5:]) for p in kept.paths()] == [20, 25], "30 wasn't whole"
    assert len(list(tmp_path.iterdir())) == 2, "nor is what a killed process left"
    for each in kept.paths():
        each.write_bytes(b"")
    with pytest.raises(gn.CheckpointError, match="none of the checkpoints in .* whole"):
        kept.newest()


# --- without the model's code


def test_inspect_tells_what_is_saved(run, path, tmp_path, capsys):
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "a run at step 15" in printed and "policy Ages" in printed
    assert "layers[0].weight:0, layers[0].bias:0, layers[1].weight:1*" in printed
    assert "layers[1].weight  float32  [2, 16]" in printed
    for event in run.history.events:
        assert f"{event.old} -> {event.new}" in printed
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == run.sizes
    folder = tmp_path / "kept"
    gn.Checkpoints(folder).write(Saved.read(path))
    assert main(["inspect", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("step-0000000015.safetensors  step 15")
    code = "import sys, growthnet.__main__ as m; m.main(['inspect', sys.argv[1]]); "
    code += "assert 'growthnet_policies' not in sys.modules; print('alone')"
    alone = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True
    )
    assert alone.stdout == printed + "alone\n", alone.stderr


def test_inspect_says_what_is_wrong(path, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.write_bytes(path.read_bytes()[:-5])
    for given, text in ((bad, "cut short"), (tmp_path / "no", "No such file")):
        assert main(["inspect", str(given)]) == 1
        assert text in capsys.readouterr().err


# --- documentation


def test_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text("utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    trackers = {name: mock.MagicMock() for name in ("tensorboardX", "wandb", "mlflow")}
    scope: dict[str, Any] = {**trackers}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "docs/checkpoints.md", "exec"), scope)
    assert eqx.tree_equal(scope["net"], scope["run"].net)
    ticks = scope["run"].history.ticks
    assert [tick.step for tick in ticks] == list(range(10, 1001, 10))
    assert int(scope["state"].step) == 1000 and int(scope["kept"].state.step) == 50
    # What the trackers are told.
    run = trackers["wandb"].init().__enter__()
    writer = trackers["tensorboardX"].SummaryWriter().__enter__()
    steps = [call.kwargs["step"] for call in run.log.mock_calls]
    assert steps == list(range(10, 101, 10))
    told = run.log.mock_calls[-1].args[0]
    assert sorted(told) == ["loss", "params", "size/layers[0]"]
    assert set(told.items()) <= {call.args[:2] for call in writer.add_scalar.mock_calls}
    metrics, step = trackers["mlflow"].log_metrics.mock_calls[-1].args
    assert sorted(metrics) == ["loss", "params", "size/layers.0."] and step == 100
