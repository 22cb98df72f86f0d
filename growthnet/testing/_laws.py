"""Laws about what a network computes: preservation, shrink as silence, symmetry."""

import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._edits.inits import Clone, kind_of
from .._reading.anatomy import Anatomy
from ._measure import (
    batched,
    broken,
    call_of,
    differing_leaf,
    Reference,
    resized_case,
    told,
)
from ._networks import Case
from ._ops import OPS, Ops, read
from ._resizes import Resize


def small_noise(key: Any, shape: Any, dtype: Any) -> Any:
    """An init function of a user's; draws in numpy, to save compilations."""
    rng = np.random.default_rng(np.asarray(jr.key_data(key)))
    return rng.uniform(-0.3, 0.3, shape).astype(dtype)


INITS: dict[str, Any] = {
    "zero_out": "zero_out",
    "clone": "clone",
    "clone with noise": Clone(split="equal", noise=0.1),
    "closed": "closed",
    "drawn": "drawn",
    "a function": small_noise,
}
"""What newborns can be made by."""


def preservation(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 1. What is called exact leaves the outputs as they were, to rounding; what
    isn't called exact is refused.

    Looks at the widths that `resize` grows, under every init.
    """
    anatomy = read(case, ops)
    grown = resize.grown(anatomy)
    if not grown:
        return
    reference = Reference(case, anatomy, resize.seed)
    for name, init in INITS.items():
        exact = {}
        for width, size in grown.items():
            recipe = anatomy.widths[width].recipe(_kind(init))
            if anatomy.widths[width].exactness(_kind(init))[0] == "exact":
                exact[width] = size
                if recipe.whole and size % anatomy.widths[width].size:
                    _must_refuse(case, anatomy, {width: size}, name, init, ops)
                    exact[width] = 2 * anatomy.widths[width].size
            else:
                _must_refuse(case, anatomy, {width: size}, name, init, ops)
        if not exact:
            continue
        edit = ops.plan(anatomy, exact, init=init)
        if edit.exactness != "exact":
            what = f"{told(anatomy, exact)} by {name} is planned as {edit.exactness}"
            raise broken("preservation", case, what)
        net = ops.apply(edit, case.net, key=jr.key(resize.seed))
        what = f"{told(anatomy, exact)} by {name}"
        reference.compare("preservation", net, edit.after, what)


def _kind(init: Any) -> str:
    """As `Width.exactness` wants it: a function's newborns have a zero cover too."""
    return init if isinstance(init, str) else kind_of(init)


def _must_refuse(
    case: Case,
    anatomy: Anatomy,
    sizes: dict[str, int],
    name: str,
    init: Any,
    ops: Ops,
) -> None:
    try:
        ops.plan(anatomy, sizes, init=init)
    except ValueError:
        return
    what = f"{told(anatomy, sizes)} by {name} isn't exact, and isn't refused"
    raise broken("preservation", case, what)


def shrink_is_silence(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 3. Removing units, closing them and gating them to 0 is one and the same, to
    rounding; compacting a network with closed units removes them.

    Looks at the widths that `resize` shrinks and that can be gated.
    """
    anatomy = read(case, ops)
    shrunk = {
        name: size
        for name, size in resize.shrunk(anatomy).items()
        if anatomy.widths[name].gateable != "no"
    }
    if not shrunk:
        return
    keep = {name: np.sort(resize.survivors(anatomy, name)) for name in shrunk}
    edit = ops.plan(anatomy, shrunk, keep=keep)
    removed = ops.apply(edit, case.net)
    what = f"{told(anatomy, shrunk)}, keeping " + ", ".join(
        f"{k.tolist()} of {name}" for name, k in keep.items()
    )
    smaller = resized_case(case, removed, edit.after)
    reference = Reference(smaller, edit.after, resize.seed)
    masks = {
        name: jnp.asarray(np.isin(np.arange(anatomy.widths[name].size), k))
        for name, k in keep.items()
    }
    old = {name: anatomy.widths[name].size for name in shrunk}
    reserved = ops.reserve(case.net, anatomy, old)
    closed, *values = _silenced(ops.close_units, ops.gate, call_of(case))(
        reserved, case.net, anatomy, masks, reference.batch
    )
    for how, value in zip(("closing", "gating"), values, strict=True):
        text = f"{what}: removing isn't {how} them"
        reference.compare_values("shrink_is_silence", value, anatomy, text)
    difference = differing_leaf(removed, ops.compact(closed))
    if difference:
        text = f"{what}: compacting what was closed isn't removing it: {difference}"
        raise broken("shrink_is_silence", case, text)


@ft.lru_cache(maxsize=64)
def _silenced(
    close_units: Callable[..., Any], gate: Callable[..., Any], call: Callable[..., Any]
) -> Callable[..., Any]:
    @eqx.filter_jit
    def silenced(
        reserved: Any, net: Any, anatomy: Any, masks: Any, batch: Any
    ) -> tuple[Any, Any, Any]:
        closed = close_units(reserved, masks)
        gates = {
            name: mask
            if anatomy.widths[name].gateable == "binary"
            else mask.astype(jnp.float32)
            for name, mask in masks.items()
        }
        gated = gate(net, anatomy, gates)
        return closed, batched(call, closed.net, batch), batched(call, gated, batch)

    return silenced


def symmetry(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 5. The order of a width's units means nothing: permuting them in all members
    changes no output beyond the order of summation, and no shape.

    Looks at all widths that can grow; `resize` gives the seed of the permutations.
    """
    anatomy = read(case, ops)
    rng = np.random.default_rng([resize.seed, 3])
    sizes = {
        w.name: w.size
        for w in anatomy.all_widths
        if w.growable and w.size > 1 and not w.ordered
    }
    if not sizes:
        return
    keep = {name: _permutation(rng, size) for name, size in sizes.items()}
    edit = ops.plan(anatomy, sizes, keep=keep)
    what = "permuting " + ", ".join(f"{n} to {k.tolist()}" for n, k in keep.items())
    if edit.after != anatomy:
        raise broken("symmetry", case, f"{what} changes the anatomy")
    net = ops.apply(edit, case.net)
    reference = Reference(case, anatomy, resize.seed)
    reference.compare("symmetry", net, anatomy, what)


def _permutation(rng: np.random.Generator, size: int) -> np.ndarray:
    """Never the identity."""
    order = rng.permutation(size)
    return np.roll(order, 1) if (order == np.arange(size)).all() else order
