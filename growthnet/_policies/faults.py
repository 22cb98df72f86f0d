"""Faults of a policy are named where it hands its decision over: to a run, or to a
policy that is around it."""

from typing import Any

import jax.numpy as jnp

from .._capacity.capacity import Openings
from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .policy import AbstractPolicy, Change, Decision, name_of


def asked(
    policy: AbstractPolicy, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
) -> tuple[Decision, Any, Any, dict[str, Any]]:
    """What a policy says to another one that is around it, checked: `where` would
    broadcast what has a wrong shape."""
    result = policy.step(trainable, memory, evidence, key=key)
    decision, *_ = check_result(name_of(policy), result)
    check_decision(name_of(policy), decision, evidence.open, evidence.anatomy)
    return result


def check_result(who: str, result: Any) -> Any:
    """**Raises:** `ValueError` naming the policy, for what `step` doesn't return."""
    if not (isinstance(result, tuple) and len(result) == 4):
        raise ValueError(
            f"{who}.step returned {type(result).__name__}; it returns four things: "
            "(decision, trainable, memory, info)"
        )
    return result


def check_decision(who: str, decision: Any, open: Openings, anatomy: Anatomy) -> None:
    """**Raises:** `ValueError` naming the policy, the width, and what is wrong."""
    if not isinstance(decision, Decision):
        raise ValueError(
            f"{who}.step returned {type(decision).__name__} where a Decision belongs"
        )
    unknown = sorted(decision.widths.keys() - open.keys())
    if unknown:
        raise ValueError(
            f"{who} decided on {unknown[0]!r}; the widths of this run are "
            f"{', '.join(open)}"
        )
    for width, change in decision.widths.items():
        mask = open[width]
        keep, add = jnp.asarray(change.keep), jnp.asarray(change.add)
        if keep.shape != mask.shape or keep.dtype != bool:
            raise ValueError(
                f"{who}: keep for {width!r} is {keep.dtype}{keep.shape}; "
                f"it must be bool{mask.shape}"
            )
        if add.shape != () or not jnp.issubdtype(add.dtype, jnp.integer):
            raise ValueError(
                f"{who}: add for {width!r} is {add.dtype}{add.shape}; "
                "it must be one whole number"
            )
        _check_arrays(who, width, change, anatomy)


def _check_arrays(who: str, width: str, change: Change, anatomy: Anatomy) -> None:
    members = {m.path for m in anatomy.widths[width].members}
    leaves = {leaf.path: leaf for leaf in anatomy.leaves}
    for path, values in (change.values or {}).items():
        if path not in members:
            raise ValueError(
                f"{who}: values for {path!r}, which isn't a member of {width!r} "
                f"({', '.join(sorted(members))})"
            )
        if jnp.shape(values) != leaves[path].shape:
            raise ValueError(
                f"{who}: values for {path!r} have shape {jnp.shape(values)}; "
                f"the leaf has {leaves[path].shape}"
            )
    for path, values in (change.rewrite or {}).items():
        what = f"{who}: rewrite of {path!r} for {width!r}"
        leaf = leaves.get(path)
        if leaf is None:
            raise ValueError(
                f"{what}, which isn't a leaf of the network ({', '.join(leaves)})"
            )
        if not leaf.inexact:
            raise ValueError(
                f"{what}, which is {leaf.dtype}; only leaves of real numbers are "
                "rewritten"
            )
        if jnp.shape(values) != leaf.shape:
            raise ValueError(
                f"{what} has shape {jnp.shape(values)}; the leaf has {leaf.shape}"
            )
