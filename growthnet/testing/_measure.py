"""What laws compare, how far it may differ, and what they say when it does."""

import functools as ft
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._paths import array_leaves, fresh, is_array
from .._reading.anatomy import Anatomy
from .._reading.asked import default_call
from .._reading.aux import returned
from .._reading.layout import Atom, Place, spread
from .._reading.widths import Member
from .._replay.replayed import Replayed
from ._networks import Case, draw_inputs, is_inexact


def tolerance(dtype: Any, *, terms: int, magnitude: float, noise: float = 0.0) -> float:
    """How far two results may differ if nothing but rounding tells them apart.

    A sum of `n` terms, each rounded, is off by at most about `n * eps` of the sum of
    their sizes. How large that is behind several layers, where large terms may cancel,
    is measured: `noise` is what a change of every parameter in its last bit does to the
    outputs. Hence

        tolerance = 4 * terms * (eps * magnitude + noise)

    In float64 that is far below anything that matters, and the promise is 1e-10 of
    `magnitude` (more only if the noise says so).

    **Arguments:**

    - `dtype`: the one that the results were computed in.
    - `terms`: summands on the way from input to output; an upper bound.
    - `magnitude`: the largest absolute result.
    - `noise`: the largest change of a result under a last-bit change of parameters.
    """
    rounding = 4 * max(terms, 1) * (float(jnp.finfo(dtype).eps) * magnitude + noise)
    if jnp.dtype(dtype) == jnp.float64:
        return max(1e-10 * magnitude, 4 * terms * noise)
    return rounding


def summands(anatomy: Anatomy) -> int:
    """The sizes of all sums over products with weights, added up."""
    return sum(
        int(np.prod([leaf.shape[axis] for axis in leaf.fan_in], dtype=np.int64))
        for leaf in anatomy.leaves
        if leaf.fan_in
    )


# --- outputs


def call_of(case: Case) -> Callable[..., Any]:
    """The case's `call`, or how its network is called by default."""
    return case.call or default_call(case.net)


def resized_case(case: Case, net: Any, after: Anatomy) -> Case:
    """The case with its network at other sizes; a traced program goes to them too."""
    call = case.call
    if isinstance(call, Replayed):
        call = _program(call, after)
    return Case(case.name, net, case.args, call)


@ft.lru_cache(maxsize=64)
def _program(call: Replayed, after: Anatomy) -> Replayed:
    # One program per anatomy, so that what is compiled for it is found again.
    return call.at(after)


def outputs(case: Case, net: Any, batch: tuple[Any, ...]) -> list[np.ndarray]:
    """The floating point outputs on a batch of inputs, as float64."""
    return [np.asarray(x, np.float64) for x in _forward(call_of(case))(net, batch)]


@ft.lru_cache(maxsize=64)
def _forward(call: Callable[..., Any]) -> Callable[..., Any]:
    # One compiled function per call, so that networks of one structure share it.
    return eqx.filter_jit(ft.partial(batched, call))


def batched(call: Callable[..., Any], net: Any, batch: tuple[Any, ...]) -> list[Any]:
    """The floating point outputs along the leading axis of the inputs. New values of
    the network's own leaves, which may come back too, aren't outputs."""
    arrays, rest = eqx.partition(batch, is_array)

    def one(arrays: Any) -> list[Any]:
        result = returned(net, call(fresh(net), *eqx.combine(arrays, rest)))
        return [leaf for names, leaf in result if not names and is_inexact(leaf)]

    if not jtu.tree_leaves(arrays):
        return one(arrays)
    return jax.vmap(one)(arrays)


class Reference:
    """The outputs that must stay, and how far they may stray."""

    def __init__(self, case: Case, anatomy: Anatomy, seed: int):
        self.case = case
        self.batch = draw_inputs(case, seed)
        self.values = outputs(case, case.net, self.batch)
        self.terms = summands(anatomy)
        self.magnitude = max((_largest(v) for v in self.values), default=0.0)
        shaken = outputs(case, _shaken(case.net, seed), self.batch)
        self.noise = deviation(self.values, shaken)

    def allowed(self, after: Anatomy) -> float:
        """The tolerance for a network of the anatomy `after`."""
        return tolerance(
            self.case.dtype,
            terms=max(self.terms, summands(after)),
            magnitude=self.magnitude,
            noise=self.noise,
        )

    def compare(self, law: str, net: Any, after: Anatomy, what: str) -> None:
        """Raises if a network's outputs aren't these."""
        resized = resized_case(self.case, net, after)
        self.compare_values(law, outputs(resized, net, self.batch), after, what)

    def compare_values(
        self, law: str, values: Sequence[Any], after: Anatomy, what: str
    ) -> None:
        """Raises if these outputs aren't the reference's."""
        values = [np.asarray(v, np.float64) for v in values]
        off, allowed = deviation(self.values, values), self.allowed(after)
        if not off <= allowed:
            raise broken(
                law,
                self.case,
                f"{what}: outputs differ by {off:.3g}, allowed are {allowed:.3g} "
                f"({self.case.dtype})",
            )


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def deviation(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """The largest absolute difference; infinite where shapes or NaNs differ."""
    if [x.shape for x in a] != [x.shape for x in b]:
        return float("inf")
    largest = 0.0
    for x, y in zip(a, b, strict=True):
        both = np.isnan(x) & np.isnan(y)
        with np.errstate(invalid="ignore"):
            off = np.where(both | (x == y), 0.0, np.abs(x - y))
        largest = max(largest, float(np.max(np.nan_to_num(off, nan=np.inf), initial=0)))
    return largest


def _shaken(net: Any, seed: int) -> Any:
    """Every parameter changed in its last bit, or not."""
    rng = np.random.default_rng([seed, 2])

    def shake(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        sign = rng.integers(-1, 2, leaf.shape)
        factor = 1 + sign * float(jnp.finfo(leaf.dtype).eps)
        wide = np.asarray(leaf).astype(np.float64)
        return jnp.asarray((wide * factor).astype(leaf.dtype))

    return jtu.tree_map(shake, net)


# --- entries and leaves


def unit_labels(anatomy: Anatomy, member: Member) -> np.ndarray:
    """Per index of a member's axis, the unit that it belongs to; -1 for none."""

    def label(place: Place, atom: Atom) -> np.ndarray:
        here = place == member.place
        return np.arange(atom.size) if here else np.full(atom.size, -1)

    layout = anatomy.leaves[member.leaf].layouts[member.axis]
    return spread(layout, label, times=np.maximum)


def entries_of(
    anatomy: Anatomy, member: Member, units: Iterable[int], array: np.ndarray
) -> np.ndarray:
    """The entries of a leaf that belong to some units of a member."""
    wanted = np.isin(unit_labels(anatomy, member), list(units))
    return np.compress(wanted, array, axis=member.axis)


def differing_leaf(a: Any, b: Any) -> str:
    """What tells two trees of arrays apart bit for bit; empty if nothing does."""
    if jtu.tree_structure(a) != jtu.tree_structure(b):
        return f"structures differ: {jtu.tree_structure(a)}, {jtu.tree_structure(b)}"
    others = array_leaves(b)
    for path, x in array_leaves(a).items():
        y = others[path]
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{path} is {y.dtype}{y.shape}, not {x.dtype}{x.shape}"
        x, y = _bits(x), _bits(y)
        if x.tobytes() != y.tobytes():
            return f"{path} differs in {int(np.sum(x != y))} of {x.size} entries"
    return ""


def _bits(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jr.key_data(leaf)
    return np.asarray(leaf)


# --- words


def broken(law: str, case: Any, what: str) -> AssertionError:
    """The error of a law that doesn't hold."""
    return AssertionError(f"the law {law!r} doesn't hold for {case}: {what}")


def told(anatomy: Anatomy, sizes: Mapping[str, int]) -> str:
    """`layers[0] 3 -> 4, layers[1] 3 -> 7`."""
    old = anatomy.sizes
    return ", ".join(f"{name} {old[name]} -> {new}" for name, new in sizes.items())


def clonable(anatomy: Anatomy, sizes: Mapping[str, int]) -> dict[str, int]:
    """The part of these changes that copies can make exactly: where every unit has to
    be copied equally often, that many."""
    changes = {}
    for name, new in sizes.items():
        width = anatomy.widths[name]
        if width.exactness("clone")[0] == "exact":
            grows = new > width.size and width.copied.whole
            changes[name] = 2 * width.size if grows else new
    return changes
