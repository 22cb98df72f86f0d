"""A run's records while it goes on: kept, and told to whoever listens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .._history.history import History, JsonLog
from .reports import keep, Record


class Journal:
    """Keeps the records of a run, and tells its log and its callback, each once.

    What has been kept is told later, so that who listens may fail.
    """

    def __init__(self, steps: int, callback: Callable[[dict[str, Any]], None] | None):
        self.steps, self.callback = steps, callback
        self.history = History()
        self.log: JsonLog | None = None
        self._untold: list[Record] = []
        self._told = -1

    def add(self, records: Sequence[Record]) -> None:
        """Keeps ticks, and the events at the end of each."""
        for tick, events in records:
            keep(self.history, tick, events)
        self._untold += [pair for pair in records if pair[0].step > self._told]

    def tell(self) -> None:
        """Tells what hasn't been told yet."""
        while self._untold:
            tick, events = self._untold.pop(0)
            self._told = tick.step
            if self.log is not None:
                keep(self.log, tick, events)
            if self.callback is not None:
                values = {**dataclasses.asdict(tick), "steps": self.steps}
                self.callback({**values, "events": events})

    def rewind(self, step: int, *, anew: bool = False) -> None:
        """Forgets what came after a step; `anew`: it will come otherwise now."""
        self.history.rewind(step)
        self._untold = [pair for pair in self._untold if pair[0].step <= step]
        if anew:
            self._told = min(self._told, step)
            if self.log is not None:
                self.log.restart(step)
