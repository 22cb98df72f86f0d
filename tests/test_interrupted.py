"""What ends a run before its time, and what is left of it then."""

import errno
import functools as ft
import re
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._checkpoints import atomic as _atomic

from .checkpoint_cases import content
from .helpers import lenient


X = jr.normal(jr.key(0), (24, 4))
Y = jnp.sin(X @ jnp.ones((4, 2)))


def loss(net, batch, key):
    x, y = batch
    noisy = x + 0.01 * jr.normal(key, x.shape)
    return jnp.mean((jnp.tanh(noisy @ net["w"]) @ net["v"] - y) ** 2)


class Births(gn.AbstractPolicy):
    """A unit at every turn; at step `poison`, one whose weights are infinite."""

    poison: int = 0
    every: int = 5
    needs: frozenset[str] = frozenset({"network"})
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        changes = {}
        for name, mask in evidence.open.items():
            bad = jnp.where(evidence.step == self.poison, jnp.inf, 0.0)
            values = {
                path: jnp.full_like(leaf, bad)
                for path, leaf in evidence.network.items()
                if self.poison
            }
            changes[name] = gn.Change(mask, 1, values=values or None)
        return gn.Decision(changes), trainable, memory, {}


def batches(**bad: Any):
    """An endless iterator, the same every time; `bad` is what happens at a batch."""
    for i in range(10**6):
        match bad.get(f"at_{i}"):
            case "ends":
                return
            case "raises":
                raise OSError("the drive is gone")
            case "short":
                yield X[:3], Y[:3]
            case "double":
                yield np.asarray(X[:8], float), np.asarray(Y[:8])
            case "nan":
                yield X[:8] * jnp.nan, Y[:8]
        rows = (np.arange(8) + 8 * i) % 24
        yield X[rows], Y[rows]


def fit(**options: Any) -> gn.Run:
    net = {"w": 0.5 * jr.normal(jr.key(1), (4, 3)), "v": jr.normal(jr.key(2), (3, 2))}
    given = {
        "data": (X, Y),
        "optimizer": lenient(optax.adam(1e-2)),
        "policy": gn.NoGrowth(every=5),
        "steps": 60,
        "key": jr.key(3),
        "buckets": gn.Buckets(),
        **options,
    }
    return gn.fit(net, loss, given.pop("data"), **given)


@ft.cache
def whole(what: str) -> dict[str, Any]:
    """What comes of a run that nothing happens to."""
    match what:
        case "arrays":
            return content(fit())
        case "batches":
            return content(fit(data=batches()))
    raise ValueError(what)


slowly = ft.partial(pytest.param, marks=pytest.mark.slow)


# --- data that fails


FAILURES = [
    ("ends", ValueError, "the data ended after 42 batches"),
    ("raises", OSError, "the drive is gone"),
    ("short", ValueError, "batch 43 has shapes .*3, 4.*, the first had .*8, 4"),
    slowly("double", ValueError, "batch 43 has shapes .*float64.*, .* had .*float32"),
]


@pytest.mark.parametrize("how, kind, text", FAILURES)
def test_data_that_fails_leaves_the_run_before(how, kind, text, tmp_path):
    with pytest.raises(kind, match=text) as caught:
        fit(data=batches(at_42=how), checkpoint=tmp_path)
    run = vars(caught.value)["run"]
    assert int(run.state.step) == 40, "whole ticks of the batches that there were"
    assert "the run as of step 40 is kept" in "".join(caught.value.__notes__)
    if how == "raises":
        assert "the data raised this for batch 43" in caught.value.__notes__
    assert content(fit(data=batches(), resume=run)) == whole("batches")
    assert content(fit(data=batches(), checkpoint=tmp_path)) == whole("batches")


# --- interruptions


def test_an_interrupted_run_goes_on(tmp_path):
    log = tmp_path / "log"

    def interrupt(record):
        if record["step"] == 25:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough") as caught:
        fit(chunk=1, callback=interrupt, checkpoint=tmp_path, log=log)
    assert content(fit(resume=vars(caught.value)["run"])) == whole("arrays")
    kept = gn.Checkpoints(tmp_path)
    assert [path.stem for path in kept.paths()] == ["step-0000000025"]
    run = fit(checkpoint=kept, log=log)
    assert content(run) == whole("arrays")
    losses = [
        [t.loss for t in h.ticks] for h in (run.history, gn.History.from_jsonl(log))
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_an_error_at_the_start_leaves_nothing(tmp_path):
    def fails(updates, state, params=None):
        raise RuntimeError("wrong code")

    broken = optax.GradientTransformation(optax.sgd(0.1).init, fails)
    with pytest.raises(RuntimeError, match="wrong code") as caught:
        fit(optimizer=broken, checkpoint=tmp_path)
    assert int(vars(caught.value)["run"].state.step) == 0
    assert not list(tmp_path.iterdir())


# --- disks


class Full:
    """A file on a disk with so much room."""

    def __init__(self, file: Any, room: list[int]):
        self.file, self.room = file, room

    def write(self, data: Any) -> None:
        self.room[0] -= len(data)
        if self.room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(data)

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def fails(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["write", slowly("fsync"), slowly("replace")])
def test_a_full_disk_loses_nothing(where, tmp_path, monkeypatch):
    kept = gn.Checkpoints(tmp_path, every=20)
    fit(checkpoint=kept, steps=20)
    before = kept.paths()[0].read_bytes()
    with monkeypatch.context() as patch:
        if where == "write":
            room = [len(before) // 2]
            opened = lambda path, mode: Full(open(path, mode), room)
            patch.setattr(_atomic, "open", opened, raising=False)
        else:
            patch.setattr(_atomic.os, where, fails)
        with pytest.raises(
            OSError, match="No space left on device: .*step-0"
        ) as caught:
            fit(checkpoint=kept)
    assert caught.value.errno == errno.ENOSPC
    assert "it couldn't be saved" in caught.value.__notes__[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000000020.safetensors"]
    assert kept.paths()[0].read_bytes() == before
    assert int(vars(caught.value)["run"].state.step) == 40, (
        "what had been done is there"
    )
    assert content(fit(resume=vars(caught.value)["run"])) == whole("arrays")
    assert content(fit(checkpoint=kept)) == whole("arrays")


def test_a_failed_save_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "run"
    run = fit(steps=5)
    gn.save(path, run)
    before = path.read_bytes()
    monkeypatch.setattr(_atomic.os, "fsync", fails)
    with pytest.raises(OSError, match="the file that was there is intact"):
        gn.save(path, run)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- losses that are no numbers


def test_a_loss_that_is_no_number_stops_before_what_did_it(tmp_path):
    policy = Births(poison=25)
    text = (
        "the loss is nan in steps 26 to 30; the last change before was at step 25: "
        "w 7 -> 8 (opened)"
    )
    with pytest.raises(FloatingPointError, match=re.escape(text)) as caught:
        fit(policy=policy, checkpoint=gn.Checkpoints(tmp_path, every=5))
    run = vars(caught.value)["run"]
    assert int(run.state.step) == 20 and run.sizes == {"w": 7}
    assert run.history.ticks[-1].step == 20
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.net))
    assert gn.Checkpoints(tmp_path).paths()[-1].stem == "step-0000000020"
    assert content(run) == content(fit(policy=policy, steps=20))


def test_the_last_step_is_looked_at_too():
    rate = lambda count: jnp.where(count == 19, jnp.inf, 0.01)
    given = {"optimizer": lenient(optax.sgd(rate)), "steps": 20}
    text = "weights aren't finite after step 20; no size had changed before"
    with pytest.raises(FloatingPointError, match=text) as caught:
        fit(**given)
    assert int(vars(caught.value)["run"].state.step) == 15
    assert not np.isfinite(fit(on_nan="ignore", **given).net["w"]).all()


def test_a_loss_that_is_no_number_can_be_ignored():
    run = fit(data=batches(at_20="nan"), on_nan="ignore")
    assert np.isnan(run.history.ticks[-1].loss)


@pytest.mark.parametrize("chunk", [1, slowly(None)])
def test_a_run_goes_back_and_on(chunk, tmp_path):
    log, told = tmp_path / "log", []
    with pytest.warns(
        UserWarning, match="nan in steps 21 to 25; no size .* from step 15"
    ):
        run = fit(
            data=batches(at_22="nan"),
            on_nan="rollback",
            chunk=chunk,
            log=log,
            callback=told.append,
        )
    assert int(run.state.step) == 60
    assert run.position is not None
    assert (run.position.rollbacks, run.position.served) == (1, 60 + 10)
    # As if the batches from the good step to the end of the bad tick weren't there,
    # and the key another from there on.
    losses = lambda run: [tick.loss for tick in run.history.ticks[:3]]
    assert losses(run) == losses(fit(data=batches(), steps=15))
    assert all(np.isfinite(t.loss) for t in run.history.ticks)
    assert gn.History.from_jsonl(log).ticks[-1].loss == run.history.ticks[-1].loss
    steps = [record["step"] for record in told]
    assert steps[-9:] == list(range(20, 61, 5)) and set(steps) == set(range(5, 61, 5))


def test_going_back_is_the_same_however_it_is_cut(tmp_path):
    kept = gn.Checkpoints(tmp_path, every=10, keep=None)
    given = {"on_nan": "rollback"}
    results = []
    for options in ({"chunk": 3}, {"checkpoint": kept}):
        with pytest.warns(UserWarning, match="Going on from step 15"):
            run = fit(data=batches(at_22="nan"), **given, **options)
        results.append(content(run))
    assert results[0] == results[1]
    assert [int(p.stem[5:]) for p in kept.paths()] == [10, 15, 20, 30, 40, 50, 60]
    for path in kept.paths()[1:3]:
        again = fit(data=batches(at_22="nan"), resume=path, **given)
        assert content(again) == results[0]


def test_what_fails_again_and_again_ends():
    with pytest.raises(FloatingPointError, match="nan in steps 1 to 5"):
        with pytest.warns(UserWarning, match="Going on from step 0"):
            fit(data=(X * jnp.nan, Y), on_nan="rollback")


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="on_nan='go'; 'stop', 'rollback' or 'ignore'"):
        fit(on_nan="go")
    with pytest.raises(ValueError, match=r"Checkpoints\(every=0\); a whole number"):
        gn.Checkpoints(tmp_path, every=0)
    with pytest.raises(ValueError, match="keep=True.*or None for all"):
        gn.Checkpoints(tmp_path, keep=True)
