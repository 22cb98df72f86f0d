"""How many slots the widths of a run get: what was asked for, what the policy says it
will come to, and the ladder for the rest."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .._capacity.buckets import Buckets
from .._devices.shards import multiples
from .._reading.anatomy import Anatomy
from .policy import AbstractPolicy, never_decides


@dataclasses.dataclass(frozen=True)
class Ahead:
    """Units that widths are soon to have, so that there is room for them from the
    start; it isn't given back before step `until`, when they should long be there."""

    units: Mapping[str, int]
    until: int


class Capacities:
    """The room of a run; `fit` renews `buckets` and `ahead` when it knows the work."""

    def __init__(
        self, buckets: Buckets | None, asked: int | Mapping[str, int] | None
    ) -> None:
        self.buckets = Buckets() if buckets is None else buckets
        self.chosen = buckets is not None
        everywhere = {"*": asked} if isinstance(asked, int) else asked
        self.asked = dict(everywhere or {})
        self.ahead: Ahead | None = None

    def reserved(self, managed: Anatomy) -> dict[str, int]:
        """The capacities that were asked for, by width: they are never given back."""
        return {
            name: size
            for pattern, size in self.asked.items()
            for name in managed.match(pattern)
        }

    def expected(self) -> dict[str, int]:
        """The capacities for the units that are soon to be there."""
        units = {} if self.ahead is None else self.ahead.units
        return {name: self.buckets.capacity(count) for name, count in units.items()}

    def first(self, policy: AbstractPolicy, managed: Anatomy) -> dict[str, int]:
        """What a run begins with.

        **Raises:** `ValueError` for a capacity below a width's size.
        """
        given, expected = self.reserved(managed), self.expected()
        for name, size in given.items():
            if size < managed.widths[name].size:
                raise ValueError(
                    f"capacity {size} for {name!r} is below its size "
                    f"{managed.widths[name].size}"
                )
        if never_decides(policy):
            return managed.sizes
        spare = 0 if self.buckets.ratio == 1 else 1
        rungs = {
            name: max(self.buckets.capacity(width.size + spare), expected.get(name, 0))
            for name, width in managed.widths.items()
        }
        return {**rungs, **given}

    def least(self, managed: Anatomy, early: bool) -> dict[str, int]:
        """What isn't given back; `early`, before the expected units should be there."""
        return {**(self.expected() if early else {}), **self.reserved(managed)}

    def mind_mesh(self, policy: AbstractPolicy, net: Any, managed: Anatomy) -> None:
        """Capacities that the devices divide over which widths are spread.

        **Raises:** `ValueError` for a ladder that was given and has others.
        """
        if never_decides(policy):
            return
        asked = multiples(managed, net)
        multiple = math.lcm(*asked.values())
        if self.buckets.multiple_of % multiple == 0:
            return
        if self.chosen:
            names = ", ".join(f"{name!r} of {m}" for name, m in asked.items())
            raise ValueError(
                f"{self.buckets}: the network is spread over devices, so capacities "
                f"are multiples ({names}); give buckets with multiple_of={multiple}"
            )
        shared = math.lcm(self.buckets.multiple_of, multiple)
        self.buckets = dataclasses.replace(self.buckets, multiple_of=shared)
