"""Law 2: newborns learn, and copies part."""

import dataclasses
import functools as ft
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._edits.edit import Edit
from .._edits.inits import Clone
from .._paths import array_leaves
from ._measure import (
    batched,
    broken,
    call_of,
    clonable,
    entries_of,
    resized_case,
    told,
)
from ._networks import Case, draw_inputs
from ._ops import OPS, Ops, read
from ._resizes import Resize


ATTEMPTS = 24
"""Batches and draws of newborns that are tried: a unit may be dead on any one of them
(a `relu` that no input reaches), on all of them only if something is wrong."""

_RATE = 0.1
_SEPARATE = 1e-3
"""Copies part if their gradients differ by this much of the gradient."""


def alive_newborns(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 2. On a generic batch under a squared loss: some newborn entry has a gradient
    at the first step, and every member of the width by the second. Copies with unequal
    shares, or with noise, get unequal gradients; equal shares are declared to do so.

    Looks at the widths that `resize` grows, as far as silence or copies are exact.
    Where survivors have no gradient either, newborns needn't have one.
    """
    anatomy = read(case, ops)
    grown = resize.grown(anatomy)
    silent = {
        name: size
        for name, size in grown.items()
        if anatomy.widths[name].exactness("zero_out")[0] == "exact"
    }
    cloned = clonable(anatomy, grown)
    trial = _Trial(case, resize.seed, ops)
    if silent:
        born = ops.plan(anatomy, silent)
        _must_go_well(trial, born, _lifeless, f"{told(anatomy, silent)} by zero_out")
    if not cloned:
        return
    for init in ("clone", Clone(split="equal", noise=0.3)):
        split = ops.plan(anatomy, cloned, init=init)
        what = f"{told(anatomy, cloned)} by {init}"
        _must_go_well(trial, split, _inseparable, what)
    equal = ops.plan(anatomy, cloned, init=Clone(split="equal"))
    if "never separate" not in equal.explain():
        what = f"{told(anatomy, cloned)}: `explain` keeps quiet about an equal split"
        raise broken("alive_newborns", case, what)


def _must_go_well(
    trial: "_Trial", edit: Edit, look: Callable[..., str], what: str
) -> None:
    complaint = trial.first_complaint(edit, look)
    if complaint:
        raise broken("alive_newborns", trial.case, f"{what}: {complaint}")


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One case under training for two steps."""

    case: Case
    seed: int
    ops: Ops

    def gradients(self, edit: Edit, attempt: int) -> list[dict[str, np.ndarray]]:
        """Per step, the gradients by leaf path."""
        key = jr.key(self.seed + attempt)
        net = self.ops.apply(edit, self.case.net, key=key)
        batch = draw_inputs(self.case, self.seed + attempt)
        call = call_of(resized_case(self.case, net, edit.after))
        wanted = self._targets(call, net, batch, attempt)
        steps = array_leaves(_two_steps(call)(net, batch, wanted))
        host = {path: np.asarray(g, np.float64) for path, g in steps.items()}
        return [{path: g[step] for path, g in host.items()} for step in (0, 1)]

    def _targets(
        self, call: Callable[..., Any], net: Any, batch: Any, attempt: int
    ) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed + attempt, 5])
        made = eqx.filter_eval_shape(batched, call, net, batch)
        return [rng.standard_normal(x.shape).astype(x.dtype) for x in made]

    def first_complaint(self, edit: Edit, look: Callable[..., str]) -> str:
        """What is wrong in all attempts alike; empty if one of them goes well."""
        complaint = ""
        for attempt in range(ATTEMPTS):
            complaint = look(edit, self.gradients(edit, attempt))
            if not complaint:
                return ""
        return f"{complaint} (on each of {ATTEMPTS} batches)"


@ft.lru_cache(maxsize=64)
def _two_steps(call: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of two steps of gradient descent, stacked."""

    @eqx.filter_jit
    def two_steps(net: Any, batch: Any, wanted: list[Any]) -> Any:
        params, rest = eqx.partition(net, eqx.is_inexact_array)

        def loss(params: Any) -> Any:
            made = batched(call, eqx.combine(params, rest), batch)
            pairs = zip(made, wanted, strict=True)
            return sum(jnp.mean((x - y) ** 2) for x, y in pairs)

        def step(params: Any, _: None) -> tuple[Any, Any]:
            grads = jax.grad(loss)(params)
            return jtu.tree_map(lambda p, g: p - _RATE * g, params, grads), grads

        return jax.lax.scan(step, params, None, length=2)[1]

    return two_steps


def _lifeless(edit: Edit, steps: list[Mapping[str, np.ndarray]]) -> str:
    """Widths whose newborns get no gradient at the first step; members whose newborn
    entries get none by the second."""
    after = edit.after
    for change in edit.changes:
        survivors, newborns = range(change.old), range(change.old, change.new)
        moving = []
        for member in after.widths[change.name].members:
            if member.path not in steps[0]:
                continue
            first, second = (
                np.any(entries_of(after, member, newborns, step[member.path]))
                for step in steps
            )
            moving.append(first)
            others = any(
                np.any(entries_of(after, member, survivors, step[member.path]))
                for step in steps
            )
            if others and not (first or second):
                return (
                    f"newborn entries of {member} have no gradient by the second step"
                )
        if moving and not any(moving):
            return f"no newborn entry of {change.name} has a gradient at the first step"
    return ""


def _inseparable(edit: Edit, steps: list[Mapping[str, np.ndarray]]) -> str:
    """Copies that get the gradient of what they copy, and so stay copies."""
    after, grads = edit.after, steps[0]
    for change in edit.changes:
        width = after.widths[change.name]
        parents = edit.pairs[width.id].produce.cols
        for unit in range(change.old, change.new):
            size = apart = 0.0
            for i, member in enumerate(width.members):
                if i in width.copied.cover or member.path not in grads:
                    continue
                one, other = (
                    entries_of(after, member, [u], grads[member.path])
                    for u in (unit, int(parents[unit]))
                )
                size = max(size, float(np.max(np.abs(one))))
                apart = max(apart, float(np.max(np.abs(one - other))))
            if size and not apart > _SEPARATE * size:
                return (
                    f"unit {unit} of {change.name} copies unit {parents[unit]}, and "
                    f"their gradients differ by {apart:.3g} of {size:.3g} only"
                )
    return ""
