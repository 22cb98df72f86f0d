"""What was fixed before any evaluation seed was run."""

import dataclasses


DENSITIES = (0.38, 0.5)
"""Of living cells; at the first the paper finds learning easiest."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """- `budget`: floating point operations that a run may execute.
    - `grown_steps`: after so many a growing run ends in any case.
    - `patience`, `tolerance`: of plateaus; `period`: steps between births at times.
    - `m`: the largest network that growth may reach, 2 m and m channels.
    """

    side: int = 8
    batch: int = 8
    boards: int = 1_024
    every: int = 25
    budget: float = 4e8
    grown_steps: int = 1_400
    m: int = 4
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    tuning: tuple[int, ...] = tuple(range(1_000, 1_010))
    seeds: tuple[int, ...] = tuple(range(50))
    patience: int = 1
    tolerance: float = 0.02
    period: int = 50


FULL = Settings()
QUICK = dataclasses.replace(
    FULL, budget=1e8, grown_steps=300, rates=(1e-2,), tuning=FULL.tuning[:3],
    seeds=FULL.seeds[:3],
)  # fmt: skip
AGAIN = dataclasses.replace(FULL, seeds=tuple(range(100, 150)))
"""Other seeds, for what stood out, at the rates that were found."""
