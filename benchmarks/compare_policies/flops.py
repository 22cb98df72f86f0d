"""Executed floating point operations, counted on the programs that `fit` runs.

A growing run trains, looks and tries at its capacity, which is the next power of two
(`growthnet.Buckets()`), or, in the populations here, `MOST`. Counted are the steps
(gradients, gates, optimizer), every turn of the policy with all of its evidence, two
losses around each change, and the turns that are asked again after room was made.
"""

import functools as ft
import math
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

from .replay import Replay
from .settings import BATCH, EVERY, POLICIES
from .tasks import loss, Task


def policy_of(name: str) -> gn.AbstractPolicy:
    if name == "static":
        return gn.NoGrowth(EVERY)
    if name.startswith("replay"):
        return Replay(jnp.zeros((2_000, 2), int), int(name.split()[1]))
    return POLICIES[name][1]()


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


def _inner(policy: Any) -> Any:
    """The policy that `during` is around."""
    return getattr(policy, "policy", policy)


@ft.cache
def costs(task: Task, name: str, sizes: tuple[int, ...]) -> tuple[float, float, float]:
    """Of a step, a turn, and a loss, at capacities `sizes`."""
    policy, keys = policy_of(name), jr.split(jr.key(0), 3)
    train, valid, _ = task.data(keys[0])
    net = task.network(keys[1], sizes)
    return counted(policy, net, loss, train, valid, BATCH, keys[2])


def counted(
    policy: gn.AbstractPolicy,
    net: Any,
    loss: Any,
    train: Any,
    valid: Any,
    batch_size: int,
    key: Any,
) -> tuple[float, float, float]:
    """Of a step with Adam, a turn, and a loss of a network without spare room."""
    stream = ArrayData.of(train, batch_size)
    held_out = valid if policy.needs & {"valid", "valid_at"} else None
    anatomy = gn.trace(net, train[0][0])
    capacity = {name: width.size for name, width in anatomy.widths.items()}
    grower = grower_of(
        policy, optax.adam(1e-3), capacity, "*", None, held_out,
        Look.at(loss, stream, held_out),
    )  # fmt: skip
    growing, state = grower.init(net, anatomy, key=key)
    ticker = Ticker(grower, loss)
    batch = jax.tree.map(lambda a: a[:batch_size], train)

    def turn(growing: Any, state: Any) -> Any:
        step = jnp.asarray(policy.every, jnp.int32)
        past = Past(lambda at: batch, step, step, held_out)
        number = jnp.zeros(())
        seen = grower.look(grower, growing, state, past, number, number)
        return decide(growing, state, seen)[:2]

    steps = lambda growing, state: ticker._step(growing, state, batch)
    whole = lambda growing, state: ticker._value(growing.view(), batch, state)

    def count(function: Any) -> float:
        program = eqx.filter_make_jaxpr(function)(growing, state)[0].jaxpr
        program = dce_jaxpr(program, [True] * len(program.outvars))[0]
        return operations(program, getattr(_inner(policy), "batches", 1))

    asked = 0.0 if never_decides(policy) else count(turn)
    return count(steps), asked, count(whole)


def executed(
    task: Task, name: str, start: int, path: np.ndarray, every: int, fixed: int = 0
) -> np.ndarray:
    """Of each run, from its sizes `[runs, ticks, widths]`; `fixed` is the capacity, if
    it is always the same."""
    path = np.asarray(path, int)
    return np.array([_one(task, name, start, p, every, fixed) for p in path])


def _one(
    task: Task, name: str, start: int, path: np.ndarray, every: int, fixed: int
) -> float:
    buckets = gn.Buckets()
    sizes, total = (start,) * path.shape[1], 0.0
    now = tuple(fixed or buckets.capacity(n) for n in sizes)
    for after in map(tuple, path.tolist()):
        step, turn, value = costs(task, name, now)
        total += every * step + turn
        then = now
        if not fixed:
            then = tuple(
                buckets.lowered(max(c, buckets.capacity(n)), n)
                for c, n in zip(now, after, strict=True)
            )
        if after != sizes:
            _, again, value = costs(task, name, then)
            grew = any(a > b for a, b in zip(then, now, strict=True))
            total += 2 * value + grew * again
        sizes, now = after, then
    return total


def of_static(task: Task, sizes: np.ndarray, steps: Any) -> np.ndarray:
    """Of static runs of `[runs, widths]` units."""
    one = [costs(task, "static", tuple(s))[0] for s in np.asarray(sizes, int).tolist()]
    return np.array(one) * steps
