"""What policies are shown: each kind of evidence is what its name says."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn


X = jr.normal(jr.key(0), (32, 4))
Y = jnp.sin(X.sum(-1, keepdims=True))
ALL = frozenset({"loss", "valid_loss", "gradients", "gate_slopes", "evaluate"})


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def mlp():
    return eqx.nn.MLP(4, 1, 4, 1, activation=jnp.tanh, key=jr.key(0))


class Looking(gn.AbstractPolicy):
    """Remembers what it saw, and tries births and closings without committing."""

    every: int = eqx.field(static=True, default=3)
    needs: frozenset[str] = eqx.field(static=True, default=ALL)
    optimizer: None = None

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, {
            "loss": jnp.zeros(()),
            "valid_loss": jnp.zeros(()),
            "slopes": gn.PerUnit(jnp.zeros(4), "layers[0]"),
            "gradient": jnp.zeros(()),
            "stay": jnp.zeros(()),
            "births": jnp.zeros(3),
            "silent": jnp.zeros(()),
        }

    def step(self, trainable, memory, evidence, *, key):
        del key, memory
        mask = evidence.open["layers[0]"]

        def score(add, keep: Any = True):
            change = gn.Change(mask & keep, add)
            return evidence.evaluate(gn.Decision({"layers[0]": change}))

        seen = {
            "loss": evidence.loss,
            "valid_loss": evidence.valid_loss,
            "slopes": gn.PerUnit(evidence.gate_slopes["layers[0]"], "layers[0]"),
            "gradient": jnp.sum(evidence.gradients.layers[1].bias),
            "stay": score(jnp.asarray(0)),
            "births": jax.vmap(score)(jnp.arange(3)),
            "silent": score(jnp.asarray(0), jnp.arange(mask.size) < 2),
        }
        return gn.Decision(), trainable, seen, {}


def run(policy: Any = None, **options: Any) -> gn.Run:
    given = {"valid": (X[:8], Y[:8]), "steps": 6, **options}
    return gn.fit(
        mlp(),
        loss,
        (X, Y),
        optimizer=optax.sgd(0.1),
        policy=Looking() if policy is None else policy,
        key=jr.key(1),
        **given,
    )


def test_evidence_is_what_it_says():
    result = run()
    seen, net = result.state.memory, result.net
    tick = result.history.ticks[-1]
    assert np.isclose(seen["loss"], tick.loss)
    assert np.isclose(seen["valid_loss"], loss(net, (X[:8], Y[:8]), None), atol=1e-6)
    now = loss(net, (X, Y), None)
    assert np.isclose(seen["stay"], now, atol=1e-6)
    # Births are silent, so they change nothing; closing two of four units does.
    assert np.allclose(seen["births"], now, atol=1e-6)
    anatomy = gn.trace(net, X[0])
    two = gn.gate(net, anatomy, {"layers[0]": jnp.arange(4) < 2})
    assert np.isclose(seen["silent"], loss(two, (X, Y), None), atol=1e-6)
    assert abs(float(seen["silent"]) - float(now)) > 1e-4
    grads = eqx.filter_grad(loss)(net, (X, Y), None)
    assert np.isclose(seen["gradient"], grads.layers[1].bias.sum(), atol=1e-6)

    def gated(gates):
        view = gn.gate(net, anatomy, {"layers[0]": gates})
        return loss(view, (X, Y), None)

    slopes = np.asarray(seen["slopes"].array)
    assert np.allclose(slopes[:4], jax.grad(gated)(jnp.ones(4)), atol=1e-6)
    assert (slopes[4:] == 0).all(), "closed units say nothing"


class Offering(gn.NoGrowth):
    """Brings its own newborns: two units that double the first one."""

    every: int = eqx.field(static=True, default=3)

    def step(self, trainable, memory, evidence, *, key):
        del key
        mask = evidence.open["layers[0]"]
        first = (evidence.step == 3) | (evidence.step == 6)
        births = jnp.where(first & (mask.sum() < 9), 9 - mask.sum(), 0)
        size = mask.size
        values = {
            "layers[0].weight": jnp.full((size, 4), 0.25),
            "layers[0].bias": jnp.full((size,), 0.5),
        }
        change = gn.Change(mask, births, values=values)
        return gn.Decision({"layers[0]": change}), trainable, memory, {}


@pytest.mark.parametrize("buckets", [gn.Buckets(), gn.Buckets(smallest=64)])
def test_newborn_values_are_asked_for_again_where_there_was_no_room(buckets):
    result = run(Offering(), steps=7, buckets=buckets)
    (event,) = result.history.events
    # Nine units don't fit eight slots; all the same they come at once.
    assert (event.step, event.old, event.new) == (3, 4, 9)
    assert abs(event.loss_after - event.loss_before) < 1e-6
    weight = np.asarray(result.growing.net.layers[0].weight)
    assert np.allclose(weight[4:9], 0.25, atol=0.1) and (weight[9:] == 0).all()


def test_a_step_that_fails_is_told_what_it_was_given():
    class Hasty(Looking):
        needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))

        def step(self, trainable, memory, evidence, *, key):
            return gn.Decision(), trainable, memory + evidence.valid_loss, {}

    with pytest.raises(TypeError, match="unsupported operand|NoneType") as caught:
        run(Hasty())
    (advice,) = [n for n in caught.value.__notes__ if "Hasty.step failed" in n]
    assert "named in its `needs`: loss; every other kind is None" in advice
    assert "decide with `jnp.where`" in advice


def test_only_what_is_declared_is_given():
    class Blind(Looking):
        needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))

        def step(self, trainable, memory, evidence, *, key):
            del key
            given = evidence.valid_loss, evidence.gradients, evidence.gate_slopes
            assert given == (None, None, None) and evidence.evaluate is None
            assert evidence.loss is not None
            return gn.Decision(), trainable, memory, {}

    run(Blind())
    with pytest.raises(ValueError, match="pass `valid=` to fit"):
        run(Looking(needs=frozenset({"valid_loss"})), valid=None)


class Magnitude(gn.AbstractPolicy):
    """Keeps the two units with the largest incoming weights."""

    every: int = eqx.field(static=True, default=3)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"network"}))
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        norms = jnp.sum(evidence.network.layers[0].weight ** 2, axis=1)
        mask = evidence.open["layers[0]"]
        keep = jnp.where(mask, norms, -1.0) >= jnp.sort(norms)[-2]
        changes = {"layers[0]": gn.Change(keep, 0)}
        return gn.Decision(changes), trainable, memory, {}


def test_pruning_by_magnitude_is_a_few_lines():
    before = run(gn.NoGrowth(), steps=3).net.layers[0].weight
    norms = np.sum(np.asarray(before) ** 2, axis=1)
    result = run(Magnitude(), steps=3)
    kept = np.asarray(before)[np.sort(np.argsort(norms)[-2:])]
    assert np.allclose(result.net.layers[0].weight, kept, atol=1e-6)
    assert result.sizes == {"layers[0]": 2}


class Curious(gn.NoGrowth):
    """Looks at units, at curvature, and back at the batches of the tick."""

    every: int = eqx.field(static=True, default=3)
    needs: frozenset[str] = eqx.field(
        static=True,
        default=frozenset(
            {"activations", "output_cotangents", "gradients", "hessian_vector"}
            | {"average"}
        ),
    )

    def init(self, anatomy, *, key):
        del key
        name, width = next(iter(anatomy.widths.items()))
        return None, {
            "activations": gn.PerUnit(jnp.zeros((width.size, 8)), name),
            "product": jnp.zeros((1, 1)),
            "moments": jnp.zeros(2),
        }

    def step(self, trainable, memory, evidence, *, key):
        del key, memory
        units = evidence.units["layers[0]"]
        assert units.cotangents is None and not units.producers

        def moment(evidence):
            (consumer,) = evidence.units["layers[0]"].consumers
            return jnp.sum(consumer.cotangents**2)

        moments = [evidence.average(moment, n) for n in (1, 3)]
        product = evidence.hessian_vector(evidence.gradients)
        seen = {
            "activations": gn.PerUnit(units.activations.T, "layers[0]"),
            "product": product.layers[1].bias.reshape(1, 1),
            "moments": jnp.stack(moments),
        }
        return gn.Decision(), trainable, seen, {}

    def gates(self, trainable, anatomy, *, key, train):
        del trainable, key, train
        return {n: jnp.arange(w.size) != 1 for n, w in anatomy.widths.items()}


def test_units_curvature_and_averages_inside_fit():
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
    net = mlp()
    result = gn.fit(
        net, loss, batches, optimizer=optax.sgd(0.0), policy=Curious(), steps=3,
        key=jr.key(1), capacity={"layers[0]": 8},
    )  # fmt: skip
    seen, view = result.state.memory, result.growing.view()
    hidden = net.layers[0]
    x, y = batches[-1]
    values = jnp.tanh(jax.vmap(hidden)(x))
    activations = np.asarray(seen["activations"].array)
    assert np.allclose(activations[:4], values.T, atol=1e-6)
    assert (activations[4:] == 0).all(), "a closed unit says tanh(0)"

    def moment(batch):
        """Of the output's cotangents; unit 1 is gated away."""
        x, y = batch
        error = jax.vmap(view)(x) - y
        return np.sum(np.asarray(2 * error / 8) ** 2)

    means = [moment(batches[-1]), np.mean([moment(batch) for batch in batches])]
    assert np.allclose(seen["moments"], means, rtol=1e-5)
    params, rest = eqx.partition(view, eqx.is_inexact_array)
    gradient = jax.grad(lambda p: loss(eqx.combine(p, rest), (x, y), None))
    product = jax.jvp(gradient, (params,), (gradient(params),))[1]
    assert np.allclose(seen["product"], product.layers[1].bias, rtol=1e-4)


def test_averages_reach_back_no_further_than_the_tick():
    class Greedy(Curious):
        def step(self, trainable, memory, evidence, *, key):
            del key
            evidence.average(lambda evidence: evidence.step, 4)
            return gn.Decision(), trainable, memory, {}

    with pytest.raises(ValueError, match="average over 4 batches; .*from 1 to"):
        run(Greedy())


def test_evidence_that_cannot_be_had_is_refused_before_anything_runs():
    def twice(net, x):
        hidden = jax.vmap(lambda x: jnp.tanh(net["w"] @ x))(x)
        return sum(jax.vmap(lambda h: net["v"] @ h)(h) for h in (hidden, hidden**2))

    net = {"w": jr.normal(jr.key(0), (4, 4)), "v": jr.normal(jr.key(1), (1, 4))}
    steps = []
    with pytest.raises(ValueError, match="Curious needs activations of 'w', .*2 times"):
        gn.fit(
            net,
            lambda net, batch, key: jnp.mean((twice(net, batch[0]) - batch[1]) ** 2),
            (X, Y),
            optimizer=optax.sgd(0.1),
            policy=Curious(),
            steps=6,
            key=jr.key(1),
            callback=steps.append,
        )
    assert not steps

    class OnHost(Curious):
        on_host = True

    with pytest.raises(ValueError, match="do without `on_host = True`"):
        run(OnHost())
