"""The size weight: its law, its events, its gates, its errors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .helpers import lenient


X = jr.normal(jr.key(0), (32, 3))
Y = jnp.sin(X[:, :1])


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def run(policy, width, steps, data=(X, Y), **options):
    net = eqx.nn.MLP(3, 1, width, 1, key=jr.key(0))
    return gn.fit(
        net,
        loss,
        data,
        optimizer=lenient(optax.adam(1e-3)),
        policy=policy,
        steps=steps,
        key=jr.key(1),
        **options,
    )


def test_size_follows_the_closed_form():
    """N(e) = target + (N0 - target) (1 - 2 eta rate)^e, while the data says nothing."""
    policy = GradientSizeWeight(
        12, 0.1, learning_rate=0.05, every=1, data_gradient=False
    )
    sizes = []

    def record(row):
        sizes.append(row["sizes"]["layers[0]"])

    result = run(policy, 2, 300, callback=record)
    steps = np.arange(1, 301)
    law = 12 - 10 * (1 - 2 * 0.05 * 0.1) ** steps
    # Every birth costs the fraction of a unit by which N ran over the edge.
    assert np.abs(np.asarray(sizes) - np.ceil(law)).max() <= 1
    final = float(result.growing.trainable["layers[0]"])
    assert abs(final - law[-1]) < 0.02 * law[-1]


@pytest.mark.parametrize("gate", ["sin2", "linear", "smoothstep"])
@pytest.mark.parametrize("start, target", [(3, 7), (9, 4)])
def test_every_event_leaves_the_function_as_it_was(gate, start, target):
    policy = GradientSizeWeight(target, 0.1, learning_rate=0.1, gate=gate, every=5)
    result = run(policy, start, 300, predict=lambda net, batch: jax.vmap(net)(batch[0]))
    # From above, N stays above the target, and so does the unit of its fraction.
    assert result.sizes["layers[0]"] == (target if start < target else target + 1)
    assert len(result.history.events) >= 4
    for event in result.history.events:
        assert event.output_change is not None and event.output_change < 1e-6


@pytest.mark.parametrize("level", [4.0, 5.0])
def test_a_size_that_hovers_changes_once(level):
    """10,000 decisions with N within 0.45 of a whole number: at most one event."""
    policy = GradientSizeWeight(8, every=1)
    mask = jnp.arange(8) < 4
    noise = 0.45 * jnp.sin(0.37 * jnp.arange(10_000.0))

    def step(carry, wobble):
        mask, size = carry
        evidence = gn.Evidence(jnp.zeros((), int), {"w": mask})
        trainable = {"w": level + wobble}
        decision, sizes, _, _ = policy.step(trainable, None, evidence, key=jr.key(0))
        change = decision.widths["w"]
        kept = mask & change.keep
        free = ~kept
        after = kept | (free & (jnp.cumsum(free) <= change.add))
        return (after, sizes["w"]), jnp.any(after != mask)

    (after, _), events = jax.lax.scan(step, (mask, jnp.asarray(level)), noise)
    # 4 units: N above 4 opens one. Above 5 it opens two, one at a time.
    assert int(events.sum()) == level - 3
    assert int(after.sum()) == level + 1


@given(
    size=st.floats(0, 12),
    units=st.integers(1, 8),
    spare=st.integers(0, 2),
)
def test_newborns_are_silent_and_leavers_too(size, units, spare):
    policy = GradientSizeWeight(8, every=1, spare=spare, gate="linear")
    mask = jnp.arange(12) < units
    evidence = gn.Evidence(jnp.zeros((), int), {"w": mask})
    decision, sizes, _, _ = policy.step(
        {"w": jnp.asarray(size)}, None, evidence, key=jr.key(0)
    )
    change = decision.widths["w"]
    gates = np.asarray(policy._ramp(sizes["w"], 12))
    assert (gates[units:] == 0).all(), "what is born is silent"
    assert (gates[np.asarray(mask & ~change.keep)] == 0).all(), "what goes was silent"
    assert 0 <= int(change.add) <= max(spare, 1)
    assert int((mask & change.keep).sum()) >= 1


def test_without_a_target_the_data_pays_for_units():
    """Three absolute values need six ReLUs: the slope of a spare unit's gate is worth
    its cost; at ten thousand times the cost it isn't."""
    options = {"learning_rate": 1.0, "gate": "linear", "every": 5}
    data = (X, jnp.sum(jnp.abs(X), axis=1, keepdims=True))
    cheap = run(GradientSizeWeight(None, 1e-4, **options), 1, 1_500, data=data)
    dear = run(GradientSizeWeight(None, 1.0, **options), 1, 1_500, data=data)
    assert cheap.sizes["layers[0]"] > dear.sizes["layers[0]"] == 1


def test_gates():
    ramps = {
        gate: np.asarray(GradientSizeWeight(4, gate=gate)._ramp(jnp.asarray(2.25), 4))
        for gate in ("sin2", "linear", "smoothstep")
    }
    assert np.allclose(ramps["linear"], [1, 1, 0.25, 0])
    assert np.allclose(ramps["sin2"], [1, 1, np.sin(np.pi / 8) ** 2, 0])
    assert np.allclose(ramps["smoothstep"], [1, 1, 0.25**2 * 2.5, 0])
    slopes: list[tuple[Any, float]] = [
        ("sin2", 0.0),
        ("linear", 1.0),
        ("smoothstep", 0.0),
    ]
    for gate, slope in slopes:
        policy = GradientSizeWeight(4, gate=gate)
        got = jax.grad(lambda n, p=policy: p._ramp(n, 4)[2])(2.0 + 1e-6)
        assert np.isclose(got, slope, atol=1e-4)


def test_hyper_parameters_can_be_mapped_over():
    def size_after(rate):
        policy = GradientSizeWeight(8, rate, learning_rate=0.1)
        grad = jax.grad(lambda n: policy.penalty({"w": n}, None, lambda sizes: 0.0))(
            4.0
        )
        return 4.0 - 0.1 * grad

    sizes = jax.vmap(size_after)(jnp.array([0.0, 0.1, 0.2]))
    assert np.allclose(sizes, [4.0, 4.08, 4.16])


BAD = [
    ({"target": 0}, "target=0 is below the smallest size, 1"),
    ({"target": 4, "rate": -1.0}, "the weight of the size loss is 0 or more"),
    ({"target": 4, "gate": "step"}, "use one of sin2, linear, smoothstep"),
    ({"target": 4, "every": 0}, "every=0; a whole number from 1 up"),
    ({"target": 4, "spare": -1}, "spare=-1; a whole number from 0 up"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options, text", BAD)
def test_bad_settings_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        GradientSizeWeight(**options)
