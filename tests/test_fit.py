"""`fit`: whole runs, their records, their errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .helpers import lenient


X = jr.normal(jr.key(0), (64, 4))
Y = jnp.sin(X.sum(-1, keepdims=True))
POLICY = GradientSizeWeight(target=9, rate=0.1, learning_rate=0.05, every=5)


def loss(net, batch, key):
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def predict(net, batch):
    return jax.vmap(net)(batch[0])


def mlp(width=4):
    return eqx.nn.MLP(4, 1, width, 1, activation=jnp.tanh, key=jr.key(0))


def fit(net=None, data=(X, Y), **options):
    given = {
        "optimizer": lenient(optax.adam(1e-2)),
        "policy": POLICY,
        "steps": 150,
        "key": jr.key(1),
        **options,
    }
    return gn.fit(mlp() if net is None else net, given.pop("loss", loss), data, **given)


def test_a_run_grows_to_its_target_and_says_so():
    given = {"batch_size": 16, "steps": 300, "buckets": gn.Buckets()}
    run = fit(predict=predict, valid=(X, Y), **given)
    assert run.sizes == {"layers[0]": 9}
    assert run.net.layers[0].out_features == run.net.width_size == 9
    again = gn.trace(run.net, (X, Y), call=predict)
    assert run.anatomy.leaves == again.leaves
    assert run.anatomy.widths == again.widths
    assert [e.new - e.old for e in run.history.events] == [1] * 5
    for event in run.history.events:
        assert event.output_change is not None and event.output_change < 1e-6
        assert abs(event.loss_after - event.loss_before) < 1e-6
        assert event.kind == ("resized" if event.compiles else "opened")
    first, last = run.history.ticks[0], run.history.ticks[-1]
    assert last.loss < first.loss
    assert last.valid_loss is not None and first.valid_loss is not None
    assert last.valid_loss < first.valid_loss
    assert last.traces == 2, "one trace for each of the capacities 8 and 16"
    assert last.params == run.anatomy.params()
    assert repr(run) == "Run(step=300, layers[0] 9)"


def test_the_same_key_gives_the_same_run():
    runs = [fit(batch_size=16), fit(batch_size=16, callback=lambda record: None)]
    assert eqx.tree_equal(runs[0].net, runs[1].net)
    assert not eqx.tree_equal(runs[0].net, fit(batch_size=16, key=jr.key(2)).net)


def test_every_decision_can_be_a_real_resize():
    run = fit(buckets=gn.Buckets(ratio=1), predict=predict, steps=300)
    assert run.sizes == {"layers[0]": 9}
    assert all(e.kind == "resized" and e.compiles == 1 for e in run.history.events)
    shrinks = fit(mlp(9), policy=shrinking(), buckets=gn.Buckets(ratio=1), steps=300)
    assert [e.new - e.old for e in shrinks.history.events] == [-1] * 5
    roomy = fit(mlp(9), policy=shrinking(), steps=300)
    assert roomy.sizes == shrinks.sizes == {"layers[0]": 4}
    assert eqx.tree_equal(roomy.net, shrinks.net, rtol=1e-3, atol=1e-4)


def shrinking():
    return GradientSizeWeight(target=3, rate=0.1, learning_rate=0.1, every=5)


def test_iterables_of_batches_are_data():
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]
    run = fit(data=batches, steps=103)
    assert int(run.state.step) == 103
    assert len(run.history.ticks) == 21
    arrays = {"x": X, "y": Y}
    run = fit(
        data=arrays, steps=20, loss=lambda net, b, key: loss(net, (b["x"], b["y"]), key)
    )
    assert int(run.state.step) == 20


def test_arrays_are_sampled_without_replacement():
    seen = []

    def spy(net, batch, key):
        del key
        rows = batch[0][:, 0]
        seen.append(None)
        jax.debug.callback(lambda r: order.append(np.asarray(r)), rows)
        return jnp.sum(net * jnp.mean(batch[1]))

    order: list = []
    index = jnp.arange(12.0)[:, None]
    gn.fit(
        jnp.ones(()),
        spy,
        (index, index),
        optimizer=optax.sgd(0.0),
        policy=gn.NoGrowth(every=4),
        steps=9,
        key=jr.key(0),
        batch_size=4,
        predict=lambda net, batch: net,
    )
    jax.effects_barrier()
    # Three epochs of three batches; each tick also measures nothing else.
    rows = np.concatenate(order).astype(int)
    assert len(rows) == 36
    for epoch in rows.reshape(3, 12):
        assert sorted(epoch) == list(range(12))
    assert (rows[:12] != rows[12:24]).any()


class Counting(eqx.Module):
    linear: eqx.nn.MLP
    seen: jax.Array
    mean: jax.Array

    def __call__(self, x):
        return self.linear(x)


def test_what_is_not_trained_comes_back_through_aux():
    net = Counting(mlp(), jnp.zeros((), jnp.int32), jnp.zeros(4))

    def counted(net, batch, key):
        value = loss(net, batch, key)
        moved = 0.9 * net.mean + 0.1 * batch[0].mean(0)
        new = eqx.tree_at(lambda n: (n.seen, n.mean), net, (net.seen + 1, moved))
        return value, gn.Aux(net=new, metrics={"seen": new.seen, "mean": moved})

    frozen = jax.tree.map(eqx.is_inexact_array, net)
    frozen = eqx.tree_at(lambda n: n.mean, frozen, False)
    run = fit(
        net, loss=counted, steps=60, trainable=frozen, predict=predict, batch_size=8
    )
    assert int(run.net.seen) == 60
    assert float(jnp.abs(run.net.mean).max()) > 0
    metrics = run.history.ticks[0].metrics
    assert metrics["seen"] == 3.0, "mean of 1..5 over the tick"
    assert len(metrics["mean"]) == 4, "an array comes as a list"
    assert run.sizes["linear.layers[0]"] > 4


def test_records_are_written_while_training(tmp_path):
    seen = []
    run = fit(log=tmp_path / "run.jsonl", callback=seen.append)
    read = gn.History.from_jsonl(tmp_path / "run.jsonl")
    assert read.events == run.history.events
    assert [t.step for t in read.ticks] == [t.step for t in run.history.ticks]
    assert [r["step"] for r in seen] == list(range(5, 151, 5))
    assert seen[-1]["sizes"] == run.history.ticks[-1].sizes


def test_any_tree_grows():
    net = [(X[:4, :3], X[0, :3]), (X[4:7, :1], X[0, :1])]

    def call(net, x):
        for w, b in net[:-1]:
            x = jnp.tanh(x @ w + b[None])
        return x @ net[-1][0] + net[-1][1][None]

    run = fit(
        net,
        loss=lambda n, batch, key: jnp.mean((call(n, batch[0]) - batch[1]) ** 2),
        predict=lambda n, batch: call(n, batch[0]),
        steps=60,
    )
    assert run.net[0][0].shape[1] == run.net[1][0].shape[0] > 3


BAD = [
    ({"steps": 0}, "steps=0; a whole number from 1 up"),
    ({"key": 3}, "a PRNG key such as"),
    ({"batch_size": 65}, "from 1 to 64, or None"),
    ({"data": (X, Y[:3])}, "one common first axis"),
    ({"data": 7}, "give a tuple or dict of arrays, or an iterable of batches"),
    ({"widths": "conv*"}, r"unknown width 'conv\*'"),
    ({"loss": lambda n, b, k: (loss(n, b, k), 3)}, "the loss returned int beside"),
    ({"data": iter([(X, Y)] * 3), "steps": 9}, "the data ended after 3 batches"),
    ({"data": [(X, Y), (X[:3], Y[:3])]}, r"batch 2 has shapes .* the first had"),
    ({"loss": lambda n, b, k: b[1]}, r"an array of shape \(64, 1\); it returns one"),
    ({"policy": gn.NoGrowth(every=0)}, "NoGrowth.every=0; a whole number from 1 up"),
    ({"trainable": {"w": 1}}, "trainable has no booleans"),
    ({"capacity": {"layers[0]": 2}}, "capacity 2 for .* is below its size 4"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options, text", BAD)
def test_bad_arguments_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        fit(**options)


@pytest.mark.usefixtures("unchecked")
def test_bad_buckets_are_refused():
    with pytest.raises(ValueError, match="a ratio is at least 1"):
        gn.Buckets(ratio=0.5)
    with pytest.raises(ValueError, match="a whole number from 1 up"):
        gn.Buckets(multiple_of=0)


def test_buckets_are_a_ladder():
    assert [gn.Buckets().capacity(n) for n in (1, 2, 3, 5, 9)] == [1, 2, 4, 8, 16]
    assert [gn.Buckets(1.5, 8).capacity(n) for n in (1, 9, 17, 25)] == [8, 16, 24, 40]
    assert [gn.Buckets(1).capacity(n) for n in (1, 7, 12)] == [1, 7, 12]
    small = gn.Buckets(smallest=6)
    assert [small.capacity(n) for n in (1, 6, 7, 13)] == [6, 6, 12, 24]
    assert [small.lowered(24, n) for n in (9, 8, 4, 1)] == [24, 12, 6, 6]
    with pytest.raises(ValueError, match=r"Buckets\(smallest=0\): a whole number"):
        gn.Buckets(smallest=0)
    assert [gn.Buckets().lowered(16, n) for n in (16, 6, 5, 1)] == [16, 16, 8, 2]
    assert gn.Buckets().lowered(16, 1, least=6) == 6


def test_room_that_was_asked_for_is_kept():
    """From 2 to 20 units in the one program of 32, which few units don't give back."""
    policy = GradientSizeWeight(target=20, rate=0.1, learning_rate=0.5, every=5)
    traces = {}
    for capacity in (None, 32):
        given = {"policy": policy, "buckets": gn.Buckets(), "capacity": capacity}
        run = fit(mlp(2), **given)
        assert run.sizes == {"layers[0]": 20}
        traces[capacity] = run.history.ticks[-1].traces
    assert traces == {None: 4, 32: 1}
