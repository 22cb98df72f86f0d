"""What policies that compute their newborns have in common: which widths their theory
speaks of, and where newborn values go."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

import growthnet as gn


def one_layer(policy: Any, evidence: gn.Evidence, name: str) -> gn.Producer:
    """The contraction that makes a width's units, where it is one, and a unit is a
    function of what it gives.

    **Raises:** `ValueError` naming the policy, the width and the reason.
    """
    producers = evidence.units[name].producers
    if len(producers) > 1:
        paths = ", ".join(p.path for p in producers)
        why = f"its units are made by several contractions ({paths})"
    elif not producers[0].aligned:
        why = (
            "between what makes a unit and what reads it there is more than a function "
            "of that unit at that place (a norm, a pooling, attention)"
        )
    else:
        return producers[0]
    raise ValueError(
        f"{type(policy).__name__} can't say what a new unit of {name!r} is worth: "
        f"{why}; leave the width out (`widths=`)"
    )


def cotangents(units: gn.Units) -> Any:
    """Of all consumers' outputs side by side, `[samples, entries]`."""
    return jnp.concatenate([c.cotangents for c in units.consumers], axis=1)


def mean_norm(rows: Any, mask: Any) -> Any:
    """The mean norm of the rows of open units."""
    norms = jnp.sqrt(jnp.sum(rows**2, axis=1))
    return jnp.mean(norms, where=mask)


def rows_of(consumers: tuple[gn.Consumer, ...], arrays: Callable[[str], Any]) -> Any:
    """What the consumers' leaves hold for each unit, side by side."""
    return jnp.concatenate([c.rows(arrays(c.path)) for c in consumers], axis=1)


def by_slot(mask: Any, rows: Any) -> Any:
    """Rows by slot from rows by birth: newborns take the closed slots, lowest first."""
    birth = jnp.cumsum(~mask) - 1
    return rows[jnp.clip(birth, 0, rows.shape[0] - 1)]


def newborns(
    evidence: gn.Evidence, name: str, incoming: Any, outgoing: Any, offset: Any = None
) -> dict[str, Any]:
    """`Change.values` from rows by birth.

    - `incoming`: for the producer, `[births, entries]`.
    - `outgoing`: for the consumers side by side, `[births, entries]`.
    - `offset`: for biases, `[births]`; 0 by default.
    """
    units, mask = evidence.units[name], evidence.open[name]
    (producer,) = units.producers
    leaves = {leaf.path: leaf for leaf in evidence.anatomy.leaves}
    values = {producer.path: producer.leaf(by_slot(mask, incoming))}
    start = 0
    for consumer in units.consumers:
        count = consumer.entries.index.shape[1]
        rows = by_slot(mask, outgoing[:, start : start + count])
        values[consumer.path] = consumer.leaf(rows)
        start += count
    offset = jnp.zeros(incoming.shape[0]) if offset is None else offset
    for path in offsets(evidence, name):
        shape = leaves[path].shape
        if shape == mask.shape:
            values[path] = by_slot(mask, offset[:, None])[:, 0]
        else:
            values[path] = jnp.zeros(shape)
    return values


def offsets(evidence: gn.Evidence, name: str) -> list[str]:
    """The paths of a width's biases."""
    members = evidence.anatomy.widths[name].members
    return [m.path for m in members if m.roles == ("offset",)]


def arrays_of(evidence: gn.Evidence) -> dict[str, Any]:
    """The network's arrays by path."""
    return evidence.anatomy.check(evidence.network, "the network")


def room_for(policy: Any, mask: Any) -> Any:
    """How many units are born: `add`, but no more than `until` allows."""
    if policy.until is None:
        return jnp.asarray(policy.add)
    return jnp.clip(policy.until - jnp.sum(mask), 0, policy.add)


def regular(policy: Any, anatomy: gn.Anatomy, steps: int) -> dict[str, Any]:
    """The forecast of a policy that adds `add` units to every width at every turn."""
    births = policy.add * (steps // policy.every)
    most = math.inf if policy.until is None else policy.until
    return {
        name: width.size + max(0, min(births, most - width.size))
        for name, width in anatomy.widths.items()
    }
