"""Calls of a run's program, and what has to happen between them: the turn of a policy
that isn't traced, new capacities."""

import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._devices.everywhere import (
    agreed,
    check_same_everywhere,
    compare,
    spans_processes,
)
from .._devices.places import everywhere
from .._history.history import GrowthEvent
from .._policies.growing import GrowerState, Growing, in_place, on_device, replaced
from .._policies.policy import Decision
from .._policies.room import capacities_of, give_back, lower, make_room
from .._policies.turn import decide, fits, within
from .chunk import run_chunk, Stretch
from .data import ArrayData, Batches, BatchStream
from .guard import Guard, Stand
from .place import Place
from .reports import events_in, events_of, Report
from .tick import Ticker


LONGEST = 1024
"""Most ticks in one call of the program."""
NUMBERS = 2**20
"""About how many numbers the batches (or their orders) of one call may hold."""
SECONDS = 0.1
"""How long a call should take: longer ones are heard of late, shorter ones cost."""


NEVER = 2**31
ROUNDS = 8
"""How often a decision may ask for more room than it got."""


class Engine:
    """The programs of one run.

    - `length`: most ticks in a call, a constant of the program; `ticks_per_call`: how
        many it is asked for.
    """

    def __init__(
        self,
        ticker: Ticker,
        stream: ArrayData | BatchStream,
        valid: Any,
        steps: int,
        chunk: int | None,
        max_traces: int | None,
        place: Place,
    ):
        self.ticker, self.grower, self.valid = ticker, ticker.grower, valid
        self.max_traces, self.place = max_traces, place
        self.every = self.grower.policy.every
        self.outputs = ticker.predict is not None
        self.length = self._length(steps, stream.step_size, chunk)
        self.ticks_per_call = 1 if chunk is None else self.length
        self.adapts = chunk is None
        self._program = eqx.filter_jit(self._counted("chunk", self._chunk))
        self._observe = eqx.filter_jit(self._counted("observe", self._observed))
        self._tried = eqx.filter_jit(self._counted("tried", ticker.tried))

    def _length(self, steps: int, step_size: int, chunk: int | None) -> int:
        if self.grower.policy.on_host:
            return 1
        whole = -(-steps // self.every)
        fits = NUMBERS // max(1, step_size * self.every)
        return max(1, min(chunk or LONGEST, whole, fits))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, for `jit`: counts how often it is traced."""

        def traced(growing: Growing, state: GrowerState, *args: Any) -> Any:
            sizes = tuple(mask.size for _, mask in sorted(growing.open.items()))
            # Decisions made on the host may have another form than those before.
            form = zlib.crc32(str(jax.tree.structure(state.decision)).encode())
            program = (f"{name}/{form:08x}", sizes)
            self.ticker.traces += self.place.is_new(program)
            return function(growing, state, *args)

        return traced

    def _chunk(self, growing, state, batches, valid, stretch: Stretch) -> Any:
        growing, state, *seen = run_chunk(
            self.ticker, growing, state, batches, valid, stretch, self.length
        )
        return *in_place(growing, state), *everywhere(seen, growing.places)

    def _observed(self, growing, *args: Any) -> Any:
        return everywhere(self.ticker.observe(growing, *args), growing.places)

    def run(
        self, before: Stand, last: int, guard: Guard
    ) -> tuple[Stand, Report, list[GrowthEvent]]:
        """The next ticks, up to step `last` at most: the run after them, their reports,
        the changes at their ends. After a bad loss nothing is changed."""
        growing, state, step, batches, end, _ = before
        assert batches is not None
        limit = step + self.ticks_per_call * self.every
        review = self._review(step)
        stop = min(end, limit, last, review)
        growing, state, reports = self._call(
            growing, state, batches, Stretch(step, stop)
        )
        report = reports[-1]
        step = int(report.step)
        events = events_in(reports, outputs=self.outputs)
        if not guard.finite(reports):
            return before, reports, events
        if self.grower.policy.on_host and step % self.every == 0:
            growing, state = self._ask(growing, state, batches, report)
        if step == review and not self._spent():
            wide = lower(self.grower, growing, step) != capacities_of(growing)
            state = replaced(state, roomy=on_device(wide))
        if any(jax.device_get((state.waiting, state.roomy))):
            growing, state, changes = self._change(growing, state, batches, report)
            if changes:  # What the last tick did in the program is among them.
                events = [e for e in events if e.step < step] + changes
        after = Stand(growing, state, step, batches, end, batches.last(step))
        return after, reports, events

    def _review(self, step: int) -> int:
        """The step ahead at which units should be there that there has been room for
        from the start; if they aren't, the room is given back."""
        ahead = self.grower.capacities.ahead
        return ahead.until if ahead is not None and step < ahead.until else NEVER

    def _call(
        self, growing: Growing, state: GrowerState, batches: Batches, stretch: Stretch
    ) -> tuple[Growing, GrowerState, Report]:
        began, traces = time.perf_counter(), self.ticker.traces
        stretch = jax.tree.map(np.asarray, stretch)
        growing, state, reports, ticks = self._program(
            growing, state, batches, self.valid, stretch
        )
        reports, ticks = jax.device_get((reports, ticks))
        if self.adapts and traces == self.ticker.traces:
            # A call that compiled says nothing about the next one.
            seconds = time.perf_counter() - began
            seconds = agreed(seconds) if spans_processes(growing.net) else seconds
            factor = 2 if seconds < SECONDS else 0.5 if seconds > 4 * SECONDS else 1
            wanted = int(self.ticks_per_call * factor)
            self.ticks_per_call = max(1, min(wanted, self.length))
        return growing, state, reports[: int(ticks)]

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
        if spans_processes(growing.net):
            told = jax.device_get(state.decision.widths)
            text = {n: f"keeps {c.keep.sum()}, adds {c.add}" for n, c in told.items()}
            compare("decisions", text)
        return growing, state

    def _change(
        self, growing: Growing, state: GrowerState, batches: Batches, report: Report
    ) -> tuple[Growing, GrowerState, list[GrowthEvent]]:
        """Room for a decision that waits, or less where there is too much. The program
        for new shapes is compiled here, by a tick of no steps, where its cost belongs.
        """
        began, traces = time.perf_counter(), self.ticker.traces
        resized, rounds, last = False, 0, report
        # What has been applied may leave room to give back.
        while any(jax.device_get((state.waiting, state.roomy))):
            run = (growing, state, batches)
            growing, state, report, new = self._settle(*run, report, last)
            resized |= new
            if (rounds := rounds + 1) > ROUNDS:
                raise ValueError(
                    f"{type(self.grower.policy).__name__} asks for more room whenever "
                    f"it gets some (step {int(last.step)}): how many units are born "
                    "mustn't depend on how many slots there are"
                )
        cost = {
            "kind": "resized",
            "seconds": time.perf_counter() - began,
            "compiles": self.ticker.traces - traces,
        }
        changes = events_of(report, outputs=self.outputs, **cost if resized else {})
        return growing, state, changes

    def _settle(
        self,
        growing: Growing,
        state: GrowerState,
        batches: Batches,
        report: Report,
        last: Report,
    ) -> tuple[Growing, GrowerState, Report, bool]:
        """One change of capacities, or none where a decision made on the host fits; the
        report of its tick; and whether there are new shapes. `last` is the report of
        the training before."""
        waits, step = bool(state.waiting), int(report.step)
        # A decision made on the host waits even where it fits.
        resized, again = not (waits and self._fits(growing, state)), False
        if resized and self._spent():
            state, resized = self._hold(growing, state), False
        if resized and waits:
            growing, state, again = make_room(self.grower, growing, state)
        elif resized:
            growing, state = give_back(self.grower, growing, state)
        if resized and spans_processes(growing.net):
            check_same_everywhere(growing)
        if again and self.grower.policy.on_host:
            growing, state = self._ask(growing, state, batches, last)
        else:
            pending = Stretch(step, step, True, again, last.loss, last.count)
            growing, state, reports = self._call(growing, state, batches, pending)
            report = reports[-1] if waits else report
        return growing, state, report, resized

    def _fits(self, growing: Growing, state: GrowerState) -> bool:
        changes = state.decision.widths.items()
        small = {n: replaced(c, values=None, rewrite=None) for n, c in changes}
        return bool(fits(*jax.device_get((growing.open, Decision(small)))))

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
