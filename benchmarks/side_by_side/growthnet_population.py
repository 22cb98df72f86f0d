"""Arm: a population of growing networks in one program, per member and step.

Every member starts at 4 units and grows to 24 at a rate of its own, so they differ in
size nearly all the time. Compiling is left out, and shown.
"""

import json
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from growthnet_policies import GradientSizeWeight

from .clock import Clock
from .jax_task import squared_error
from .tasks import waves


def run(job: dict[str, Any]) -> dict[str, Any]:
    data = tuple(jnp.asarray(a) for a in waves())

    def one(key: Any, rate: Any) -> gn.Grown:
        return gn.grow(
            eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=key),
            squared_error,
            data,
            optimizer=optax.adam(1e-3),
            policy=GradientSizeWeight(target=24, rate=0.1, learning_rate=rate),
            steps=job["steps"],
            key=key,
            capacity=32,
        )

    members = job["members"]
    given = jr.split(jr.key(0), members), jnp.geomspace(0.01, 0.1, members)
    started = time.perf_counter()
    compiled = jax.jit(jax.vmap(one)).lower(*given).compile()
    compile_seconds, clock = time.perf_counter() - started, Clock()
    grown = jax.block_until_ready(compiled(*given))
    times = clock.read()
    return {
        **times,
        "compile_seconds": compile_seconds,
        "per_step": times["seconds"] / job["steps"] / members,
        "size": float(grown.sizes["layers[0]"].mean()),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
