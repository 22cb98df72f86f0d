"""What was fixed before any evaluation seed was run: one setting for all tasks."""

import dataclasses
from typing import Any

import growthnet as gn
from growthnet_policies import NestedSize

from ..compare_policies.replay import Replay
from ..discovered_size.arms import Plateau
from .greedy import Greedy


WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LEAST, MOST = WIDTHS[0], WIDTHS[-1]
SMALL, LARGE = 32, 64
"""At most so many units on digits, at least so many on MNIST-1D."""
RUNGS = (0.125, 0.25, 0.5)
"""Parts of the steps after which successive halving keeps the better half."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """- `tried`: widths at which the sweep's learning rate is found."""

    steps: int = 6_000
    batch: int = 128
    every: int = 100
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    tuning: tuple[int, ...] = (1_000, 1_001, 1_002)
    seeds: tuple[int, ...] = tuple(range(10))
    widths: tuple[int, ...] = WIDTHS
    tried: tuple[int, ...] = (6, 24, 96)

    @property
    def until(self) -> int:
        """Where growthnet's search ends."""
        return int(0.4 * self.steps)

    @property
    def trim(self) -> tuple[int, int, int]:
        """Where the search of the second setting ends, and where it looks again."""
        until = int(0.2 * self.steps)
        start = max(int(0.35 * self.steps), until + self.every)
        return until, start, max(int(0.7 * self.steps), start + self.every)

    @property
    def simple(self) -> tuple[int, int]:
        """Where pruning begins, and where it and the plateau grower end; as in
        `benchmarks/discovered_size`."""
        return int(0.3 * self.steps), int(0.6 * self.steps)


FULL = Settings()
QUICK = Settings(
    steps=1_000,
    every=50,
    rates=(1e-2,),
    tuning=(1_000,),
    seeds=(0, 1, 2),
    widths=(2, 4, 8, 16, 32, 64, 128),
    tried=(8,),
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A kind of run: its policy, its first units, whose sizes it follows."""

    kind: str
    start: int
    follows: str = ""

    def policy(self, s: Settings, path: Any = None) -> gn.AbstractPolicy:
        if self.kind == "static":
            return gn.NoGrowth(s.steps // 8)
        if self.kind == "growthnet":
            return NestedSize(
                s.until, 0.05, against="both", extra=16, maximum=MOST, every=s.every
            )
        if self.kind == "trimmed":
            until, *trim = s.trim
            return NestedSize(
                until,
                0.02,
                headroom=2,
                extra=32,
                against="both",
                trim=(trim[0], trim[1]),
                maximum=MOST,
                every=s.every,
            )
        if self.kind == "plateau":
            return Plateau(s.simple[1], every=s.every)
        if self.kind == "pruned":
            return Greedy(*s.simple, every=s.every)
        return Replay(path, s.every)


ARMS = {
    "growthnet from 2": Arm("growthnet", LEAST),
    "growthnet from 128": Arm("growthnet", MOST),
    "trimmed from 2": Arm("trimmed", LEAST),
    "trimmed from 128": Arm("trimmed", MOST),
    "plateau from 2": Arm("plateau", LEAST),
    "pruned from 128": Arm("pruned", MOST),
    "open from 2": Arm("open", LEAST, "growthnet from 2"),
    "open from 128": Arm("open", MOST, "growthnet from 128"),
}
