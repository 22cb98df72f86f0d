"""What becomes of a run whose loss is no number any more.

A state is known to be good when a tick that began with it had a finite loss. So the run
goes back to the beginning of the last tick before the bad one: a place that depends on
the run alone, not on how it was cut into calls.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from .._devices.placement import to_host
from .._history.history import GrowthEvent
from .._policies.growing import GrowerState, Growing
from .data import Batches
from .reports import Report


OnNan = Literal["stop", "rollback", "ignore"]
ATTEMPTS = 3
"""How often a run may go back from the same place."""


class Stand(NamedTuple):
    """A run between two calls of its program: `batches` are there for the steps before
    `end`, and `last` is the batch that was used last (arrays have none)."""

    growing: Growing
    state: GrowerState
    step: int
    batches: Batches | None
    end: int
    last: Any


class Fault(NamedTuple):
    """A tick with a bad loss: the step at which it ended, the step to go back to."""

    end: int
    good: int
    text: str


class Guard:
    """Looks at the losses of a run's ticks."""

    def __init__(self, on_nan: OnNan, every: int):
        if on_nan not in ("stop", "rollback", "ignore"):
            raise ValueError(f"on_nan={on_nan!r}; 'stop', 'rollback' or 'ignore'")
        self.on_nan, self.every = on_nan, every
        self._farthest, self._attempts = -1, 0

    def fault(
        self, reports: Report, events: Sequence[GrowthEvent], first: int
    ) -> Fault:
        """The first tick of a call whose loss isn't finite; if there is none, its last
        one, which made weights that aren't.

        **Arguments:** what the call reported; the events so far, its own too; the step
        at which the run began (or was resumed).
        """
        bad = self._bad(reports)
        report = reports[int(np.argmax(bad))] if bad.any() else reports[-1]
        end = int(report.step)
        begin = good = end - int(report.count)
        text = f"weights aren't finite after step {end}"
        if bad.any():
            good = max(first, (begin - 1) // self.every * self.every)
            text = f"the loss is {float(report.loss)} in steps {begin + 1} to {end}"
        return Fault(end, good, f"{text}; {_last_change(events, begin)}")

    def finite(self, reports: Report) -> bool:
        """Are the losses of all ticks numbers? A tick of no steps has none."""
        return not self._bad(reports).any()

    def _bad(self, reports: Report) -> Any:
        ill = ~np.isfinite(reports.loss) & (reports.count > 0)
        return ill & (self.on_nan != "ignore")

    def proven(self, before: Stand, after: Stand) -> Stand:
        """What to go back to if the next call's first loss is bad. It is a whole run
        that is held for that, so not where nobody looks."""
        return after if self.on_nan == "ignore" else before

    def poisoned(self, trained: Any) -> bool:
        """Are there weights that are no numbers? The next loss will say so; meanwhile
        this is nothing to keep."""
        leaves = map(to_host, jax.tree.leaves(trained))
        return self.on_nan != "ignore" and not all(np.isfinite(x).all() for x in leaves)

    def gives_up(self, fault: Fault) -> bool:
        """Stops here, now that the run is back at the good step? Otherwise warns."""
        if self.on_nan == "stop":
            return True
        self._attempts = 1 if fault.end > self._farthest else self._attempts + 1
        self._farthest = max(self._farthest, fault.end)
        if self._attempts > ATTEMPTS:
            return True
        warnings.warn(
            f"{fault.text}. Going on from step {fault.good} with other random numbers",
            stacklevel=6,
        )
        return False


def _last_change(events: Sequence[GrowthEvent], step: int) -> str:
    before = [event for event in events if event.step <= step]
    if not before:
        return "no size had changed before"
    last = before[-1]
    return (
        f"the last change before was at step {last.step}: {last.width} {last.old} -> "
        f"{last.new} ({last.kind})"
    )
