"""A run's records while it goes on: kept, and told to whoever listens."""

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .._history.history import GrowthEvent, History, JsonLog, Tick
from .reports import by_step


class Journal:
    """Keeps the records of a run, and tells its log and its callback, each once.

    What has been kept is told later, so that who listens may fail.
    """

    def __init__(self, steps: int, callback: Callable[[dict[str, Any]], None] | None):
        self.steps, self.callback = steps, callback
        self.history = History()
        self.log: JsonLog | None = None
        self._told = -1

    def resume(self, history: History) -> None:
        """Goes on with records that have been told."""
        self.history, self._told = history, history.steps

    def add(self, ticks: Sequence[Tick], events: Sequence[GrowthEvent]) -> None:
        """Keeps ticks, and the events at their ends."""
        for tick in ticks:
            self.history.add_tick(tick)
        for event in events:
            self.history.add_event(event)

    def tell(self) -> None:
        """Tells what hasn't been told yet."""
        if self.log is None and self.callback is None:
            return
        ends = by_step(_after(self._told, self.history.events))
        for tick in _after(self._told, self.history.ticks):
            self._told, events = tick.step, ends.get(tick.step, [])
            if self.log is not None:
                self.log.add_tick(tick)
                for event in events:
                    self.log.add_event(event)
            if self.callback is not None:
                values = {**dataclasses.asdict(tick), "steps": self.steps}
                self.callback({**values, "events": events})

    def rewind(self, step: int, *, anew: bool = False) -> None:
        """Forgets what came after a step; `anew`: it will come otherwise now."""
        self.history.rewind(step)
        if anew:
            self._told = min(self._told, step)
            if self.log is not None:
                self.log.restart(step)


def _after(step: int, records: Sequence[Any]) -> Sequence[Any]:
    return records[bisect.bisect_right(records, step, key=lambda one: one.step) :]
