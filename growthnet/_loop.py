"""The Python side of a run: chunks of ticks, new capacities, records."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._checkpoints import Checkpoints
from ._chunk import run_chunk, Stretch
from ._container import CheckpointError
from ._data import ArrayData, Batches, BatchStream
from ._growing import data_key, GrowerState, Growing, replaced
from ._history import GrowthEvent, History, JsonLog
from ._reports import each, events_of, keep, Report, tick_of
from ._room import give_back, make_room
from ._run import Position, Run
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
    """Runs a growing network to its last step and records what happens."""

    def __init__(
        self,
        ticker: Ticker,
        stream: ArrayData | BatchStream,
        valid: Any,
        steps: int,
        chunk: int | None,
        max_traces: int | None,
        callback: Callable[[dict[str, Any]], None] | None,
        checkpoints: Checkpoints | None = None,
    ):
        self.ticker, self.grower, self.stream = ticker, ticker.grower, stream
        self.valid, self.steps, self.callback = valid, steps, callback
        self.max_traces = max_traces
        self.every = self.grower.policy.every
        self.length = self._length(chunk)
        self.ticks_per_call = 1 if chunk is None else self.length
        self.adapts = chunk is None
        self.history = History()
        self.log: JsonLog | None = None
        self.started = time.perf_counter()
        self.checkpoints = checkpoints
        self.position: Position | None = None
        self.programs: set[tuple[str, tuple[int, ...]]] = set()
        self._known: set[tuple[str, tuple[int, ...]]] = set()
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
        """The function, for `jit`: counts how often it is traced. What was traced
        before the run was resumed isn't counted again."""

        def traced(growing: Growing, *args: Any) -> Any:
            sizes = tuple(mask.size for _, mask in sorted(growing.open.items()))
            self.ticker.traces += (name, sizes) not in self._known
            self._known.discard((name, sizes))
            self.programs.add((name, sizes))
            return function(growing, *args)

        return traced

    def _chunk(self, growing, state, batches, valid, stretch: Stretch) -> Any:
        return run_chunk(
            self.ticker, growing, state, batches, valid, stretch, self.length
        )

    # --- the run

    def resume(self, run: Run) -> None:
        """Goes on where a run was, with its records, its count of programs, its place
        in the data.

        **Raises:** `CheckpointError` if the data aren't those that it had.
        """
        self.history = run.history
        self.position = where = run.position
        if where is None:
            return
        self.started -= where.seconds
        self.ticker.traces = where.traces
        self._known, self.programs = set(where.programs), set(where.programs)
        batch = None
        if isinstance(self.stream, BatchStream):
            batch = self.stream.skip(where.served)
        identity = self.stream.identity(batch)
        if identity != where.data:
            raise CheckpointError(_other_data(where, identity))

    def run(self, growing: Growing, state: GrowerState) -> tuple[Growing, GrowerState]:
        step, end, batches = int(state.step), -1, None
        while step < self.steps:
            if step >= end or batches is None:
                batches, end = self._window(state, step)
            stop = min(end, step + self.ticks_per_call * self.every, self._due(step))
            growing, state, reports = self._call(
                growing, state, batches, Stretch(step, stop)
            )
            step = int(reports[-1].step)
            if self.grower.policy.on_host and step % self.every == 0:
                growing, state = self._ask(growing, state, batches, reports[-1])
            events = [self._events(report) for report in reports]
            if any(jax.device_get((state.waiting, state.roomy))):
                growing, state, changes = self._change(
                    growing, state, batches, reports[-1]
                )
                events[-1] = changes or events[-1]
            self._record(growing, reports, events)
            if step == self._due(step - 1):
                self.position = self._position(step, batches)
                self._save(growing, state)
        return growing, state

    def _save(self, growing: Growing, state: GrowerState) -> None:
        if self.checkpoints is not None:
            now = saved(growing, state, self.history, self.position)
            self.checkpoints.write(now)

    def _due(self, step: int) -> int:
        """The step after this one at which there is a checkpoint: a whole tick's."""
        if self.checkpoints is None:
            return self.steps
        whole = lambda saves: -(-saves * every // self.every) * self.every
        every = self.checkpoints.every
        saves = step // every
        after = whole(saves) if whole(saves) > step else whole(saves + 1)
        return min(self.steps, after)

    def _position(self, step: int, batches: Batches) -> Position:
        """Where the run stands after a step."""
        return Position(
            self.stream.identity(batches.last(step)),
            served=step,
            seconds=time.perf_counter() - self.started,
            traces=self.ticker.traces,
            programs=tuple(sorted(self.programs)),
        )

    def _window(self, state: GrowerState, step: int) -> tuple[Batches, int]:
        """The next batches, and the step at which they end."""
        length = self.length * self.every
        end = min(self.steps, step - step % self.every + length)
        if isinstance(self.stream, ArrayData):
            first = jnp.asarray(step)
            return _sampled(self.stream, data_key(state), first, length), end
        return self.stream.window(step, end - step, length), end

    def _call(
        self, growing: Growing, state: GrowerState, batches: Batches, stretch: Stretch
    ) -> tuple[Growing, GrowerState, list[Report]]:
        began, traces = time.perf_counter(), self.ticker.traces
        stretch = jax.tree.map(jnp.asarray, stretch)
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
        resized, again = not (waits and fits(growing, state)), False
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

    def _spent(self) -> bool:
        return self.max_traces is not None and self.ticker.traces >= self.max_traces

    def _hold(self, growing: Growing, state: GrowerState) -> GrowerState:
        """From here on capacities stay as they are."""
        most = ", ".join(f"{n} {len(m)}" for n, m in growing.open.items())
        warnings.warn(
            f"max_traces={self.max_traces} is spent at step {int(state.step)}: widths "
            f"stay within their capacities ({most})",
            stacklevel=5,
        )
        decision = within(growing, state.decision)
        off, on = jnp.zeros((), bool), jnp.ones((), bool)
        return replaced(state, decision=decision, held=on, roomy=off)

    # --- records

    def _events(self, report: Report, **cost: Any) -> list[GrowthEvent]:
        return events_of(report, outputs=self.ticker.predict is not None, **cost)

    def _record(
        self, growing: Growing, reports: list[Report], events: list[list[GrowthEvent]]
    ) -> None:
        """Ticks of one call are known, and timed, when it returns."""
        for report, changes in zip(reports, events, strict=True):
            tick = tick_of(
                report,
                changes,
                growing.anatomy,
                valid=self.valid is not None,
                seconds=time.perf_counter() - self.started,
                traces=self.ticker.traces,
            )
            keep(self.history, tick, changes)
            if self.log is not None:
                keep(self.log, tick, changes)
            if self.callback is not None:
                values = {**dataclasses.asdict(tick), "steps": self.steps}
                self.callback({**values, "events": changes})


def _other_data(where: Position, identity: dict[str, Any]) -> str:
    if "batch" in where.data and "batch" in identity:
        what = f"batch {where.served} isn't the one that it had"
    else:
        what = f"they were {dict(where.data)}, here {identity}"
    return (
        f"the run to go on with had other data: {what}; give the same data in the same "
        "order (a seeded loader, the same batch_size)"
    )


_sampled = eqx.filter_jit(ArrayData.window)
