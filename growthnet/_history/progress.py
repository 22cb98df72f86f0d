"""A progress bar for `fit(callback=...)`."""

import sys
from collections.abc import Mapping
from typing import Any


class Progress:
    """Shows how far a run is, its loss, its sizes and its parameters.

    A bar where the stream is a terminal and rich is installed; otherwise a line for
    every tenth of the run. Use it as a context manager, so that the bar is closed:

    ```python
    with Progress("growing") as progress:
        run = gn.fit(..., callback=progress)
    ```
    """

    def __init__(self, label: str = "training", *, stream: Any = None):
        """**Arguments:** `label` stands at the left; `stream` is the text stream
        to write to, standard error by default.
        """
        self.label = label
        self.stream = sys.stderr if stream is None else stream
        self._tenths = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.stream.isatty():
            self._bar = _rich_bar(self.stream)
        if self._bar is not None:
            self._task = self._bar.add_task(self.label, total=None, state="compiling")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        del exception
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Shows a record of `fit`: `step`, `steps`, `loss`, `sizes`, `params`, ..."""
        step, steps = record["step"], record["steps"]
        if self._bar is not None:
            state = _state(record)
            self._bar.update(self._task, completed=step, total=steps, state=state)
        elif 10 * step // steps > self._tenths:
            self._tenths = 10 * step // steps
            done = f"{self.label}: {step:>{len(str(steps))}}/{steps} steps"
            print(f"{done}  {_state(record)}", file=self.stream, flush=True)


def _rich_bar(stream: Any) -> Any:
    """A bar, not yet started; `None` without rich."""
    try:
        from rich import console, progress
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[state]}", markup=False),
        progress.TimeElapsedColumn(),
        console=console.Console(file=stream),
    )


def _state(record: Mapping[str, Any]) -> str:
    sizes = record["sizes"]
    shown = [f"{name} {size}" for name, size in list(sizes.items())[:3]]
    shown += [f"+{len(sizes) - 3} widths"] * (len(sizes) > 3)
    valid = record.get("valid_loss")
    losses = f"loss {record['loss']:.4f}"
    losses += "" if valid is None else f" (valid {valid:.4f})"
    return "  ".join([losses, *shown, f"{record['params']} parameters"])
