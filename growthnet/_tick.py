"""The tick: `every` training steps, one decision, apply what fits. One traced program.

`fit` runs ticks from a Python loop. Everything that a tick does is a pure function of
its arguments, so it can equally stand inside a loop of a larger program.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ._aux import Aux, split_result
from ._evidence import Evidence
from ._gates import silence
from ._grower import Grower
from ._growing import cond_pair, GrowerState, Growing
from ._paths import fresh
from ._policy import Decision
from ._turn import apply, decide, fits, propose


class Report(eqx.Module):
    """What a tick tells the host, all scalars (the losses around a change are NaN where
    nothing changed)."""

    loss: Any
    valid_loss: Any
    metrics: dict[str, Any]
    sizes: dict[str, Any]
    old_sizes: dict[str, Any]
    loss_before: Any
    loss_after: Any
    output_change: Any
    waiting: Any
    roomy: Any


class Ticker:
    """Builds the programs of a run and counts how often they are traced."""

    def __init__(
        self,
        grower: Grower,
        loss: Callable[..., Any],
        *,
        predict: Callable[..., Any] | None,
        valid: Any,
    ):
        self.grower, self.loss = grower, loss
        self.predict, self.valid = predict, valid
        self.traces = 0
        self.run = eqx.filter_jit(self._run)

    # --- programs

    def _run(
        self,
        growing: Growing,
        state: GrowerState,
        batches: Any,
        count: Any,
        due: Any,
        valid: Any,
    ) -> tuple[Growing, GrowerState, Report]:
        """`count` steps; then, if `due`, a decision; then what fits of what waits.

        With no steps and no decision it applies what has been waiting for room, so one
        bucket has one program.
        """
        self.traces += 1
        batch_at = batches.prepared()
        old = _sizes(growing)
        growing, state, loss, metrics = self._train(growing, state, batch_at, count)
        batch = batch_at(state.step - 1)
        valid_loss = jnp.full((), jnp.nan, loss.dtype)
        if self.valid is not None:
            valid_loss = self._value(growing.view(), valid, state)

        def speak(growing: Growing, state: GrowerState):
            evidence = self._evidence(growing, state, batch, loss, valid_loss)
            growing, state, _ = decide(growing, state, evidence)
            return growing, state

        growing, state = cond_pair(due, speak, growing, state)
        ready = state.waiting & fits(growing, state)
        growing, state, measured = self._measured(growing, state, batch, ready)
        report = Report(
            loss,
            valid_loss,
            metrics,
            _sizes(growing),
            old,
            *measured,
            state.waiting,
            state.roomy,
        )
        return growing, state, report

    # --- their parts

    def _train(
        self,
        growing: Growing,
        state: GrowerState,
        batch_at: Callable[[Any], Any],
        count: Any,
    ) -> tuple[Growing, GrowerState, Any, dict[str, Any]]:
        dynamic, static = eqx.partition((growing, state), eqx.is_array)

        def one(dynamic: Any) -> tuple[Any, Any]:
            growing, state = eqx.combine(dynamic, static)
            growing, state, seen = self._step(growing, state, batch_at(state.step))
            return eqx.filter((growing, state), eqx.is_array), seen

        seen = jax.eval_shape(lambda d: one(d)[1], dynamic)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), seen)

        def body(_: Any, carry: Any) -> Any:
            dynamic, total = carry
            dynamic, seen = one(dynamic)
            return dynamic, jax.tree.map(jnp.add, total, seen)

        dynamic, total = jax.lax.fori_loop(0, count, body, (dynamic, zeros))
        growing, state = eqx.combine(dynamic, static)
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
        key = jr.fold_in(jr.fold_in(state.key, 5), state.step)
        return split_result(self.loss(fresh(net), batch, key))[0]

    def _evidence(
        self, growing: Growing, state: GrowerState, batch: Any, loss: Any, valid: Any
    ) -> Evidence:
        """Computes what the policy declared, and nothing else."""
        needs = self.grower.policy.needs
        found: dict[str, Any] = {}
        if "loss" in needs:
            found["loss"] = loss
        if "valid_loss" in needs:
            found["valid_loss"] = valid
        if "network" in needs:
            found["network"] = growing.net
        if "gradients" in needs:
            value = eqx.filter_grad(lambda net: self._value(net, batch, state))
            found["gradients"] = value(growing.view())
        if "gate_slopes" in needs:
            found["gate_slopes"] = jax.grad(
                lambda gates: self._value(
                    silence(growing.net, growing.anatomy, gates), batch, state
                )
            )(jax.tree.map(_as_numbers, growing.gates()))
        if "evaluate" in needs:

            def evaluate(decision: Decision) -> Any:
                trial = propose(self.grower, growing, state, decision)
                return self._value(trial.view(), batch, state)

            found["evaluate"] = evaluate
        return Evidence(state.step, growing.open, **found)

    def _measured(
        self, growing: Growing, state: GrowerState, batch: Any, ready: Any
    ) -> tuple[Growing, GrowerState, tuple[Any, Any, Any]]:
        """Applies the waiting decision if `ready`, and measures the network around it:
        loss before and after, and the largest change of an output."""
        shape = jax.eval_shape(lambda: self._value(growing.view(), batch, state))
        nan = jnp.full((), jnp.nan, shape.dtype)
        dynamic, static = eqx.partition((growing, state), eqx.is_array)

        def act(dynamic: Any) -> Any:
            growing, state = eqx.combine(dynamic, static)
            after, after_state = apply(self.grower, growing, state)
            net, net2 = growing.view(), after.view()
            losses = [self._value(n, batch, state) for n in (net, net2)]
            change = nan
            if self.predict is not None:
                pairs = zip(
                    jax.tree.leaves(self.predict(fresh(net), batch)),
                    jax.tree.leaves(self.predict(fresh(net2), batch)),
                    strict=True,
                )
                largest = [jnp.max(jnp.abs(a - b)) for a, b in pairs]
                change = jnp.max(jnp.stack(largest)).astype(nan.dtype)
            return eqx.filter((after, after_state), eqx.is_array), (*losses, change)

        result, measured = jax.lax.cond(
            ready, act, lambda d: (d, (nan, nan, nan)), dynamic
        )
        growing, state = eqx.combine(result, static)
        return growing, state, measured


def _as_numbers(gates: Any) -> Any:
    return gates.astype(jnp.float32) if gates.dtype == bool else gates


def _sizes(growing: Growing) -> dict[str, Any]:
    return {name: mask.sum() for name, mask in growing.open.items()}
