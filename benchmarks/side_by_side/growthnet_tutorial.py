"""Arm: gromo's container tutorial with growthnet: the same data in the same order, the
weights that gromo's run began with and the sizes that it grew to, the same epochs and
optimizer.
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

import growthnet as gn
from growthnet_policies import Tiny

from .clock import Clock
from .jax_compiles import Compiles
from .user_lines import user_lines


# --- what the user of the library writes: a network, its loss, when it grows, the run


def build(width: int, key: Any) -> eqx.nn.MLP:
    return eqx.nn.MLP(10, 3, width, 2, activation=jax.nn.selu, key=key)


def loss(net: Any, batch: Any, key: Any) -> Any:
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def grow(net: Any, data: list[Any], births: list[tuple[str, int]], key: Any) -> Any:
    every = 3 * len(data)
    for name, add in births:
        run = gn.fit(
            net,
            loss,
            data,
            optimizer=optax.sgd(0.01),
            policy=Tiny(add, every=every, batches=len(data), move=True),
            widths=name,
            steps=every,
            key=key,
        )
        net = run.net
    return net


# ---


def with_weights(net: Any, arrays: Any) -> Any:
    """The network with gromo's first weights; its leaves have the same order."""
    leaves, structure = jax.tree.flatten(eqx.filter(net, eqx.is_array))
    named = [jnp.asarray(arrays[f"weights{i}"]) for i in range(len(leaves))]
    assert [a.shape for a in named] == [a.shape for a in leaves]
    return eqx.combine(jax.tree.unflatten(structure, named), net)


def run(job: dict[str, Any]) -> dict[str, Any]:
    arrays = np.load(job["data"])
    data = list(zip(arrays["x"], arrays["y"], strict=True))
    key = jr.key(job.get("seed", 0))
    compiles, clock = Compiles(), Clock()
    # gromo's sizes after each growth, as births.
    sizes = np.asarray([[job["width"]] * 2, *job["schedule"]])
    steps = np.diff(sizes, axis=0)
    births = [
        (f"layers[{i}]", int(born[i])) for born in steps for i in born.nonzero()[0]
    ]
    net = grow(with_weights(build(job["width"], key), arrays), data, births, key)
    jax.block_until_ready(net.layers[0].weight)
    times = clock.read()
    test = jnp.asarray(arrays["u"][0]), jnp.asarray(arrays["v"][0])
    return {
        **times,
        "loss": float(loss(net, test, None)),
        "schedule": births,
        "sizes": [layer.out_features for layer in net.layers[:2]],
        "lines": user_lines(build, loss, grow),
        **compiles.report(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
