"""Optimizers and edits for the tests of `growthnet._optimizer.optimizer`.

The network is a dict: `w1 [h, 4]` and `b1 [h]` compute the units, `w2 [3, h]` reads
them. No other size is 8, so that in a state of 8 units an axis of size 8 is the width:
the expected results need no knowledge of optimizers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from optax import contrib

import growthnet as gn
from growthnet._edits.maps import AxisEdit, LeafEdit, MapPair, PlaceEdit, UnitMap
from growthnet._reading.layout import Atom


UNITS = 8


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of one width: `source[j]` is the parent of new unit j, -1 for none;
    `weights` is what its consumers are multiplied with."""

    source: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @property
    def pair(self) -> MapPair:
        source = np.asarray(self.source)
        produce = UnitMap.take(UNITS, source)
        if self.weights is None:
            return MapPair(produce, produce)
        weights = np.asarray(self.weights)
        return MapPair(produce, UnitMap.weighted(UNITS, source, weights))

    @property
    def edits(self) -> dict[int, LeafEdit]:
        """By leaf: `b1`, `b2`, `w1`, `w2`."""
        return {
            0: LeafEdit((self.axis(False),)),
            2: LeafEdit((self.axis(False), AxisEdit(Atom(-1, 4)))),
            3: LeafEdit((AxisEdit(Atom(-1, 3)), self.axis(True))),
        }

    def axis(self, consumer: bool) -> AxisEdit:
        return AxisEdit(Atom(0, UNITS), (PlaceEdit((), self.pair, consumer),))

    @property
    def survivors(self) -> tuple[np.ndarray, np.ndarray]:
        """New indices, and the old ones that they come from."""
        source = np.asarray(self.source)
        new = np.flatnonzero(source >= 0)
        return new, source[new]


CHANGES = {
    "grow": Change((*range(UNITS), -1, -1, -1, -1)),
    "shrink": Change((6, 1, 3, 0, 7)),
    "replace": Change((0, 1, -1, 3, 4, -1, 6, 7)),
}
CLONE = Change((*range(UNITS), 2, 5), (1, 1, 0.75, 1, 1, 1.5, 1, 1, 0.25, -0.5))
"""Two units become four; one share is negative, which tells odd from even moments."""


def mlp(units: int, seed: int = 0) -> dict[str, jax.Array]:
    """The network's parameters, from numpy: no compilation."""
    rng = np.random.default_rng(seed)
    shapes = {"b1": (units,), "b2": (3,), "w1": (units, 4), "w2": (3, units)}
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, arrays)


def moved_mlp(params: dict[str, jax.Array], change: Change) -> dict[str, jax.Array]:
    """The parameters after a change; newborn entries are random."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(params)]
    fresh = jax.tree.leaves(mlp(len(change.source), seed=9))
    for i, edit in change.edits.items():
        leaves[i] = np.where(edit.born(), fresh[i], edit.values(leaves[i]))
    return jax.tree.unflatten(jax.tree.structure(params), map(jnp.asarray, leaves))


def full_loss(params: Any, *_: Any, **__: Any) -> Any:
    """A loss for optimizers that ask for one."""
    return sum((x * x).sum() for x in jax.tree.leaves(params))


def _value(params: Any, grads: Any) -> dict[str, Any]:
    return {"value": full_loss(params)}


def _line_search(params: Any, grads: Any) -> dict[str, Any]:
    return {"value": full_loss(params), "grad": grads, "value_fn": full_loss}


def _hessian(params: Any, grads: Any) -> dict[str, Any]:
    return {"obj_fn": full_loss}


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer, what its `update` asks for, and the parameters it works on."""

    make: Callable[[], Any]
    extra: Callable[[Any, Any], dict[str, Any]] = lambda params, grads: {}
    wrap: Callable[[Any], Any] = lambda params: params

    def edits(self, change: Change) -> dict[int, LeafEdit]:
        """The change for every copy of the network in the parameters."""
        count = len(jax.tree.leaves(self.wrap(0)))
        return {i + 4 * n: e for n in range(count) for i, e in change.edits.items()}

    def update(self, optimizer: Any, state: Any, params: Any) -> Any:
        grads = getattr(params, "fast", params)
        extra = self.extra(params, grads)
        return optimizer.update(grads, state, params, **extra)


def nest(label: Callable[[Any], Any]) -> Any:
    """A chain of a partition of masks of MultiSteps of injected hyperparameters."""
    inner = optax.inject_hyperparams(optax.adam)(
        learning_rate=optax.linear_schedule(0.1, 0.0, 100)
    )
    matrices = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
    every = optax.MultiSteps(inner, 2).gradient_transformation()
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition(
            {"a": optax.masked(every, matrices), "b": optax.adagrad(0.1)}, label
        ),
        optax.add_decayed_weights(1e-3, mask=matrices),
    )


def by_name(params: Any) -> Any:
    """Labels for `nest`: the last bias apart."""
    return {name: "b" if name == "b2" else "a" for name in params}


def both(params: Any) -> optax.LookaheadParams:
    """What `optax.lookahead` is initialised with."""
    return optax.LookaheadParams(params, params)


def later(step: Any, **extra: Any) -> Any:
    """When `optax.conditionally_mask` begins."""
    return step > 1


_rate = 0.1
_injected = optax.inject_hyperparams(optax.adamw)
_schedule = optax.exponential_decay(0.1, 10, 0.5)

CASES = {
    "adabelief": Case(lambda: optax.adabelief(_rate)),
    "adadelta": Case(lambda: optax.adadelta(_rate)),
    "adafactor": Case(lambda: optax.adafactor(_rate, min_dim_size_to_factor=3)),
    "adafactor_momentum": Case(lambda: optax.adafactor(_rate, momentum=0.9)),
    "adafactor_unfactored": Case(lambda: optax.adafactor(_rate)),
    "adagrad": Case(lambda: optax.adagrad(_rate)),
    "adam": Case(lambda: optax.adam(_rate)),
    "adamax": Case(lambda: optax.adamax(_rate)),
    "adamaxw": Case(lambda: optax.adamaxw(_rate)),
    "adamw": Case(lambda: optax.adamw(_rate)),
    "adan": Case(lambda: optax.adan(_rate)),
    "amsgrad": Case(lambda: optax.amsgrad(_rate)),
    "apply_every": Case(lambda: optax.chain(optax.apply_every(2), optax.sgd(_rate))),
    "apply_if_finite": Case(lambda: optax.apply_if_finite(optax.adam(_rate), 2)),
    "chain": Case(
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(_schedule))
    ),
    "conditionally_mask": Case(
        lambda: optax.conditionally_mask(optax.adam(_rate), later)
    ),
    "ema": Case(lambda: optax.chain(optax.ema(0.9), optax.scale(-_rate))),
    "fromage": Case(lambda: optax.fromage(_rate)),
    "inject_hyperparams": Case(lambda: _injected(learning_rate=_schedule)),
    "lamb": Case(lambda: optax.lamb(_rate)),
    "lars": Case(lambda: optax.lars(_rate, momentum=0.9)),
    "lbfgs": Case(lambda: optax.lbfgs(_rate, memory_size=6), _line_search),
    "lion": Case(lambda: optax.lion(_rate)),
    "lookahead": Case(
        lambda: optax.lookahead(optax.sgd(_rate, momentum=0.9), 5, 0.5), wrap=both
    ),
    "masked": Case(
        lambda: optax.masked(
            optax.adam(_rate), lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
        )
    ),
    "multi_steps": Case(lambda: optax.MultiSteps(optax.adam(_rate), 2)),
    "nadam": Case(lambda: optax.nadam(_rate)),
    "nadamw": Case(lambda: optax.nadamw(_rate)),
    "nest": Case(lambda: nest(by_name)),
    "noisy_sgd": Case(lambda: optax.noisy_sgd(_rate, key=jr.key(0))),
    "novograd": Case(lambda: optax.novograd(_rate)),
    "optimistic_adam": Case(lambda: optax.optimistic_adam_v2(_rate)),
    "optimistic_gradient_descent": Case(
        lambda: optax.optimistic_gradient_descent(_rate)
    ),
    "partition": Case(
        lambda: optax.partition(
            {"a": optax.adam(_rate), "b": optax.sgd(_rate, momentum=0.9)}, by_name
        )
    ),
    "polyak_sgd": Case(optax.polyak_sgd, _value),
    "radam": Case(lambda: optax.radam(_rate)),
    "rmsprop": Case(lambda: optax.rmsprop(_rate)),
    "rmsprop_centered": Case(lambda: optax.rmsprop(_rate, centered=True)),
    "rmsprop_momentum": Case(lambda: optax.rmsprop(_rate, momentum=0.9)),
    "rprop": Case(lambda: optax.rprop(_rate)),
    "sgd": Case(lambda: optax.sgd(_rate)),
    "sgd_momentum": Case(lambda: optax.sgd(_rate, momentum=0.9)),
    "sign_sgd": Case(lambda: optax.sign_sgd(_rate)),
    "sm3": Case(lambda: optax.sm3(_rate)),
    "yogi": Case(lambda: optax.yogi(_rate)),
    "gn.debias_by_age": Case(
        lambda: optax.chain(optax.adam(_rate), gn.debias_by_age())
    ),
    "gn.scale_by_age": Case(
        lambda: optax.chain(
            optax.adam(_rate), gn.scale_by_age(optax.linear_schedule(0.0, 1.0, 5))
        )
    ),
    "gn.scale_by_stage_norm": Case(
        lambda: optax.chain(optax.adam(_rate), gn.scale_by_stage_norm())
    ),
    "zero_nans": Case(lambda: optax.chain(optax.zero_nans(), optax.adam(_rate))),
    "contrib.acprop": Case(lambda: contrib.acprop(_rate)),
    "contrib.ademamix": Case(lambda: contrib.ademamix(_rate)),
    "contrib.adopt": Case(lambda: contrib.adopt(_rate)),
    "contrib.cocob": Case(contrib.cocob),
    "contrib.dadapt_adamw": Case(contrib.dadapt_adamw),
    "contrib.dog": Case(contrib.dog),
    "contrib.dowg": Case(contrib.dowg),
    "contrib.galore": Case(lambda: contrib.galore(_rate, rank=2)),
    "contrib.madgrad": Case(lambda: contrib.madgrad(_rate)),
    "contrib.mechanic": Case(lambda: contrib.mechanize(optax.adam(_rate))),
    "contrib.momo": Case(contrib.momo, _value),
    "contrib.momo_adam": Case(contrib.momo_adam, _value),
    "contrib.muon": Case(lambda: contrib.muon(_rate)),
    "contrib.prodigy": Case(contrib.prodigy),
    "contrib.sam": Case(
        lambda: contrib.sam(optax.adam(_rate), optax.sgd(_rate), opaque_mode=False)
    ),
    "contrib.schedule_free": Case(lambda: contrib.schedule_free_adamw(_rate)),
    "contrib.schedule_free_sgd": Case(lambda: contrib.schedule_free_sgd(_rate)),
    "contrib.sophia": Case(lambda: contrib.sophia(_rate), _hessian),
}

FAST = frozenset(
    "adafactor adagrad adam adamax lbfgs nest rmsprop_momentum rprop sm3 yogi "
    "gn.debias_by_age gn.scale_by_stage_norm contrib.prodigy "
    "contrib.schedule_free".split()
)
"""One of each sort; the others are run by the slow suite too."""
