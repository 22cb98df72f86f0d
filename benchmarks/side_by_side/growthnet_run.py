"""Arm: `gn.fit`, with the size weight or without growth.

python -m benchmarks.side_by_side.growthnet_run '{"task": "waves", "steps": 2000, ...}'
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .clock import Clock
from .jax_compiles import Compiles
from .jax_task import loss_of, network
from .tasks import data_of


def policy_of(job: dict[str, Any]) -> gn.AbstractPolicy:
    if job.get("policy") == "none":
        return gn.NoGrowth()
    return GradientSizeWeight(
        target=job["target"],
        rate=0.1,
        learning_rate=job["size_rate"],
        every=job.get("every", 10),
        spare=job.get("spare", 0),
    )


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the untouched network to the compact one, compiling included."""
    data = data_of(job["task"])
    loss = loss_of(job["task"])
    net = network(job["task"], job["start"])
    compiles, clock = Compiles(), Clock()
    result = gn.fit(
        net,
        loss,
        data,
        optimizer=optax.adam(1e-3),
        policy=policy_of(job),
        steps=job["steps"],
        batch_size=job.get("batch_size"),
        capacity=job.get("capacity"),
        key=jr.key(job.get("seed", 0)),
    )
    jax.block_until_ready(result.net.layers[0].weight)
    times = clock.read()
    few = tuple(jnp.asarray(a[:10_000]) for a in data)
    return {
        **times,
        "loss": float(loss(result.net, few)),
        "size": result.sizes.get("layers[0]", job["start"]),
        "schedule": [[e.step, e.new] for e in result.history.events],
        "traces": result.history.ticks[-1].traces,
        **compiles.report(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
