"""Arm: static networks by hand, what growthnet's cost at a capacity is compared with.

One network of `units` units in each of `widths` layers, or `members` of them under
`vmap`; the same data, loss and optimizer, all steps in one program, compiled before.
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

from .clock import Clock
from .jax_task import squared_error
from .tasks import waves


def run(job: dict[str, Any]) -> dict[str, Any]:
    data = tuple(jnp.asarray(a) for a in waves())
    optimizer = optax.adam(1e-3)

    def one(key: Any, steps: Any) -> Any:
        net = eqx.nn.MLP(
            2, 1, job["units"], job["widths"], activation=jnp.tanh, key=key
        )
        params, rest = eqx.partition(net, eqx.is_inexact_array)

        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            value = lambda p: squared_error(eqx.combine(p, rest), data)
            updates, state = optimizer.update(jax.grad(value)(params), state)
            return optax.apply_updates(params, updates), state

        first = params, optimizer.init(params)
        return jax.lax.fori_loop(0, steps, step, first)[0]

    members, steps = job.get("members", 1), jnp.asarray(job["steps"])
    given = jr.split(jr.key(0), members) if "members" in job else jr.key(0)
    many = jax.vmap(one, (0, None)) if "members" in job else one
    started = time.perf_counter()
    compiled = jax.jit(many).lower(given, steps).compile()
    compile_seconds, clock = time.perf_counter() - started, Clock()
    jax.block_until_ready(compiled(given, steps))
    times = clock.read()
    per_step = times["seconds"] / job["steps"] / members
    return {
        **times,
        "compile_seconds": compile_seconds,
        "per_step": per_step,
        "microseconds_per_step": 1e6 * per_step,
        "size": job["units"],
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
