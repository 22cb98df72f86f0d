"""Control flow for many networks at once: what a whole population has to agree on.

Under `vmap`, a branch that depends on a member runs on both sides, for every member and
every time. These functions ask the population instead, so that a branch that no member
takes isn't run. Without `vmap` a population is one member.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_batching.custom_vmap
def any_member(flag: Any) -> Any:
    """Is the flag set for any member under the `vmap`s around? One boolean for all."""
    return flag


@any_member.def_vmap
def _any_of_batch(axis_size: int, in_batched: Any, flag: Any) -> tuple[Any, bool]:
    del axis_size, in_batched
    return any_member(jnp.any(flag)), False


def every_member(flag: Any) -> Any:
    """Is the flag set for all members?"""
    return ~any_member(~flag)


def where_any(flag: Any, act: Callable, skip: Callable, operand: Any) -> Any:
    """`lax.cond(flag, act, skip, operand)`, run only if some member's flag is set."""
    return jax.lax.cond(
        any_member(flag),
        lambda x: jax.lax.cond(flag, act, skip, x),
        skip,
        operand,
    )
