"""The tick: `every` training steps, one decision, apply what fits. Pure and traced.

A tick is a function of its arguments alone, so that it can stand in any program: in a
loop over ticks (`chunk`), and under `vmap` over a population. The number of the step
comes beside the state, since it is one for all members.
"""

import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._evidence.evidence import Evidence
from .._evidence.look import Look, Past
from .._paths import fresh
from .._policies.grower import Grower
from .._policies.growing import cond_pair, GrowerState, Growing, replaced, stacked
from .._policies.policy import Decision, never_decides
from .._policies.turn import apply, decide, fates, fits, propose
from .._reading.aux import Aux, split_result
from .data import Batches
from .members import where_any
from .reports import Report


BatchAt = Callable[[Any], Any]


class Ticker:
    """Ticks of one run: its loss, its policy, its optimizer.

    `traces` counts how often the programs of the run were traced.
    """

    def __init__(
        self,
        grower: Grower,
        loss: Callable[..., Any],
        predict: Callable[..., Any] | None = None,
    ):
        self.grower, self.loss, self.predict = grower, loss, predict
        self.look = grower.look or Look(loss)
        self.traces = 0

    def tick(
        self,
        growing: Growing,
        state: GrowerState,
        batch_at: BatchAt,
        first: Any,
        count: Any,
        due: Any,
        valid: Any,
        told: tuple[Any, Any],
    ) -> tuple[Growing, GrowerState, Report]:
        """`count` steps from step `first` on; then, if `due`, a decision; then what
        fits of what waits. With no steps it applies what has been waiting for room, or
        asks again what to do with it, so that one bucket has one program; `told` is
        then the mean loss and the number of steps before."""
        old = _sizes(growing)
        growing, state, loss, metrics = self.train(
            growing, state, batch_at, first, count
        )
        step = first + count
        batch = batch_at(step - 1)
        valid_loss = jnp.full((), jnp.nan, loss.dtype)
        if valid is not None:
            valid_loss = self._value(growing.view(), valid, state)
        nan = jnp.full((), jnp.nan, loss.dtype)
        closed = jax.tree.map(jnp.zeros_like, old)
        moved = {name: jnp.zeros((), bool) for name in old}
        measured: tuple[Any, ...] = (nan, nan, nan, closed, moved)
        if not never_decides(growing.policy):

            def speak(growing: Growing, state: GrowerState):
                trained = jnp.where(count > 0, count, told[1])
                past = Past(batch_at, step, trained, valid)
                mean = jnp.where(count > 0, loss, jnp.asarray(told[0], loss.dtype))
                evidence = self.look(
                    self.grower, growing, state, past, mean, valid_loss
                )
                growing, state, _ = decide(growing, state, evidence)
                return growing, state

            if not growing.policy.on_host:
                growing, state = cond_pair(due, speak, growing, state)
            ready = state.waiting & fits(growing.open, state.decision)
            growing, state, measured = self._measured(
                growing, state, batch, ready, measured
            )
        sizes = _sizes(growing)
        seen = (loss, valid_loss, metrics, sizes, old)
        return growing, state, Report(step, count, *seen, *measured)

    # --- their parts

    def train(
        self,
        growing: Growing,
        state: GrowerState,
        batch_at: BatchAt,
        first: Any,
        count: Any,
    ) -> tuple[Growing, GrowerState, Any, dict[str, Any]]:
        """`count` steps; also the mean of the loss and of the metrics."""
        # The loop carries just what a step changes: all else is a constant in it.
        moving, fixed = eqx.partition(_trained(growing, state), eqx.is_array)

        # Its shapes are asked for, and then it is the body of a loop: traced once.
        @ft.partial(jax.jit, inline=True)
        def one(moving: Any, step: Any) -> tuple[Any, Any]:
            net, trainable, *states = eqx.combine(moving, fixed)
            names = ("opt_state", "policy_opt_state")
            growing2, state2, seen = self._step(
                replaced(growing, net=net, trainable=trainable),
                replaced(state, **dict(zip(names, states, strict=True)), step=step),
                batch_at(step),
            )
            return eqx.filter(_trained(growing2, state2), eqx.is_array), seen

        _, seen = jax.eval_shape(one, moving, first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), seen)

        def body(i: Any, carry: Any) -> Any:
            moving, total = carry
            moving, seen = one(moving, first + i)
            return moving, jax.tree.map(jnp.add, total, seen)

        moving, total = jax.lax.fori_loop(0, count, body, (moving, zeros))
        net, trainable, opt_state, policy_opt_state = eqx.combine(moving, fixed)
        growing = replaced(growing, net=net, trainable=trainable)
        state = replaced(
            state,
            opt_state=opt_state,
            policy_opt_state=policy_opt_state,
            step=first + count,
        )
        steps = jnp.maximum(count, 1)
        loss, metrics = jax.tree.map(lambda t: t / steps.astype(t.dtype), total)
        return growing, state, loss, metrics

    def _step(
        self, growing: Growing, state: GrowerState, batch: Any
    ) -> tuple[Growing, GrowerState, Any]:
        key = jr.fold_in(jr.fold_in(state.key, 4), state.step)

        def value(net: Any) -> tuple[Any, tuple[Any, Aux]]:
            value, aux = split_result(self.loss(fresh(net), batch, key))
            return value, (value, aux)

        objective = eqx.filter_value_and_grad(
            self.grower.loss(value, state), has_aux=True
        )
        (_, (value_, aux)), grads = objective(growing)
        growing, state = self.grower.update(growing, grads, state)
        if aux.net is not None:
            growing = self.grower.with_untrained(growing, aux.net)
        return growing, state, (value_, aux.metrics)

    def _value(self, net: Any, batch: Any, state: GrowerState) -> Any:
        return self.look.value(net, batch, state)

    def observe(
        self,
        growing: Growing,
        state: GrowerState,
        batches: Batches,
        loss: Any,
        valid_loss: Any,
    ) -> Evidence:
        """The evidence for a policy that isn't traced, but for what is a function."""
        past = Past(batches.prepared(), state.step, state.step - batches.first)
        found = self.look(self.grower, growing, state, past, loss, valid_loss)
        gone = ("evaluate", "hessian_vector", "average", "batches", "on", "candidates")
        return replaced(found, **dict.fromkeys(gone))

    def tried(
        self, growing: Growing, state: GrowerState, batches: Batches, decision: Decision
    ) -> Any:
        """The loss on the last batch if a decision were taken."""
        trial = propose(self.grower, growing, state, decision)
        return self._value(trial.view(), batches.prepared()(state.step - 1), state)

    def _measured(
        self,
        growing: Growing,
        state: GrowerState,
        batch: Any,
        ready: Any,
        nothing: tuple[Any, ...],
    ) -> tuple[Growing, GrowerState, tuple[Any, ...]]:
        """Applies the waiting decision if `ready`, and measures the network around it:
        loss before and after, the largest change of an output; and what it does to
        units by width."""
        predict = self.predict
        dynamic, static = eqx.partition((growing, state), eqx.is_array)

        def act(dynamic: Any) -> Any:
            growing, state = eqx.combine(dynamic, static)
            after, after_state = apply(self.grower, growing, state)
            both, rest = stacked([growing.view(), after.view()])

            def measure(arrays: Any) -> tuple[Any, Any]:
                net = eqx.combine(arrays, rest)
                outputs = None if predict is None else predict(fresh(net), batch)
                return self._value(net, batch, state), outputs

            # One after the other, so that the forward pass is compiled once.
            losses, outputs = jax.lax.map(measure, both)
            change = nothing[2]
            if predict is not None:
                moved = [
                    jnp.max(jnp.abs(o[0] - o[1])) for o in jax.tree.leaves(outputs)
                ]
                change = jnp.max(jnp.stack(moved)).astype(change.dtype)
            found = (*losses, change, *fates(growing, state.decision))
            return eqx.filter((after, after_state), eqx.is_array), found

        result, measured = where_any(ready, act, lambda d: (d, nothing), dynamic)
        growing, state = eqx.combine(result, static)
        return growing, state, measured


def _trained(growing: Growing, state: GrowerState) -> tuple[Any, Any, Any, Any]:
    return growing.net, growing.trainable, state.opt_state, state.policy_opt_state


def _sizes(growing: Growing) -> dict[str, Any]:
    return {name: mask.sum() for name, mask in growing.open.items()}
