"""Arms: which network a run starts from, and its policy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import growthnet as gn
from growthnet_policies import GradMax, Net2Net, Recycling, SENN

from ..compare_policies.replay import Replay
from .policies import Carve, Solved, unsolved
from .settings import Settings


FIRST, SECOND = "layers[0]", "layers[1]"
Make = Callable[[Settings], gn.AbstractPolicy]


@dataclasses.dataclass(frozen=True)
class Arm:
    """- `m`: the network at the start has 2 m and m channels.
    - `policy`: what changes it; `None` for nothing.
    - `stays`: it changes no size.
    - `follows`: the arm whose sizes are replayed, with random silent newborns.
    - `most`: units of a network that counts as found; all that know the game if `None`.
    """

    m: int = 1
    policy: Make | None = None
    follows: str = ""
    stays: bool = False
    most: int | None = None

    @property
    def static(self) -> bool:
        return self.policy is None and not self.follows

    def room(self, s: Settings) -> tuple[int, int]:
        """Capacities; evidence about units needs room for two."""
        most = self.m if self.stays or self.static else max(self.m, s.m)
        return 2 * most, most if self.static else max(2, most)

    def of(self, s: Settings, path: Any = None) -> gn.AbstractPolicy:
        """The policy of a run, which also notes when it knows the game."""
        solved = Solved(self.most, s.every)
        if self.follows:
            return gn.chain(Replay(path, s.every), solved)
        return solved if self.policy is None else gn.chain(self.policy(s), solved)


def ladder(make: Callable[[int, Settings], gn.AbstractPolicy]) -> Make:
    """Two units in the first layer and one in the second at a time, which is m by 1."""
    return lambda s: gn.chain(
        gn.in_widths(make(2, s), FIRST), gn.in_widths(make(1, s), SECOND)
    )


def random(add: int, s: Settings) -> gn.AbstractPolicy:
    """Random silent units."""
    return gn.as_policy(
        lambda evidence, key: {n: gn.Change(m, add) for n, m in evidence.open.items()},
        every=s.every,
    )


def on_plateau(make: Make) -> Make:
    return lambda s: gn.provided(
        gn.on_plateau(
            make(s), patience=s.patience, tolerance=s.tolerance, watch="loss"
        ),
        unsolved,
        needs=["network"],
    )


def at_times(make: Make) -> Make:
    def due(s: Settings) -> Callable[[gn.Evidence, Any], Any]:
        return lambda e, key: (e.step % s.period == 0) & unsolved(e, key)

    return lambda s: gn.provided(make(s), due(s), needs=["network"])


def senn(s: Settings) -> gn.AbstractPolicy:
    own = SENN(every=s.every, proposals=4, steps=5)
    return gn.provided(own, unsolved, needs=["network"])


def grown_and_recycled(s: Settings) -> gn.AbstractPolicy:
    return gn.chain(on_plateau(RANDOM)(s), redo(s))


def redo(s: Settings) -> gn.AbstractPolicy:
    return gn.provided(
        Recycling(threshold=0.01, every=s.every), unsolved, needs=["network"]
    )


RANDOM = ladder(random)
GRADMAX = ladder(lambda add, s: GradMax(add, every=s.every))
NET2NET = ladder(lambda add, s: Net2Net(add, every=s.every))
LADDER = (1, 2, 3, 4, 6, 8)
ARMS = {
    **{f"static {m}": Arm(m) for m in LADDER},
    "random, plateau": Arm(1, on_plateau(RANDOM)),
    "random, times": Arm(1, at_times(RANDOM)),
    "GradMax, plateau": Arm(1, on_plateau(GRADMAX)),
    "Net2Net, plateau": Arm(1, on_plateau(NET2NET)),
    "SENN": Arm(1, senn),
    "open SENN": Arm(1, follows="SENN"),
    **{f"ReDo {m}": Arm(m, redo, stays=True) for m in (1, 2, 4)},
    "random + ReDo, plateau": Arm(1, grown_and_recycled),
    "static 4, carved": Arm(4, lambda s: Carve(gn.NoGrowth(s.every), s.every), most=3),
    "random, carved": Arm(
        1, lambda s: Carve(on_plateau(RANDOM)(s), s.every), most=3
    ),
}  # fmt: skip
