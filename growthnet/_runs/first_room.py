"""How much room a run should start with.

Room costs arithmetic in every step, and every further rung of capacities costs a
compilation of a second or two. Where networks are small the room is the cheaper one;
and so it is where the policy says that its units will soon be there.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np

from .._capacity.buckets import Buckets
from .._policies.capacities import Ahead, Capacities
from .._policies.policy import AbstractPolicy, name_of
from .._reading.anatomy import Anatomy
from .._reading.aux import split_result
from .._replay.flops import flops


WORTH = 1.5e10
"""Floating point operations that take about half as long as compiling a program."""
CONVOLUTION = 4.0
"""How much longer an operation of a small convolution takes than one of a matrix
product, on a processor."""
LARGEST = 128
"""The most room that is made without being asked for, or said to be needed."""
LARGE, FASTER = 5e6, 8.0
"""Steps of more operations than that do them faster, up to so many times: their matrix
products are larger. A step of 3e5 does 2e10 in a second, one of 2e8 does 2e11."""
LOOKS = 200
"""At how many steps a policy is asked what will be there by then."""

Work = Callable[[Mapping[str, int]], float]


def make_first_room(
    capacities: Capacities,
    policy: AbstractPolicy,
    managed: Anatomy,
    net: Any,
    loss: Callable[..., Any],
    example: Any,
    steps: int,
    key: Any,
) -> None:
    """The lowest rung of the ladder, and what is made ahead of it. Decided by counting,
    not by a clock, so that a run is the same on every machine.

    **Raises:** `ValueError` for a forecast that isn't one, naming the policy.
    """
    looks = np.unique(np.geomspace(1, steps, LOOKS).astype(int))
    forecasts = [(int(s), forecast_of(policy, managed, int(s))) for s in looks]
    known = any(units for _, units in forecasts)
    if not known and 6 * managed.params() * steps > 100 * WORTH:
        return  # Too large for any such room; don't even trace it.
    value = lambda net, batch: split_result(loss(net, batch, key))[0]
    program, _, _ = eqx.filter_make_jaxpr(value)(net, example)
    work = 3 * flops(program.jaxpr, CONVOLUTION) / managed.params()
    step = lambda sizes: work * managed.params({**managed.sizes, **sizes})
    capacities.buckets = Buckets(smallest=_smallest(managed, step, steps))
    capacities.ahead = _ahead(capacities, policy, managed, step, forecasts)


def _smallest(managed: Anatomy, step: Work, steps: int) -> int:
    """A lowest rung as high as pays: up to there, twice the room costs all steps
    together less than half a compilation."""

    def cost(smallest: int) -> float:
        sizes = {n: max(w.size, smallest) for n, w in managed.widths.items()}
        return steps * step(sizes)

    smallest = 1
    while smallest < LARGEST and cost(2 * smallest) - cost(smallest) < WORTH:
        smallest *= 2
    return smallest


def _ahead(
    capacities: Capacities,
    policy: AbstractPolicy,
    managed: Anatomy,
    step: Work,
    forecasts: list[tuple[int, dict[str, float]]],
) -> Ahead | None:
    """The units that there is to be room for at once: those for which an idle slot up
    to the step at which they are there costs less than compiling at that step."""
    room, units, until = capacities.first(policy, managed), {}, 0
    free = room.keys() - capacities.reserved(managed)  # Of others somebody has decided.
    for when, expected in forecasts:
        more = {n: math.ceil(expected[n]) for n in expected.keys() & free}
        more = {n: count for n, count in more.items() if count > room[n]}
        if not more:
            continue
        wider = {n: capacities.buckets.capacity(u) for n, u in more.items()}
        before, after = step(room), step({**room, **wider})
        faster = min(FASTER, max(1.0, before / LARGE))
        # Where nobody knows the work of a step, nothing is made for it.
        if not when * (after - before) <= 2 * WORTH * faster:
            break
        room, units, until = {**room, **wider}, {**units, **more}, when
    if not units:
        return None
    # Twice the time that it should take, and a few decisions.
    late = 2 * until + 10 * policy.every
    return Ahead(units, late + -late % policy.every)


def forecast_of(
    policy: AbstractPolicy, managed: Anatomy, step: int
) -> dict[str, float]:
    """What a policy says of the widths of a run.

    **Raises:** `ValueError` for other widths, or for what isn't a number of units.
    """
    said = policy.forecast(managed, step)
    for name, units in said.items():
        if name not in managed.widths:
            raise ValueError(
                f"{name_of(policy)}.forecast speaks of {name!r}; the widths of this "
                f"run are {', '.join(managed.widths)}"
            )
        if not (isinstance(units, int | float) and 0 <= units < math.inf):
            raise ValueError(
                f"{name_of(policy)}.forecast says {units!r} for {name!r}; a number of "
                "units, or leave the width out where it isn't known"
            )
    return {name: float(units) for name, units in said.items()}
