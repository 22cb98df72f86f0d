"""One of the processes of `tests.test_processes`: a run on the devices of all of them.

    python -m tests.process_run PORT INDEX COUNT WHAT FOLDER

prints what came of it as a line of JSON. With a single process it is the run that the
others are compared with.
"""

import json
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import growthnet as gn


STEPS, EVERY = 40, 5


class Hungry(gn.AbstractPolicy):
    """A unit per width while the loss is above a threshold."""

    above: float = 0.42
    every: int = EVERY
    needs: frozenset[str] = frozenset({"loss"})
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        more = (evidence.loss > self.above).astype(jnp.int32)
        changes = {n: gn.Change(mask, more) for n, mask in evidence.open.items()}
        return gn.Decision(changes), trainable, memory, {}


def spread(tree: Any, mesh: Any, spec: Any) -> Any:
    """A tree that every process has whole, over the mesh."""

    def put(x: Any) -> Any:
        x = np.asarray(x)
        sharding = NamedSharding(mesh, spec(x))
        return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

    return jax.tree.map(lambda x: put(x) if eqx.is_array(x) else x, tree)


def everywhere(x: Any) -> Any:
    del x
    return P()


def in_pieces(x: Any) -> Any:
    """Of each array the first axis that the devices divide."""
    cut = [axis for axis, n in enumerate(x.shape) if n % jax.device_count() == 0]
    return P(*[None] * cut[0], "data") if cut else P()


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def batches(mesh: Any) -> list[Any]:
    """Every process gives its own part of each batch."""
    x = np.asarray(jr.normal(jr.key(1), (4, 16, 4)))
    y = np.sin(x.sum(-1, keepdims=True))
    sharding = NamedSharding(mesh, P("data"))
    whole = jax.process_count() == 1
    rows = slice(None) if whole else slice(8 * jax.process_index(), None)
    rows = rows if whole or jax.process_index() else slice(0, 8)
    of = lambda a: jax.make_array_from_process_local_data(sharding, a[rows], a.shape)
    return [(of(a), of(b)) for a, b in zip(x, y, strict=True)]


def by_fit(net: Any, mesh: Any) -> dict[str, Any]:
    """A run that is saved half-way, and goes on."""
    for steps in (STEPS // 2, STEPS):
        run = gn.fit(
            spread(net, mesh, everywhere),
            loss,
            batches(mesh),
            optimizer=optax.adam(1e-2),
            policy=Hungry(),
            steps=steps,
            key=jr.key(2),
            buckets=gn.Buckets(),
            checkpoint=sys.argv[5],
        )
    losses = [tick.loss for tick in run.history.ticks]
    return {"losses": losses, "sizes": run.sizes, "weights": sums(run.net)}


def by_hand(net: Any, mesh: Any) -> dict[str, Any]:
    """A loop of one's own, with a network that no process has whole."""
    grower = gn.Grower(Hungry(), optax.adam(1e-2))
    anatomy = gn.trace(net, jnp.zeros(4))
    model, state = grower.init(spread(net, mesh, in_pieces), anatomy, key=jr.key(2))

    @eqx.filter_jit(donate="all-except-first")
    def train(batch: Any, model: Any, state: Any) -> Any:
        objective = grower.loss(loss, state)
        value, grads = eqx.filter_value_and_grad(objective)(model, batch)
        model, state = grower.step(model, grads, state, loss=value)
        return model, state, value

    losses, data = [], batches(mesh)
    for step in range(STEPS):
        model, state, value = train(data[step % 4], model, state)
        model, state = grower.resize(model, state)
        losses.append(float(value))
    sizes = {name: int(mask.sum()) for name, mask in model.open.items()}
    leaves = jax.tree.leaves(eqx.filter(model.net, eqx.is_array))
    specs = {str(x.sharding.spec) for x in leaves}
    found = {"losses": losses, "sizes": sizes, "specs": sorted(specs)}
    return {**found, "weights": sums(model.compact())}


def by_oneself(net: Any, mesh: Any) -> dict[str, Any]:
    """Every process has a copy of its own, and decides by its own part of the data."""
    del mesh
    grower = gn.Grower(Hungry(above=0.3), optax.adam(1e-2))
    model, state = grower.init(net, gn.trace(net, jnp.zeros(4)), key=jr.key(2))
    x = jr.normal(jr.key(1), (8, 4)) * (1 + 9 * jax.process_index())
    batch = (x, jnp.sin(x.sum(1, keepdims=True)) * 5 * jax.process_index())

    @eqx.filter_jit
    def train(model: Any, state: Any) -> Any:
        objective = grower.loss(loss, state)
        value, grads = eqx.filter_value_and_grad(objective)(model, batch)
        return grower.step(model, grads, state, loss=value)

    for step in range(STEPS):
        model, state = grower.resize(*train(model, state))
        try:
            gn.check_same_everywhere(model)
        except ValueError as error:
            return {"step": step + 1, "error": str(error)}
    return {"error": "", "sizes": {n: int(m.sum()) for n, m in model.open.items()}}


def sums(net: Any) -> list[float]:
    whole = jax.jit(lambda t: [jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(t)])
    return [float(x) for x in whole(eqx.filter(net, eqx.is_array))]


def main() -> None:
    port, index, count, what, _ = sys.argv[1:]
    if int(count) > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    net = eqx.nn.MLP(4, 1, 4, 1, key=jr.key(0))
    found = {name: globals()[f"by_{name}"](net, mesh) for name in what.split(",")}
    print(json.dumps({"process": jax.process_index(), **found}))


if __name__ == "__main__":
    main()
