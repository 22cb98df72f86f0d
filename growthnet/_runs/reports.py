"""What ticks tell the host, and the records that it makes of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._history.history import GrowthEvent, History, JsonLog, Tick
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
    old_sizes: dict[str, Any]
    sizes: dict[str, Any]
    loss_before: Any
    loss_after: Any
    output_change: Any
    closed: dict[str, Any]
    rewritten: dict[str, Any]

    def __getitem__(self, rows: Any) -> "Report":
        return jax.tree.map(lambda column: column[rows], self)


def packed(report: Report) -> dict[str, Any]:
    """The numbers of a report as one vector per dtype: a loop pays for each array that
    it writes to."""
    parts: dict[str, list[Any]] = {}
    for leaf in jax.tree.leaves(report):
        parts.setdefault(leaf.dtype.name, []).append(leaf.reshape(-1))
    return {name: jnp.concatenate(part) for name, part in parts.items()}


def unpacked(packs: dict[str, Any], like: Report) -> Report:
    """The reports whose packed numbers were stacked; `like` has the shapes of one."""
    leaves, structure = jax.tree.flatten(like)
    ends, columns = dict.fromkeys(packs, 0), []
    for leaf in leaves:
        name = leaf.dtype.name
        begin, ends[name] = ends[name], ends[name] + leaf.size
        columns.append(packs[name][:, begin : ends[name]].reshape(-1, *leaf.shape))
    return jax.tree.unflatten(structure, columns)


Record = tuple[Tick, Sequence[GrowthEvent]]
"""A tick, and the events at its end."""


def records_of(
    reports: Report,
    events: Sequence[GrowthEvent],
    params: Callable[[dict[str, int]], int],
    *,
    valid: bool,
    seconds: float,
    traces: int,
) -> list[Record]:
    """The records of stacked reports, and of the events among them; the sizes of a tick
    are those after the events at its end. `params` counts the network's parameters.

    By columns of Python's numbers: a long run of a small network has very many ticks.
    """
    at_end: dict[int, list[GrowthEvent]] = {}
    for event in events:
        at_end.setdefault(event.step, []).append(event)
    steps, losses = reports.step.tolist(), _floats(reports.loss)
    valid_losses = _floats(reports.valid_loss) if valid else [None] * len(steps)
    sizes = _rows({name: size.tolist() for name, size in reports.sizes.items()}, steps)
    metrics = _rows({name: _floats(m) for name, m in reports.metrics.items()}, steps)
    records = []
    columns = (steps, losses, valid_losses, sizes, metrics)
    for step, loss, valid_loss, size, metric in zip(*columns, strict=True):
        here = at_end.get(step, [])
        size.update({event.width: event.new for event in here})
        known = (params(size), seconds, traces, valid_loss, metric)
        records.append((Tick(step, loss, size, *known), here))
    return records


def _floats(column: Any) -> list[float]:
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


def keep(records: History | JsonLog, tick: Tick, events: Sequence[GrowthEvent]) -> None:
    """Adds a tick, and the events at its end."""
    records.add_tick(tick)
    for event in events:
        records.add_event(event)


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
