"""How much room a growing width gets."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The ladder of capacities: one compiled program per rung.

    - `ratio`: each rung is at least this many times the one below. At 1 there is no
        spare room: every decision is a real resize, and a compile.
    - `multiple_of`: rungs are multiples of this (8, 64, the size of a mesh axis).
    - `smallest`: no capacity is below this. Room costs arithmetic, another rung costs a
        compilation: small networks do better with more of the first.

    A width moves up when a decision doesn't fit, and down when its open units fit
    `ratio ** 1.5` times: half a rung of slack, so that a size that hovers doesn't move
    to and fro.
    """

    ratio: float | int = 2.0
    multiple_of: int = 1
    smallest: int = 1

    def __post_init__(self):
        if not self.ratio >= 1:
            raise ValueError(f"Buckets(ratio={self.ratio}): a ratio is at least 1")
        for name in ("multiple_of", "smallest"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"Buckets({name}={value!r}): a whole number from 1 up")

    def capacity(self, units: int) -> int:
        """The lowest rung that holds this many units."""
        rung = self._round(self.smallest)
        while rung < units:
            rung = max(rung + self.multiple_of, self._round(rung * self.ratio))
        return rung

    def _round(self, size: float | int) -> int:
        return math.ceil(size / self.multiple_of - 1e-9) * self.multiple_of

    def lowered(self, capacity: int, units: int, least: int = 0) -> int:
        """The capacity that a width should have when it doesn't need a higher one: its
        own, or a lower rung if its open units fit `ratio ** 1.5` times; but no less
        than `least`."""
        if units * self.ratio**1.5 > capacity:
            return capacity
        rung = self.capacity(math.ceil(units * self.ratio**0.5))
        return min(capacity, max(rung, least))
