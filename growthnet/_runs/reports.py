"""What ticks tell the host, and the records that it makes of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from .._history.history import GrowthEvent, Tick
from .._reading.anatomy import Anatomy


class Report(eqx.Module):
    """What a tick tells, all scalars; a chunk's are stacked along a first axis, and
    `reports[i]` is one of them, `reports[:n]` are some.

    - `step`, `count`: training steps done at its end, and in it. A tick of no steps has
        no record of its own.
    - `valid_loss`: NaN without validation data; so are the losses around a change where
        nothing changed, and the output's change where outputs aren't known.
    - `closed`, `rewritten`: by width, how many units went, and whether others changed.
    """

    step: Any
    count: Any
    loss: Any
    valid_loss: Any
    metrics: dict[str, Any]
    sizes: dict[str, Any]
    old_sizes: dict[str, Any]
    loss_before: Any
    loss_after: Any
    output_change: Any
    closed: dict[str, Any]
    rewritten: dict[str, Any]

    def __getitem__(self, rows: Any) -> "Report":
        return jax.tree.map(lambda column: column[rows], self)


def ticks_of(
    reports: Report,
    events: Sequence[GrowthEvent],
    params: Callable[[dict[str, int]], int],
    *,
    valid: bool,
    seconds: float,
    traces: int,
) -> list[Tick]:
    """The records of stacked reports; the sizes of a tick are those after the events at
    its end. `params` counts the network's parameters.

    By columns of Python's numbers: a long run of a small network has very many ticks.
    """
    after = by_step(events)
    steps, losses = reports.step.tolist(), _floats(reports.loss)
    valid_losses = _floats(reports.valid_loss) if valid else [None] * len(steps)
    sizes = _rows({name: size.tolist() for name, size in reports.sizes.items()}, steps)
    metrics = _rows({name: _floats(m) for name, m in reports.metrics.items()}, steps)
    ticks, columns = [], (steps, losses, valid_losses, sizes, metrics)
    for step, loss, valid_loss, size, metric in zip(*columns, strict=True):
        size.update({event.width: event.new for event in after.get(step, ())})
        known = (params(size), seconds, traces, valid_loss, metric)
        ticks.append(Tick(step, loss, size, *known))
    return ticks


def by_step(events: Sequence[GrowthEvent]) -> dict[int, list[GrowthEvent]]:
    """The events at the end of each tick that has some."""
    found: dict[int, list[GrowthEvent]] = {}
    for event in events:
        found.setdefault(event.step, []).append(event)
    return found


def _floats(column: Any) -> list[Any]:
    return np.asarray(column, float).tolist()


def _rows(columns: dict[str, list[Any]], index: Sequence[Any]) -> list[dict[str, Any]]:
    """A dict for every row of the index."""
    rows = zip(*columns.values(), strict=True) if columns else [()] * len(index)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def counting(anatomy: Anatomy) -> Callable[[dict[str, int]], int]:
    """`anatomy.params`, which remembers what it counted."""
    known: dict[tuple[int, ...], int] = {}

    def params(sizes: dict[str, int]) -> int:
        key = tuple(sizes.values())
        if key not in known:
            known[key] = int(anatomy.params(sizes))
        return known[key]

    return params


def events_in(reports: Report, *, outputs: bool) -> list[GrowthEvent]:
    """The events of stacked reports, most of which have none."""
    changed = [
        (size != reports.old_sizes[name])
        | (reports.closed[name] > 0)
        | reports.rewritten[name]
        for name, size in reports.sizes.items()
    ]
    some = np.flatnonzero(np.any(changed, axis=0))
    return [e for i in some for e in events_of(reports[i], outputs=outputs)]


def events_of(
    report: Report,
    *,
    outputs: bool,
    kind: Literal["opened", "resized"] = "opened",
    seconds: float = 0.0,
    compiles: int = 0,
) -> list[GrowthEvent]:
    """What one tick changed: a record for every width whose units did."""
    happened = {}
    for name, size in report.sizes.items():
        if int(size) != int(report.old_sizes[name]):
            happened[name] = kind
        elif int(report.closed[name]):
            happened[name] = "replaced"
        elif bool(report.rewritten[name]):
            happened[name] = "rewritten"
    return [
        GrowthEvent(
            step=int(report.step),
            width=name,
            old=int(report.old_sizes[name]),
            new=int(report.sizes[name]),
            kind=what,
            closed=int(report.closed[name]),
            loss_before=float(report.loss_before),
            loss_after=float(report.loss_after),
            output_change=float(report.output_change) if outputs else None,
            seconds=seconds,
            compiles=compiles,
        )
        for name, what in happened.items()
    ]
