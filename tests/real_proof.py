"""What is asked of a real model: trace, grow, shrink, train on. See `Proof`."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from growthnet._reading.anatomy import Anatomy

from .real_models import KEY, Model


OPTIMIZER = optax.adam(1e-3)
INITS = ("zero_out", "clone")


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was found, and what happened.

    - `seconds`: of processor time, for the trace.
    - `growth`: sizes before and after, by init and width: all widths that can grow
        exactly do so at once, the first init of `INITS` that is exact being used.
    - `difference`: of the outputs after growth, against the largest output.
    - `round_trip`: of the parameters, after the newborns were removed again.
    - `shrunk`: were outputs finite after every width was halved?
    - `true`: is a fresh trace of what came out what the edits promised?
    - `losses`: of the grown network before and after one training step.
    - `reset`: leaves of the optimizer state that couldn't be moved.
    """

    anatomy: Anatomy
    seconds: float
    growth: Mapping[str, Mapping[str, tuple[int, int]]]
    difference: float
    round_trip: float
    shrunk: bool
    true: bool
    losses: tuple[float, float]
    finite: bool
    reset: int

    @property
    def parameters(self) -> int:
        return int(self.anatomy.params())

    def names(self, growable: bool) -> list[str]:
        return [w.name for w in self.anatomy.all_widths if w.growable == growable]


class _Subject:
    """A model under test: its network changes, how it is traced and run doesn't."""

    def __init__(self, model: Model):
        self.net, self.args, self._call = model.make()
        self._replay = model.replay

    def trace(self) -> Anatomy:
        return gn.trace(self.net, *self.args, call=self._call, replay=self._replay)

    def again(self, net: Any, anatomy: Anatomy) -> Anatomy:
        """A trace of another network, which `anatomy` should describe."""
        call = self._call if not self._replay else anatomy.program(allow_drift=True)
        return gn.trace(net, *self.args, call=call)

    def outputs(self, anatomy: Anatomy) -> Callable[[Any], list[Any]]:
        """The inexact outputs as a function of the network."""
        call = self._call if not self._replay else anatomy.program(allow_drift=True)

        def run(net: Any) -> list[Any]:
            results = jax.tree.leaves(call(net, *self.args))
            return [r for r in results if eqx.is_inexact_array(r)]

        return run

    def run(self, net: Any, anatomy: Anatomy) -> list[np.ndarray]:
        arrays, rest = eqx.partition(net, eqx.is_array)
        outputs = self.outputs(anatomy)
        results = jax.jit(lambda arrays: outputs(eqx.combine(arrays, rest)))(arrays)
        return [np.asarray(r) for r in results]

    def step(self, net: Any, anatomy: Anatomy, state: Any) -> "_Step":
        """One step of training towards made-up targets, and a look at the result."""
        outputs = self.outputs(anatomy)
        params, rest = eqx.partition(net, eqx.is_inexact_array)

        def loss(params: Any) -> tuple[Any, list[Any]]:
            results = outputs(eqx.combine(params, rest))
            return _loss(results), results

        @jax.jit
        def update(params: Any, state: Any) -> Any:
            (value, results), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = OPTIMIZER.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value, grads, results

        new, state, before, grads, old_results = update(params, state)
        _, _, after, _, new_results = update(new, state)
        return _Step(
            eqx.combine(new, rest),
            state,
            (float(before), float(after)),
            all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads)),
            (
                [np.asarray(r) for r in old_results],
                [np.asarray(r) for r in new_results],
            ),
        )


@dataclasses.dataclass(frozen=True)
class _Step:
    """The network after one step; losses and outputs before and after it."""

    net: Any
    state: Any
    losses: tuple[float, float]
    finite: bool
    outputs: tuple[list[np.ndarray], list[np.ndarray]]


def _loss(outputs: list[Any]) -> Any:
    total = jnp.zeros(())
    for i, out in enumerate(outputs):
        target = jr.normal(jr.fold_in(KEY, i), out.shape)
        total += jnp.mean(jnp.abs(out - target) ** 2)
    return total


def params_of(net: Any) -> Any:
    return eqx.filter(net, eqx.is_inexact_array)


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The largest difference in any array, against its largest entry."""
    return max(
        float(np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-30))
        for x, y in zip(a, b, strict=True)
    )


def growths(anatomy: Anatomy) -> dict[str, dict[str, tuple[int, int]]]:
    """Sizes before and after, by init: half as many units more, or twice as many."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for width in anatomy.all_widths:
        exact = [i for i in INITS if width.exactness(i)[0] == "exact"]
        if width.growable and exact:
            n = width.size
            new = n + max(1, n // 2) if exact[0] == "zero_out" else 2 * n
            found.setdefault(exact[0], {})[width.name] = (n, new)
    return found


def prove(model: Model) -> Proof:
    """Does all of it with one model."""
    subject = _Subject(model)
    start = time.process_time()
    anatomy = subject.trace()
    seconds = time.process_time() - start
    first = subject.step(subject.net, anatomy, OPTIMIZER.init(params_of(subject.net)))
    growth, net, now, state = growths(anatomy), first.net, anatomy, first.state
    edits, reset = [], 0
    for i, (init, sizes) in enumerate(growth.items()):
        new_sizes = {name: new for name, (_, new) in sizes.items()}
        edit = gn.plan(now, new_sizes, init=init)
        grown = edit(net, key=jr.fold_in(KEY, i))
        state, report = edit.transfer(
            OPTIMIZER, state, params_of(net), params_of(grown), report=True
        )
        reset += sum(row.action == "reset" for row in report.rows)
        edits.append(edit)
        net, now = grown, edit.after
    true = now == subject.again(net, now)
    second = subject.step(net, now, state)

    back = net
    for edit in reversed(edits):
        back = edit.inverse()(back)
    halves = {w.name: (w.size + 1) // 2 for w in now.all_widths if w.growable}
    halving = gn.plan(now, halves, allow_drift=True)
    halved = halving(net)
    shrunk = subject.run(halved, halving.after)
    true = true and halving.after == subject.again(halved, halving.after)
    leaves = lambda tree: [np.asarray(x) for x in jax.tree.leaves(params_of(tree))]
    return Proof(
        anatomy,
        seconds,
        growth,
        difference(second.outputs[0], first.outputs[1]),
        difference(leaves(back), leaves(first.net)),
        all(np.isfinite(x).all() for x in shrunk),
        true,
        second.losses,
        second.finite,
        reset,
    )
