"""Saving and loading runs: single files, and a folder of the last few."""

import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import Any

from .._capacity.capacity import compact, Reserved
from .._history.history import History
from .._policies.grower import Grower
from .._policies.growing import GrowerState, Growing
from .._reading.anatomy import Anatomy
from .._runs.run import Run
from .atomic import sweep
from .container import CheckpointError
from .restored import restored, restored_net
from .saved import Saved, saved


NAME = re.compile(r"step-(\d+)\.safetensors")


def save(path: str | os.PathLike, run: Run | tuple[Growing, GrowerState]) -> None:
    """Saves a whole run to a file: the network with its spare capacity, which units are
    open, their gates, the optimizer's and the policy's states, the key, the step, a
    decision that waits, the history.

    The file appears whole or not at all; what was at the path stays until then. It is a
    safetensors file whose every byte is under a checksum; nothing is pickled.

    **Arguments:**

    - `path`: the file; one that exists is replaced.
    - `run`: from `fit` (or `grow(...).run()`), or the pair `(model, state)` of a loop
        of your own with a `Grower`.

    **Raises:** `OSError` if it can't be written (the disk is full), `ValueError` for
    what isn't a run.

    !!! example

        ```python
        gn.save("run.safetensors", run)
        net = gn.load_net("run.safetensors", mlp, gn.trace(mlp, x))
        ```
    """
    whole(run).write(Path(path))


def whole(run: Run | tuple[Growing, GrowerState]) -> Saved:
    """A run as it is saved."""
    if isinstance(run, Run):
        parts = (run.growing, run.state, run.history, run.position)
        return saved(*parts, overflowed=run.overflowed)
    if not (isinstance(run, tuple) and isinstance(run[0], Growing)):
        raise ValueError(
            f"a {type(run).__name__} can't be saved; give a run (`grown.run()`, one of "
            "`grown.runs()`), or the pair (model, state) of a loop with a Grower"
        )
    growing, state = run
    return saved(growing, state, History(), None)


def load(path: str | os.PathLike, net: Any, anatomy: Anatomy, grower: Grower) -> Run:
    """Loads a whole run: `run.growing` and `run.state` go on exactly where they were.

    To go on with `fit`, give the path to `fit(resume=...)` instead.

    **Arguments:**

    - `path`: what `save` wrote, or a folder of checkpoints (the newest is taken).
    - `net`: the network that the run *started* from; its sizes needn't be those that it
        has grown to. `eqx.filter_eval_shape(make, key)` does, if it isn't at hand.
    - `anatomy`: from `trace(net, ...)`.
    - `grower`: with the policy and the optimizer of the run.

    **Returns:** a `Run`.

    **Raises:** `CheckpointError`, a `ValueError`, for a file that is damaged, foreign
    or newer, and where something at hand isn't as it was saved; it says what and where.
    """
    return restored(at(path), grower, net, anatomy)


def load_net(path: str | os.PathLike, net: Any, anatomy: Anatomy) -> Any:
    """The trained network of a saved run, at its real sizes: needs neither the policy
    nor the optimizer.

    **Arguments:** as those of `load`.

    **Returns:** what `run.net` was: gates folded in, closed units dropped.

    **Raises:** `CheckpointError`, as `load`.
    """
    return compact_net(at(path), net, anatomy)


def compact_net(source: Saved, net: Any, anatomy: Anatomy) -> Any:
    grown, after, open_, gates = restored_net(source, net, anatomy)
    return compact(Reserved(grown, after, open_), gates=gates, fold=True)


def at(path: str | os.PathLike) -> Saved:
    """What was saved at a path: a file, or the newest whole one in a folder."""
    path = Path(path)
    if not path.is_dir():
        return Saved.read(path)
    newest = Checkpoints(path).newest()
    if newest is None:
        raise CheckpointError(f"{path} is a folder without checkpoints")
    return newest


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The folder in which a run keeps its last states: `fit(checkpoint=...)`.

    - `folder`: one folder for one run. It is made if need be.
    - `every`: training steps between two checkpoints, rounded up to whole ticks of the
        policy. There is one more at the end, and one when the run is interrupted.
    - `keep`: how many to keep; `None` for all.

    `fit` goes on from the newest of them by itself, so a script that was killed is
    simply started again. A file that is damaged is passed over, with a warning.

    **Raises:** `ValueError` for counts below 1.
    """

    folder: str | os.PathLike
    every: int = 1000
    keep: int | None = 3

    def __post_init__(self):
        for name in ("every", "keep"):
            value = getattr(self, name)
            count = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not count and not (name == "keep" and value is None):
                raise ValueError(
                    f"Checkpoints({name}={value!r}); a whole number from 1 up"
                    f"{', or None for all' if name == 'keep' else ''}"
                )

    def due(self, step: int, tick: int) -> int:
        """The first step after this one at which there is a checkpoint, given the steps
        of a tick."""
        whole = lambda saves: -(-saves * self.every // tick) * tick
        saves = step // self.every
        return whole(saves) if whole(saves) > step else whole(saves + 1)

    def paths(self) -> list[Path]:
        """The files there, oldest step first."""
        found = [(NAME.fullmatch(p.name), p) for p in Path(self.folder).glob("step-*")]
        return [p for _, p in sorted((int(m[1]), p) for m, p in found if m)]

    def newest(self) -> Saved | None:
        """The newest checkpoint that is whole; `None` if there are no files.

        **Raises:** `CheckpointError` if there are files, and none of them is whole.
        """
        errors = []
        for path in reversed(self.paths()):
            try:
                found = Saved.read(path)
            except CheckpointError as error:
                errors.append(str(error))
                continue
            if errors:
                text = "; ".join(errors)
                warnings.warn(f"{text}: going on from {path}", stacklevel=4)
            return found
        if errors:
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} is whole "
                f"({'; '.join(errors)}); give another folder to begin anew"
            )
        return None

    def write(self, run: Saved) -> Path:
        """Writes a checkpoint; only then removes those that aren't to be kept, and what
        a killed process left half-written.

        **Raises:** `OSError`; the checkpoints before it are intact then.
        """
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{run.step:010}.safetensors"
        run.write(path)
        sweep(folder, "step-*")
        paths = self.paths()
        # Later ones weren't whole, or this run wouldn't be here.
        later = paths[paths.index(path) + 1 :]
        earlier = paths[: paths.index(path) + 1]
        stale = [] if self.keep is None else earlier[: -self.keep]
        for old in (*later, *stale):
            old.unlink(missing_ok=True)
        return path
