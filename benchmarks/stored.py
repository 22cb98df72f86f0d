"""Results as JSON files that are made once: whole or not at all, and timed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


Row = dict[str, Any]


def write(path: Path, rows: Row) -> None:
    """A file is there as a whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(rows, separators=(",", ":")))
    os.replace(beside, path)


def load(folder: Path, name: str) -> Row:
    """**Raises:** `ValueError` if that arm hasn't been run."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise ValueError(f"no results of {name!r} in {folder}; run it first")
    return json.loads(path.read_text())


def timed(make: Callable[[], Row]) -> Row:
    """What is made, with its `seconds` and `cpu_seconds`."""
    began, cpu = time.perf_counter(), time.process_time()
    row = make()
    row["seconds"] = round(time.perf_counter() - began, 1)
    row["cpu_seconds"] = round(time.process_time() - cpu, 1)
    return row
