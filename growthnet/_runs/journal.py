"""A run's records while it goes on: kept, and told to whoever listens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .._history.history import GrowthEvent, History, JsonLog, Tick
from .reports import keep


class Journal:
    """Keeps the records of a run, and tells its log and its callback, each once.

    What has been kept is told later, so that who listens may fail.
    """

    def __init__(self, steps: int, callback: Callable[[dict[str, Any]], None] | None):
        self.steps, self.callback = steps, callback
        self.history = History()
        self.log: JsonLog | None = None
        self._untold: list[tuple[Tick, Sequence[GrowthEvent]]] = []
        self._told = -1

    def add(self, tick: Tick, events: Sequence[GrowthEvent]) -> None:
        """Keeps a tick, and the events at its end."""
        keep(self.history, tick, events)
        if tick.step > self._told:
            self._untold.append((tick, events))

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
