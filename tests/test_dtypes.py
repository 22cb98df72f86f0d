"""Whatever dtypes a network has, growing leaves them alone: every leaf of the network,
of the optimizer's state and of the policy's keeps its own, under strict promotion."""

import dataclasses
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._evidence.evidence import KINDS
from growthnet._paths import array_leaves
from growthnet_policies import (
    Condensation,
    Firefly,
    GradientSizeWeight,
    GradMax,
    NestedSize,
    Net2Net,
    North,
    Pruning,
    Recycling,
    ResidualFitting,
    SENN,
    Splitting,
    Tiny,
    VarianceTransfer,
)

from .helpers import lenient


EVERY = 3
POLICIES = {
    "absorb": Pruning(ratio=0.5, start=3, every=EVERY, removal="absorb"),
    "condensation": Condensation(0.3, activation="odd", every=EVERY),
    "firefly": Firefly(1, every=EVERY, new=2, steps=2),
    "gradmax": GradMax(1, every=EVERY, batches=2),
    "net2net": Net2Net(2, every=EVERY),
    "nested size": NestedSize(until=8, every=EVERY, maximum=16),
    "north": North(1, every=EVERY, tried=4, gamma=0.5),
    "recycling": Recycling(rate=0.2, maturity=1, every=EVERY, removal="absorb"),
    "refit": Pruning("fisher", ratio=0.5, start=3, every=EVERY, removal="refit"),
    "residual": ResidualFitting(1, every=EVERY, level=1.0, steps=3, until=16),
    "senn": SENN(2, every=EVERY, ratio=1.0, gain=0.0, proposals=4, steps=1),
    "size weight": GradientSizeWeight(6, 0.5, learning_rate=0.5, every=EVERY),
    "splitting": Splitting(1, every=EVERY, products=4),
    "tiny": Tiny(1, every=EVERY),
    "variance transfer": VarianceTransfer(2, every=EVERY),
}
OPTIMIZERS = {
    "adagrad": optax.adagrad(0.01),
    # In float16 the usual epsilon of 1e-8 is 0, and 0 / 0 no step.
    "adam": optax.adam(0.01, eps=1e-4),
    "by age": optax.chain(optax.adam(0.01, eps=1e-4), gn.debias_by_age()),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01, 0.9)),
    "half moments": optax.adam(0.01, eps=1e-4, mu_dtype=jnp.bfloat16),
}
HALVES = ("bfloat16", "float16")


class Net(eqx.Module):
    """Layers, each of which casts what it reads."""

    layers: list[Any]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x.astype(layer.weight.dtype)))
        return self.layers[-1](x.reshape(-1).astype(self.layers[-1].weight.dtype))


def network(kind, dtype):
    """A perceptron or a convolution, all of one dtype, or layers of three."""
    first, second, third = jr.split(jr.key(0), 3)
    dtypes = [dtype] * 3 if dtype != "mixed" else ["bfloat16", "float32", "float16"]
    a, b, c = map(jnp.dtype, dtypes)
    linear, convolution = eqx.nn.Linear, eqx.nn.Conv1d
    if kind == "perceptron":
        layers = [
            linear(4, 3, key=first, dtype=a),
            linear(3, 4, key=second, dtype=b),
            linear(4, 1, key=third, dtype=c),
        ]
    else:
        layers = [
            convolution(1, 2, 3, padding=1, key=first, dtype=a),
            convolution(2, 3, 3, stride=2, padding=1, key=second, dtype=b),
            linear(6, 1, key=third, dtype=c),
        ]
    return Net(layers)


def loss(net, batch, key):
    del key
    x, y = batch
    x = x if isinstance(net.layers[0], eqx.nn.Linear) else x[:, None]
    return jnp.mean((jax.vmap(net)(x).astype(y.dtype) - y) ** 2)


def examples():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (72, 4)).astype(np.float32)
    y = np.sin(3 * x[:, :1]) * x[:, 1:2]
    return (x[:48], y[:48]), (x[48:], y[48:])


def types(tree):
    return {path: str(leaf.dtype) for path, leaf in array_leaves(tree).items()}


def dtypes_stay(kind, dtype, policy, optimizer):
    """After three decisions, in the program and where capacity changes, all is of the
    type that it was."""
    net, (data, valid) = network(kind, dtype), examples()
    optimizer = lenient(OPTIMIZERS[optimizer])
    run = gn.fit(
        net,
        loss,
        data,
        optimizer=optimizer,
        policy=POLICIES[policy],
        steps=3 * EVERY,
        batch_size=16,
        key=jr.key(3),
        valid=valid,
        buckets=gn.Buckets(smallest=4),
    )
    assert types(run.net) == types(net)
    params = eqx.filter(run.net, eqx.is_inexact_array)
    assert types(run.state.opt_state) == types(jax.eval_shape(optimizer.init, params))
    again = POLICIES[policy].init(run.growing.anatomy, key=jr.key(0))
    assert types((run.growing.trainable, run.state.memory)) == types(again)
    assert all(np.isfinite(tick.loss) for tick in run.history.ticks)
    return run


SAMPLE = [
    ("perceptron", "bfloat16", "gradmax", "by age"),
    ("perceptron", "mixed", "refit", "half moments"),
    ("convolution", "float16", "recycling", "clipped"),
    ("perceptron", "float64", "absorb", "adam"),
]


@pytest.mark.parametrize("kind, dtype, policy, optimizer", SAMPLE)
def test_dtypes_stay(kind, dtype, policy, optimizer):
    with jax.enable_x64(dtype == "float64"):
        dtypes_stay(kind, dtype, policy, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@hypothesis.settings(max_examples=6)
@hypothesis.given(data=st.data())
def test_dtypes_stay_at_length(data, policy, x64):
    wider = ("float64",) if x64 else ()
    # TINY refuses consumers that aren't dense.
    kinds = ["perceptron"] if policy == "tiny" else ["perceptron", "convolution"]
    with jax.enable_x64(x64):
        dtypes_stay(
            data.draw(st.sampled_from(kinds)),
            data.draw(st.sampled_from([*HALVES, "float32", "mixed", *wider])),
            policy,
            data.draw(st.sampled_from(sorted(OPTIMIZERS))),
        )
    # Every example compiles anew, and XLA crashes after some thousand programs.
    jax.clear_caches()


# --- what policies are given


class Seeing(gn.AbstractPolicy):
    """Notes the types of all evidence."""

    seen: dict[str, set[str]] = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    every: int = eqx.field(static=True, default=2)
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        def note(kind, tree):
            floats = [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]
            self.seen.setdefault(kind, set()).update(str(x.dtype) for x in floats)

        for field in dataclasses.fields(evidence):
            if field.name not in ("valid", "batches"):
                note(field.name, getattr(evidence, field.name))
        if "evaluate" in self.needs:
            note("evaluate", evidence.evaluate(gn.Decision()))
            note("valid_at", evidence.valid_at({}))
            note("hessian_vector", evidence.hessian_vector(evidence.gradients))
            batch = jax.tree.map(lambda b: b[0], evidence.batches(1))
            note("on", evidence.on(batch).loss)
            candidates = evidence.candidates["layers[0]"]
            rows = candidates.drawn(2, key)
            said = candidates.activations(rows), candidates.loss(rows)
            note("candidates", (rows, *said))
            said = lambda e: e.units["layers[0]"].activations
            note("average", evidence.average(said, 1))
        return gn.Decision(), trainable, memory, {}


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_evidence_has_one_precision(dtype):
    policy = Seeing(seen={}, needs=frozenset(KINDS))
    net, (data, valid) = network("perceptron", dtype), examples()
    half = lambda net, batch, key: loss(net, batch, key).astype(jnp.bfloat16)
    given: Any = dict(optimizer=lenient(optax.sgd(0.1)), steps=2, key=jr.key(0))
    gn.fit(net, half, data, policy=policy, valid=valid, batch_size=16, **given)
    fields = {f.name for f in dataclasses.fields(gn.Evidence)}
    told = {kind for kind, found in policy.seen.items() if found}
    assert told == fields - {"step", "open", "anatomy", "valid", "batches"}
    assert set().union(*policy.seen.values()) == {"float32"}


def test_evidence_in_your_own_loop_has_it_too():
    needs = frozenset({"loss", "network", "gradients"})
    policy = Seeing(seen={}, needs=needs)
    net, (data, _) = network("perceptron", "bfloat16"), examples()
    grower = gn.Grower(policy, optax.sgd(0.1))
    anatomy = gn.trace(net, jnp.zeros(4, jnp.bfloat16))
    growing, state = grower.init(net, anatomy, key=jr.key(0))
    value = lambda net: loss(net, data, None).astype(jnp.bfloat16)
    grads = eqx.filter_grad(grower.loss(value, state))(growing)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):
            growing, state = grower.step(growing, grads, state, loss=value(net))
    assert {kind for kind, found in policy.seen.items() if found} == needs
    assert set().union(*policy.seen.values()) == {"float32"}
    assert set(types(growing.net).values()) == {"bfloat16"}


def test_half_precision_evidence_is_caught(monkeypatch):
    half = lambda net: jnp.dtype("bfloat16")
    monkeypatch.setattr("growthnet._evidence.look.wide_type", half)
    with pytest.raises(NotImplementedError, match="bfloat16"):
        dtypes_stay("perceptron", "bfloat16", "gradmax", "adam")
