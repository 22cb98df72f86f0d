"""Laws about reserved capacity: opening is resizing, and training there is the same."""

import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._optimizer.trainable import TrainableSpec
from .._paths import array_leaves
from .._policies.policy import Change, Decision, NoGrowth
from .._reading.anatomy import Anatomy
from .._runs.run import final_anatomy
from ._measure import (
    batched,
    broken,
    call_of,
    differing_leaf,
    resized_case,
    told,
)
from ._networks import Case, draw_inputs
from ._ops import OPS, Ops, read
from ._optimizers import make_optimizer, Optimizer
from ._resizes import Resize


STEPS = 50
"""Of training before a change, and again after it."""
_RELATIVE = 1e-8


def _gateable(anatomy: Anatomy, sizes: dict[str, int]) -> dict[str, int]:
    return {n: s for n, s in sizes.items() if anatomy.widths[n].gateable != "no"}


def opening_is_resizing(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 8, its first half. Making room, opening units there, and compacting is a real
    resize with the same key, bit for bit: `resize == compact . open . reserve`.

    Looks at the widths that `resize` grows and that can be gated.
    """
    anatomy = read(case, ops)
    grown = _gateable(anatomy, resize.grown(anatomy))
    if not grown:
        return
    key = jr.key(resize.seed)
    old = anatomy.sizes
    room = {name: size + 2 for name, size in grown.items()}
    births = {name: size - old[name] for name, size in grown.items()}
    for init in ("zero_out", "drawn"):
        edit = OPS.plan(anatomy, grown, init=init, allow_drift=True)
        reserved = ops.reserve(case.net, anatomy, room)
        opened = ops.compact(ops.open_units(reserved, births, key=key, init=init))
        difference = differing_leaf(OPS.apply(edit, case.net, key=key), opened)
        if difference:
            what = f"{told(anatomy, grown)} by {init}: opening isn't resizing"
            raise broken("opening_is_resizing", case, f"{what}: {difference}")


class _Once(NoGrowth):
    """Opens so many units, by width, after `every` steps."""

    births: tuple[tuple[str, int], ...] = eqx.field(static=True, default=())

    def step(self, trainable: Any, memory: Any, evidence: Any, *, key: Any) -> Any:
        del key
        now = evidence.step == self.every
        changes = {
            name: Change(evidence.open[name], jnp.where(now, count, 0))
            for name, count in self.births
        }
        return Decision(changes), trainable, memory, {}


def same_training(
    case: Case,
    resize: Resize,
    optimizer: Optimizer | None = None,
    *,
    ops: Ops = OPS,
) -> None:
    """Law 8, its second half. Given the same newborns, a network with reserved capacity
    trains as the one that is really resized, optimizer state and all: 50 steps, the
    growth, 50 steps more, to 1e-8.

    Looks at float64 networks, where rounding doesn't grow into anything in so few
    steps, and at the widths that `resize` grows and that can be gated.

    **Arguments:** as of every law, and `optimizer`, by default AdamW behind clipping.
    """
    anatomy = read(case, ops)
    grown = _gateable(anatomy, resize.grown(anatomy))
    if not grown or case.dtype != jnp.float64:
        return
    optimizer = optimizer or make_optimizer("adamw")
    # optax counts on the promotion of dtypes and ranks that JAX has by default.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        wide, after = _in_capacity(case, anatomy, grown, optimizer, resize.seed, ops)
        compact = _by_edit(case, anatomy, grown, optimizer, resize.seed)
    what = f"{optimizer}, {told(anatomy, grown)} within capacity"
    if {name: after.sizes[name] for name in grown} != grown:
        raise broken("same_training", case, f"{what}: the sizes are {after.sizes}")
    difference = _distance(compact, wide)
    if difference:
        raise broken("same_training", case, f"{what}: {difference}")


def _key(seed: int) -> Any:
    """Of the newborns, as a run folds it."""
    return jr.fold_in(jr.fold_in(jr.key(seed), 3), STEPS)


def _in_capacity(
    case: Case,
    anatomy: Anatomy,
    grown: dict[str, int],
    optimizer: Optimizer,
    seed: int,
    ops: Ops,
) -> tuple[Any, Anatomy]:
    """Trained by a `Grower`, with room for two units more than are born."""
    old = anatomy.sizes
    births = tuple((name, size - old[name]) for name, size in grown.items())
    grower = ops.grower(
        _Once(STEPS, births=births),
        optimizer.transform,
        widths=tuple(grown),
        capacity={name: size + 2 for name, size in grown.items()},
    )
    growing, state = grower.init(case.net, anatomy, key=jr.key(seed))
    arrays, rest = eqx.partition((growing, state), eqx.is_array)
    # At capacity, which a traced program has to know.
    call = call_of(resized_case(case, growing.net, growing.anatomy))

    @jax.jit
    def train(arrays: Any, batch: Any, wanted: Any) -> Any:
        def step(_: Any, arrays: Any) -> Any:
            growing, state = eqx.combine(arrays, rest)
            value = ft.partial(_squared, call, batch=batch, wanted=wanted)
            grads = eqx.filter_grad(grower.loss(value, state))(growing)
            return eqx.filter(grower.step(growing, grads, state), eqx.is_array)

        return jax.lax.fori_loop(0, 2 * STEPS, step, arrays)

    batch, wanted = _task(case, seed)
    growing, _ = eqx.combine(train(arrays, batch, wanted), rest)
    return growing.compact(), final_anatomy(growing)


def _by_edit(
    case: Case,
    anatomy: Anatomy,
    grown: dict[str, int],
    optimizer: Optimizer,
    seed: int,
) -> Any:
    """Trained, edited with the optimizer state moved along, and trained on."""
    transform = optimizer.transform
    net, state = _trained(case, transform, transform.init(_params(case.net)), seed)
    edit = OPS.plan(anatomy, grown)
    grown_net = OPS.apply(edit, net, key=_key(seed))
    moved = OPS.transfer(edit, transform, state, _params(net), _params(grown_net))
    case = resized_case(case, grown_net, edit.after)
    return _trained(case, transform, moved, seed)[0]


def _params(net: Any) -> Any:
    return TrainableSpec().of(net)


def _trained(case: Case, transform: Any, state: Any, seed: int) -> tuple[Any, Any]:
    """The case's network and the optimizer state, after training."""
    call = call_of(case)
    arrays, rest = eqx.partition((case.net, state), eqx.is_array)

    @jax.jit
    def train(arrays: Any, batch: Any, wanted: Any) -> Any:
        def step(_: Any, arrays: Any) -> Any:
            net, state = eqx.combine(arrays, rest)
            value = ft.partial(_squared, call, batch=batch, wanted=wanted)
            grads = _params(eqx.filter_grad(value)(net))
            updates, state = transform.update(grads, state, _params(net))
            return eqx.filter((eqx.apply_updates(net, updates), state), eqx.is_array)

        return jax.lax.fori_loop(0, STEPS, step, arrays)

    return eqx.combine(train(arrays, *_task(case, seed)), rest)


def _squared(call: Callable[..., Any], net: Any, batch: Any, wanted: Any) -> Any:
    made = batched(call, net, batch)
    pairs = zip(made, wanted, strict=True)
    return sum((jnp.mean((x - y) ** 2) for x, y in pairs), jnp.zeros(()))


def _task(case: Case, seed: int) -> tuple[Any, list[np.ndarray]]:
    batch = draw_inputs(case, seed)
    made = eqx.filter_eval_shape(batched, call_of(case), case.net, batch)
    rng = np.random.default_rng([seed, 6])
    return batch, [rng.standard_normal(x.shape).astype(x.dtype) for x in made]


def _distance(compact: Any, wide: Any) -> str:
    """What differs by more than rounding; empty if nothing does."""
    if jtu.tree_structure(compact) != jtu.tree_structure(wide):
        return "the structures differ"
    others = array_leaves(wide)
    for path, x in array_leaves(compact).items():
        x, y = np.asarray(x), np.asarray(others[path])
        if not np.issubdtype(x.dtype, np.floating):
            continue
        off = float(np.max(np.abs(x - y), initial=0.0))
        allowed = _RELATIVE * max(1.0, float(np.max(np.abs(x), initial=0.0)))
        if not off <= allowed:
            return f"{path} differs by {off:.3g}, allowed are {allowed:.3g}"
    return ""
