"""A chunk: many ticks in one program, which leaves at the first decision that doesn't
fit the capacity.

So a change of shapes happens at the exact step whatever the length of a chunk: one
chunk, many, and a loop of single ticks give the same bits. `fit` runs chunks from the
host, which makes room; `grow` runs them inside a program, where a member of a
population that would need room stops alone.
"""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._policies.growing import GrowerState, Growing
from .convolutions import channels_last
from .data import Batches
from .members import every_member
from .reports import Report
from .tick import Ticker


class Stretch(eqx.Module):
    """Which ticks to run: steps `first` to `stop`, after a `pending` decision or a new
    capacity has been dealt with in a tick of no steps.

    - `asks`: in that tick the policy decides anew, since its newborns' values were for
        slots that are no more; it is told the mean `loss` of the `count` steps before.
    """

    first: Any
    stop: Any
    pending: Any = False
    asks: Any = False
    loss: Any = 0.0
    count: Any = 0


def run_chunk(
    ticker: Ticker,
    growing: Growing,
    state: GrowerState,
    batches: Batches,
    valid: Any,
    stretch: Stretch,
    length: int,
    *,
    together: bool = False,
) -> tuple[Growing, GrowerState, Report, Any]:
    """At most `length` ticks.

    **Arguments:**

    - `together`: the run is one of a population that goes on without it. It stays as it
        is where it would have to stop, and never stops to give back room.

    **Returns:** the run, the reports of its ticks (stacked, `length` of them), and how
    many ticks there were.
    """
    dynamic, static = eqx.partition((growing, state), eqx.is_array)
    batch_at = batches.prepared()
    every = ticker.grower.policy.every
    stop = jnp.asarray(stretch.stop, jnp.int32)  # As `first`, in 64 bits too.

    # Its shapes are asked for, and then it is the body of a loop: traced once for both.
    @ft.partial(jax.jit, inline=True)
    def tick(dynamic: Any, step: Any, count: Any) -> tuple[Any, Report]:
        growing, state = eqx.combine(dynamic, static)
        due = jnp.where(count > 0, (step + count) % every == 0, stretch.asks)
        told = (stretch.loss, jnp.asarray(stretch.count, jnp.int32))
        growing, state, report = ticker.tick(
            growing, state, batch_at, step, count, due, valid, told
        )
        return eqx.filter((growing, state), eqx.is_array), report

    def stopped(dynamic: Any) -> Any:
        _, state = eqx.combine(dynamic, static)
        return state.waiting if together else state.waiting | state.roomy

    def goes_on(carry: Any) -> Any:
        dynamic, _, i, step = carry
        more = (i < length) & (step < stop) & ~every_member(stopped(dynamic))
        return more | (stretch.pending & (i == 0))

    def body(carry: Any) -> Any:
        dynamic, reports, i, step = carry
        count = jnp.minimum(every - step % every, stop - step)
        count = jnp.where(stretch.pending & (i == 0), 0, count)
        run = lambda dynamic: tick(dynamic, step, count)
        if together:
            stay = lambda dynamic: (dynamic, empty)
            dynamic, report = jax.lax.cond(stopped(dynamic), stay, run, dynamic)
        else:
            dynamic, report = run(dynamic)
        reports = jax.tree.map(lambda all, one: all.at[i].set(one), reports, report)
        return dynamic, reports, i + 1, step + count

    first = jnp.asarray(stretch.first, jnp.int32)
    _, shapes = jax.eval_shape(tick, dynamic, first, first)
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    reports = jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), shapes)
    carry = (dynamic, reports, jnp.zeros((), jnp.int32), first)
    dynamic, reports, ticks, _ = jax.lax.while_loop(goes_on, channels_last(body), carry)
    growing, state = eqx.combine(dynamic, static)
    return growing, state, reports, ticks
