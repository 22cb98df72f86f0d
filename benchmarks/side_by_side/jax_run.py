"""Arms: JAX by hand, with real resizes (a compile at every new size) or of one size.

`stepwise` calls a jitted train step from Python, as most training loops do. `segments`
puts all steps between two resizes into one program with a dynamic number of steps.
Without a schedule the size stays, and `segments` is one program.
"""

import json
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .clock import Clock
from .jax_compiles import Compiles
from .jax_task import leaves, loss_of, network
from .tasks import data_of


OPTIMIZER = optax.adam(1e-3)
Carry = Any


def train_step(loss: Any, carry: Carry, batch: Any) -> Carry:
    params, state = carry
    grads = jax.grad(loss)(params, batch)
    updates, state = OPTIMIZER.update(grads, state)
    return optax.apply_updates(params, updates), state


def grown(carry: Carry, size: int, random: np.random.Generator) -> Carry:
    """New units read at random and aren't read yet; Adam's moments of theirs are 0."""
    params, state = carry
    first, _, last, _ = (np.asarray(a) for a in leaves(params))
    new, inputs = size - len(first), first.shape[1]
    limit = 1 / np.sqrt(inputs)
    born = random.uniform(-limit, limit, (new, inputs + 1)).astype(np.float32)
    silent = np.zeros((len(last), new), np.float32)
    quiet, still = np.zeros((new, inputs), np.float32), np.zeros(new, np.float32)
    params = joined(params, born[:, :-1], born[:, -1], silent)
    adam = state[0]._replace(
        mu=joined(state[0].mu, quiet, still, silent),
        nu=joined(state[0].nu, quiet, still, silent),
    )
    return params, (adam, *state[1:])


def joined(tree: Any, first: Any, bias: Any, last: Any) -> Any:
    old = [np.asarray(a) for a in leaves(tree)]
    new = [
        np.concatenate([old[0], first]),
        np.concatenate([old[1], bias]),
        np.concatenate([old[2], last], axis=1),
        old[3],
    ]
    return eqx.tree_at(leaves, tree, [jnp.asarray(a) for a in new])


def whole(data: Any, loss: Any) -> Any:
    """Steps on all examples at once, in one program."""

    @jax.jit
    def steps(carry: Carry, first: Any, count: Any) -> Carry:
        del first
        return jax.lax.fori_loop(
            0, count, lambda _, c: train_step(loss, c, data), carry
        )

    return steps


def in_batches(data: Any, loss: Any, batch_size: int) -> Any:
    """Steps on shuffled batches: an epoch's order is drawn once, outside; its batches
    are gathered inside the program."""
    size = len(data[0])
    per_epoch = size // batch_size
    order_of = jax.jit(
        lambda epoch: jax.random.permutation(
            jax.random.fold_in(jax.random.key(5), epoch), size
        )
    )

    @jax.jit
    def some(carry: Carry, data: Any, order: Any, start: Any, stop: Any) -> Carry:
        def body(i: Any, carry: Carry) -> Carry:
            rows = jax.lax.dynamic_slice(order, (i * batch_size,), (batch_size,))
            return train_step(loss, carry, tuple(a[rows] for a in data))

        return jax.lax.fori_loop(start, stop, body, carry)

    def steps(carry: Carry, first: int, count: int) -> Carry:
        end = first + count
        while first < end:
            epoch, start = divmod(first, per_epoch)
            stop = min(per_epoch, start + end - first)
            carry = some(
                carry, data, order_of(epoch), jnp.asarray(start), jnp.asarray(stop)
            )
            first += stop - start
        return carry

    return steps


def stepwise(data: Any, loss: Any) -> Any:
    one = jax.jit(lambda carry, data: train_step(loss, carry, data))

    def steps(carry: Carry, first: int, count: int) -> Carry:
        del first
        for _ in range(count):
            carry = one(carry, data)
        return carry

    return steps


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the untouched network to the last step, compiling included."""
    arrays = data_of(job["task"])
    net = network(job["task"], job["start"])
    compiles, clock = Compiles(), Clock()
    data = tuple(jnp.asarray(a) for a in arrays)
    params, rest = eqx.partition(net, eqx.is_inexact_array)

    def loss(params: Any, batch: Any) -> Any:
        return loss_of(job["task"])(eqx.combine(params, rest), batch)

    if job.get("batch_size") is not None:
        steps = in_batches(data, loss, job["batch_size"])
    elif job["style"] == "stepwise":
        steps = stepwise(data, loss)
    else:
        steps = whole(data, loss)
    carry = params, OPTIMIZER.init(params)
    random, done = np.random.default_rng(job.get("seed", 0)), 0
    for step, size in [*job.get("schedule", []), [job["steps"], None]]:
        carry = steps(carry, done, step - done)
        done = step
        if size is not None:
            carry = grown(carry, size, random)
    params = jax.block_until_ready(carry)[0]
    times = clock.read()
    return {
        **times,
        "loss": float(loss(params, tuple(a[:10_000] for a in data))),
        "size": len(params.layers[0].bias),
        **compiles.report(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
