"""Do two networks compute the same? Asked with made-up numbers, in double precision.

A depth edit is called exact only after this: the network and its deeper self are run
with random parameters and inputs of several sizes, and must agree to rounding. What
holds for generic parameters holds for the user's.
"""

import dataclasses
import functools as ft
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.extend import core

from .._optimizer.state_links import cached
from .._paths import array_leaves, is_array, named_leaves
from .._reading.aux import returned


_SCALES = (0.3, 1.0, 4.0)
"""Sizes of the inputs. Some activations are idempotent only near zero, or far away."""


@dataclasses.dataclass(frozen=True)
class _Program:
    """All calls with their structure: what may share a compilation."""

    calls: tuple[Callable[..., Any], ...]
    structure: Any
    leaves: tuple[Any, ...]
    wide: bool

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """What the calls compute; new values of the network's own leaves aside."""
        rest, outputs = iter(arrays), []
        filled = [next(rest) if is_array(x) else x for x in self.leaves]
        own, _ = jtu.tree_unflatten(self.structure, self.leaves)
        for i, call in enumerate(self.calls):
            # Built anew for each, since a call may consume the state in it.
            net, args = jtu.tree_unflatten(self.structure, filled)
            pairs = returned(own, call(net, *args[i]))
            outputs += [array for names, array in pairs if not names]
        return outputs


@cached
def _compiled(program: _Program) -> Callable[..., Any]:
    return jax.jit(lambda arrays: program(arrays))


def _program(source: Any, wide: bool) -> _Program:
    leaves, structure = jtu.tree_flatten((source.skeleton, _args(source)))
    calls = tuple(call for call, _ in source.calls)
    return _Program(calls, structure, tuple(leaves), wide)


def _args(source: Any) -> tuple[Any, ...]:
    return tuple(args for _, args in source.calls)


# --- what the program says without being run


@dataclasses.dataclass(frozen=True)
class Abstract:
    """The types of a network's outputs, and its leaves by path in the order in which
    they are first combined with anything else; leaves that are never used lack."""

    outputs: tuple[Any, ...]
    order: tuple[str, ...]


def read_abstractly(source: Any) -> Abstract:
    """Traces a call. Raises whatever the call raises."""
    program = _program(source, False)
    arrays = [x for x in program.leaves if is_array(x)]
    closed = jax.make_jaxpr(lambda arrays: program(arrays))(arrays)
    paths = list(array_leaves(source.skeleton))
    known = dict(zip(closed.jaxpr.invars, range(len(arrays)), strict=True))
    order: dict[int, None] = {}
    _follow(closed.jaxpr, known, order, set())
    names = tuple(paths[i] for i in order if i < len(paths))
    return Abstract(tuple((v.shape, str(v.dtype)) for v in closed.out_avals), names)


def _follow(
    jaxpr: Any, known: dict[Any, int], order: dict[int, None], mixed: set[int]
) -> list[int | None]:
    """Collects leaves as they meet others; returns which outputs are one leaf alone."""
    own = lambda x: None if isinstance(x, core.Literal) else known.get(x)
    for eqn in jaxpr.eqns:
        ins = [own(x) for x in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(eqn.invars):
            names = zip(inner.invars, ins, strict=True)
            inside = {var: i for var, i in names if i is not None}
            outs = _follow(inner, inside, order, mixed)
            if len(outs) == len(eqn.outvars):
                pairs = zip(eqn.outvars, outs, strict=True)
                known.update({var: i for var, i in pairs if i is not None})
            continue
        variables = [x for x in eqn.invars if not isinstance(x, core.Literal)]
        alone = {i for i in ins if i is not None}
        if len(alone) == 1 and len(alone) == len({own(x) for x in variables}):
            known.update(dict.fromkeys(eqn.outvars, next(iter(alone))))
        else:
            order.update(dict.fromkeys(i for i in ins if i is not None))
    return [own(x) for x in jaxpr.outvars]


# --- running it


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A network that is run several times, each time with other numbers.

    `nets(draw, wide)` gives it filled; `outputs` are what came out for the inputs
    `args`, or `None` where that isn't finite.
    """

    source: Any
    wide: bool
    nets: Callable[[int, bool], Any]
    args: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def dtype(self) -> str:
        return "float64" if self.wide else "the network's own precision"

    def same(self, source: Any, change: Callable[[Any], Any]) -> bool:
        """Do the changed networks, of another structure, give the same outputs to
        rounding?"""
        compared = 0
        for draw, (args, wanted) in enumerate(
            zip(self.args, self.outputs, strict=True)
        ):
            if wanted is None:
                continue
            net = change(self.nets(draw, self.wide))
            try:
                found = _outputs(source, net, args, self.wide)
            except Exception:
                return False
            if not _agree(wanted, found):
                return False
            compared += 1
        return compared > 0


@ft.lru_cache(maxsize=4)
def random_bench(source: Any, fan_in: tuple[tuple[str, int], ...]) -> Bench:
    """A network with random numbers. `fan_in` by leaf path keeps activations of the
    size that they have in practice."""
    skeleton, fans = source.skeleton, dict(fan_in)
    entries = sum(math.prod(x.shape) for x in array_leaves(skeleton).values())
    nets = lambda draw, wide: random_arrays(skeleton, fans, draw, wide)
    if entries <= 10**5:
        nets = ft.lru_cache(maxsize=None)(nets)
    # Of a large network a few runs say as much, since it has many outputs.
    return bench(source, nets, 4 if entries > 10**6 else 12)


def bench(source: Any, nets: Callable[[int, bool], Any], draws: int = 12) -> Bench:
    """A network to run; in double precision if it runs in that."""
    for wide in (True, False):
        args = tuple(_random_args(_args(source), draw, wide) for draw in range(draws))
        try:
            outs = [
                _outputs(source, nets(draw, wide), arg, wide)
                for draw, arg in enumerate(args)
            ]
        except Exception:
            if not wide:
                raise
            continue
        return Bench(source, wide, nets, args, tuple(map(_finite, outs)))
    raise AssertionError("one of the two precisions returns or raises")


def _finite(outputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
    real = (x for x in outputs if jnp.issubdtype(x.dtype, jnp.inexact))
    return (
        outputs
        if all(np.isfinite(x.astype(_wide(x.dtype))).all() for x in real)
        else None
    )


def _outputs(source: Any, net: Any, args: Any, wide: bool) -> tuple[np.ndarray, ...]:
    with jax.enable_x64(wide or bool(jax.config.read("jax_enable_x64"))):
        arrays = [x for x in jtu.tree_leaves((net, args)) if is_array(x)]
        run = _compiled(_program(source, wide))
        return tuple(map(_plain, run([_placed(x, wide) for x in arrays])))


def _plain(x: Any) -> np.ndarray:
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jr.key_data(x) if key else x)


def _placed(x: Any, wide: bool) -> Any:
    if jnp.issubdtype(x.dtype, jnp.inexact) and wide:
        return jnp.asarray(np.asarray(x).astype(_wide(x.dtype)))
    return jnp.asarray(x)


def _wide(dtype: Any) -> Any:
    return np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64


def _agree(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Are these equal, to rounding?"""
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return False
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            if (x != y).any():
                return False
            continue
        eps = 1e-10 if x.dtype.itemsize >= 8 else 100 * float(jnp.finfo(x.dtype).eps)
        x, y = (z.astype(_wide(z.dtype)) for z in (x, y))
        allowed = eps * float(np.max(np.abs(x), initial=0))
        if not float(np.max(np.abs(x - y), initial=0)) <= allowed:
            return False
    return True


def random_arrays(tree: Any, fan_in: Mapping[str, int], draw: int, wide: bool) -> Any:
    """The tree with random numbers: weights of the size that their fan-in asks for.
    Anything else is positive in even draws, so that variances and scales make sense."""
    rng = np.random.default_rng([draw, 5])
    filled = []
    for name, leaf in named_leaves(tree):
        if is_array(leaf):
            signed = draw % 2 == 1
            leaf = made_up(rng, leaf, fan_in.get(name), wide, signed=signed)
        filled.append(leaf)
    return jtu.tree_structure(tree).unflatten(filled)


def made_up(
    rng: Any, leaf: Any, fan_in: int | None, wide: bool, *, signed: bool = False
) -> Any:
    """Random numbers for one leaf."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return _counted(leaf)
    if fan_in:
        numbers = rng.standard_normal(leaf.shape) * 1.5 / math.sqrt(fan_in)
    else:
        numbers = rng.uniform(0.25, 1.5, leaf.shape)
        numbers = numbers * (rng.choice([-1, 1], leaf.shape) if signed else 1)
    return np.asarray(numbers).astype(_wide(leaf.dtype) if wide else leaf.dtype)


def _random_args(args: Any, draw: int, wide: bool) -> Any:
    rng = np.random.default_rng([draw, 6])

    def number(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return _counted(leaf)
        numbers = np.asarray(rng.standard_normal(leaf.shape)) * _SCALES[draw % 3]
        return numbers.astype(_wide(leaf.dtype) if wide else leaf.dtype)

    return jtu.tree_map(number, args)


def _counted(leaf: Any) -> Any:
    """0, 1, 0, 1...: nearly always sensible indices."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jr.key(0), leaf.shape)
    numbers = np.arange(math.prod(leaf.shape)).reshape(leaf.shape) % 2
    return (
        numbers.astype(leaf.dtype) if leaf.dtype != bool else np.ones(leaf.shape, bool)
    )
