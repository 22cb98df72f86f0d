"""A width with splits of all its units and some new ones, all a little turned on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._newborns import mean_norm
from ._splits import (
    apart_again,
    halves,
    parameters,
    readers,
    Rows,
    rows_now,
    side_by_side,
    there,
)


class Tried(NamedTuple):
    """What was tried on a width.

    - `moved`: what the units that there are become if they are split.
    - `born`: the other halves of these by slot; after them, new units.
    - `scores`: how the loss changes by each, `[capacity + new]`.
    """

    moved: Rows
    born: Rows
    scores: Any


class Trial:
    """The network with all candidates, as a function of the ways that they go.

    - `ways`: directions of splits, and parameters and readers of new units: the start.
    - `on`: ones, `[capacity + new]`.
    """

    def __init__(
        self, evidence: gn.Evidence, name: str, new: int, epsilon: Any, key: Any
    ):
        candidates, mask = evidence.candidates[name], evidence.open[name]
        self.width = evidence.anatomy.widths[name]
        self.now = rows_now(evidence, name)
        own = parameters(evidence, name, self.now)
        exist = side_by_side(there(evidence, name, own)) & mask[:, None]
        loud = [self.now[p] for p in sorted(readers(self.width))]
        side = jnp.where(exist, side_by_side(own), 0)
        self.far = epsilon * mean_norm(side, mask)
        self.loud = epsilon * mean_norm(jnp.concatenate(loud, axis=1), mask)
        keys = jr.split(key)
        drawn = parameters(evidence, name, candidates.drawn(mask.size, keys[0]))
        start = jnp.where(exist, side_by_side(drawn), 0)
        # Entries of size 1 are what the rate is for.
        entries = jnp.sqrt(jnp.sum(exist, axis=1, keepdims=True).astype(start.dtype))
        split = apart_again(_of_length(start, entries), own)
        self.new = candidates.drawn(new, keys[1])
        read = {p: self.new[p] for p in readers(self.width)}
        downhill = jax.grad(lambda read: -candidates.loss({**self.new, **read}))(read)
        outputs = jnp.sqrt(jnp.asarray(side_by_side(read).shape[1], start.dtype))
        read = apart_again(_of_length(side_by_side(downhill), outputs), read)
        made = parameters(evidence, name, self.new)
        self.ways = {"split": split, "made": made, "read": read}
        self.on = jnp.ones(mask.size + new, start.dtype)

    def at(self, ways: dict[str, Rows], on: Any) -> tuple[Rows, Rows]:
        """Rows that are born, and those that present units take, where every candidate
        is turned on so far."""
        here, there = on[: -self._count][:, None], on[-self._count :][:, None]
        split, read = ways["split"], ways["read"]
        far = _of_length(side_by_side(split), self.far * here)
        moved, other = halves(self.width, self.now, apart_again(far, split))
        read = apart_again(_of_length(side_by_side(read), self.loud * there), read)
        new = {**self.new, **ways["made"], **read}
        born = {p: jnp.concatenate([other[p], new[p]]) for p in self.now}
        return born, moved

    @property
    def _count(self) -> int:
        return len(next(iter(self.new.values())))


def _of_length(rows: Any, length: Any) -> Any:
    """Rows of this length; 0 stays 0."""
    square = jnp.sum(rows**2, axis=1, keepdims=True)
    size = jnp.sqrt(jnp.where(square > 0, square, 1))
    # Divided last: a product that is added to something later could be rounded in one
    # program and not in another.
    return rows * length / size
