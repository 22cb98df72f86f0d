"""What ticks tell the host, and the records that it makes of it."""

from collections.abc import Callable, Sequence
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


def each(reports: Report, count: int) -> list[Report]:
    """The first `count` reports of a stack, one by one (on the host). By columns: a
    long run of a small network has very many."""
    leaves, structure = jax.tree.flatten(reports)
    rows = zip(*(leaf[:count] for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, row) for row in rows]


def tick_of(
    report: Report,
    events: Sequence[GrowthEvent],
    params: Callable[[dict[str, int]], int],
    *,
    valid: bool,
    seconds: float,
    traces: int,
) -> Tick:
    """The record of one tick; its sizes are those after the events at its end. `params`
    counts the network's parameters."""
    sizes = {name: int(size) for name, size in report.sizes.items()}
    sizes.update({event.width: event.new for event in events})
    return Tick(
        step=int(report.step),
        loss=float(report.loss),
        valid_loss=float(report.valid_loss) if valid else None,
        sizes=sizes,
        params=params(sizes),
        seconds=seconds,
        traces=traces,
        metrics={name: float(m) for name, m in report.metrics.items()},
    )


def counting(anatomy: Anatomy) -> Callable[[dict[str, int]], int]:
    """`anatomy.params`, which remembers what it counted."""
    known: dict[tuple[int, ...], int] = {}

    def params(sizes: dict[str, int]) -> int:
        key = tuple(sizes.values())
        if key not in known:
            known[key] = int(anatomy.params(sizes))
        return known[key]

    return params


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
    """A record for every width whose units changed."""
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
