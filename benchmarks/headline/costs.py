"""Executed floating point operations, by what every arm does, at its capacity.

Counted are multiplications and additions of layers (a step costs three times a forward
pass), activations, Adam, and all evidence: held-out losses of every decision, those at
other sizes and without single units, and two losses around every change. Capacities are
those that `fit` gives to a run (`growthnet.Buckets()`); the populations here compute at
`MOST`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..discovered_size.arms import bucketed
from .settings import Arm, MOST, RUNGS, Settings
from .tasks import Shape


ADAM = 12
"""Operations of Adam per parameter."""
CANDIDATES = 17
"""Sizes at which `NestedSize` takes held-out losses; one of them is 0."""


def forward(shape: Shape, widths: Any) -> Any:
    """Of one example; `widths` are those of the hidden layers, numbers or arrays."""
    ends = [shape.inputs, *widths, shape.outputs]
    pairs = zip(ends[:-1], ends[1:], strict=True)
    return sum(2.0 * a * b for a, b in pairs) + sum(widths)


def step(shape: Shape, widths: Any, batch: int) -> Any:
    ends = [shape.inputs, *widths, shape.outputs]
    params = sum((a + 1.0) * b for a, b in zip(ends[:-1], ends[1:], strict=True))
    return 3 * batch * forward(shape, widths) + ADAM * params


def executed(
    shape: Shape, arm: Arm, s: Settings, counts: Mapping[str, int], seen: Any
) -> np.ndarray:
    """Of each run, from its sizes before and after every tick `[runs, ticks, widths]`;
    `counts` are the examples of the parts of the data."""
    before, path = seen["before"].astype(int), seen["path"].astype(int)
    every = arm.policy(s).every
    held_out = counts["valid"]
    if arm.kind == "static":
        one = [arm.start] * shape.depth
        ticks = s.steps // every
        total = s.steps * step(shape, one, s.batch)
        return np.full(len(path), total + ticks * held_out * forward(shape, one))
    capacity = bucketed(before.swapaxes(1, 2), MOST).astype(float)
    widths = [capacity[:, i] for i in range(capacity.shape[1])]
    one = forward(shape, widths)
    total = every * step(shape, widths, s.batch) + held_out * one
    now = every * (1 + np.arange(path.shape[1]))[None]
    if arm.kind in ("growthnet", "trimmed"):
        until = s.until if arm.kind == "growthnet" else s.trim[0]
        searching = now < until + every
        total = total + searching * CANDIDATES * shape.depth * held_out * one
    if arm.kind == "pruned":
        searching = (now >= s.simple[0]) & (now < s.simple[1])
        total = total + searching * sum(widths) * held_out * one
    changed = (before != path).any(-1)
    return (total + changed * 2 * s.batch * one).sum(1)


def halved(curves: np.ndarray, spent: np.ndarray) -> tuple[int, float]:
    """Successive halving, from the held-out losses `[widths, 8]` of runs that weren't
    stopped, and what each would cost: the width that wins, and the operations until
    then. After each of `RUNGS` the better half of the widths goes on."""
    left, total, done = np.arange(len(curves)), 0.0, 0.0
    for rung in (*RUNGS, 1.0):
        total += (rung - done) * spent[left].sum()
        done = rung
        now = curves[left, round(8 * rung) - 1]
        keep = 1 if rung == 1.0 else (len(left) + 1) // 2
        left = left[np.argsort(now)[:keep]]
    return int(left[0]), total
