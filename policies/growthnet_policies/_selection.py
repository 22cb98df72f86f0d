"""Which units go: in one order over all widths, until what is left is cheap enough.

The order is by normalised score (`"global"`), or by rank within the width as a fraction
of its first size (`"layer"`), which takes the same fraction of every width. Everything
has a static shape, so it runs in the program.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp


Scope = Literal["layer", "global"]
Normalize = Literal["mean", "max", "norm", "none"]
Cost = Callable[[Mapping[str, Any]], Any]
Arrays = Mapping[str, Any]


def normalized(score: Any, mask: Any, by: Normalize) -> Any:
    """A score in units of its mean, largest value or Euclidean norm over open units."""
    there = jnp.where(mask, score, 0)
    scale = {
        "mean": lambda: jnp.mean(score, where=mask),
        "max": lambda: jnp.max(there),
        "norm": lambda: jnp.sqrt(jnp.sum(there**2)),
        "none": lambda: jnp.ones_like(score, shape=()),
    }[by]()
    return jnp.where(scale > 0, score / jnp.where(scale > 0, scale, 1), 0)


def ranks(score: Any, mask: Any) -> Any:
    """0 for the open unit with the highest score; closed ones come last. Of equal
    scores the lower slot is worth more."""
    order = jnp.argsort(jnp.where(mask, -score, jnp.inf), stable=True)
    return jnp.zeros_like(order).at[order].set(jnp.arange(order.size))


def best(score: Any, mask: Any, size: Any) -> Any:
    """The open units with the highest scores: `bool[capacity]`."""
    return mask & (ranks(score, mask).astype(jnp.result_type(size)) < size)


def rounded(size: Any, now: Any, multiple_of: int, minimum: int) -> Any:
    """Up to a multiple and to the minimum, but to no more units than there are."""
    size = -(-size // multiple_of) * multiple_of
    return jnp.minimum(jnp.maximum(size, minimum), now)


def sizes_within(
    scores: Arrays,
    open_: Arrays,
    first: Arrays,
    cost: Cost,
    target: Any,
    scope: Scope,
    *,
    multiple_of: int = 1,
    minimum: int = 1,
) -> dict[str, Any]:
    """How many units stay in each width so that it costs at most `target`: as many as
    possible, in the order of the scores. Where that can't be had, the smallest sizes.

    **Arguments:**

    - `scores`: normalised, `[capacity]` by width.
    - `first`: what fractions of a width's size refer to, by width.
    - `cost`: a function of sizes by width that works on arrays of sizes.
    """
    names = list(scores)
    now = {n: jnp.sum(open_[n]) for n in names}
    values, owners = [], []
    for i, name in enumerate(names):
        rank = ranks(scores[name], open_[name])
        value = scores[name]
        if scope == "layer":
            value = (first[name] - rank.astype(float) - 0.5) / first[name]
        # The best ones of a width, and closed slots, never go.
        stays = ~open_[name] | (rank < minimum)
        values.append(jnp.where(stays, jnp.inf, value.astype(float)))
        owners.append(jnp.full(rank.shape, i))
    value, owner = jnp.concatenate(values), jnp.concatenate(owners)
    order = jnp.argsort(value, stable=True)
    goes = jnp.isfinite(value[order])
    path: dict[str, Any] = {}
    for i, name in enumerate(names):
        gone = jnp.cumsum(goes & (owner[order] == i))
        left = now[name] - jnp.concatenate([jnp.zeros(1, gone.dtype), gone])
        path[name] = rounded(left, now[name], multiple_of, minimum)
    costs = cost({n: sizes.astype(float) for n, sizes in path.items()})
    cheap = costs <= target
    k = jnp.where(jnp.any(cheap), jnp.argmax(cheap), costs.size - 1)
    return {n: sizes[k] for n, sizes in path.items()}
