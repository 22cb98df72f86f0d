"""How newborn units are made: `zero_out`, `drawn`, `clone`, `closed`, or a function."""

import dataclasses
from typing import Any, Literal

import numpy as np

from .draws import Initializer
from .maps import MapPair, UnitMap


@dataclasses.dataclass(frozen=True)
class Clone:
    """Net2Net's widening: newborns copy units, and their consumers are shared out.

    Copies with equal incoming weights and equal shares get equal gradients and never
    separate. Two exact ways to tell them apart:

    - `split="unequal"`: the shares differ in size and sign (1.5 and -0.5 for two), and
        so do the producers' gradients.
    - `noise`: the shares get +e and -e of this size, relative to the root mean square
        of the consumer's weights. The sum, and so the function, stays.

    `split="equal"` without noise is the symmetric original; it never separates.

    `sources` are the units to copy, in turn; by default all survivors in order.

    Source: Chen, Goodfellow, Shlens, Net2Net, arXiv 1511.05641, section 2.2.
    """

    split: Literal["unequal", "equal"] = "unequal"
    noise: float | int = 0.0
    sources: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.split not in ("unequal", "equal"):
            raise ValueError(
                f"Clone(split={self.split!r}): split is 'unequal' or 'equal'"
            )
        if not self.noise >= 0:
            raise ValueError(f"Clone(noise={self.noise}): noise is a number from 0 up")

    @property
    def separates(self) -> bool:
        """Will the copies drift apart in training?"""
        return self.split == "unequal" or self.noise > 0


Init = str | Clone | Initializer
NAMES = ("zero_out", "drawn", "clone", "closed")


@dataclasses.dataclass(frozen=True)
class Rows:
    """New rows of a table: `drawn` at the scale of the old ones, or their `mean`."""

    how: str


def parse(init: Any) -> Init:
    """Checks an `init` argument."""
    if isinstance(init, str):
        if init not in NAMES:
            raise ValueError(
                f"unknown init {init!r}; use one of {', '.join(NAMES)}, a `Clone`, or "
                "a function (key, shape, dtype) -> array as in jax.nn.initializers"
            )
        return Clone() if init == "clone" else init
    if isinstance(init, Clone) or callable(init):
        return init
    raise ValueError(
        f"init={init!r} ({type(init).__name__}); use a name, a `Clone` or a function"
    )


def kind_of(init: Init) -> str:
    """The init's family, as `Width.exactness` knows it."""
    if isinstance(init, Clone):
        return "clone"
    return init if isinstance(init, str) else "zero_out"


def pair_for(old: int, new: int, keep: np.ndarray, init: Init) -> MapPair:
    """The maps of one width: survivors `keep` first, then the newborns."""
    born = new - keep.size
    if not isinstance(init, Clone) or born == 0:
        taken = UnitMap.take(old, np.concatenate([keep, np.full(born, -1)]))
        return MapPair(taken, taken)
    pool = keep if init.sources is None else np.asarray(init.sources)
    indices = np.concatenate([keep, np.resize(pool, born)])
    weights = np.ones(new)
    for unit in np.unique(indices[keep.size :]):
        copies = np.flatnonzero(indices == unit)
        weights[copies] = _shares(copies.size, init.split)
    return MapPair(UnitMap.take(old, indices), UnitMap.weighted(old, indices, weights))


def _shares(copies: int, split: str) -> np.ndarray:
    """What each copy's consumer gets: 1.5 and -0.5 for two, and so on in turn.

    Opposite signs, since Adam forgets by how much gradients differ: with shares of 2/3
    and 1/3 the copies of a network with one output hardly separate. The steps of 0.2
    keep all shares apart, however many copies a unit gets.
    """
    if split == "equal":
        return np.full(copies, 1 / copies)
    later = np.arange(copies - 1)
    shares = np.where(later % 2 == 0, -1.0, 1.0) * (0.5 + 0.2 * later)
    return np.concatenate([[1 - shares.sum()], shares])


def inverse_pair(pair: MapPair) -> MapPair:
    """Undoes a growth that kept all units in order: newborns are dropped, and copies
    merged into the unit that they came from."""
    big, small = pair.produce.new, pair.produce.old
    order = np.argsort(pair.consume.cols, kind="stable")
    rows, cols = pair.consume.cols[order], pair.consume.rows[order]
    merged = UnitMap(big, small, rows, cols, np.ones(rows.size))
    return MapPair(UnitMap.take(big, np.arange(small)), merged)
