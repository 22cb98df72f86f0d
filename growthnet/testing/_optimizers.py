"""Optimizers to test with: an `Optimizer` is one, `optimizers` draws them."""

import dataclasses
import functools as ft
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import jax.tree_util as jtu
import optax

from .._optimizer.newborns import debias_by_age, scale_by_stage_norm


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Optimizer:
    """An optimizer whose state is understood.

    - `name`: also its repr.
    - `transform`: the `optax.GradientTransformation`.
    - `powers`: by field name of its state, the power with which the field goes with the
        gradients: 1 for first moments, 2 for second moments, 0 for ages.
    """

    name: str
    transform: Any
    powers: Mapping[str, int]

    def __repr__(self) -> str:
        return f"make_optimizer({self.name!r})"


def _matrices(params: Any) -> Any:
    return jtu.tree_map(lambda x: x.ndim > 1, params)


def _by_rank(params: Any) -> Any:
    return jtu.tree_map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


_ADAM = {"mu": 1, "nu": 2}
_MENU: Mapping[str, tuple[Callable[[], Any], Mapping[str, int]]] = MappingProxyType(
    {
        "momentum": (lambda: optax.sgd(0.1, momentum=0.9), {"trace": 1}),
        "adam": (lambda: optax.adam(1e-2), _ADAM),
        "adam_by_age": (
            lambda: optax.chain(
                optax.adam(1e-2), debias_by_age(), scale_by_stage_norm()
            ),
            {**_ADAM, "ages": 0, "stages": 0},
        ),
        "adamw": (
            lambda: optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1)
            ),
            _ADAM,
        ),
        "adagrad": (
            lambda: optax.adagrad(0.1, initial_accumulator_value=0.3),
            {"sum_of_squares": 2},
        ),
        "masked": (
            lambda: optax.chain(
                optax.masked(optax.trace(0.9), _matrices), optax.scale_by_adam()
            ),
            {"trace": 1, **_ADAM},
        ),
        "partition": (
            lambda: optax.partition(
                {
                    "matrix": optax.adam(1e-2),
                    "vector": optax.chain(
                        optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)
                    ),
                },
                _by_rank,
            ),
            {"trace": 1, **_ADAM},
        ),
    }
)


@ft.cache
def make_optimizer(name: str) -> Optimizer:
    """The optimizer of this name; always the same object, so that what was compiled for
    it is found again.

    **Raises:** `ValueError` for an unknown name.
    """
    if name not in _MENU:
        raise ValueError(f"unknown optimizer {name!r}; there are {', '.join(_MENU)}")
    make, powers = _MENU[name]
    return Optimizer(name, make(), powers)


def optimizers() -> st.SearchStrategy[Optimizer]:
    """A strategy for optimizers: moments, accumulators that don't start at zero,
    chains, and nests of masks and partitions."""
    return st.sampled_from(sorted(_MENU)).map(make_optimizer)
