"""Arms as programs: from first sizes, a learning rate and a seed to what came out."""

import functools as ft
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn

from ..executed import along, Costs, counted
from .settings import Arm, BATCH, optimizer, ROOM, START
from .task import learnt, loss, measured, network, Sizes, unseen, WIDTHS


class Seen(NamedTuple):
    """Of a run: held-out loss and error, sizes after each tick, the network."""

    valid: tuple[float, float]
    path: np.ndarray
    net: Any

    @property
    def test(self) -> tuple[float, float]:
        return _numbers(measured(self.net, unseen()))


@ft.lru_cache(2)
def _program(arm: Arm, start: Sizes, steps: int) -> Any:
    """Rate and key go in, so that one program serves all runs of an arm."""
    room = start if arm.start is None or _static(arm) else ROOM

    def one(train: Any, rate: Any, key: Any) -> Any:
        first, rest = jr.split(key)
        return gn.grow(
            network(start, first),
            loss,
            train,
            optimizer=optimizer(rate, steps),
            policy=arm.policy(),
            steps=steps,
            key=rest,
            capacity=dict(zip(WIDTHS, room, strict=True)),
            batch_size=BATCH,
            overflow="hold",
        )

    return jax.jit(one)


def _static(arm: Arm) -> bool:
    return isinstance(arm.policy(), gn.NoGrowth)


def run_once(arm: Arm, start: Sizes, steps: int, rate: float, seed: int) -> Seen:
    train, valid = learnt()
    made = _program(arm, tuple(start), steps)
    grown = made(train, rate, jr.key(seed))
    # What is closed is 0, so the network at capacity says what the compact one would.
    net, sizes = grown.growing.net, grown.reports.sizes
    ticks = -(-steps // arm.policy().every)  # There may be room for more.
    sizes = np.stack([sizes[name][:ticks] for name in WIDTHS], axis=-1)
    return Seen(_numbers(measured(net, valid)), sizes, net)


def _numbers(pair: Any) -> tuple[float, float]:
    value, error = map(float, pair)
    return value, error


# --- what it costs


@ft.cache
def _costs(arm: Arm, room: Sizes) -> Costs:
    policy = arm.policy()
    some = jnp.zeros((BATCH, 1, 28, 28)), jnp.zeros(BATCH, int)
    begins = room if _static(arm) else START  # A budget refuses to begin beyond itself.
    first, second, third, dense = map(min, zip(room, begins, strict=True))
    net = network((first, second, third, dense), jr.key(0))
    return counted(policy, net, loss, some, None, BATCH, capacity=room)


def executed(arm: Arm, start: Sizes, steps: int, path: np.ndarray) -> float:
    """Operations of a run as `fit` makes it with `buckets=growthnet.Buckets()`: at the
    next power of two of every size; static networks have no room to spare."""
    if _static(arm):
        return steps * per_step(start)
    return along(ft.partial(_costs, arm), start, path, arm.policy().every)


def needed(arm: Arm, start: Sizes, steps: int, path: np.ndarray) -> float:
    """Those of the steps alone, at the sizes that were open."""
    every = arm.policy().every
    before = [tuple(start), *map(tuple, path[:-1].tolist())]
    counts = [min(every, steps - every * i) for i in range(len(before))]
    return sum(n * per_step(one) for n, one in zip(counts, before, strict=True))


@ft.cache
def per_step(sizes: Sizes) -> float:
    return _costs(Arm(sizes), tuple(sizes))[0]
