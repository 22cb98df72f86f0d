"""The Python side of a run: from call to call of its program, to the last step."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._checkpoints.checkpoints import Checkpoints
from .._checkpoints.saved import saved
from .._devices.everywhere import spans_processes
from .._history.history import GrowthEvent
from .._policies.growing import data_key, GrowerState, Growing, replaced
from .data import ArrayData, Batches, BatchStream
from .engine import Engine
from .guard import Fault, Guard, Stand
from .journal import Journal
from .place import Place, rolled_back
from .reports import counting, Report, ticks_of
from .run import Run
from .tick import Ticker


class Loop:
    """Runs a growing network to its last step; records what happens, keeps it safe."""

    def __init__(
        self,
        ticker: Ticker,
        stream: ArrayData | BatchStream,
        valid: Any,
        steps: int,
        *,
        journal: Journal,
        guard: Guard,
        chunk: int | None = None,
        max_traces: int | None = None,
        checkpoints: Checkpoints | None = None,
    ):
        self.ticker, self.grower, self.stream = ticker, ticker.grower, stream
        self.valid, self.steps, self.every = valid, steps, self.grower.policy.every
        self.journal, self.guard, self.checkpoints = journal, guard, checkpoints
        self.place = Place(stream, self.grower)
        parts = (ticker, stream, valid, steps, chunk, max_traces, self.place)
        self.engine = Engine(*parts)
        self.stand: Stand

    def resume(self, run: Run) -> None:
        """Goes on where a run was: with its records, at its place in the data.

        **Raises:** `CheckpointError` if the data aren't those that it had.
        """
        self.journal.resume(run.history)
        self.ticker.traces = self.place.resume(run)

    def run(self, growing: Growing, state: GrowerState) -> Run:
        """To the last step.

        **Raises:** whatever ends it earlier; then the run as it stood is the error's
        attribute `run`, and, if it has got on at all, among the checkpoints.
        """
        self.stand = Stand(growing, state, int(state.step), None, -1, self.place.last)
        try:
            self._to_the_end()
        except BaseException as error:
            self._keep(error)
            raise
        return self._run()

    def _to_the_end(self) -> None:
        first, proven, fault = self.stand.step, self.stand, None
        while self.stand.step < self.steps:
            before = self.stand
            if before.step >= before.end:
                before = self._with_batches(before)
            last = self._due(before.step)
            last = last if fault is None else min(last, fault.good)
            stand, reports, events = self.engine.run(before, last, self.guard)
            if self.guard.finite(reports) and not self._ends_badly(stand):
                self._record(stand, reports, events)
                # Its losses speak for the state that it began with.
                proven = self.guard.proven(before, stand)
            else:
                known = [*self.journal.history.events, *events]
                fault = self.guard.fault(reports, known, first)
                self._take_back(before, fault)
                self.stand = before if before.step <= fault.good else proven
                self.journal.rewind(self.stand.step)
            if fault is not None and self.stand.step == fault.good:
                self._turn_back(fault)
                first, fault, proven = self.stand.step, None, self.stand

    def _ends_badly(self, stand: Stand) -> bool:
        """Are there weights that aren't finite, and no loss to come that would tell?"""
        return stand.step == self.steps and self._poisoned(stand)

    def _poisoned(self, stand: Stand) -> bool:
        return self.guard.poisoned(self.grower.trainable.of(stand.growing.net))

    def _take_back(self, stand: Stand, fault: Fault) -> None:
        """Batches behind the bad ones are for later."""
        if isinstance(self.stream, BatchStream) and stand.batches is not None:
            self.stream.put_back(stand.batches, range(fault.end, stand.end))

    def _with_batches(self, stand: Stand) -> Stand:
        """The next batches, and the step at which they end."""
        step, length = stand.step, self.engine.length * self.every
        count = min(self.steps, step - step % self.every + length) - step
        if isinstance(self.stream, ArrayData):
            parts = (stand.state.key, np.int32(step), length)
            batches = _sampled(self.stream, *parts)
        else:
            batches, count = self.stream.window(
                step, count, length, multiple=self.every
            )
        return stand._replace(batches=batches, end=step + count)

    # --- what is kept

    def _run(self) -> Run:
        """The run as it stands."""
        stand, traces = self.stand, self.ticker.traces
        position = self.place.position(stand.step, stand.last, traces)
        history = self.journal.history
        return Run.of(stand.growing, stand.state, history, position=position)

    def _due(self, step: int) -> int:
        """The step after this one at which there is a checkpoint: a whole tick's."""
        if self.checkpoints is None:
            return self.steps
        return min(self.steps, self.checkpoints.due(step, self.every))

    def _save(self) -> Path | None:
        if self.checkpoints is None:
            return None
        stand, traces = self.stand, self.ticker.traces
        if self._poisoned(stand):
            return None
        position = self.place.position(stand.step, stand.last, traces)
        parts = (stand.growing, stand.state, self.journal.history, position)
        whole = saved(*parts)
        # All processes gather it, one writes.
        alone = not spans_processes(stand.growing.net)
        first = alone or jax.process_index() == 0
        return self.checkpoints.write(whole) if first else None

    def _keep(self, error: BaseException) -> None:
        """The run as it stood before the error, for whoever catches it."""
        step = self.stand.step
        if spans_processes(self.stand.growing.net):
            # To gather the run takes all processes, and they may be elsewhere.
            error.add_note(f"the run was at step {step}; checkpoints before are intact")
            return
        self.journal.rewind(step)
        setattr(error, "run", self._run())  # noqa: B010 - errors don't declare it
        if step == self.place.first:
            return
        note = f"the run as of step {step} is kept: `fit(resume=error.run)` goes on"
        try:
            path = self._save()
            note += "" if path is None else f", and so does the same call, from {path}"
        except OSError as why:
            note += f"; it couldn't be saved ({why}), what had been saved is intact"
        error.add_note(note)

    def _turn_back(self, fault: Fault) -> None:
        """At the last good step: the end, or another attempt from there, with other
        random numbers and, of batches that the host gives, the ones behind the bad.

        **Raises:** `FloatingPointError`.
        """
        growing, state, step, _, _, last = self.stand
        if self.guard.gives_up(fault):
            raise FloatingPointError(fault.text)
        state = replaced(state, key=rolled_back(state.key, 1))
        self.place.roll_back(fault.end - step)
        self.stand = Stand(growing, state, step, None, -1, last)
        self.journal.rewind(step, anew=True)
        self._save()

    def _record(self, stand: Stand, reports: Report, events: list[GrowthEvent]) -> None:
        """The run has got on: ticks of one call are known, and timed, when it returns.
        First it is kept, then others are told."""
        ticks = ticks_of(
            reports,
            events,
            counting(stand.growing.anatomy),
            valid=self.valid is not None,
            seconds=self.place.seconds,
            traces=self.ticker.traces,
        )
        self.journal.add(ticks, events)
        before, self.stand = self.stand.step, stand
        self.journal.tell()
        if stand.step == self._due(before):
            self._save()


@eqx.filter_jit
def _sampled(stream: ArrayData, key: Any, first: Any, steps: int) -> Batches:
    return stream.window(data_key(key), first, steps)
