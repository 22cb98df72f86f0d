"""Arm: method A of "Growing neural networks" for many trials at once, by `gn.grow`.

The policy is nothing but the gates and the size loss of the paper, so it decides
nothing; all units exist from the start. The size isn't fed to the units, which a policy
can't do, so this stands beside the hand-written programs without that input.
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

from ..seed._method_a import OWN_RATE, OWN_WEIGHT, TARGET, theta, UNITS
from .clock import Clock
from .tasks import trials


class Gates(gn.AbstractPolicy):
    """One size, drawn to the target; unit m has the gate theta(N - m)."""

    every: int = eqx.field(static=True, default=1_000)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: Any = optax.sgd(OWN_RATE)

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[Any, None]:
        return jnp.zeros(()), None

    def gates(
        self, trainable: Any, anatomy: gn.Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        return {
            name: theta(trainable - jnp.arange(width.size))
            for name, width in anatomy.widths.items()
        }

    def penalty(self, trainable: Any, net: Any, cost: Any) -> Any:
        return OWN_WEIGHT * (trainable - TARGET) ** 2


def loss(net: dict[str, Any], batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    hidden = jnp.tanh(net["bias"] + x[:, None] * net["x_in"])
    return jnp.mean((net["shift"] + hidden @ net["out"] - y) ** 2)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of all steps, and of the compile before them."""
    made = trials(job["trials"])
    params = {k: jnp.asarray(v) for k, v in made["params"].items()}
    nets = {
        "bias": params["b2"],
        "out": params["w3"],
        "shift": params["b3"],
        "x_in": params["w2"][..., 1],
    }

    def one(net: Any, x: Any, y: Any) -> gn.Grown:
        return gn.grow(
            net,
            loss,
            (x, y),
            optimizer=optax.sgd(OWN_RATE),
            policy=Gates(),
            steps=job["steps"],
            key=jr.key(0),
            capacity=UNITS,
        )

    data = (jnp.asarray(made["x"]), jnp.asarray(made["y"]))
    started = time.perf_counter()
    compiled = jax.jit(jax.vmap(one)).lower(nets, *data).compile()
    compile_seconds, clock = time.perf_counter() - started, Clock()
    grown = jax.block_until_ready(compiled(nets, *data))
    times = clock.read()
    sizes = grown.growing.trainable
    views = eqx.filter_vmap(gn.Growing.view)(grown.growing)
    losses = jax.vmap(loss, in_axes=(0, 0, None))(views, data, None)
    losses = losses + OWN_WEIGHT * (sizes - TARGET) ** 2
    return {
        **times,
        "compile_seconds": compile_seconds,
        "per_step": times["seconds"] / job["steps"] / job["trials"],
        "loss": float(losses.mean()),
        "size": float(sizes.mean()),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
