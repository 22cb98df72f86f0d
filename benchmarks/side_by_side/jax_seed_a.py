"""Arm: method A of "Growing neural networks" for many trials at once, JAX by hand."""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from .clock import Clock
from .tasks import trials


ETA, LAMBDA, TARGET = 1e-3, 0.1, 5.0


def theta(u: Any) -> Any:
    return jnp.sin(jnp.pi * jnp.clip(u, 0, 1) / 2) ** 2


def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
    """One trial: the gate of unit m is theta(N - m), and N is an input as well."""
    gates = theta(p["N"] - jnp.arange(9))
    hidden = jnp.tanh(p["b2"] + p["N"] * p["w2"][:, 0] + x[:, None] * p["w2"][:, 1])
    out = p["b3"] + hidden @ (p["w3"] * gates)
    return jnp.mean((y - out) ** 2) + LAMBDA * (p["N"] - TARGET) ** 2


def step(p: dict[str, Any], x: Any, y: Any) -> dict[str, Any]:
    grads = jax.vmap(jax.grad(loss))(p, x, y)
    return jax.tree.map(lambda a, g: a - ETA * g, p, grads)


@jax.jit
def train(p: dict[str, Any], x: Any, y: Any, steps: Any) -> dict[str, Any]:
    return jax.lax.fori_loop(0, steps, lambda _, p: step(p, x, y), p)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of all steps, and of the compile before them."""
    made = trials(job["trials"])
    p, x, y = (jax.tree.map(jnp.asarray, made[k]) for k in ("params", "x", "y"))
    started = time.perf_counter()
    jax.block_until_ready(train(p, x, y, 0))
    compile_seconds, clock = time.perf_counter() - started, Clock()
    p = jax.block_until_ready(train(p, x, y, job["steps"]))
    times = clock.read()
    losses = jax.vmap(loss)(p, x, y)
    return {
        **times,
        "compile_seconds": compile_seconds,
        "per_step": times["seconds"] / job["steps"] / job["trials"],
        "loss": float(losses.mean()),
        "size": float(p["N"].mean()),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
