"""Where a run is, beside its arrays: in its data, in time, in its programs."""

import dataclasses
import time
from typing import Any

import jax.random as jr

from .._checkpoints.container import CheckpointError
from .._policies.grower import Grower
from .data import ArrayData, BatchStream
from .run import Position, Run


Traced = tuple[str, tuple[int, ...]]
"""A program: what was traced, at which capacities."""


class Place:
    """Keeps the place of a run, and finds that of one that goes on.

    `first` is the step at which it began here, `last` the batch before that.
    """

    def __init__(self, stream: ArrayData | BatchStream, grower: Grower):
        self.stream, self.grower, self.first = stream, grower, 0
        self.last: Any = None
        self._ahead = 0  # By how much batches that were served are ahead of steps.
        self._rollbacks = 0
        self._started = time.perf_counter()
        self._programs: set[Traced] = set()
        self._traced_before: set[Traced] = set()
        self._arrays: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Wall time since the start of the run."""
        return time.perf_counter() - self._started

    def is_new(self, program: Traced) -> bool:
        """Notes a program that is being traced. What was traced before the run was
        resumed has to be traced again, and isn't new."""
        new = program not in self._traced_before
        self._traced_before.discard(program)
        self._programs.add(program)
        return new

    def position(self, step: int, batch: Any, traces: int) -> Position:
        """The place after a step, which used this batch."""
        return Position(
            self._identity(batch),
            served=step + self._ahead,
            buckets=dataclasses.astuple(self.grower.capacities.buckets),
            ahead=self.grower.capacities.ahead,
            rollbacks=self._rollbacks,
            seconds=self.seconds,
            traces=traces,
            programs=tuple(sorted(self._programs)),
        )

    def roll_back(self, skipped: int) -> None:
        """Another attempt; of batches, so many aren't used."""
        self._rollbacks += 1
        self._ahead += skipped

    def resume(self, run: Run) -> int:
        """Takes the place of a run; returns how many programs it had traced.

        **Raises:** `CheckpointError` if the data aren't those that it had.
        """
        where, self.first = run.position, int(run.state.step)
        if where is None:  # Of a loop of one's own: here the data begins.
            self._ahead = -self.first
            return 0
        if isinstance(self.stream, BatchStream):
            self.last = self.stream.skip(where.served)
        if self._identity(self.last) != where.data:
            raise CheckpointError(self._other_data(where, self.last))
        self._ahead = where.served - self.first
        self._rollbacks = where.rollbacks
        self._started -= where.seconds
        self._programs = set(where.programs)
        self._traced_before = set(where.programs)
        return where.traces

    def _identity(self, batch: Any) -> dict[str, Any]:
        if isinstance(self.stream, BatchStream):
            return self.stream.identity(batch)
        if self._arrays is None:
            self._arrays = self.stream.identity()
        return self._arrays

    def _other_data(self, where: Position, batch: Any) -> str:
        here = self._identity(batch)
        what = f"they were {dict(where.data)}, here {here}"
        if where.data.keys() == here.keys() == {"batch"}:
            what = f"batch {where.served} isn't the one that it had"
        return (
            f"the run to go on with had other data: {what}; give the same data in the "
            "same order (a seeded loader, the same batch_size)"
        )


def rolled_back(key: Any, times: int) -> Any:
    """The key of a run that has gone back so often."""
    for _ in range(times):
        key = jr.fold_in(key, 7)
    return key
