# ruff: noqa: PLC2701
"""What a capacity costs before its first step: tracing and compiling a chunk of ticks,
beside the training steps in it and the same steps written by hand.

    python -m benchmarks.compile_chunk [--repeats 4]

Processor seconds, the least of the repeats; and how many fusions XLA made of it.
`XLA_FLAGS=--xla_cpu_use_fusion_emitters=false` before it shows what that saves.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from growthnet._policies.turn import apply
from growthnet._runs.chunk import run_chunk, Stretch
from growthnet._runs.data import ArrayData
from growthnet._runs.tick import Ticker
from growthnet_policies import GradientSizeWeight


OPTIMIZER = optax.adam(1e-3)
X = jr.normal(jr.key(0), (200, 4))
Y = jnp.sin(X.sum(-1, keepdims=True))


def loss(net: Any, batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def parts() -> dict[str, tuple[Callable[..., Any], Any]]:
    """Programs by name, each with its arguments."""
    net = eqx.nn.MLP(4, 1, 8, 1, activation=jnp.tanh, key=jr.key(0))
    grower = gn.Grower(GradientSizeWeight(target=24), OPTIMIZER, capacity={"*": 16})
    started = grower.init(net, gn.trace(net, X[0]), key=jr.key(1))
    ticker = Ticker(grower, loss)
    batches = ArrayData.of((X, Y), None).window(jr.key(0), 0, 10)
    arrays, rest = eqx.partition((*started, batches), eqx.is_array)

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        def program(arrays: Any, first: Any, count: Any) -> Any:
            result = function(*eqx.combine(arrays, rest), first, count)
            return eqx.filter(result, eqx.is_array)

        return program

    def by_hand(growing: Any, state: Any, batches: Any, first: Any, count: Any) -> Any:
        del state, batches
        params, static = eqx.partition(growing.net, eqx.is_array)

        def step(_: Any, carry: Any) -> Any:
            params, opt_state = carry
            grads = jax.grad(lambda p: loss(eqx.combine(p, static), (X, Y), None))
            updates, opt_state = OPTIMIZER.update(grads(params), opt_state)
            return eqx.apply_updates(params, updates), opt_state

        carry = (params, OPTIMIZER.init(params))
        return jax.lax.fori_loop(0, count, step, carry)

    def training(growing: Any, state: Any, batches: Any, first: Any, count: Any) -> Any:
        return ticker.train(growing, state, batches.prepared(), first, count)

    def decision(growing: Any, state: Any, batches: Any, first: Any, count: Any) -> Any:
        return apply(grower, growing, state)

    def chunk(growing: Any, state: Any, batches: Any, first: Any, count: Any) -> Any:
        stretch = Stretch(first, first + count, False)
        return run_chunk(ticker, growing, state, batches, None, stretch, 64)

    args = (arrays, jnp.asarray(0), jnp.asarray(10))
    names = {
        "Adam steps by hand, in a loop": by_hand,
        "growthnet's training steps": training,
        "writing a decision": decision,
        "a chunk, whole": chunk,
    }
    return {name: (of(function), args) for name, function in names.items()}


def row(name: str, program: Callable[..., Any], args: Any, repeats: int) -> str:
    times = []
    for _ in range(repeats):
        clock = [time.process_time()]
        # A function of its own, so that nothing is remembered.
        lowered = jax.jit(lambda *a: program(*a)).trace(*args).lower()
        clock.append(time.process_time())
        compiled = lowered.compile()
        clock.append(time.process_time())
        times.append((clock[1] - clock[0], clock[2] - clock[1]))
        fusions = compiled.as_text().count(" fusion(")
    traced, built = (min(column) for column in zip(*times, strict=True))
    return f"| {name} | {traced:.2f} | {built:.2f} | {fusions} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    print("| CPU seconds | trace and lower | compile | fusions |")
    print("|---|---|---|---|")
    for name, (program, args) in parts().items():
        print(row(name, program, args, options.repeats), flush=True)
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}"
    )


if __name__ == "__main__":
    main()
