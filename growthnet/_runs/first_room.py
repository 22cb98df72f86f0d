"""How much room a run should start with.

Room costs arithmetic in every step, and every further rung of capacities costs a
compilation of a second or two. Where networks are small the room is the cheaper one.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from .._capacity.buckets import Buckets
from .._reading.anatomy import Anatomy
from .._reading.aux import split_result
from .._replay.flops import flops


WORTH = 1.5e10
"""Floating point operations that take about half as long as compiling a program."""
CONVOLUTION = 4.0
"""How much longer an operation of a small convolution takes than one of a matrix
product, on a processor."""
LARGEST = 128
"""The most room that is made without being asked for."""


def first_buckets(
    managed: Anatomy,
    net: Any,
    loss: Callable[..., Any],
    example: Any,
    steps: int,
    key: Any,
) -> Buckets:
    """The ladder whose lowest rung is as high as pays: up to there, twice the room
    costs all steps together less than half a compilation. Decided by counting, not by
    a clock, so that a run is the same on every machine."""
    if 6 * managed.params() * steps > 100 * WORTH:
        return Buckets()  # Too large for any such room; don't even trace it.
    value = lambda net, batch: split_result(loss(net, batch, key))[0]
    program, _, _ = eqx.filter_make_jaxpr(value)(net, example)
    work = 3 * flops(program.jaxpr, CONVOLUTION) * steps / managed.params()

    def cost(smallest: int) -> float:
        sizes = {n: max(w.size, smallest) for n, w in managed.widths.items()}
        return work * managed.params(sizes)

    smallest = 1
    while smallest < LARGEST and cost(2 * smallest) - cost(smallest) < WORTH:
        smallest *= 2
    return Buckets(smallest=smallest)
