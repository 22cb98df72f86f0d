"""The records of a run, and how a file holds them: one JSON object per line."""

import dataclasses
import functools as ft
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._checkpoints.atomic import whole_file


VERSION = 1
KINDS = ("opened", "resized", "replaced", "rewritten", "deepened", "removed")


@dataclasses.dataclass(frozen=True)
class GrowthEvent:
    """One change of the units of one width, or of the depth of one sequence of layers.

    - `step`: training steps done when it happened.
    - `width`, `old`, `new`: the width's name and its open units before and after; for
        depth, the sequence's name (`layers`) and its entries.
    - `kind`: `"opened"` (or closed) inside the program, at unchanged shapes, or
        `"resized"` on the host, to new shapes; `"replaced"` where as many units were
        born as were closed, `"rewritten"` where only the weights of units that stay
        were changed; `"deepened"` or `"removed"` for depth.
    - `loss_before`, `loss_after`: loss on the same batch on either side of the change.
    - `output_change`: largest absolute change of an output; `None` if not measured.
    - `seconds`: host time for editing and compiling; 0 for what the program did.
    - `compiles`: programs that were traced because of it.
    - `renames`: new names of widths by old name, where depth changed them.
    - `closed`: how many of the old units went (others may have been born).

    **Raises:** `ValueError` for an unknown kind and for a negative count.
    """

    step: int
    width: str
    old: int
    new: int
    kind: Literal["opened", "resized", "replaced", "rewritten", "deepened", "removed"]
    loss_before: float
    loss_after: float
    output_change: float | None = None
    seconds: float = 0.0
    compiles: int = 0
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    closed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"an event's kind is {self.kind!r}, but it must be one of "
                f"{', '.join(map(repr, KINDS))}"
            )
        for name in ("step", "old", "new", "compiles", "closed"):
            _count(name, getattr(self, name))

    @ft.cached_property
    def line(self) -> str:
        """Its line in a log, without the newline: strictly JSON."""
        return _line("event", self)


@dataclasses.dataclass(frozen=True)
class Tick:
    """What is known at the end of one tick (a policy's `every` training steps).

    - `step`: training steps done.
    - `loss`: training loss, averaged over the tick's steps.
    - `sizes`: open units of each width.
    - `params`: parameters of the network at these sizes.
    - `seconds`: wall time since the start of the run.
    - `traces`: programs traced since the start of the run.
    - `valid_loss`: loss on the validation data; `None` without such data.
    - `metrics`: what the loss function reported besides, as numbers or nested lists.

    **Raises:** `ValueError` for a negative count and for metrics that aren't numbers.
    """

    step: int
    loss: float
    sizes: Mapping[str, int]
    params: int
    seconds: float
    traces: int
    valid_loss: float | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if min(self.step, self.params, self.traces, *self.sizes.values()) < 0:
            for name in ("step", "params", "traces"):
                _count(name, getattr(self, name))
            for name, size in self.sizes.items():
                _count(f"sizes[{name!r}]", size)
        metrics = {name: _numbers(name, value) for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)

    @ft.cached_property
    def line(self) -> str:
        """Its line in a log, without the newline: strictly JSON."""
        return _line("tick", self)


def _count(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name} is {value}, but it counts: give 0 or more")


def _numbers(name: str, value: Any) -> Any:
    """A metric as a float or as nested lists of floats."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return np.asarray(value, dtype=float).tolist()
    except (TypeError, ValueError):
        raise ValueError(
            f"the metric {name!r} is a {type(value).__name__}, but a metric must be a "
            "real number or an array of such numbers"
        ) from None


class JsonLog:
    """Writes records to a file while a run goes on, one flushed line each.

    `History.from_jsonl` reads the file, whether the run has ended or not. A file that
    exists is continued. Usable as a context manager.
    """

    def __init__(self, path: str | os.PathLike, *, step: int = 0):
        """**Arguments:** `path` is the file; `step` is where this run starts: 0, or the
        step of the checkpoint from which it is resumed.

        **Raises:** `ValueError` if the file exists and holds something else.
        """
        path = Path(path)
        if path.exists() and path.stat().st_size:
            whole = whole_lines(path)
            if not whole or '"record"' not in whole[0]:
                raise ValueError(
                    f"{path} exists and isn't a log of growthnet; give another path, "
                    "so that nothing is lost"
                )
            os.truncate(path, sum(len(f"{line}\n".encode()) for line in whole))
        self._file = open(path, "a", encoding="utf-8", newline="\n")
        self._write(start_line(step))

    def add_tick(self, tick: Tick) -> None:
        """Appends a tick."""
        self._write(tick.line)

    def add_event(self, event: GrowthEvent) -> None:
        """Appends an event."""
        self._write(event.line)

    def restart(self, step: int) -> None:
        """From here on the run goes on from an earlier step."""
        self._write(start_line(step))

    def _write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; more than once does no harm."""
        self._file.close()

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(self, *exception: object) -> None:
        del exception
        self.close()


def start_line(step: int) -> str:
    """The line that says from which step on the records below it count."""
    return json.dumps({"record": "start", "version": VERSION, "step": step})


def _line(name: str, record: Any) -> str:
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return json.dumps(_to_json({"record": name, **fields}), allow_nan=False)


def from_json(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record from the object that its line holds."""
    texts = ("width", "kind", "renames")
    return {k: v if k in texts else _floats(v) for k, v in entry.items()}


def _to_json(value: Any) -> Any:
    """The same, with strings for the floats that JSON can't say."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(v) for v in value] if isinstance(value, list) else value


def _floats(value: Any) -> Any:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    return [_floats(v) for v in value] if isinstance(value, list) else value


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that end as lines do; warns of a rest."""
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        message = f"the last line of {path} was cut short and is left out"
        warnings.warn(message, stacklevel=3)
    return lines


def write_whole(path: Path, lines: list[str]) -> None:
    """Writes a file that appears complete or not at all."""
    with whole_file(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)
