"""Arms, sizes, steps and seeds. Fixed on tuning seeds before the others were run."""

import dataclasses
from typing import Literal

from .network import Sizes


SMALL, MIDDLE, LARGE = Sizes(32, 2, 128, 2), Sizes(48, 3, 192, 3), Sizes(64, 4, 256, 4)
LENGTH = 64
"""Letters that a network sees at once."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A kind of run.

    - `path`: the network's sizes; each is trained for the same number of steps.
    - `length`: the steps of the run as a part of those of the large network.
    - `state`: what becomes of Adam's moments at a growth. `warmed` carries them, and
        puts `gn.scale_by_age` behind Adam.
    - `init`: newborns of widths are silent, or copies.
    """

    path: tuple[Sizes, ...]
    length: float = 1.0
    state: Literal["carried", "reset", "warmed"] = "carried"
    init: Literal["zero_out", "clone"] = "zero_out"


GROWN = (SMALL, MIDDLE, LARGE)
ARMS = {
    "large": Arm((LARGE,)),
    "grown": Arm(GROWN),
    "middle": Arm((MIDDLE,), 1.2),
    "large, short": Arm((LARGE,), 0.6),
    "grown, reset": Arm(GROWN, state="reset"),
    "small": Arm((SMALL,)),
    "grown, copies": Arm((SMALL, LARGE), init="clone"),
    "grown, warm-up": Arm(GROWN, state="warmed"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """- `steps`: of the large network, of `batch` windows each.
    - `chunk`: steps of one program.
    - `looks`: held-out losses during a run, of `windows` windows each.
    - `warm`: steps over which updates of newborns rise, and the learning rate at first.
    - `falling`: the part of the steps, at the end, in which the learning rate falls.
    """

    steps: int = 1_500
    batch: int = 8
    chunk: int = 50
    looks: int = 10
    windows: int = 128
    warm: int = 100
    falling: float = 0.4
    rates: tuple[float, ...] = (8e-3, 1.6e-2)
    tuning: tuple[int, ...] = (1_000,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def stages(self, arm: Arm) -> tuple[int, ...]:
        """Chunks at each of the sizes of `arm`."""
        each = round(arm.length * self.steps / self.chunk / len(arm.path))
        return (max(1, each),) * len(arm.path)


FULL = Settings()
QUICK = Settings(
    steps=60, batch=2, chunk=10, looks=3, windows=8, warm=10, rates=(4e-3,), seeds=(0,)
)
