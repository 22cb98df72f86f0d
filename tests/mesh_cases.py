"""Networks on a mesh of eight devices; `tests.test_meshes` runs this in a process that
has so many."""

import functools as ft
import re
from pathlib import Path
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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import growthnet as gn
from growthnet._devices import placement
from growthnet._devices.shards import multiples
from growthnet._edits import edit as editing
from growthnet._paths import array_leaves, map_arrays
from growthnet._runs.data import ArrayData, BatchStream
from growthnet.testing import networks, optimizers, resizes

from .checkpoint_cases import content


@ft.cache
def mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)


def spread(tree: Any, spec: Any, where: Mesh | None = None) -> Any:
    """Every array by the spec that `spec(path, array)` gives."""
    at = lambda path, x: NamedSharding(where or mesh(), spec(path, x))
    arrays = array_leaves(tree).items()
    return map_arrays(tree, {p: jax.device_put(x, at(p, x)) for p, x in arrays})


def specs(tree: Any) -> dict[str, Any]:
    found = {path: spec_of(x) for path, x in array_leaves(tree).items()}
    return {path: spec for path, spec in found.items() if spec is not None}


def spec_of(x: Any) -> Any:
    return getattr(getattr(x, "sharding", None), "spec", None)


# --- layouts


def data_parallel(path: str, x: Any) -> P:
    del path, x
    return P()


def tensor_parallel(path: str, x: Any) -> P:
    """Megatron's: the first layer by its outputs, the next by its inputs."""
    match path:
        case "layers[0].weight" | "layers[0].bias":
            return P("model")
        case "layers[1].weight":
            return P(None, "model")
    return P()


def fully_sharded(path: str, x: Any) -> P:
    """Of every array the first axis that all devices divide."""
    del path
    cut = [axis for axis, n in enumerate(x.shape) if n % 8 == 0]
    return P(*[None] * cut[0], ("data", "model")) if cut else P()


LAYOUTS = {f.__name__: f for f in (data_parallel, tensor_parallel, fully_sharded)}
slowly = ft.partial(pytest.param, marks=pytest.mark.slow)
layouts = pytest.mark.parametrize(
    "layout", [slowly("data_parallel"), "tensor_parallel", "fully_sharded"]
)


# --- the law: a spread edit is the edit, and stays spread


def spread_edit_is_the_edit(net: Any, edit: gn.Edit, optimizer: Any, seed: int) -> None:
    """Each array is spread along some axis that the mesh divides before and after."""
    rng = np.random.default_rng(seed)
    after: dict[str, Any] = {p: e.new_shape for p, e in edit.leaf_edits.items()}
    apart = spread(net, lambda path, x: cut(rng, x.shape, after.get(path, x.shape)))
    ends = edit(net, key=jr.key(seed)), edit(apart, key=jr.key(seed))
    same(ends[1], ends[0], specs(apart))
    trained = lambda tree: eqx.filter(tree, eqx.is_inexact_array)
    begin = lambda net: jax.eval_shape(optimizer.init, trained(net))
    shapes, shapes2 = begin(net), begin(ends[0])
    draw = lambda s: np.asarray(rng.uniform(1, 2, s.shape), s.dtype)
    state = jax.tree.map(lambda s: jax.device_put(draw(s)), shapes)
    after = {path: x.shape for path, x in array_leaves(shapes2).items()}
    state2 = spread(state, lambda path, x: cut(rng, x.shape, after[path]))
    move = lambda state, *nets: edit.transfer(optimizer, state, *map(trained, nets))
    moved = move(state2, apart, ends[1])
    same(moved, move(state, net, ends[0]), specs(state2))


def cut(rng: Any, *shapes: tuple[int, ...]) -> P:
    even = [
        a
        for a, sizes in enumerate(zip(*shapes, strict=True))
        if not any(n % 2 for n in sizes)
    ]
    return P(*[None] * rng.choice(even), "model") if even else P()


def same(found: Any, wanted: Any, places: dict[str, Any]) -> None:
    """The same numbers, bit for bit, in their places."""
    leaves = array_leaves(found), array_leaves(wanted)
    assert leaves[0].keys() == leaves[1].keys()
    for path, x in leaves[0].items():
        assert np.array_equal(x, leaves[1][path]), f"{path} differs"
        assert spec_of(x) == places.get(path), f"{path} is at {x.sharding}"


lenient = ft.partial(jax.numpy_dtype_promotion, "standard")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=12)
def test_a_spread_edit_is_the_edit(data):
    case = data.draw(networks())
    resize = data.draw(resizes(case))
    optimizer = data.draw(optimizers()).transform
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    keep = {name: resize.survivors(anatomy, name) for name in resize.sizes}
    edit = gn.plan(anatomy, resize.sizes, keep=keep, allow_drift=True)
    with lenient(), jax.numpy_rank_promotion("allow"):
        spread_edit_is_the_edit(case.net, edit, optimizer, resize.seed)


MUTANTS = {
    "to the default device": (r"is at SingleDevice", lambda x, old: jax.device_put(x)),
    "other numbers": (
        r"differs",
        lambda x, old: placement.put_like(x + int(placement.spread(old)), old),
    ),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_the_law_notices(name, monkeypatch):
    edit = gn.plan(anatomy(), {"layers[0]": 16})
    check = lambda: spread_edit_is_the_edit(mlp(), edit, optax.sgd(0.1, 0.9), 0)
    if name is None:
        return check()
    text, broken = MUTANTS[name]
    monkeypatch.setattr(editing, "put_large", broken)
    with pytest.raises(AssertionError, match=text):
        check()


def mlp(units: int = 8) -> Any:
    return eqx.nn.MLP(8, 8, units, 1, key=jr.key(0))


@ft.cache
def anatomy(units: int = 8) -> gn.Anatomy:
    return gn.trace(mlp(units), jnp.zeros(8))


def test_a_block_comes_in_spread_as_its_model():
    net = {"blocks": [{"w": jnp.ones((8, 8)), "v": jnp.ones((8, 8))} for _ in range(2)]}

    def call(net, x):
        for block in net["blocks"]:
            x = x + jnp.tanh(x @ block["w"]) @ block["v"]
        return x

    read = gn.trace(net, jnp.ones((3, 8)), call=call)
    apart = spread(net, lambda path, x: P("model") if path.endswith("w") else P("data"))
    edit = gn.plan_deepen(read, "blocks[1]")
    net2 = edit(apart, key=jr.key(1))
    assert specs(net2["blocks"][1]) == specs(apart["blocks"][0])
    adam = optax.adam(0.1)
    moved = edit.transfer(adam, adam.init(apart), apart, net2)
    assert specs(moved[0].mu["blocks"][1]) == specs(apart["blocks"][0])


# --- sizes that the mesh doesn't divide


@pytest.mark.usefixtures("unchecked")
def test_what_the_mesh_does_not_divide_is_refused():
    net = spread(mlp(), tensor_parallel)
    edit = gn.plan(anatomy(), {"layers[0]": 11})
    text = (
        r"'layers\[0\]' \(8 -> 11\): axis 0 of 'layers\[0\].weight' would get 11 "
        r"entries, but it is spread over 2 devices \(mesh axis 'model' of size 2\), "
        r"which have to divide it; choose a size with which it has 10 or 12 entries"
    )
    with pytest.raises(ValueError, match=text):
        edit(net, key=jr.key(0))
    # The state alone may be spread, as in ZeRO.
    params, adam = eqx.filter(mlp(), eqx.is_array), optax.adam(0.1)
    state = spread(adam.init(params), lambda p, x: P("data") if x.ndim else P())
    with pytest.raises(ValueError, match=r"'layers\[0\]' \(8 -> 11\): axis 0 of 'opt"):
        edit.transfer(adam, state, params, edit(params, key=jr.key(0)))
    with pytest.raises(ValueError, match=r"multiples \('layers\[0\]' of 8\).*=8"):
        apart = spread(mlp(), fully_sharded)
        grower = gn.Grower(Births(), adam, buckets=gn.Buckets(multiple_of=4))
        grower.init(apart, anatomy(), key=jr.key(0))
    with pytest.raises(ValueError, match="batch_size=6; the examples are spread .* 4"):
        ArrayData.of((spread(X, lambda p, x: P("data")),), 6)


def test_heads_are_counted_by_their_entries():
    """A head has four entries: two pieces need no even number, eight do."""
    attention = eqx.nn.MultiheadAttention(4, 16, qk_size=4, vo_size=4, key=jr.key(0))
    x = jnp.zeros((3, 16))
    read = gn.trace(attention, x, x, x)
    heads = next(name for name, w in read.widths.items() if w.size == 4 and w.growable)
    for axes, multiple in (("model", {}), (("data", "model"), {heads: 2})):
        cut = lambda path, x, axes=axes: P(axes) if x.ndim == 2 else P()
        found = multiples(read.only([heads]), spread(attention, cut))
        assert found == multiple


# --- reserve, open, compact


@layouts
def test_units_open_where_they_are(layout):
    spec = LAYOUTS[layout]
    net = spread(mlp(), spec)
    room = gn.reserve(net, anatomy(), {"layers[0]": 16})
    assert specs(room.net) == specs(net)
    opened = gn.open_units(room, {"layers[0]": 3}, key=jr.key(1))
    plain = gn.reserve(mlp(), anatomy(), {"layers[0]": 16})
    plain = gn.open_units(plain, {"layers[0]": 3}, key=jr.key(1))
    same(opened.net, plain.net, specs(net))
    closed = gn.close_units(opened, {"layers[0]": jnp.arange(16) != 2})
    assert closed.sizes == {"layers[0]": 10}
    if layout == "data_parallel":
        assert gn.compact(closed).layers[0].out_features == 10
        return
    closed = gn.close_units(closed, {"layers[0]": jnp.arange(16) != 3})
    with pytest.raises(ValueError, match=r"'layers\[0\]' \(16 -> 9\)"):
        gn.compact(closed)
    small = gn.compact(closed, multiple_of=8)
    assert small.layers[0].out_features == 16 and specs(small) == specs(net)
    x = jnp.ones(8)
    gated = gn.gate(closed.net, closed.anatomy, closed.open)
    np.testing.assert_allclose(small(x), gated(x), rtol=1e-5)


# --- runs


X = np.asarray(jr.normal(jr.key(1), (32, 8)))
Y = np.sin(X)


class Births(gn.AbstractPolicy):
    """A unit per turn, as long as there are fewer than `most`."""

    most: int = 21
    every: int = 2
    needs: frozenset[str] = frozenset()
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        births = lambda mask: (mask.sum() < self.most).astype(jnp.int32)
        changes = {n: gn.Change(m, births(m)) for n, m in evidence.open.items()}
        return gn.Decision(changes), trainable, memory, {}


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


def batches_of(kind: str) -> list[Any]:
    """Everything, or batches."""
    starts = (0, 8, 16)
    rows = [slice(i, i + 8) for i in starts] if kind == "batches" else [slice(None)]
    return [(X[r], Y[r]) for r in rows]


def data_as(kind: str, cut: Any) -> Any:
    """Arrays, or batches, spread along the examples or not."""
    put = lambda part: spread(part, lambda p, x: P("data")) if cut else part
    parts = [put(part) for part in batches_of(kind)]
    return parts if kind == "batches" else parts[0]


def fit(net: Any, data: Any, **options: Any) -> gn.Run:
    given: dict[str, Any] = {"batch_size": 8} if isinstance(data, tuple) else {}
    given |= {"buckets": gn.Buckets(multiple_of=8), "steps": 40, **options}
    adam, key = optax.adam(1e-2), jr.key(2)
    with lenient():
        return gn.fit(
            net, loss, data, optimizer=adam, policy=Births(), key=key, **given
        )


@ft.cache
def alone(kind: str) -> gn.Run:
    """The run on one device."""
    return fit(mlp(), data_as(kind, None))


@pytest.mark.parametrize(
    "kind, layout",
    [
        ("arrays", "data_parallel"),
        ("batches", "tensor_parallel"),
        ("arrays", "fully_sharded"),
    ],
)
def test_a_spread_run_is_the_run(layout, kind):
    net = spread(mlp(), LAYOUTS[layout])
    run, wanted = fit(net, data_as(kind, True)), alone(kind)
    losses = lambda run: [tick.loss for tick in run.history.ticks]
    np.testing.assert_allclose(losses(run), losses(wanted), rtol=1e-4)
    sizes = lambda run: {n: int(m.sum()) for n, m in run.growing.open.items()}
    assert sizes(run) == sizes(wanted) == {"layers[0]": 21}
    assert specs(run.growing.net) == specs(run.net) == specs(net)
    assert specs(run.state.opt_state[0].nu) == specs(net)
    assert run.history.ticks[-1].traces == wanted.history.ticks[-1].traces == 2
    # The final network fits the mesh: silent units fill it up.
    multiple = {"data_parallel": 1, "tensor_parallel": 2, "fully_sharded": 8}[layout]
    assert run.net.layers[0].out_features == -(-21 // multiple) * multiple
    np.testing.assert_allclose(jax.vmap(run.net)(X), jax.vmap(wanted.net)(X), atol=1e-4)


def test_the_room_of_a_spread_network_is_rounded():
    net = spread(mlp(), fully_sharded)
    grower = gn.Grower(Births(), optax.adam(1e-2))
    growing, _ = grower.init(net, anatomy(), key=jr.key(0))
    assert (
        grower.capacities.buckets.multiple_of == 8
        and growing.open["layers[0]"].size == 16
    )


def test_a_spread_run_goes_on(tmp_path):
    net, data = spread(mlp(), tensor_parallel), data_as("batches", True)
    whole = fit(net, data)
    fit(net, data, steps=24, checkpoint=tmp_path)
    again = fit(net, data, checkpoint=tmp_path)
    assert content(again) == content(whole)
    assert specs((again.growing, again.state)) == specs((whole.growing, whole.state))


@layouts
def test_a_loop_of_ones_own_compiles_once_per_capacity(layout):
    """With donated buffers, and half of the placing left to XLA."""
    grower = gn.Grower(Births(), optax.adam(1e-2), buckets=gn.Buckets(multiple_of=8))
    net = spread(mlp(), LAYOUTS[layout])
    before = specs(net)
    model, state = grower.init(net, anatomy(), key=jr.key(3))
    compiled: list[str] = []

    def heard(event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs
        if "backend_compile" in event and kwargs["fun_name"] == "jit(train)":
            compiled.append(event)

    @eqx.filter_jit(donate="all-except-first")
    def train(batch, model, state):
        grads = eqx.filter_grad(grower.loss(loss, state))(model, batch)
        return grower.step(model, grads, state)

    batch = data_as("batches", True)[0]
    jax.monitoring.register_event_duration_secs_listener(heard)
    with lenient():
        for _ in range(20):
            model, state = grower.resize(*train(batch, model, state))
            assert specs(model.net) == specs(state.opt_state[0].mu) == before
    jax.monitoring.unregister_event_duration_listener(heard)
    assert model.open["layers[0]"].size == 32 and len(compiled) == 2


@pytest.mark.parametrize("kind", ["arrays", slowly("batches")])
def test_a_mesh_with_explicit_axes(kind):
    where = mesh(AxisType.Explicit)
    data = [spread(part, lambda p, x: P("data"), where) for part in batches_of(kind)]
    net = spread(mlp(), data_parallel, where)
    run = fit(net, data if kind == "batches" else data[0])
    losses = [tick.loss for tick in run.history.ticks]
    assert np.allclose(losses, [t.loss for t in alone(kind).history.ticks], 1e-4)


@pytest.mark.slow
def test_a_spread_run_goes_back_and_on():
    bad = spread((X[:8] * np.nan, Y[:8]), lambda p, x: P("data"))
    data = iter([*data_as("batches", True) * 4, bad, *data_as("batches", True) * 20])
    net = spread(mlp(), tensor_parallel)
    with pytest.warns(UserWarning, match="Going on from step 10"):
        run = fit(net, data, on_nan="rollback")
    assert all(np.isfinite(tick.loss) for tick in run.history.ticks)
    assert specs(run.growing.net) == specs(net) and int(run.state.step) == 40


def test_the_page_runs():
    page = Path(__file__).parent.parent / "docs" / "meshes.md"
    code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    scope: dict[str, Any] = {}
    with lenient():
        exec(compile(code, page.name, "exec"), scope)
    run = scope["run"]
    assert run.history.ticks[-1].loss < 0.1 < run.history.ticks[0].loss
    assert specs(run.net) == specs(scope["net"]) and run.sizes["layers[0]"] > 8


# --- data


def test_batches_are_served_in_pieces():
    batches = data_as("batches", True)
    stream = BatchStream(batches)
    window, count = stream.window(0, 3, 4)
    assert count == 3
    assert window.data[0].sharding.spec == P(None, "data")
    for step, batch in enumerate(batches):
        served = window.last(step + 1)
        assert served[0].sharding == batch[0].sharding
        np.testing.assert_array_equal(served[0], batch[0])
    other = spread(batches[0], lambda p, x: P("model"))
    stream = BatchStream([batches[0], other])
    stream.window(0, 1, 1)
    with pytest.raises(ValueError, match=r"P\('model',\)"):
        stream.window(1, 1, 1)


def test_sampled_batches_are_spread_as_the_arrays():
    data = ArrayData.of(data_as("arrays", True), 8)
    window = eqx.filter_jit(data.window)(jr.key(0), jnp.int32(0), 4)
    batch = eqx.filter_jit(lambda w, step: w.prepared()(step))(window, jnp.int32(2))
    assert batch[0].sharding.spec == P("data")
