"""Chunks: what a run is doesn't depend on how it is cut into calls of a program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .helpers import Grow, lenient


X = jr.normal(jr.key(0), (48, 3))
Y = jnp.sin(X.sum(-1, keepdims=True))


def loss(net, batch, key):
    x, y = batch
    noisy = x + 0.01 * jr.normal(key, x.shape)
    return jnp.mean((jax.vmap(net)(noisy) - y) ** 2)


def fit(policy, width=3, depth=1, **options):
    net = eqx.nn.MLP(3, 1, width, depth, activation=jnp.tanh, key=jr.key(0))
    given = {"data": (X, Y), "steps": 83, "batch_size": 16, "buckets": gn.Buckets()}
    given |= options
    return gn.fit(
        net,
        loss,
        given.pop("data"),
        optimizer=lenient(optax.adamw(1e-2)),
        policy=policy,
        key=jr.key(1),
        **given,
    )


class Pulse(gn.AbstractPolicy):
    """Grows by two for a while, then closes one unit at a time."""

    until: int = eqx.field(static=True, default=40)
    every: int = eqx.field(static=True, default=5)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        mask = evidence.open["layers[0]"]
        grows = evidence.step <= self.until
        last = jnp.cumsum(mask) == mask.sum()
        keep = mask & (grows | ~last)
        change = gn.Change(keep, jnp.where(grows, 2, 0))
        return gn.Decision({"layers[0]": change}), trainable, memory, {}


class HostPulse(Pulse):
    """The same, decided in numpy."""

    on_host = True

    def step(self, trainable, memory, evidence, *, key):
        del key
        mask = np.array(evidence.open["layers[0]"])
        assert np.isfinite(float(evidence.loss)), "there are numbers to decide on"
        if evidence.step <= self.until:
            change = gn.Change(mask, 2)
        else:
            mask[np.flatnonzero(mask)[-1]] = False
            change = gn.Change(mask, 0)
        return gn.Decision({"layers[0]": change}), trainable, memory, {}


def records(run):
    ticks = [(t.step, t.loss, t.sizes) for t in run.history.ticks]
    events = [(e.step, e.old, e.new, e.kind, e.loss_after) for e in run.history.events]
    return ticks, events


BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)]


@pytest.mark.parametrize("data", [(X, Y), BATCHES], ids=["arrays", "iterable"])
def test_one_chunk_many_chunks_and_single_ticks_agree_bit_for_bit(data):
    size = 16 if data is not BATCHES else None
    runs = [fit(Pulse(), data=data, batch_size=size, chunk=n) for n in (1, 3, 50, None)]
    ticks, events = records(runs[0])
    assert [e[2] - e[1] for e in events] == [2] * 8 + [-1] * 8
    assert {e[3] for e in events} == {"opened", "resized"}
    assert [t[0] for t in ticks] == [*range(5, 81, 5), 83]
    for run in runs[1:]:
        assert records(run) == (ticks, events)
        assert eqx.tree_equal(run.net, runs[0].net)
        assert eqx.tree_equal(run.state.opt_state, runs[0].state.opt_state)
        assert run.history.ticks[-1].traces == runs[0].history.ticks[-1].traces


@pytest.mark.parametrize("ratio, until, steps", [(2, 40, 83), (1, 5, 13)])
def test_a_policy_on_the_host_gives_the_same_run(ratio, until, steps):
    options = {"steps": steps, "buckets": gn.Buckets(ratio)}
    traced, host = (fit(policy(until), **options) for policy in (Pulse, HostPulse))
    assert records(traced)[0] == records(host)[0]
    assert [e[:3] for e in records(traced)[1]] == [e[:3] for e in records(host)[1]]
    assert [e[3] for e in records(traced)[1]] == [e[3] for e in records(host)[1]]
    assert eqx.tree_equal(traced.net, host.net)


class Exchange(Pulse):
    """The first width grows beyond its room while the second falls far below."""

    def step(self, trainable, memory, evidence, *, key):
        del key
        first, second = (jnp.asarray(mask) for mask in evidence.open.values())
        now = evidence.step == 10
        change = gn.Change(first, jnp.where(now, 9, 0))
        keep = second & (~now | (jnp.cumsum(second) <= 2))
        widths = dict(zip(evidence.open, (change, gn.Change(keep, 0)), strict=True))
        return gn.Decision(widths), trainable, memory, {}


class HostExchange(Exchange):
    on_host = True


@pytest.mark.parametrize("ratio", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_room_is_made_and_given_back_at_one_step(ratio):
    buckets = gn.Buckets(ratio=ratio)
    runs = [
        fit(policy(), width=8, depth=2, steps=20, buckets=buckets)
        for policy in (Exchange, HostExchange)
    ]
    for run in runs:
        events = [(e.step, e.old, e.new, e.kind) for e in run.history.events]
        assert events == [(10, 8, 17, "resized"), (10, 8, 2, "resized")]
        assert [len(mask) for mask in run.growing.open.values()] == (
            [17, 2] if ratio == 1 else [32, 4]
        )
    assert records(runs[0])[0] == records(runs[1])[0]
    assert eqx.tree_equal(*(run.net for run in runs))


def test_a_program_is_called_seldom():
    calls = []
    run = fit(GradientSizeWeight(target=3, every=1), steps=400, callback=calls.append)
    moments = sorted({tick.seconds for tick in run.history.ticks})
    assert len(calls) == len(run.history.ticks) == 400
    stamps = {round(m, 2) for m in moments}
    assert len(stamps) < 60, "the ticks of one call are recorded together"


@pytest.mark.parametrize("policy", [Pulse(), HostPulse()], ids=["program", "host"])
def test_programs_can_be_rationed(policy):
    budget = 2 if not policy.on_host else 4
    message = f"max_traces={budget} is spent at step 15: .*layers\\[0\\] 8"
    with pytest.warns(UserWarning, match=message):
        run = fit(policy, max_traces=budget)
    assert run.history.ticks[-1].traces == budget
    assert [tick.sizes["layers[0]"] for tick in run.history.ticks][:5] == [
        5,
        7,
        8,
        8,
        8,
    ]
    assert run.sizes["layers[0]"] == 1, "closing goes on"


@pytest.mark.usefixtures("unchecked")
def test_chunks_in_64_bits():
    with jax.enable_x64(True):
        net = eqx.nn.MLP(2, 1, 3, 1, key=jr.key(0))
        x = jr.normal(jr.key(1), (8, 2))
        loss = lambda net, batch, key: jnp.mean(jax.vmap(net)(batch) ** 2)
        run = gn.fit(
            net, loss, x, optimizer=optax.sgd(0.1), policy=Grow(), steps=10,
            key=jr.key(2),
        )  # fmt: skip
        assert run.net.layers[0].weight.dtype == jnp.float64
        assert run.history.ticks[-1].step == 10


def test_bad_chunks_are_refused():
    with pytest.raises(ValueError, match="chunk=0; a whole number from 1 up"):
        fit(Pulse(), chunk=0)
