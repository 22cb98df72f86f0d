"""Some entries of an optimizer state back to what `init` gives, inside a program."""

import functools as ft
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .init_values import read_init
from .state_links import checked_leaves, Link


def reset_entries(
    optimizer: Any,
    opt_state: Any,
    params: Any,
    masks: Mapping[int, Any],
    copies: Mapping[int, Any] | None = None,
) -> Any:
    """Puts some entries of an optimizer state back to what `init` gives.

    Pure and made of `jax.numpy`, for use inside `jit`.

    **Arguments:**

    - `optimizer`, `opt_state`: the optimizer and its state.
    - `params`: the parameters, after whatever was written to them: copies of parameters
        in the state take their values from here.
    - `masks`: by parameter index, where: a boolean array that broadcasts against the
        parameter.
    - `copies`: the same, for entries of which only copies in the state are to follow.

    **Returns:** the state. A factored leaf is reset where everything that it sums over
    is marked; a leaf of unknown layout, as a whole if anything at all is marked.

    **Raises:** `ValueError` if the state isn't one of `optimizer` for `params`.
    """
    init = read_init(optimizer, params)
    leaves = checked_leaves(init.program, init.shapes, opt_state)
    fresh = jax.tree.leaves(optimizer.init(params))
    spread = lambda i, mask: jnp.broadcast_to(mask, init.params.shapes[i])
    full = {i: spread(i, mask) for i, mask in masks.items()}
    copied = dict(full)
    for i, mask in (copies or {}).items():
        copied[i] = spread(i, mask) | full.get(i, False)
    new = []
    for link, old, value in zip(init.links, leaves, fresh, strict=True):
        mask = _leaf_mask(link, copied if link.kind == "copy" else full)
        if mask is not None:
            mask = jnp.broadcast_to(mask, jnp.shape(old))
            old = jnp.where(mask, value.astype(jnp.result_type(old)), old)
        new.append(old)
    return jax.tree.unflatten(jax.tree.structure(opt_state), new)


def _leaf_mask(link: Link, full: Mapping[int, Any]) -> Any:
    """Which entries of a leaf are marked, or `None` if none can be."""
    if link.axes is None:
        marked = [full[i] for i in full if link.param in (None, i)]
        return ft.reduce(jnp.logical_or, map(jnp.any, marked)) if marked else None
    if link.param is None or link.param not in full:
        return None
    mask, axes = full[link.param], link.axes
    own = [axis for axis in axes if axis is not None]
    if len(set(own)) == len(own):
        return _along(mask, axes)
    # Two axes run along the same one, as in a Kronecker factor.
    alone = lambda i: tuple(a if j == i else None for j, a in enumerate(axes))
    parts = [_along(mask, alone(i)) for i, a in enumerate(axes) if a is not None]
    return ft.reduce(jnp.logical_or, parts)


def _along(mask: Any, axes: tuple[int | None, ...]) -> Any:
    """The mask along some of its axes: true where everything behind is."""
    own = [axis for axis in axes if axis is not None]
    kept = jnp.all(mask, axis=tuple(set(range(mask.ndim)).difference(own)))
    kept = jnp.transpose(kept, [sorted(own).index(axis) for axis in own])
    return jnp.expand_dims(kept, [i for i, axis in enumerate(axes) if axis is None])
