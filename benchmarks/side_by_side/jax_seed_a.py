"""Arm: method A of "Growing neural networks" for many trials at once, JAX by hand: the
programs of `benchmarks.seed`.

- `vmapped`: the run of one network, and `vmap`.
- `last`: the same arithmetic, with the networks along the last axis.
"""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from ..seed._blocks import setting
from ..seed._method_a import data_loss, Net, size_loss, train, train_vmapped
from .clock import Clock
from .tasks import trials


def nets(params: dict[str, Any]) -> Net:
    """The trials' first weights, with the trials along the last axis."""
    w2 = params["w2"]
    parts = (params["N"], w2[..., 0], w2[..., 1], params["b2"], params["w3"])
    return Net(*(jnp.asarray(a.T) for a in (*parts, params["b3"])))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of all steps, and of the compile before them."""
    made, count = trials(job["trials"]), job["trials"]
    how = setting(count, size_input=job.get("size_input", True))
    given = (nets(made["params"]), how, *(made[k].T for k in ("x", "y")))
    program = {"last": train, "vmapped": train_vmapped}[job["style"]]
    started = time.perf_counter()
    compiled = program.lower(*given, epochs=job["steps"]).compile()
    compile_seconds, clock = time.perf_counter() - started, Clock()
    result = jax.block_until_ready(compiled(*given))
    times = clock.read()
    net = result[0] if job["style"] == "last" else result
    losses = data_loss(net, *given[1:]) + size_loss(net, given[1])
    return {
        **times,
        "compile_seconds": compile_seconds,
        "per_step": times["seconds"] / job["steps"] / count,
        "loss": float(losses.mean()),
        "size": float(net.size.mean()),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
