"""Executed floating point operations, counted on the programs that `fit` runs.

A growing run trains and looks at its capacity, the next power of two of every width
(`growthnet.Buckets(smallest=2)`). Counted are steps with Adam, the turns of the policy
with all of their evidence, the look whether the game is known, losses around changes,
and turns that are asked again when room was made.
"""

import functools as ft

import jax.random as jr
import numpy as np

import growthnet as gn

from ..executed import counted
from .arms import Arm
from .life import drawn, loss, Network
from .settings import Settings


@ft.cache
def costs(arm: Arm, s: Settings, sizes: tuple[int, ...]) -> tuple[float, float, float]:
    """Of a step, a turn, and a loss, at capacities `sizes`."""
    path = np.zeros((s.grown_steps // s.every, 2), int)
    boards = drawn(jr.key(0), 0.5, s.boards, s.side)
    net = Network((sizes[0], sizes[1]), jr.key(1))
    return counted(arm.of(s, path), net, loss, boards, None, s.batch)


def of_step(arm: Arm, s: Settings) -> float:
    """Of a network whose size stays, with its part of a turn."""
    step, turn, _ = costs(arm, s, _first(arm))
    return step + turn / s.every


def _first(arm: Arm) -> tuple[int, ...]:
    sizes = (2 * arm.m, arm.m)
    return sizes if arm.static else _capacity(sizes, sizes)


def spent(arm: Arm, s: Settings, path: np.ndarray) -> np.ndarray:
    """Until the end of every tick, from the sizes after it: `[runs, ticks]`."""
    return np.stack([np.cumsum(_one(arm, s, p)) for p in path])


def _one(arm: Arm, s: Settings, path: np.ndarray) -> list[float]:
    sizes, every = (2 * arm.m, arm.m), []
    now = _first(arm)
    for after in map(tuple, path.tolist()):
        step, turn, value = costs(arm, s, now)
        total = s.every * step + turn
        if after != sizes:
            then = _capacity(now, after)
            _, again, value = costs(arm, s, then)
            total += 2 * value + (then > now) * again
            now = then
        every.append(total)
        sizes = after
    return every


def _capacity(now: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    ladder = gn.Buckets(smallest=2)  # Evidence about units needs room for two.
    return tuple(
        ladder.lowered(max(c, ladder.capacity(n)), n)
        for c, n in zip(now, sizes, strict=True)
    )
