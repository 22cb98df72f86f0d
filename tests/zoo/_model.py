"""What a model of the zoo is: ordinary code, and what a trace of it has to find."""

import dataclasses
import functools as ft
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from growthnet.testing import Case


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is expected of one width.

    - `exact`: the inits by which growing it is exact; `"clone x2"` stands for copies
        that are exact only if every unit gets equally many.
    - `rigid`: a part of the reason why it can't change; empty if it can.
    """

    size: int
    exact: frozenset[str] = frozenset()
    gateable: str = "no"
    rigid: str = ""


def free(size: int, *, exact: str = "zero_out, clone", gateable: str = "any") -> Wanted:
    """A width that can change."""
    return Wanted(size, frozenset(filter(None, exact.split(", "))), gateable)


def averaged(size: int, *, exact: str = "clone x2") -> Wanted:
    """A width that a mean is taken over."""
    return free(size, exact=exact, gateable="no")


def rigid(size: int, why: str) -> Wanted:
    """A width that can't change."""
    return Wanted(size, rigid=why)


@dataclasses.dataclass(frozen=True)
class Model:
    """One network of the zoo, at given sizes.

    - `make`: from a key to the network. Run abstractly: numbers are drawn afterwards.
    - `args`: the arguments of one call. A tuple is the shape of floats that are drawn;
        arrays are themselves.
    - `widths`: every width that a trace has to find, by name.
    - `call`: as `trace` takes it.
    - `positive`: parts of the paths of leaves that have to be positive (variances).
    - `differentiable`: can gradients be taken in reverse? Not through a `while_loop`.
    """

    make: Callable[[Any], Any]
    args: tuple[Any, ...]
    widths: Mapping[str, Wanted]
    call: Callable[..., Any] | None = None
    positive: tuple[str, ...] = ()
    differentiable: bool = True


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model at any sizes, and the sizes of its twin, in which many coincide."""

    model: Callable[..., Model]
    twin: Mapping[str, int]

    def at(self, *, twin: bool = False) -> Model:
        return self.model(**(self.twin if twin else {}))


MODELS: dict[str, Entry] = {}


def register(
    **twin: int,
) -> Callable[[Callable[..., Model]], Callable[..., Model]]:
    """Adds a model to the zoo; the arguments are the sizes of its twin."""

    def add(model: Callable[..., Model]) -> Callable[..., Model]:
        name = model.__name__
        assert name not in MODELS, name
        MODELS[name] = Entry(model, MappingProxyType(twin))
        return model

    return add


def case_of(name: str, *, dtype: str = "float32", twin: bool = False) -> Case:
    """The model with random numbers in it. What is made in half precision stays so."""
    model = MODELS[name].at(twin=twin)
    skeleton = eqx.filter_eval_shape(model.make, jr.key(0))
    rng = np.random.default_rng(0)
    drawn = ft.partial(_drawn, rng=rng, dtype=dtype)

    def fill(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros(leaf.shape, leaf.dtype)
        values = drawn(leaf.shape, leaf.dtype)
        named = any(part in jtu.keystr(path) for part in model.positive)
        return 0.5 + jnp.square(values) if named else values

    net = jtu.tree_map_with_path(fill, skeleton)
    args = tuple(
        drawn(arg, jnp.dtype(dtype)) if isinstance(arg, tuple) else jnp.asarray(arg)
        for arg in model.args
    )
    sizes = {n: w.size for n, w in model.widths.items() if not w.rigid}
    return Case(f"{name}, {dtype}", net, args, model.call, sizes)


def _drawn(shape: Any, like: Any, *, rng: np.random.Generator, dtype: str) -> Any:
    # Matrices are scaled so that deep models stay within what rounding allows.
    scale = 0.7 / max(1.0, np.prod(shape[1:], dtype=float)) ** 0.25
    wide = like in (jnp.dtype("float32"), jnp.dtype("float64"))
    values = scale * rng.standard_normal(shape)
    return jnp.asarray(values.astype(dtype if wide else like))
