"""The Python side of a run: chunks of ticks, new capacities, records."""

import itertools as it
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ._checkpoints import Checkpoints
from ._chunk import run_chunk, Stretch
from ._data import ArrayData, Batches, BatchStream
from ._growing import data_key, GrowerState, Growing, on_device, replaced
from ._guard import Fault, Guard, Stand
from ._history import GrowthEvent
from ._journal import Journal
from ._place import Place, rolled_back
from ._reports import each, events_of, Report, tick_of
from ._room import give_back, make_room
from ._run import Run
from ._saved import saved
from ._tick import Ticker
from ._turn import decide, fits, within


LONGEST = 256
"""Most ticks in one call of the program."""
NUMBERS = 2**20
"""About how many numbers the batches (or their orders) of one call may hold."""
SECONDS = 0.1
"""How long a call should take: longer ones are heard of late, shorter ones cost."""


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
        self.valid, self.steps, self.max_traces = valid, steps, max_traces
        self.journal, self.guard, self.checkpoints = journal, guard, checkpoints
        self.every = self.grower.policy.every
        self.length = self._length(chunk)
        self.ticks_per_call = 1 if chunk is None else self.length
        self.adapts = chunk is None
        self.place = Place(stream, self.grower)
        self.stand: Stand
        self._program = eqx.filter_jit(self._counted("chunk", self._chunk))
        self._observe = eqx.filter_jit(self._counted("observe", ticker.observe))
        self._tried = eqx.filter_jit(self._counted("tried", ticker.tried))

    def _length(self, chunk: int | None) -> int:
        """Most ticks in a call, a constant of the program."""
        if self.grower.policy.on_host:
            return 1
        whole = -(-self.steps // self.every)
        fits = NUMBERS // max(1, self.stream.step_size * self.every)
        return max(1, min(chunk or LONGEST, whole, fits))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, for `jit`: counts how often it is traced."""

        def traced(growing: Growing, *args: Any) -> Any:
            sizes = tuple(mask.size for _, mask in sorted(growing.open.items()))
            self.ticker.traces += self.place.is_new((name, sizes))
            return function(growing, *args)

        return traced

    def _chunk(self, growing, state, batches, valid, stretch: Stretch) -> Any:
        return run_chunk(
            self.ticker, growing, state, batches, valid, stretch, self.length
        )

    # --- the run

    def resume(self, run: Run) -> None:
        """Goes on where a run was: with its records, at its place in the data.

        **Raises:** `CheckpointError` if the data aren't those that it had.
        """
        self.journal.history = run.history
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
            last = self.steps if fault is None else fault.good
            stand, reports, events = self._stretch(before, last)
            if self.guard.finite(reports) and not self._ends_badly(stand):
                self._record(stand, reports, events)
                # Its losses speak for the state that it began with.
                proven = self.guard.proven(before, stand)
            else:
                known = [*self.journal.history.events, *it.chain(*events)]
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

    def _stretch(
        self, before: Stand, last: int
    ) -> tuple[Stand, list[Report], list[list[GrowthEvent]]]:
        """The next ticks, up to the end of a call or the next checkpoint."""
        growing, state, step, batches, end, _ = before
        assert batches is not None
        limit = step + self.ticks_per_call * self.every
        stop = min(end, limit, self._due(step), last)
        growing, state, reports = self._call(
            growing, state, batches, Stretch(step, stop)
        )
        step = int(reports[-1].step)
        events = [self._events(report) for report in reports]
        if not self.guard.finite(reports):
            return before, reports, events
        if self.grower.policy.on_host and step % self.every == 0:
            growing, state = self._ask(growing, state, batches, reports[-1])
        if any(jax.device_get((state.waiting, state.roomy))):
            growing, state, changes = self._change(growing, state, batches, reports[-1])
            events[-1] = changes or events[-1]
        after = Stand(growing, state, step, batches, end, batches.last(step))
        return after, reports, events

    def _with_batches(self, stand: Stand) -> Stand:
        """The next batches, and the step at which they end."""
        step, length = stand.step, self.length * self.every
        count = min(self.steps, step - step % self.every + length) - step
        if isinstance(self.stream, ArrayData):
            key, first = data_key(stand.state), on_device(np.int32(step))
            batches = _sampled(self.stream, key, first, length)
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
        return self.checkpoints.write(saved(*parts))

    def _keep(self, error: BaseException) -> None:
        """The run as it stood before the error, for whoever catches it."""
        step = self.stand.step
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

    def _call(
        self, growing: Growing, state: GrowerState, batches: Batches, stretch: Stretch
    ) -> tuple[Growing, GrowerState, list[Report]]:
        began, traces = time.perf_counter(), self.ticker.traces
        stretch = jax.tree.map(on_device, stretch)
        growing, state, reports, ticks = self._program(
            growing, state, batches, self.valid, stretch
        )
        reports, ticks = jax.device_get((reports, ticks))
        if self.adapts and traces == self.ticker.traces:
            # A call that compiled says nothing about the next one.
            seconds = time.perf_counter() - began
            factor = 2 if seconds < SECONDS else 0.5 if seconds > 4 * SECONDS else 1
            wanted = int(self.ticks_per_call * factor)
            self.ticks_per_call = max(1, min(wanted, self.length))
        return growing, state, list(each(reports, int(ticks)))

    def _ask(
        self, growing: Growing, state: GrowerState, batches: Batches, report: Report
    ) -> tuple[Growing, GrowerState]:
        """The turn of a policy that isn't traced. What it decides waits for a tick of
        no steps, the same as where it was decided in the program."""
        run = (growing, state, batches)
        evidence = self._observe(*run, report.loss, report.valid_loss)
        if "evaluate" in self.grower.policy.needs:
            tried = lambda decision: self._tried(*run, decision)
            evidence = replaced(evidence, evaluate=tried)
        growing, state, _ = decide(growing, state, evidence)
        return growing, state

    def _change(
        self, growing: Growing, state: GrowerState, batches: Batches, report: Report
    ) -> tuple[Growing, GrowerState, list[GrowthEvent]]:
        """Room for a decision that waits, or less where there is too much. The program
        for new shapes is compiled here, by a tick of no steps, where its cost belongs.
        """
        began, traces = time.perf_counter(), self.ticker.traces
        resized = False
        # What has been applied may leave room to give back.
        while any(jax.device_get((state.waiting, state.roomy))):
            growing, state, report, new = self._settle(growing, state, batches, report)
            resized |= new
        cost = {
            "kind": "resized",
            "seconds": time.perf_counter() - began,
            "compiles": self.ticker.traces - traces,
        }
        return growing, state, self._events(report, **cost if resized else {})

    def _settle(
        self, growing: Growing, state: GrowerState, batches: Batches, report: Report
    ) -> tuple[Growing, GrowerState, Report, bool]:
        """One change of capacities, or none where a decision made on the host fits; the
        report of its tick; and whether there are new shapes."""
        waits, step = bool(state.waiting), int(report.step)
        # A decision made on the host waits even where it fits.
        resized, again = not (waits and self._fits(growing, state)), False
        if resized and self._spent():
            state, resized = self._hold(growing, state), False
        if resized and waits:
            growing, state, again = make_room(self.grower, growing, state)
        elif resized:
            growing, state = give_back(self.grower, growing, state)
        if not again:
            growing, state, reports = self._call(
                growing, state, batches, Stretch(step, step, True)
            )
            report = reports[-1] if waits else report
        return growing, state, report, resized

    def _fits(self, growing: Growing, state: GrowerState) -> bool:
        return bool(fits(*jax.device_get((growing.open, state.decision))))

    def _spent(self) -> bool:
        return self.max_traces is not None and self.ticker.traces >= self.max_traces

    def _hold(self, growing: Growing, state: GrowerState) -> GrowerState:
        """From here on capacities stay as they are."""
        most = ", ".join(f"{n} {len(m)}" for n, m in growing.open.items())
        warnings.warn(
            f"max_traces={self.max_traces} is spent at step {int(state.step)}: widths "
            f"stay within their capacities ({most})",
            stacklevel=8,
        )
        decision = within(growing, state.decision)
        off, on = on_device(False), on_device(True)
        return replaced(state, decision=decision, held=on, roomy=off)

    # --- records

    def _events(self, report: Report, **cost: Any) -> list[GrowthEvent]:
        return events_of(report, outputs=self.ticker.predict is not None, **cost)

    def _record(
        self, stand: Stand, reports: list[Report], events: list[list[GrowthEvent]]
    ) -> None:
        """The run has got on: ticks of one call are known, and timed, when it returns.
        First it is kept, then others are told."""
        for report, changes in zip(reports, events, strict=True):
            tick = tick_of(
                report,
                changes,
                stand.growing.anatomy,
                valid=self.valid is not None,
                seconds=self.place.seconds,
                traces=self.ticker.traces,
            )
            self.journal.add(tick, changes)
        before, self.stand = self.stand.step, stand
        self.journal.tell()
        if stand.step == self._due(before):
            self._save()


_sampled = eqx.filter_jit(ArrayData.window)
