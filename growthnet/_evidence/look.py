"""Computing evidence: what a policy declared, and nothing else."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._capacity.gates import silence
from .._paths import array_leaves, fresh, map_arrays
from .._policies.growing import GrowerState, Growing, masked, replaced
from .._policies.policy import Decision
from .._policies.turn import propose
from .._reading.aux import split_result
from .._runs.data import ArrayData
from .candidates import Candidates
from .evidence import Evidence
from .units import UNIT_KINDS, units_of
from .wide import wide_type, widened


if TYPE_CHECKING:
    from .._policies.grower import Grower


class Past(eqx.Module):
    """The batches of a tick: `count` of them, before `step`; and the data that it is
    validated on."""

    batch_at: Callable[[Any], Any]
    step: Any
    count: Any
    valid: Any = None


class Look:
    """Evidence from a loss. `example` describes a batch; `valid` is data to be
    validated on; `whole`: every batch is all of the data."""

    def __init__(
        self,
        loss: Callable[..., Any],
        example: Any = None,
        valid: Any = None,
        *,
        whole: bool = False,
    ):
        self.loss, self.example, self.valid, self.whole = loss, example, valid, whole

    @staticmethod
    def at(loss: Callable[..., Any], stream: Any, valid: Any) -> "Look":
        """At the data of a run."""
        whole = isinstance(stream, ArrayData) and stream.batch_size is None
        return Look(loss, stream.example, valid, whole=whole)

    def value(self, net: Any, batch: Any, state: GrowerState) -> Any:
        """The loss of a network, outside training."""
        return split_result(self.loss(fresh(net), batch, _key(state)))[0]

    def first(
        self, grower: "Grower", growing: Growing, state: GrowerState, batch: Any
    ) -> Evidence:
        """Evidence as it will be, to learn from it what a decision looks like."""
        valid = batch if self.valid is None else self.valid
        past = Past(lambda step: batch, state.step, jnp.ones((), jnp.int32), valid)
        none = jnp.zeros(())
        return self(grower, growing, state, past, none, none)

    def __call__(
        self,
        grower: "Grower",
        growing: Growing,
        state: GrowerState,
        past: Past,
        loss: Any,
        valid_loss: Any,
    ) -> Evidence:
        """The evidence at the end of a tick.

        **Raises:** `ValueError` naming a kind and a width of which it can't be had.
        """
        seen = {"loss": loss, "valid_loss": valid_loss, "valid": past.valid}
        of = lambda batch: self._of(grower, growing, state, batch, seen)
        needs, kinds = grower.policy.needs, {}
        if "average" in needs:
            kinds["average"] = lambda function, batches: _average(
                lambda step: function(of(past.batch_at(step))),
                past,
                _checked("average over", batches, grower.policy),
            )
        if "batches" in needs:
            kinds["batches"] = lambda batches: _stack(
                past, _checked("asked for", batches, grower.policy, self.whole)
            )
        return replaced(of(past.batch_at(past.step - 1)), **kinds)

    def _of(
        self,
        grower: "Grower",
        growing: Growing,
        state: GrowerState,
        batch: Any,
        seen: dict[str, Any],
    ) -> Evidence:
        """On one batch."""
        needs, view = grower.policy.needs, growing.view()
        wide = wide_type(growing.net)
        value = lambda net: self.value(net, batch, state).astype(wide)

        def gate_slopes() -> Any:
            return jax.grad(
                lambda gates: value(silence(growing.net, growing.anatomy, gates))
            )(jax.tree.map(_as_numbers, growing.gates()))

        def evaluate(decision: Decision) -> Any:
            return value(propose(grower, growing, state, decision).view())

        def valid_at(gates: dict[str, Any]) -> Any:
            shown = {n: masked(gate, growing.open[n]) for n, gate in gates.items()}
            gates = {**growing.gates(), **shown}
            net = silence(growing.net, growing.anatomy, gates)
            return self.value(net, seen["valid"], state).astype(wide)

        kinds = {
            "loss": lambda: seen["loss"].astype(wide),
            "valid_loss": lambda: seen["valid_loss"].astype(wide),
            "network": lambda: widened(growing.net, wide),
            "gradients": lambda: widened(eqx.filter_grad(value)(view), wide),
            "gate_slopes": lambda: widened(gate_slopes(), wide),
            "evaluate": lambda: evaluate,
            "valid_at": lambda: valid_at,
            "valid": lambda: seen["valid"],
            "on": lambda: lambda other: self._of(grower, growing, state, other, seen),
            "candidates": lambda: {
                name: Candidates(
                    growing, name, self.loss, (batch, _key(state)), value, wide
                )
                for name in growing.open
            },
            "hessian_vector": lambda: _hessian_vector(value, view, wide),
        }
        found = {kind: make() for kind, make in kinds.items() if kind in needs}
        if needs & UNIT_KINDS.keys():
            units = units_of(
                view,
                growing.anatomy,
                self.loss,
                (batch, _key(state)),
                needs,
                growing.open,
                type(growing.policy).__name__,
            )
            found["units"] = widened(units, wide)
        return Evidence(state.step, growing.open, anatomy=growing.anatomy, **found)


def _key(state: GrowerState) -> Any:
    return jr.fold_in(jr.fold_in(state.key, 5), state.step)


def _as_numbers(gates: Any) -> Any:
    return gates.astype(jnp.float32) if gates.dtype == bool else gates


def _hessian_vector(
    value: Callable[[Any], Any], net: Any, wide: Any
) -> Callable[[Any], Any]:
    params = array_leaves(eqx.filter(net, eqx.is_inexact_array))
    gradient = jax.grad(lambda params: value(map_arrays(net, params)))

    def product(tree: Any) -> Any:
        given = array_leaves(tree)
        along = {
            path: jnp.asarray(given.get(path, jnp.zeros_like(array)), array.dtype)
            for path, array in params.items()
        }
        products = jax.jvp(gradient, (params,), (along,))[1]
        found = eqx.filter(map_arrays(net, products), eqx.is_inexact_array)
        return widened(found, wide)

    return product


def _checked(what: str, batches: Any, policy: Any, whole: bool = False) -> int:
    if isinstance(batches, int) and 1 <= batches <= policy.every:
        if whole and batches > 1:
            raise ValueError(
                f"{type(policy).__name__}: {what} {batches} batches, but every batch "
                "is all of the data; ask for 1, or give the run a `batch_size`"
            )
        return batches
    raise ValueError(
        f"{type(policy).__name__}: {what} {batches!r} batches; a whole number "
        f"from 1 to `every`, which is {policy.every}"
    )


def _stack(past: Past, batches: int) -> Any:
    """The last batches along a new first axis; of fewer than that, some again."""
    back = jnp.arange(batches, dtype=jnp.int32) % jnp.maximum(past.count, 1)
    return jax.vmap(lambda i: past.batch_at(past.step - 1 - i))(back)


def _average(function: Callable[[Any], Any], past: Past, batches: int) -> Any:
    """The mean of a function of the number of a step, over the last steps."""
    shapes = jax.eval_shape(function, past.step)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    count = jnp.clip(past.count, 1, batches)

    def add(i: Any, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, function(past.step - 1 - i))

    total = jax.lax.fori_loop(0, count, add, zeros)
    return jax.tree.map(lambda t: t / count.astype(t.dtype), total)
