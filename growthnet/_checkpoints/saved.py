"""A run as named arrays and a record: what is saved. The way back is in `restored`."""

import contextlib
import dataclasses
import importlib.metadata
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._devices.placement import to_host
from .._history.history import History
from .._paths import is_array, named_leaves
from .._policies.growing import GrowerState, Growing
from .._policies.policy import Change
from .._reading.anatomy import Anatomy
from .._runs.run import Position
from .container import CheckpointError, MALFORMED, read_container, write_container


HISTORY = "history"
"""The array that holds the lines of the history, as bytes."""
APART = ("anatomy", "decision", "places")
"""What of a run isn't saved as it stands."""
ARRAY = {"array": True}
"""Stands for an array in an outline."""
PARTS = {
    "step": int,
    "written": str,
    "versions": dict,
    "sizes": dict,
    "capacities": dict,
    "params": int,
    "widths": list,
    "policy": str,
    "every": int,
    "optimizer": list,
    "numbers": dict,
    "keys": dict,
    "decision": dict,
    "position": dict | None,
    "overflowed": bool,
}
"""What the record holds."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A saved run: where it is from, for messages; its record; its arrays by name."""

    source: str
    record: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @staticmethod
    def read(path: Path) -> "Saved":
        """**Raises:** `CheckpointError`, `FileNotFoundError`."""
        record, arrays = read_container(path)
        check_record(record, path)
        return Saved(str(path), record, arrays)

    def write(self, path: Path) -> None:
        """**Raises:** `OSError`; what was at the path is intact then."""
        write_container(path, self.arrays, self.record)

    @property
    def step(self) -> int:
        return self.record["step"]

    @property
    def history(self) -> History:
        """**Raises:** `CheckpointError`."""
        with well_formed(self.source):
            return history_of(self.arrays[HISTORY], self.source)


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """**Raises:** `CheckpointError` for a record that isn't one of a run."""
    inside = {"sizes": int, "capacities": int, "numbers": str, "keys": str}
    for name, kind in PARTS.items():
        part = record.get(name, PARTS)
        good = part is not PARTS and isinstance(part, kind)
        if good and name in inside:
            values = part.values()
            good = all(isinstance(x, inside[name]) for x in values)
            good &= all(x > 0 for x in values if isinstance(x, int))
        if not good:
            # The checksums are right, so somebody else wrote this.
            raise CheckpointError(
                f"{path} isn't a saved run: its record has no right {name!r}; give a "
                "file that `gn.save` wrote"
            )


@contextlib.contextmanager
def well_formed(source: str) -> Iterator[None]:
    """Turns what goes wrong in reading a record into a `CheckpointError`: its checksum
    was right, so somebody else has written it."""
    try:
        yield
    except CheckpointError:
        raise
    except (IndexError, *MALFORMED) as error:
        raise CheckpointError(
            f"{source} has a record that this growthnet can't read ({error!r}); give a "
            "file that `gn.save` wrote"
        ) from error


def history_of(array: np.ndarray, source: str) -> History:
    return History.of_lines(array.tobytes().decode().splitlines(), source)


def saved(
    growing: Growing,
    state: GrowerState,
    history: History,
    position: Position | None,
    *,
    overflowed: bool = False,
) -> Saved:
    """Everything of a run, on the host."""
    parts = parts_of(growing, state)
    gates = {name: jnp.asarray(gate) for name, gate in growing.gates().items()}
    found = _named({**parts, "decision": state.decision.widths, "gates": gates})
    keys = {name: str(jr.key_impl(x)) for name, x in found.items() if is_key(x)}
    plain = {name: jr.key_data(x) if name in keys else x for name, x in found.items()}
    arrays = {name: to_host(x) for name, x in plain.items()}
    text = "".join(f"{line}\n" for line in history.lines())
    arrays[HISTORY] = np.frombuffer(text.encode(), np.uint8)
    # Programs sort what is in a dict; the anatomy has its own order.
    open_ = {n: growing.open[n] for n in growing.anatomy.widths if n in growing.open}
    capacities = {name: mask.size for name, mask in open_.items()}
    sizes = {name: int(np.sum(mask)) for name, mask in open_.items()}
    record = {
        "step": int(state.step),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(),
        "sizes": sizes,
        "capacities": capacities,
        "params": int(growing.anatomy.params(sizes)),
        "widths": widths_of(growing.anatomy, capacities),
        "policy": class_of(growing.policy),
        "every": growing.policy.every,
        "optimizer": states_in(state.opt_state),
        "numbers": numbers_of(parts),
        "keys": keys,
        "decision": {n: _outline(c) for n, c in state.decision.widths.items()},
        "position": None if position is None else dataclasses.asdict(position),
        "overflowed": overflowed,
    }
    return Saved("the run", record, arrays)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name.

    **Raises:** `ValueError` where a name means two of them.
    """
    found: dict[str, Any] = {}
    for name, leaf in named_leaves(tree):
        if is_array(leaf) and found.setdefault(name, leaf) is not leaf:
            raise ValueError(
                f"two arrays of the run are called {name!r}, so it can't be saved; "
                "register the class around them with key paths "
                "(jax.tree_util.register_pytree_with_keys)"
            )
    return found


def parts_of(growing: Growing, state: GrowerState) -> dict[str, Any]:
    """The run by what it is made of: all but its anatomy and the waiting decision."""
    parts = {**fields_of(growing), **fields_of(state)}
    return {k: x for k, x in parts.items() if k not in APART}


def fields_of(module: Any) -> dict[str, Any]:
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}


def _outline(change: Change) -> dict[str, Any]:
    """A change without its arrays: texts, and the names of what dictionaries hold."""
    outline: dict[str, Any] = {}
    for name, value in fields_of(change).items():
        if isinstance(value, dict):
            outline[name] = {"paths": list(value)}
        else:
            outline[name] = value if value is None or isinstance(value, str) else ARRAY
    return outline


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _versions() -> dict[str, str]:
    names = ("growthnet", "jax", "equinox", "optax", "numpy")
    found = {d: importlib.metadata.version(d) for d in names[1:]}
    return {"growthnet": importlib.import_module("growthnet").__version__, **found}


def class_of(policy: Any) -> str:
    return type(policy).__qualname__


def states_in(opt_state: Any) -> list[str]:
    """The classes of an optimizer's states, of those without numbers too."""
    return re.findall(r"namedtuple\[(\w+)\]", str(jax.tree.structure(opt_state)))


def numbers_of(parts: Any) -> dict[str, str]:
    """Leaves that are Python's numbers: they aren't saved, but have to be the same."""
    return {
        name: repr(leaf)
        for name, leaf in named_leaves(parts)
        if isinstance(leaf, bool | int | float | complex | str)
    }


def widths_of(anatomy: Anatomy, names: Iterable[str]) -> list[dict[str, Any]]:
    """The widths as they read: members (leaf, axis, place), which of them are the
    cover. What a trace says of them beyond that is in the words of its source lines."""
    return [
        {
            "name": name,
            "size": anatomy.widths[name].size,
            "members": [
                f"{m.path}:{m.axis}{''.join(f'/{i}' for i in m.place)}"
                for m in anatomy.widths[name].members
            ],
            "cover": list(anatomy.widths[name].cover),
        }
        for name in names
    ]
