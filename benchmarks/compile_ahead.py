"""Would it pay to compile the next capacity's program while this one's trains?

    python -m benchmarks.compile_ahead [--seconds 10]

One thread trains a network; another compiles what a growing run needs for the next
capacity (a call of `fit` of one step, from nothing). Steps per second alone and
meanwhile, and how long the compiling takes alone and beside the training, tell what
would be gained: waiting costs `alone` seconds without a step, compiling ahead costs the
steps that are lost in the `beside` seconds.
"""

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from benchmarks.side_by_side.jax_task import loss_of, network
from benchmarks.side_by_side.tasks import data_of
from growthnet_policies import GradientSizeWeight


TASKS = {"waves": (64, None, 5_000), "fashion": (248, 128, 100)}
"""Units, images per step, and steps that take about a tenth of a second."""


def trainer(task: str) -> Callable[[], int]:
    """A call trains for some steps, about a tenth of a second, and says how many."""
    units, batch_size, steps = TASKS[task]
    optimizer = optax.adam(1e-3)
    data = tuple(jnp.asarray(a[: 50 * (batch_size or 4)]) for a in data_of(task))
    params, rest = eqx.partition(network(task, units), eqx.is_inexact_array)
    loss = loss_of(task)

    def step(i: Any, carry: Any) -> Any:
        params, state = carry
        first = 0 if batch_size is None else i % 50 * batch_size
        size = batch_size or len(data[0])
        batch = tuple(jax.lax.dynamic_slice_in_dim(a, first, size) for a in data)
        grads = jax.grad(lambda p: loss(eqx.combine(p, rest), batch))(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    # Compiled ahead of calls: the other thread clears caches.
    first = params, optimizer.init(params)
    program = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))
    many = program.lower(first).compile()
    state = [many(first)]

    def call() -> int:
        state[0] = jax.block_until_ready(many(state[0]))
        return steps

    return call


def compile_next(task: str) -> float:
    """Seconds of the first step of a run at the capacity above."""
    units, batch_size, _ = TASKS[task]
    jax.clear_caches()
    started = time.perf_counter()
    gn.fit(
        network(task, units),
        loss_of(task),
        data_of(task),
        optimizer=optax.adam(1e-3),
        policy=GradientSizeWeight(target=2 * units, rate=0.1),
        steps=1,
        batch_size=batch_size,
        capacity=2 * units,
        key=jr.key(0),
    )
    return time.perf_counter() - started


def pace(call: Callable[[], int], goes_on: Callable[[], bool]) -> float:
    """Steps per second for as long as it goes on."""
    started, done = time.perf_counter(), 0
    while goes_on():
        done += call()
    return done / (time.perf_counter() - started)


def compare(task: str, seconds: float) -> None:
    call = trainer(task)
    alone = compile_next(task)
    call()
    end = time.perf_counter() + seconds
    before = pace(call, lambda: time.perf_counter() < end)
    took: list[float] = []
    thread = threading.Thread(target=lambda: took.append(compile_next(task)))
    thread.start()
    meanwhile = pace(call, thread.is_alive)
    end = time.perf_counter() + seconds
    after = pace(call, lambda: time.perf_counter() < end)
    usual = (before + after) / 2
    lost = (1 - meanwhile / usual) * took[0]
    print(
        f"| {task} | {before:,.0f} | {meanwhile:,.0f} | {after:,.0f} | {alone:.2f} "
        f"| {took[0]:.2f} | {lost:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    heads = (
        "steps/s before | meanwhile | after | compiling alone, s | beside, s | lost, s"
    )
    print(f"| task | {heads} |\n{'|---' * 7}|")
    for task in TASKS:
        for _ in range(arguments.repeats):
            compare(task, arguments.seconds)


if __name__ == "__main__":
    main()
