"""Executed floating point operations, counted on the programs that `fit` runs.

A growing run trains, looks and tries at its capacity, which is the next power of two
(`growthnet.Buckets()`), or a fixed one. Counted are the steps (gradients, gates,
optimizer), every turn of the policy with all of its evidence, two losses around each
change, and the turns that are asked again after room was made.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.interpreters.partial_eval import dce_jaxpr

import growthnet as gn
from growthnet._evidence.look import Look, Past  # noqa: PLC2701
from growthnet._policies.policy import never_decides  # noqa: PLC2701
from growthnet._policies.turn import decide  # noqa: PLC2701
from growthnet._replay.flops import _bodies, _shape, _work  # noqa: PLC2701
from growthnet._runs.data import ArrayData  # noqa: PLC2701
from growthnet._runs.grow import grower_of  # noqa: PLC2701
from growthnet._runs.tick import Ticker  # noqa: PLC2701


Sizes = tuple[int, ...]
Costs = tuple[float, float, float]
"""Of a step, a turn, and a loss."""


def operations(program: Any, rounds: int) -> float:
    """Of a program whose `while` loops go round `rounds` times: means over batches."""
    total = 0.0
    for eqn in program.eqns:
        ins, outs = ([_shape(v) for v in side] for side in (eqn.invars, eqn.outvars))
        inside = [operations(body, rounds) for body in _bodies(eqn)]
        if eqn.primitive.name == "while":
            total += rounds * sum(inside)
        elif eqn.primitive.name in ("svd", "eigh"):
            total += _factorization(eqn.primitive.name, *ins[0])
        else:
            total += _work(eqn, ins, outs, inside, 1.0)
    return total


def _factorization(name: str, *shape: int) -> float:
    """With vectors: Golub, Van Loan, "Matrix Computations", 4th ed., 8.3.3, 8.6.3."""
    *batch, m, n = shape
    m, n = max(m, n), min(m, n)
    each = 9 * n**3 if name == "eigh" else 6 * m * n**2 + 20 * n**3
    return float(math.prod(batch) * each)


def counted(
    policy: gn.AbstractPolicy,
    net: Any,
    loss: Callable[..., Any],
    train: Any,
    valid: Any,
    batch_size: int,
    rounds: int = 1,
    capacity: Sizes | None = None,
) -> Costs:
    """With Adam, at a capacity, by default the sizes of the network; `rounds` is how
    often the loops of the policy's turn go round. What `train` and `valid` hold doesn't
    matter."""
    stream = ArrayData.of(train, batch_size)
    held_out = valid if policy.needs & {"valid", "valid_at"} else None
    look = Look.at(loss, stream, held_out)
    optimizer = optax.adam(1e-3)
    anatomy = gn.trace(net, train[0][0])
    sizes = {name: width.size for name, width in anatomy.widths.items()}
    room = dict(zip(sizes, capacity or sizes.values(), strict=True))
    grower_of(policy, optimizer, room, "*", None, held_out, look)
    grower = gn.Grower(policy, optimizer, capacity=room)
    grower.look = look
    growing, state = grower.init(net, anatomy, key=jr.key(0))
    ticker = Ticker(grower, loss)
    batch = jax.tree.map(lambda a: a[:batch_size], train)

    def turn(growing: Any, state: Any) -> Any:
        step = jnp.asarray(policy.every, jnp.int32)
        past = Past(lambda at: batch, step, step, held_out)
        number = jnp.zeros(())
        seen = look(grower, growing, state, past, number, number)
        return decide(growing, state, seen)[:2]

    steps = lambda growing, state: ticker._step(growing, state, batch)
    whole = lambda growing, state: ticker._value(growing.view(), batch, state)

    def count(function: Any) -> float:
        program = eqx.filter_make_jaxpr(function)(growing, state)[0].jaxpr
        program = dce_jaxpr(program, [True] * len(program.outvars))[0]
        return operations(program, rounds)

    asked = 0.0 if never_decides(policy) else count(turn)
    return count(steps), asked, count(whole)


def along(
    cost: Callable[[Sizes], Costs],
    start: Sizes,
    path: np.ndarray,
    every: int,
    fixed: Sizes | None = None,
) -> float:
    """Of a run of sizes `[ticks, widths]`, at powers of two or a `fixed` capacity."""
    buckets = gn.Buckets()
    sizes, total = tuple(start), 0.0
    now = fixed or tuple(buckets.capacity(n) for n in sizes)
    for after in map(tuple, np.asarray(path, int).tolist()):
        step, turn, value = cost(now)
        total += every * step + turn
        then = now
        if not fixed:
            then = tuple(
                buckets.lowered(max(c, buckets.capacity(n)), n)
                for c, n in zip(now, after, strict=True)
            )
        if after != sizes:
            _, again, value = cost(then)
            grew = any(a > b for a, b in zip(then, now, strict=True))
            total += 2 * value + grew * again
        sizes, now = after, then
    return total
