"""What a run leaves behind: its ticks and growth events, a table, a plot, a file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import (
    from_json,
    GrowthEvent as GrowthEvent,
    JsonLog as JsonLog,
    start_line,
    Tick as Tick,
    VERSION,
    whole_lines,
    write_whole,
)


class History:
    """What `fit` recorded: `ticks` and `events`, each in the order of their steps."""

    ticks: list[Tick]
    events: list[GrowthEvent]

    def __init__(self, ticks: Sequence[Tick] = (), events: Sequence[GrowthEvent] = ()):
        """**Arguments:** the records to begin with, in order; none by default.

        **Raises:** `ValueError` if they aren't in order.
        """
        self.ticks, self.events = [], []
        for tick in ticks:
            self.add_tick(tick)
        for event in events:
            self.add_event(event)

    def add_tick(self, tick: Tick) -> None:
        """Appends a tick. **Raises:** `ValueError` if it's earlier than the last."""
        _check_order("tick", tick, self.ticks)
        self.ticks.append(tick)

    def add_event(self, event: GrowthEvent) -> None:
        """Appends an event. **Raises:** `ValueError` if it's earlier than the last."""
        _check_order("event", event, self.events)
        self.events.append(event)

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, as a run does that is resumed from there."""
        self.ticks = [tick for tick in self.ticks if tick.step <= step]
        self.events = [event for event in self.events if event.step <= step]

    @property
    def steps(self) -> int:
        """Training steps until the last record."""
        last = [*self.ticks[-1:], *self.events[-1:]]
        return max((record.step for record in last), default=0)

    @property
    def widths(self) -> tuple[str, ...]:
        """Names of the widths, in the order in which the ticks mention them; the last
        names, if depth edits changed them."""
        names: dict[str, None] = {}
        deep = [e for e in self.events if e.renames]
        for tick in self.ticks:
            later = [e.renames for e in deep if e.step >= tick.step]
            for name in tick.sizes:
                for renames in later:
                    name = renames.get(name, name)
                names[name] = None
        return tuple(names)

    def sizes_of(self, width: str) -> tuple[list[int], list[int]]:
        """The size of a width as a step function.

        **Arguments:** `width` is the width's name; its last one, if depth edits changed
        it.

        **Returns:** Steps, the first of which is 0, and the open units from each of
        them on.

        **Raises:** `ValueError` for a width that no tick mentions.
        """
        deep = [(i, e) for i, e in enumerate(self.events) if e.renames]
        # A tick at the step of an event is from before it.
        since = lambda step: [e.renames for _, e in deep if e.step >= step]
        ticks = [(tick, _name_before(width, since(tick.step))) for tick in self.ticks]
        named = [(tick, name) for tick, name in ticks if name is not None]
        known = {t.step: t.sizes[name] for t, name in named if name in t.sizes}
        if not known:
            names = ", ".join(self.widths) or "none"
            raise ValueError(f"unknown width {width!r}; this history has {names}")
        after = lambda i: [e.renames for j, e in deep if j > i]
        pairs = enumerate(self.events)
        events = [e for i, e in pairs if e.width == _name_before(width, after(i))]
        known.update({event.step: event.new for event in events})
        began = 0 if _name_before(width, since(0)) is None else known[min(known)]
        known.setdefault(0, events[0].old if events and began else began)
        steps = sorted(known)
        return steps, [known[step] for step in steps]

    def table(self, *, rows: int = 30) -> str:
        """The growth events as text in columns.

        **Arguments:** `rows` is how many events to print at most; of a longer list come
        the first half and the last.

        **Returns:** Lines joined by newlines, without one at the end.

        **Raises:** `ValueError` if `rows` is less than 2.
        """
        if rows < 2:
            raise ValueError(f"rows is {rows}, but it must be at least 2")
        if not self.events:
            return f"no growth events in {self.steps} steps"
        skipped = max(0, len(self.events) - rows)
        first = (rows + 1) // 2 if skipped else len(self.events)
        shown = self.events[:first] + self.events[first + skipped :]
        lines = columns([_HEAD, *map(_row, shown)], left=(1, 3))
        if skipped:
            lines.insert(first + 1, f"... {skipped} more")
        return "\n".join(lines)

    def plot(
        self, path: str | os.PathLike | None = None, *, title: str | None = None
    ) -> Any:
        """Draws the loss above, the open units of each width below, over the steps.

        Vertical lines mark the growth events. Needs matplotlib, but neither pyplot nor
        a display.

        **Arguments:** `path` is the file to write, its suffix (`.png`, `.pdf`) the
        format; `None` writes nothing. `title` stands above the plot.

        **Returns:** The `matplotlib.figure.Figure`.

        **Raises:** `ImportError` without matplotlib, `ValueError` without a tick.
        """
        from .plot import draw

        if not self.ticks:
            raise ValueError("there is nothing to plot: this history has no ticks yet")
        figure = draw(self, title)
        if path is not None:
            figure.savefig(path)
        return figure

    def to_jsonl(self, path: str | os.PathLike) -> None:
        """Writes all records to a file, one JSON object per line.

        The file appears whole or not at all. Infinities and NaN, which JSON lacks, are
        written as the strings `"Infinity"`, `"-Infinity"` and `"NaN"`.

        **Arguments:** `path` is the file; one that exists is replaced.
        """
        write_whole(Path(path), self.lines())

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike) -> "History":
        """Reads what `to_jsonl` or `JsonLog` wrote.

        Where a log was continued from an earlier step, what the first attempt recorded
        after that step is left out; so is, with a warning, a last line that a crash cut
        short.

        **Arguments:** `path` is the file.

        **Returns:** A `History`.

        **Raises:** `ValueError` naming the line that isn't a record of growthnet.
        """
        return cls.of_lines(whole_lines(Path(path)), os.fspath(path))

    @classmethod
    def of_lines(cls, lines: Sequence[str], source: str) -> "History":
        """Reads the lines of a log; `source` is what they are called in an error."""
        history = cls()
        for number, line in enumerate(lines, start=1):
            try:
                history._read(json.loads(line), first=number == 1)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"line {number} of {source} is no record of a growthnet "
                    f"history ({error}); give a file that `History.to_jsonl` or "
                    "`JsonLog` wrote"
                ) from error
        return history

    def lines(self) -> list[str]:
        """All records, each as one line of JSON, in the order of their steps."""
        records = sorted([*self.ticks, *self.events], key=lambda record: record.step)
        return [start_line(0), *(record.line for record in records)]

    def _read(self, entry: dict[str, Any], *, first: bool) -> None:
        what = entry.pop("record")
        if first and what != "start":
            raise ValueError("the first record must say where the run starts")
        match what:
            case "start" if entry["version"] > VERSION:
                raise ValueError(f"format {entry['version']}, known up to {VERSION}")
            case "start":
                self.rewind(entry["step"])
            case "tick":
                self.add_tick(Tick(**from_json(entry)))
            case "event":
                self.add_event(GrowthEvent(**from_json(entry)))
            case _:
                raise ValueError(f"unknown record {what!r}")

    def __repr__(self) -> str:
        return f"History(ticks={len(self.ticks)}, events={len(self.events)})"

    def __str__(self) -> str:
        parts = [f"{self.steps} steps, {len(self.events)} growth events"]
        if self.ticks:
            parts.append(f"loss {self.ticks[0].loss:.4g} -> {self.ticks[-1].loss:.4g}")
        for name in self.widths:
            _, sizes = self.sizes_of(name)
            parts.append(f"{name} {sizes[0]} -> {sizes[-1]}")
        return "; ".join(parts)


def _name_before(width: str, later: Sequence[Mapping[str, str]]) -> str | None:
    """The name that a width, by its last name, had before these renamings; `None` if it
    wasn't there yet."""
    for renames in reversed(later):
        olds = {new: old for old, new in renames.items()}
        if width in renames and width not in olds:
            # A name that was given away is now that of a newborn width.
            return None
        width = olds.get(width, width)
    return width


def columns(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    """Rows of text as lines with aligned columns; those in `left` are words."""
    spans = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust if i in left else str.rjust for i in range(len(spans))]
    return [
        "  ".join(p(c, n) for p, c, n in zip(pads, row, spans, strict=True)).rstrip()
        for row in rows
    ]


_HEAD = (
    *("step", "width", "units", "how", "loss before", "loss after"),
    *("output change", "seconds", "compiles"),
)


def _row(event: GrowthEvent) -> tuple[str, ...]:
    change = event.output_change
    fresh = min(event.closed, event.new - event.old + event.closed)
    return (
        str(event.step),
        event.width,
        f"{event.old} -> {event.new}" + f" ({fresh} new)" * (fresh > 0),
        "closed" if event.kind == "opened" and event.new < event.old else event.kind,
        f"{event.loss_before:.5g}",
        f"{event.loss_after:.5g}",
        "-" if change is None else f"{change:.2g}",
        f"{event.seconds:.3f}",
        str(event.compiles),
    )


def _check_order(what: str, record: Any, earlier: Sequence[Any]) -> None:
    if earlier and record.step < earlier[-1].step:
        raise ValueError(
            f"no {what} at step {record.step} can follow one at step "
            f"{earlier[-1].step}; add records in order, or `rewind` first"
        )
