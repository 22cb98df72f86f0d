"""`growthnet inspect`: what a saved run is, without the code of its model."""

import json
import math
import re
from pathlib import Path
from typing import Any

from .._history.history import columns, History
from .checkpoints import Checkpoints
from .container import CheckpointError
from .saved import Saved


MOST_ROWS = 30


def inspected(path: Path, *, record: bool = False) -> str:
    """What is saved at a path, as text.

    **Arguments:** a file, or a folder of checkpoints; `record` for the whole record, as
    JSON.

    **Raises:** `CheckpointError` for a file that is damaged or no checkpoint, `OSError`
    for one that can't be read.
    """
    if path.is_dir():
        return _folder(path)
    saved = Saved.read(path)
    if record:
        return json.dumps(saved.record, indent=2)
    parts = [_head(saved), _widths(saved), _leaves(saved), *_history(saved.history)]
    return "\n\n".join(parts)


def _folder(folder: Path) -> str:
    """Which checkpoints are there, and the newest."""
    paths = Checkpoints(folder).paths()
    if not paths:
        raise CheckpointError(f"{folder} is a folder without checkpoints")
    lines, newest = [], None
    for path in paths:
        try:
            newest = Saved.read(path)
            lines.append(f"{path.name}  step {newest.step}  {_sizes(newest)}")
        except CheckpointError as error:
            lines.append(f"{path.name}  {error}")
    text = "\n".join(lines)
    return text if newest is None else f"{text}\n\n{inspected(Path(newest.source))}"


def _sizes(saved: Saved) -> str:
    sizes = saved.record["sizes"].items()
    return ", ".join(f"{name} {size}" for name, size in sizes) or "nothing grows"


def _head(saved: Saved) -> str:
    record = saved.record
    versions = ", ".join(f"{name} {x}" for name, x in record["versions"].items())
    held = sum(math.prod(x.shape) for x in _net(saved).values())
    return "\n".join(
        [
            f"{saved.source}: a run at step {saved.step}, saved {record['written']}",
            f"policy {record['policy']}, a decision every {record['every']} steps",
            f"{record['params']} parameters; {held} numbers with spare capacity",
            f"written with {versions}",
        ]
    )


def _net(saved: Saved) -> dict[str, Any]:
    """The network's arrays at capacity, by leaf name."""
    inside = re.compile(r"net(\.|(?=\[)|$)")
    names = {name: inside.match(name) for name in saved.arrays}
    return {n[m.end() :]: saved.arrays[n] for n, m in names.items() if m}


def _widths(saved: Saved) -> str:
    if not saved.record["widths"]:
        return "no width of this network grows"
    rows = [("width", "units", "capacity", "members (path:axis; * is the cover)")]
    for width in saved.record["widths"]:
        name, cover = width["name"], width["cover"]
        members = [
            member + "*" * (i in cover) for i, member in enumerate(width["members"])
        ]
        units = str(saved.record["sizes"][name])
        rows.append((name, units, str(width["size"]), ", ".join(members)))
    return "\n".join(columns(rows, left=(0, 3)))


def _leaves(saved: Saved) -> str:
    rows = [("leaf", "dtype", "shape at capacity")]
    for name, array in _net(saved).items():
        name = name or "the network"
        rows.append((name, str(array.dtype), str(list(array.shape))))
    return "\n".join(columns(rows, left=(0, 1, 2)))


def _history(history: History) -> list[str]:
    """Sizes over time, and the events."""
    if not history.ticks:
        return ["no records: the run wasn't one of `fit`"]
    first, final = history.ticks[0], history.ticks[-1]
    loss = (
        f"loss {first.loss:.5g} at step {first.step}, {final.loss:.5g} at {final.step}"
    )
    head, table = f"{loss}; {final.seconds:.1f} s", history.table(rows=MOST_ROWS)
    return [head, *_sizes_over_time(history), table]


def _sizes_over_time(history: History) -> list[str]:
    """A row for every step at which a size changed."""
    names = history.widths
    if not names:
        return []
    known = [dict(zip(*history.sizes_of(name), strict=True)) for name in names]
    steps = sorted({step for sizes in known for step in sizes})
    rows, last = [], [""] * len(names)
    for step in steps:
        now = [str(s.get(step, old)) for s, old in zip(known, last, strict=True)]
        if now != last:
            rows.append((str(step), *now))
        last = now
    if len(rows) > MOST_ROWS:
        half = MOST_ROWS // 2
        left_out = ("...", *("..." for _ in names))
        rows = [*rows[:half], left_out, *rows[-half:]]
    return ["\n".join(columns([("step", *names), *rows], left=()))]
