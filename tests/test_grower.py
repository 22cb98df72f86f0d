"""Growth in a user's own loop, and the policy protocol as the loop sees it."""

import difflib
import pathlib
import re
from typing import Any

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


X = jr.normal(jr.key(0), (32, 4))
Y = jnp.sin(X.sum(-1, keepdims=True))
README = pathlib.Path(__file__).parent.parent / "README.md"


def loss_fn(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def mlp(width=4, depth=1):
    return eqx.nn.MLP(4, 1, width, depth, key=jr.key(0))


class Schedule(gn.AbstractPolicy):
    """Test policy: at given steps, keep and add what the script says."""

    script: tuple = eqx.field(static=True, default=())
    init_: str = eqx.field(static=True, default="zero_out")
    every: int = eqx.field(static=True, default=2)
    needs: frozenset = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def init(self, anatomy, *, key):
        del key
        ages = {n: gn.PerUnit(jnp.ones(w.size), n) for n, w in anatomy.widths.items()}
        return None, ages

    def step(self, trainable, memory, evidence, *, key):
        del key
        (name, mask), *_ = evidence.open.items()
        add, drop = jnp.asarray(0), jnp.asarray(0)
        for step, births, deaths in self.script:
            now = evidence.step == step
            add = jnp.where(now, births, add)
            drop = jnp.where(now, deaths, drop)
        units = mask.sum()
        keep = jnp.arange(mask.size) < units - drop
        memory = {
            n: gn.PerUnit(a.array + 1, a.width, a.fill) for n, a in memory.items()
        }
        changes = {name: gn.Change(keep & mask, add, self.init_)}
        return gn.Decision(changes), trainable, memory, {}


def loop(grower: gn.Grower, net: Any, steps: int, key: int = 5) -> Any:
    model, state = grower.init(net, gn.trace(net, X[0]), key=jr.key(key))
    traces, sizes = [], []

    @eqx.filter_jit
    def train(model, state, x, y):
        traces.append(None)
        objective = grower.loss(loss_fn, state)
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, y)
        model, state = grower.step(model, grads, state, loss=loss)
        return model, state, loss

    for _ in range(steps):
        model, state, _ = train(model, state, X, Y)
        model, state = grower.resize(model, state)
        sizes.append(int(model.open["layers[0]"].sum()))
    return model, state, len(traces), sizes


def test_a_loop_grows_and_shrinks_with_one_trace_per_bucket():
    policy = Schedule(script=((4, 2, 0), (8, 8, 0), (12, 0, 12)))
    model, _, traces, sizes = loop(
        gn.Grower(policy, lenient(optax.adam(1e-2))), mlp(), 16
    )
    assert sizes == [4] * 3 + [6] * 4 + [14] * 4 + [2] * 5
    # Capacities 8, 16, then 4 again.
    assert traces == 3
    net = model.compact()
    assert net.layers[0].out_features == net.width_size == 2
    assert np.allclose(jax.vmap(model)(X), jax.vmap(net)(X), atol=1e-6)


def test_spare_capacity_does_not_change_the_training():
    """The same decisions in any bucket: same sizes, same function, to rounding."""
    policy = Schedule(script=((4, 2, 0), (8, 1, 2)))
    nets = []
    for buckets in (gn.Buckets(), gn.Buckets(ratio=1), gn.Buckets(multiple_of=16)):
        grower = gn.Grower(policy, lenient(optax.adamw(1e-2)), buckets=buckets)
        nets.append(loop(grower, mlp(), 12)[0].compact())
    for net in nets[1:]:
        assert eqx.tree_equal(net, nets[0], rtol=1e-4, atol=1e-5)


def test_memory_per_unit_follows_resizes():
    policy = Schedule(script=((4, 6, 0),))
    _, state, _, _ = loop(gn.Grower(policy, optax.sgd(1e-2)), mlp(), 8)
    rows = np.asarray(state.memory["layers[0]"].array)
    # Four calls for the survivors, two since their birth for the newborns.
    assert rows[:4].tolist() == [5.0] * 4
    assert rows[4:10].tolist() == [2.0] * 6


def test_a_width_keeps_its_last_unit():
    policy = Schedule(script=((2, 0, 99),))
    model, *_ = loop(gn.Grower(policy, optax.sgd(1e-2)), mlp(), 3)
    assert int(model.open["layers[0]"].sum()) == 1


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_closed_units_get_no_gradient_no_decay_no_moment_no_noise(noise):
    policy = Schedule(script=((2, 0, 2),))
    decaying = optax.adamw(1e-1, weight_decay=0.5)
    optimizer = lenient(optax.chain(decaying, optax.add_noise(noise, 0.5, 0)))
    grower = gn.Grower(policy, optimizer, buckets=gn.Buckets(ratio=100))
    net = eqx.nn.MLP(4, 1, 4, 1, activation=jax.nn.softplus, key=jr.key(0))
    model, state, _, _ = loop(grower, net, 10)
    closed = ~np.asarray(model.open["layers[0]"])
    assert closed.sum() == model.net.layers[0].weight.shape[0] - 2
    moments = [s for s in jax.tree.leaves(state.opt_state) if s.ndim == 2]
    tall = [model.net.layers[0].weight, *(m for m in moments if m.shape[1] == 4)]
    wide = [model.net.layers[1].weight, *(m for m in moments if m.shape[0] == 1)]
    assert len(tall) == len(wide) == 3
    assert all((np.asarray(a)[closed] == 0).all() for a in tall)
    assert all((np.asarray(a)[:, closed] == 0).all() for a in wide)


class Faulty(Schedule):
    fault: str = eqx.field(static=True, default="")

    def step(self, trainable, memory, evidence, *, key):
        del key
        (name, mask), *_ = evidence.open.items()
        decisions = {
            "width": gn.Decision({"nowhere": gn.Change(mask, 0)}),
            "keep": gn.Decision({name: gn.Change(mask[:2], 0)}),
            "add": gn.Decision({name: gn.Change(mask, jnp.ones(3))}),
            "type": {name: 3},
            "member": gn.Decision({name: gn.Change(mask, 0, values={"x": mask})}),
            "shape": gn.Decision(
                {name: gn.Change(mask, 0, values={"layers[0].weight": mask})}
            ),
        }
        return decisions[self.fault], trainable, memory, {}


FAULTS = {
    "width": r"Faulty decided on 'nowhere'; the widths of this run are layers\[0\]",
    "keep": r"Faulty: keep for 'layers\[0\]' is bool\(2,\); it must be bool\(8,\)",
    "add": r"add for 'layers\[0\]' is float32\(3,\); it must be one whole number",
    "type": "Faulty.step returned dict where a Decision belongs",
    "member": r"values for 'x', which isn't a member of 'layers\[0\]'",
    "shape": r"values for 'layers\[0\].weight' have shape \(8,\); the leaf has",
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_policy_are_named(fault):
    grower = gn.Grower(Faulty(fault=fault), optax.sgd(0.1))
    with pytest.raises(ValueError, match=FAULTS[fault]):
        grower.init(mlp(), gn.trace(mlp(), X[0]), key=jr.key(0))


class Needy(gn.NoGrowth):
    needs: frozenset = eqx.field(static=True, default=frozenset())

    def step(self, trainable, memory, evidence, *, key):
        del key
        return gn.Decision(), trainable, memory, {"seen": evidence.loss}


@pytest.mark.usefixtures("unchecked")
def test_evidence_that_is_not_given_is_refused_by_name():
    grower = gn.Grower(Needy(needs=frozenset({"valid_loss"})), optax.sgd(0.1))
    with pytest.raises(ValueError, match="Needy needs valid_loss .* wasn't given"):
        loop(grower, mlp(), 1)
    unknown = gn.Grower(Needy(needs=frozenset({"hessian"})), optax.sgd(0.1))
    with pytest.raises(ValueError, match="needs the evidence hessian; known kinds"):
        loop(unknown, mlp(), 1)
    with pytest.raises(ValueError, match="isn't a policy; give an instance"):
        gn.Grower("prune", optax.sgd(0.1))  # pyright: ignore[reportArgumentType]
    softmax = [X[:4], X[:2, :4]]
    anatomy = gn.trace(softmax, X[0], call=lambda n, x: n[1] @ jax.nn.softmax(n[0] @ x))
    with pytest.raises(ValueError, match="no width matching '\\*' can grow in a run"):
        gn.Grower(Schedule(), optax.sgd(0.1)).init(softmax, anatomy, key=jr.key(0))


def blocks():
    """The README's plain loop and its growing twin."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    plain = next(c for c in code if "optim.update(" in c)
    growing = next(c for c in code if "gn.Grower(" in c)
    return plain, growing


def test_the_loop_in_the_readme_runs_and_differs_in_five_lines():
    plain, growing = blocks()
    diff = difflib.ndiff(plain.splitlines(), growing.splitlines())
    added = [line for line in diff if line.startswith("+ ") and line[2:].strip()]
    added = [line for line in added if not line[2:].startswith(("import", "from"))]
    assert len(added) <= 5, "\n".join(added)
    for code in (plain, growing):
        scope: dict[str, Any] = {"x_train": X, "y_train": Y}
        with jax.numpy_dtype_promotion("standard"):
            exec(compile(code, "README.md", "exec"), scope)
        assert scope["loss_fn"](scope["model"], X, Y) < 0.3
    sizes = {n: int(m.sum()) for n, m in scope["model"].open.items()}
    assert sizes["layers[0]"] > 4


def test_the_own_loop_and_fit_agree():
    policy = GradientSizeWeight(target=7, rate=0.1, learning_rate=0.05, every=5)
    grower = gn.Grower(policy, lenient(optax.adam(1e-2)))
    model, _, _, _ = loop(grower, mlp(), 60, key=3)
    run = gn.fit(
        mlp(),
        lambda net, batch, key: loss_fn(net, *batch),
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=policy,
        steps=60,
        key=jr.key(3),
    )
    assert eqx.tree_equal(run.net, model.compact(), rtol=1e-4, atol=1e-5)


def test_the_policy_in_the_readme_runs():
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    scope: dict[str, Any] = {}
    exec(next(c for c in code if "class GrowWhileItPays" in c), scope)
    run = gn.fit(
        mlp(),
        lambda net, batch, key: loss_fn(net, *batch),
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=scope["GrowWhileItPays"](every=10),
        steps=60,
        key=jr.key(0),
        valid=(X, Y),
    )
    assert run.sizes["layers[0]"] > 4
    assert all(event.new - event.old == 2 for event in run.history.events)


class Forgetful(gn.NoGrowth):
    form: str = eqx.field(static=True, default="")

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, {"count": 0}

    def step(self, trainable, memory, evidence, *, key) -> Any:
        del key, evidence
        memories = {"structure": {}, "dtype": {"count": memory["count"] + 0.5}}
        if self.form == "four":
            return gn.Decision(), trainable, memory
        return gn.Decision(), trainable, memories[self.form], {}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("structure", "Forgetful.step: memory changed its structure"),
        ("dtype", "memory changed a leaf from int32"),
        ("four", r"it returns four things: \(decision, trainable, memory, info\)"),
    ],
)
def test_what_a_policy_keeps_has_one_form(form, text):
    grower = gn.Grower(Forgetful(form=form), optax.sgd(0.1))
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=text):
        grower.init(mlp(), gn.trace(mlp(), X[0]), key=jr.key(0))
    with pytest.raises(ValueError, match="has no init and update"):
        gn.Grower(gn.NoGrowth(), optax.adam)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "rows, width, text",
    [
        (7, "layers[0]", r"Rows.init: .* the shape \(7,\); .* each of the 4 units"),
        (
            3,
            "layers[9]",
            r"PerUnit of .layers\[9\].; the widths of this run",
        ),
    ],
)
def test_rows_that_are_not_those_of_a_width_are_refused(rows, width, text):
    class Rows(Needy):
        def init(self, anatomy, *, key):
            return None, gn.PerUnit(jnp.zeros(rows), width)

    net = mlp()
    grower = gn.Grower(Rows(needs=frozenset()), optax.sgd(0.1))
    with pytest.raises(ValueError, match=text):
        grower.init(net, gn.trace(net, X[0]), key=jr.key(0))
