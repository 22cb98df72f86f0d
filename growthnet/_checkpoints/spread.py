"""A restored run on the mesh that the network at hand is on."""

from typing import Any

import jax

from .._devices.placement import put_like, spread, to_host
from .._optimizer.optimizer import state_links
from .._optimizer.state_links import Link
from .._paths import array_leaves, map_arrays
from .._policies.grower import Grower
from .._policies.growing import GrowerState, Growing, replaced, settled


def spread_alike(
    growing: Growing, state: GrowerState, grower: Grower, net: Any
) -> tuple[Growing, GrowerState]:
    """The run with its network spread as another one, leaf by leaf, and what the
    optimizer keeps beside a parameter as that parameter."""
    likes = {path: x for path, x in array_leaves(net).items() if spread(x)}
    own = array_leaves(growing.net)
    new = {path: put_like(to_host(own[path]), like) for path, like in likes.items()}
    if not new:
        return growing, state
    growing = replaced(growing, net=map_arrays(growing.net, new))
    params = grower.trainable.of(growing.net)
    leaves, structure = jax.tree.flatten(state.opt_state)
    links = state_links(grower.optimizer, state.opt_state, params)
    flat = jax.tree.leaves(params)

    def beside(leaf: Any, link: Link) -> Any:
        if link.param is None or link.axes != tuple(range(leaf.ndim)):
            return leaf
        return put_like(to_host(leaf), flat[link.param])

    moved = [beside(*pair) for pair in zip(leaves, links, strict=True)]
    return settled(growing, replaced(state, opt_state=structure.unflatten(moved)))
