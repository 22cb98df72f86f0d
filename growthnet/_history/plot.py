"""The picture of a run: loss above, sizes below. Needs matplotlib, but not pyplot."""

import math
from collections.abc import Sequence
from typing import Any

from .history import History


# Colour and dashes of the lines that mark each kind of event.
_MARKS = {
    "opened": ("0.75", "-"),
    "resized": ("0.3", (0, (4, 2))),
    "replaced": ("C4", (0, (1, 2))),
    "rewritten": ("C5", (0, (1, 2))),
    "deepened": ("C2", (0, (4, 2))),
    "removed": ("C3", (0, (4, 2))),
}
_MOST_IN_LEGEND = 8

_NO_MATPLOTLIB = (
    "`History.plot` draws with matplotlib, which isn't installed; get it by "
    '`pip install "growthnet[plots]"`'
)


def draw(history: History, title: str | None) -> Any:
    """The figure of `History.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(_NO_MATPLOTLIB) from error
    figure = Figure(figsize=(7.5, 5.0), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    if title is not None:
        upper.set_title(title, loc="left", fontsize="medium")
    _draw_loss(upper, history)
    _draw_sizes(lower, history)
    for axes in (upper, lower):
        _mark_events(axes, history, labelled=axes is lower)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
            axes.legend(fontsize="small", frameon=False, **beside)
    return figure


def _draw_loss(axes: Any, history: History) -> None:
    ticks = history.ticks
    losses = [tick.loss for tick in ticks]
    steps = [tick.step for tick in ticks]
    axes.plot(steps, losses, color="C0", lw=1.4, zorder=3, label="training")
    checked = [(t.step, t.valid_loss) for t in ticks if t.valid_loss is not None]
    if checked:
        steps, valid = zip(*checked, strict=True)
        axes.plot(steps, valid, color="C1", lw=1.4, zorder=3, label="validation")
        losses.extend(valid)
    if _spans_decades(losses):
        _make_logarithmic(axes)
    axes.set_ylabel("loss")


def _make_logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 1000:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_sizes(axes: Any, history: History) -> None:
    from matplotlib.ticker import MaxNLocator

    for name in history.widths:
        steps, sizes = history.sizes_of(name)
        steps, sizes = [*steps, history.steps], [*sizes, sizes[-1]]
        label = name if len(history.widths) <= _MOST_IN_LEGEND else None
        axes.step(steps, sizes, where="post", lw=1.6, zorder=3, label=label)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(1, history.steps))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("open units")
    axes.set_xlabel("training step")


def _mark_events(axes: Any, history: History, *, labelled: bool) -> None:
    for kind, (color, dashes) in _MARKS.items():
        events = [e for e in history.events if e.kind == kind]
        steps = sorted({e.step for e in events})
        closes = kind == "opened" and any(e.new < e.old for e in events)
        if steps:
            axes.vlines(
                steps,
                0,
                1,
                transform=axes.get_xaxis_transform(),
                colors=color,
                linestyles=[dashes],
                lw=0.8,
                alpha=min(1.0, 8 / len(steps) ** 0.5),
                zorder=1,
                label=f"{kind}{' or closed' * closes}" if labelled else None,
            )


def _spans_decades(values: Sequence[float]) -> bool:
    """Is a logarithmic axis possible, and does it show more than a linear one?"""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 8 * min(finite)
