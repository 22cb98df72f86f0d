"""When the decisions of a policy may count, as far as that is known beforehand."""

import itertools as it
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp


class Window(NamedTuple):
    """Steps from `start` on and before `stop`; with `period`, of every so many."""

    start: Any
    stop: Any
    period: int | None

    def holds(self, step: Any) -> Any:
        at = step if self.period is None else step % self.period
        return (at >= self.start) & (at < self.stop)

    def decisions(self, steps: int, every: int) -> int | None:
        """How many decisions it holds in so many steps, with one every so often (which
        periods are taken to be a multiple of); `None` if its numbers aren't known, as
        those of a population."""
        start, stop = self.start, self.stop
        if not (isinstance(start, int) and isinstance(stop, int)):
            return None

        def up_to(last: int) -> int:
            last = min(last, stop - 1)
            return max(0, last // every - (start - 1) // every)

        whole, rest = divmod(steps, self.period) if self.period else (0, steps)
        first = start == 0  # At step 0 nothing is decided.
        return whole * up_to(stop - 1) + up_to(rest) - first


Windows = tuple[tuple[Window, ...], ...]
"""Alternatives, each of windows that hold together."""

ALWAYS: Windows = ((),)


class Windowed(eqx.Module):
    """A policy around others that knows when it decides nothing: outside `windows`."""

    @property
    def windows(self) -> Windows:
        raise NotImplementedError


def windows_of(policy: Any) -> Windows:
    return policy.windows if isinstance(policy, Windowed) else ALWAYS


def hold(windows: Windows, step: Any) -> Any:
    """Is a step in the windows?"""
    found = jnp.zeros((), bool)
    for alternative in windows:
        within = jnp.ones((), bool)
        for window in alternative:
            within = within & window.holds(step)
        found = found | within
    return found


def apart(first: Windows, second: Windows) -> bool:
    """Is it certain that no step is in both?"""
    return all(
        any(_apart(*pair) for pair in it.combinations((*one, *other), 2))
        for one, other in it.product(first, second)
    )


def _apart(a: Window, b: Window) -> bool:
    if not all(isinstance(number, int) for number in (*a[:2], *b[:2])):
        return False  # Numbers of a population: nothing is known of them.
    # Two periods meet in every way that their common divisor allows; what has none is
    # laid around the other's.
    around = math.gcd(a.period or 0, b.period or 0)
    if not around:
        return a.stop <= b.start or b.stop <= a.start
    gap = (b.start - a.start) % around
    return a.stop - a.start <= gap and b.stop - b.start <= around - gap


def told(windows: Windows) -> str:
    """For messages: when is that?"""
    if () in windows:
        return "always"
    return " or ".join(
        " and ".join(
            f"[{w.start}, {w.stop})" + (f" of every {w.period}" if w.period else "")
            for w in alternative
        )
        for alternative in windows
    )
