"""Arm: what a training step costs as capacity grows, or the number of widths.

The size weight stands at its target, so no unit comes or goes: what differs is spare
capacity, how many widths the policy watches, or whether data may move it. Steps are
timed from the first record to the last, so that compiling isn't in them; seconds of
compiling are given beside.
"""

import json
import sys
import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .jax_compiles import Compiles
from .jax_task import squared_error
from .tasks import waves


def run(job: dict[str, Any]) -> dict[str, Any]:
    widths, units = job["widths"], job["units"]
    net = eqx.nn.MLP(2, 1, units, widths, activation=jnp.tanh, key=jr.key(0))
    compiles, started = Compiles(), time.perf_counter()
    result = gn.fit(
        net,
        squared_error,
        waves(),
        optimizer=optax.adam(1e-3),
        policy=GradientSizeWeight(
            target=units,
            rate=0.0,
            every=100,
            data_gradient=job.get("data_gradient", True),
        ),
        steps=job["steps"],
        capacity={"layers[*]": job["capacity"]},
        key=jr.key(1),
    )
    seconds = time.perf_counter() - started
    ticks = result.history.ticks
    timed = ticks[-1].seconds - ticks[0].seconds
    steps = ticks[-1].step - ticks[0].step
    return {
        "seconds": seconds,
        "microseconds_per_step": 1e6 * timed / steps,
        "traces": ticks[-1].traces,
        "size": next(iter(result.sizes.values())),
        **compiles.report(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
