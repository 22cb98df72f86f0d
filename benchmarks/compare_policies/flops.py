"""Executed floating point operations of the arms; how they are counted: `executed`."""

import functools as ft
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn

from ..executed import along, counted
from .replay import Replay
from .settings import BATCH, EVERY, POLICIES
from .tasks import loss, Task


def policy_of(name: str) -> gn.AbstractPolicy:
    if name == "static":
        return gn.NoGrowth(EVERY)
    if name.startswith("replay"):
        return Replay(jnp.zeros((2_000, 2), int), int(name.split()[1]))
    return POLICIES[name][1]()


def _inner(policy: Any) -> Any:
    """The policy that `during` is around."""
    return getattr(policy, "policy", policy)


@ft.cache
def costs(task: Task, name: str, sizes: tuple[int, ...]) -> tuple[float, float, float]:
    """Of a step, a turn, and a loss, at capacities `sizes`."""
    policy, keys = policy_of(name), jr.split(jr.key(0), 3)
    train, valid, _ = task.data(keys[0])
    rounds = getattr(_inner(policy), "batches", 1)
    net = task.network(keys[1], sizes)
    return counted(policy, net, loss, train, valid, BATCH, rounds)


def executed(
    task: Task, name: str, start: int, path: np.ndarray, every: int, fixed: int = 0
) -> np.ndarray:
    """Of each run, from its sizes `[runs, ticks, widths]`; `fixed` is the capacity, if
    it is always the same."""
    path = np.asarray(path, int)
    widths = path.shape[-1]
    cost = ft.partial(costs, task, name)
    room = (fixed,) * widths if fixed else None
    return np.array([along(cost, (start,) * widths, p, every, room) for p in path])


def of_static(task: Task, sizes: np.ndarray, steps: Any) -> np.ndarray:
    """Of static runs of `[runs, widths]` units."""
    one = [costs(task, "static", tuple(s))[0] for s in np.asarray(sizes, int).tolist()]
    return np.array(one) * steps
