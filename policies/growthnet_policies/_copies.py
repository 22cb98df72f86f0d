"""Copies of units, in closed slots: which rows they take, and what is shared out."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

import growthnet as gn


Split = Literal["unequal", "equal"]


class Copies(NamedTuple):
    """Of a width, by slot.

    - `source`: the slot whose numbers are taken; their own, but for newborns.
    - `share`: what readers are multiplied by.
    - `born`: who is a newborn.
    """

    source: Any
    share: Any
    born: Any


def copied(mask: Any, sources: Any, births: Any, split: Split) -> Copies:
    """The first `births` of the sources get a copy each, in the closed slots."""
    slots, turn = jnp.arange(mask.size), jnp.arange(sources.size)
    real = turn < births
    earlier = (sources[:, None] == sources[None]) & (turn[None] < turn[:, None])
    # Which copy of its source it is, from 0.
    copy = jnp.sum(earlier, axis=1).astype(float)
    if split == "equal":
        count = jnp.zeros(mask.size).at[sources].add(jnp.where(real, 1.0, 0.0))
        rest, shares = 1 / (1 + count), (1 / (1 + count))[sources]
    else:  # As `gn.Clone` has them.
        shares = jnp.where(copy % 2 == 0, -1.0, 1.0) * (0.5 + 0.2 * copy)
        rest = 1 - jnp.zeros(mask.size).at[sources].add(jnp.where(real, shares, 0))
    birth = jnp.clip(jnp.cumsum(~mask) - 1, 0, sources.size - 1)
    born = ~mask & (jnp.cumsum(~mask) <= births)
    source = jnp.where(born, sources[birth], slots)
    return Copies(source, jnp.where(born, shares[birth], rest), born)


def widened(
    anatomy: gn.Anatomy,
    name: str,
    member: Any,
    arrays: dict[str, Any],
    copies: Copies,
    fresh: dict[str, Any],
) -> dict[str, Any]:
    """A member's leaf with the copies in it."""
    width = anatomy.widths[name]
    old = gn.unit_rows(anatomy, name, arrays)[member]
    rows = old[copies.source]
    if width.members.index(member) in width.copied.cover:
        rows = rows * copies.share[:, None].astype(rows.dtype)
    elif member.path in fresh and "producer" in member.roles:
        noise = gn.unit_rows(anatomy, name, fresh)[member]
        rows = rows + jnp.where(copies.born[:, None], noise, 0).astype(rows.dtype)
    return gn.with_unit_rows(anatomy, name, arrays, {member: rows})
