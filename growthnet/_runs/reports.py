"""What ticks tell the host, and the records that it makes of it."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import equinox as eqx
import jax

from .._history.history import GrowthEvent, History, JsonLog, Tick
from .._reading.anatomy import Anatomy


class Report(eqx.Module):
    """What a tick tells, all scalars; a chunk's are stacked along a first axis.

    - `step`, `count`: training steps done at its end, and in it. A tick of no steps has
        no record of its own.
    - `valid_loss`: NaN without validation data; so are the losses around a change where
        nothing changed, and the output's change where outputs aren't known.
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


def each(reports: Report, count: int) -> Iterator[Report]:
    """The first `count` reports of a stack, one by one (on the host)."""
    for i in range(count):
        yield jax.tree.map(lambda leaf, i=i: leaf[i], reports)


def tick_of(
    report: Report,
    events: Sequence[GrowthEvent],
    anatomy: Anatomy,
    *,
    valid: bool,
    seconds: float,
    traces: int,
) -> Tick:
    """The record of one tick; its sizes are those after the events at its end."""
    sizes = {name: int(size) for name, size in report.sizes.items()}
    sizes.update({event.width: event.new for event in events})
    return Tick(
        step=int(report.step),
        loss=float(report.loss),
        valid_loss=float(report.valid_loss) if valid else None,
        sizes=sizes,
        params=int(anatomy.params(sizes)),
        seconds=seconds,
        traces=traces,
        metrics={name: float(m) for name, m in report.metrics.items()},
    )


def keep(records: History | JsonLog, tick: Tick, events: Sequence[GrowthEvent]) -> None:
    """Adds a tick, and the events at its end."""
    records.add_tick(tick)
    for event in events:
        records.add_event(event)


def events_of(
    report: Report,
    *,
    outputs: bool,
    kind: Literal["opened", "resized"] = "opened",
    seconds: float = 0.0,
    compiles: int = 0,
) -> list[GrowthEvent]:
    """A record for every width whose size changed."""
    return [
        GrowthEvent(
            step=int(report.step),
            width=name,
            old=int(report.old_sizes[name]),
            new=int(size),
            kind=kind,
            loss_before=float(report.loss_before),
            loss_after=float(report.loss_after),
            output_change=float(report.output_change) if outputs else None,
            seconds=seconds,
            compiles=compiles,
        )
        for name, size in report.sizes.items()
        if int(size) != int(report.old_sizes[name])
    ]
