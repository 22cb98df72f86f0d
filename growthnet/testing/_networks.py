"""Networks to test on: a `Case` is one, `networks` draws them, `inputs_for` feeds
them."""

import dataclasses
import functools as ft
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._paths import is_array
from ._families import Blueprint, FAMILIES
from ._modules import Sizes


BATCH = 8
"""Inputs that a law looks at, at once."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A network, and everything that a law has to know about it.

    - `name`: also its repr; for drawn networks the call that makes this one again.
    - `net`, `args`, `call`: as `trace` takes them; the arguments are those of one call.
    - `widths`: the widths that can grow, with their sizes, as far as they are known.
    - `build`: from sizes by width name to a network as its constructor would build it,
        or `None` where no constructor can.
    """

    name: str
    net: Any
    args: tuple[Any, ...]
    call: Callable[..., Any] | None = None
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    build: Callable[[Mapping[str, int]], Any] | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def dtype(self) -> Any:
        """The widest dtype of the network's floating point leaves."""
        dtypes = [x.dtype for x in jtu.tree_leaves(self.net) if is_inexact(x)]
        if not dtypes:
            raise ValueError(f"{self.name} has no floating point leaf")
        return jnp.dtype(max(dtypes, key=lambda d: (d.itemsize, d.name)))


def is_inexact(leaf: Any) -> bool:
    """Is this an array, or the description of one, with floating point entries?"""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def make_case(
    kind: str, *, seed: int = 0, dtype: str = "float32", **options: Any
) -> Case:
    """One network of a family, with random numbers in it.

    **Arguments:**

    - `kind`: the name of a family, such as `"mlp"`.
    - `seed`: of the numbers.
    - `dtype`: of all floating point leaves and inputs.
    - `options`: of the family, such as `units=5`.

    **Returns:** a `Case` whose repr is this call.

    **Raises:** `ValueError` for an unknown kind, and for `"float64"` while JAX has it
    switched off.
    """
    if kind not in FAMILIES:
        raise ValueError(f"unknown kind {kind!r}; there are {', '.join(FAMILIES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "float64 is switched off; make the case inside `jax.enable_x64(True)`"
        )
    blueprint = FAMILIES[kind][0](**options)
    build = ft.partial(_built, blueprint, seed, dtype)
    rng = np.random.default_rng(seed)
    args = tuple(_floats(rng, shape, dtype) for shape in blueprint.inputs)
    return Case(
        _called(kind, {**options, "seed": seed, "dtype": dtype}),
        build(blueprint.widths),
        args,
        blueprint.call,
        MappingProxyType(dict(blueprint.widths)),
        build,
    )


def _called(kind: str, options: Mapping[str, Any]) -> str:
    """The call that makes a case, without what is so by default."""
    functions = (FAMILIES[kind][0], make_case)
    defaults = {
        name: parameter.default
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
    }
    given = {name: value for name, value in options.items() if value != defaults[name]}
    said = "".join(f", {name}={value!r}" for name, value in given.items())
    return f"make_case({kind!r}{said})"


def _built(
    blueprint: Blueprint, seed: int, dtype: str, sizes: Mapping[str, int]
) -> Any:
    """The network at these sizes, its numbers drawn anew."""
    skeleton = eqx.filter_eval_shape(blueprint.build, dict(sizes))
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        if is_inexact(leaf):
            return _floats(rng, leaf.shape, dtype)
        return jnp.asarray(rng.integers(0, 9, leaf.shape), leaf.dtype)

    return jtu.tree_map(fill, skeleton)


def _floats(rng: np.random.Generator, shape: Sizes, dtype: Any) -> Any:
    # Generic numbers in numpy: eager draws of JAX compile once per shape.
    return jnp.asarray((0.7 * rng.standard_normal(tuple(shape))).astype(dtype))


def networks(
    *,
    kinds: Sequence[str] | None = None,
    dtypes: Sequence[str] = ("float32",),
) -> st.SearchStrategy[Case]:
    """A strategy for dense networks: `Case`s of every family, sizes from short menus
    (a new shape costs a compilation), numbers free.

    **Arguments:**

    - `kinds`: the families; by default all.
    - `dtypes`: of floating point leaves and inputs. `"float64"` needs
        `jax.enable_x64(True)`.

    **Raises:** `ValueError` for an unknown kind.
    """
    kinds = tuple(FAMILIES) if kinds is None else tuple(kinds)
    for kind in kinds:
        if kind not in FAMILIES:
            raise ValueError(f"unknown kind {kind!r}; there are {', '.join(FAMILIES)}")
    return st.one_of([_of_kind(kind, tuple(dtypes)) for kind in kinds])


def _of_kind(kind: str, dtypes: Sequence[str]) -> st.SearchStrategy[Case]:
    menus = FAMILIES[kind][1]
    return st.builds(
        make_case,
        st.just(kind),
        seed=st.integers(0, 2**16),
        dtype=st.sampled_from(dtypes),
        **{name: st.sampled_from(menu) for name, menu in menus.items()},
    )


def inputs_for(case: Case) -> st.SearchStrategy[tuple[Any, ...]]:
    """A strategy for batches of arguments: `draw_inputs` with any seed."""
    return st.builds(draw_inputs, st.just(case), st.integers(0, 2**16))


def draw_inputs(case: Case, seed: int) -> tuple[Any, ...]:
    """`BATCH` times the arguments of a call, along a new leading axis.

    Floating point arguments are drawn anew; others are repeated, since nothing is known
    of which integers make sense.
    """
    rng = np.random.default_rng([seed, 1])

    def batch(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        if is_inexact(leaf):
            draw = rng.standard_normal((BATCH, *leaf.shape))
            return jnp.asarray(draw.astype(leaf.dtype))
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"an argument is described as {leaf}, but which integers make sense is "
                "unknown; give an array"
            )
        return jnp.broadcast_to(leaf, (BATCH, *leaf.shape))

    return jtu.tree_map(batch, case.args)
