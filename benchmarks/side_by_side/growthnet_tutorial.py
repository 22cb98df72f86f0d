"""Arm: gromo's container tutorial with growthnet: the same data in the same order, the
sizes that gromo's run grew to, the same epochs and optimizer.
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

from .clock import Clock
from .jax_compiles import Compiles
from .user_lines import user_lines


# --- what the user of the library writes: a network, its loss, when it grows, the run


def build(width: int, key: Any) -> eqx.nn.MLP:
    return eqx.nn.MLP(10, 3, width, 2, activation=jax.nn.selu, key=key)


def loss(net: Any, batch: Any, key: Any) -> Any:
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


class Sizes(gn.AbstractPolicy):
    table: Any
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def step(self, trainable: Any, memory: Any, evidence: Any, *, key: Any) -> Any:
        sizes = self.table[evidence.step // self.every - 1]
        changes = {
            name: gn.Change(mask, sizes[i] - mask.sum())
            for i, (name, mask) in enumerate(evidence.open.items())
        }
        return gn.Decision(changes), trainable, memory, {}


def grow(net: Any, data: list[Any], sizes: list[list[int]], key: Any) -> gn.Run:
    return gn.fit(
        net,
        loss,
        data,
        optimizer=optax.sgd(0.01),
        policy=Sizes(table=jnp.asarray(sizes), every=3 * len(data)),
        steps=3 * len(data) * len(sizes),
        capacity={"layers[0]": sizes[-1][0], "layers[1]": sizes[-1][1]},
        key=key,
    )


# ---


def run(job: dict[str, Any]) -> dict[str, Any]:
    arrays = np.load(job["data"])
    data = list(zip(arrays["x"], arrays["y"], strict=True))
    key = jr.key(job.get("seed", 0))
    compiles, clock = Compiles(), Clock()
    result = grow(build(job["width"], key), data, job["schedule"], key)
    jax.block_until_ready(result.net.layers[0].weight)
    times = clock.read()
    test = jnp.asarray(arrays["u"][0]), jnp.asarray(arrays["v"][0])
    return {
        **times,
        "loss": float(loss(result.net, test, None)),
        "schedule": [[e.step, e.width, e.new] for e in result.history.events],
        "lines": user_lines(build, loss, Sizes, grow),
        "traces": result.history.ticks[-1].traces,
        **compiles.report(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
