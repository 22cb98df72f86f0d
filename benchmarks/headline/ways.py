"""Ways to a network, in JAX: sweep, halving, growthnet, and resizes by hand."""

import json
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import growthnet as gn

from ..side_by_side.clock import Clock
from .by_hand import batches, first_weights, resized
from .settings import ARMS, RUNGS, Settings
from .tasks import Shape, TASKS


Job = dict[str, Any]
Carry = tuple[Any, Any]


class Trainer:
    """Static training: steps `[first, last)` are a program, compiled once per size."""

    def __init__(self, shape: Shape, data: Any, s: Settings, rate: float, random: Any):
        self.shape, self.data, self.random = shape, data, random
        rows = batches(len(data["train"][0]), s.batch, s.steps, random)
        schedule = optax.cosine_decay_schedule(rate, s.steps)
        self.optimizer = optax.adam(schedule)
        loss = self.loss

        @jax.jit
        def train(carry: Carry, data: Any, rows: Any, first: Any, last: Any) -> Carry:
            def body(i: Any, carry: Carry) -> Carry:
                params, state = carry
                batch = jax.tree.map(lambda a: a[rows[i]], data)
                grads = jax.grad(loss)(params, batch)
                updates, state = self.optimizer.update(grads, state)
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(first, last, body, carry)

        self.steps: Callable[[Carry, int, int], Carry] = lambda carry, first, last: (
            train(carry, data["train"], rows, first, last)
        )
        self.valid = jax.jit(lambda params, held_out: loss(params, held_out))

    def first(self, size: int) -> Carry:
        arrays = first_weights(self.shape.inputs, size, self.shape.outputs, self.random)
        params = [jnp.asarray(a) for a in arrays]
        return params, self.optimizer.init(params)

    def loss(self, params: Any, batch: Any) -> Any:
        first, bias, last, last_bias = params
        net = lambda x: last @ jnp.tanh(first @ x + bias) + last_bias
        return self.shape.loss(net, batch)

    def held_out(self, carry: Carry) -> float:
        return float(self.valid(carry[0], self.data["valid"]))


def sweep(trainer: Trainer, s: Settings, job: Job) -> float:
    """Every width in full; the smallest within 10 % of the best is delivered."""
    losses = [
        trainer.held_out(trainer.steps(trainer.first(w), 0, s.steps)) for w in s.widths
    ]
    return next(v for v in losses if v <= 1.1 * min(losses))


def halving(trainer: Trainer, s: Settings, job: Job) -> float:
    """After each of `RUNGS` the better half of the widths goes on."""
    left, done = [(0.0, trainer.first(w)) for w in s.widths], 0
    for rung in (*RUNGS, 1.0):
        last = round(rung * s.steps)
        trained = [trainer.steps(carry, done, last) for _, carry in left]
        left = [(trainer.held_out(carry), carry) for carry in trained]
        left = sorted(left, key=lambda pair: pair[0])[: (len(left) + 1) // 2]
        done = last
    return left[0][0]


def by_hand(trainer: Trainer, s: Settings, job: Job) -> float:
    """Along sizes that are known: resizes of the arrays, and a compile at every one."""
    carry, done = trainer.first(job["start"]), 0
    for step, size in [*job["schedule"], (s.steps, None)]:
        carry = trainer.steps(carry, done, step)
        done = step
        if size is not None:
            params, (adam, *rest) = carry
            params = _moved(params, size, trainer.random)
            moments = {"mu": _moved(adam.mu, size), "nu": _moved(adam.nu, size)}
            carry = params, (adam._replace(**moments), *rest)
    return trainer.held_out(carry)


def _moved(arrays: Any, size: int, random: Any = None) -> Any:
    host = [np.asarray(a) for a in arrays]
    return [jnp.asarray(a) for a in resized(host, size, random)]


def growthnet(shape: Shape, data: Any, s: Settings, job: Job) -> float:
    arm, key = ARMS[job["arm"]], jax.random.key(job.get("seed", 0))
    net = shape.network(arm.start, key)
    optimizer = optax.adam(optax.cosine_decay_schedule(job["rate"], s.steps))
    run = gn.fit(
        net,
        shape.loss,
        data["train"],
        valid=data["valid"],
        optimizer=optimizer,
        policy=arm.policy(s),
        steps=s.steps,
        key=key,
        batch_size=s.batch,
    )
    return float(eqx.filter_jit(shape.loss)(run.net, data["valid"]))


def main(job: Job) -> dict[str, Any]:
    s = Settings(**{k: v for k, v in job["settings"].items()})
    s = Settings(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in vars(s).items()}
    )
    shape, arrays = TASKS[job["task"]].shape, np.load(job["data"])
    clock = Clock()
    data = {
        part: (jnp.asarray(arrays[f"{part}_x"]), jnp.asarray(arrays[f"{part}_y"]))
        for part in ("train", "valid")
    }
    if job["way"] == "growthnet":
        found = growthnet(shape, data, s, job)
    else:
        random = np.random.default_rng(job.get("seed", 0))
        trainer = Trainer(shape, data, s, job["rate"], random)
        ways = {"sweep": sweep, "halving": halving, "by_hand": by_hand}
        found = ways[job["way"]](trainer, s, job)
    return {**clock.read(), "valid_loss": found}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
