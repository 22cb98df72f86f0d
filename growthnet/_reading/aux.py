"""What comes back from a call: outputs, and new values of the network's own leaves."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._paths import array_leaves, is_array, is_state, named_leaves, states


class Aux(eqx.Module):
    """What a loss may return beside its value: `(value, Aux(...))`.

    - `net`: the network with new values of leaves that aren't trained (running
        statistics), or a part of it: a tree in which the other leaves are `None`, or
        just an Equinox `State`. Trained leaves are ignored.
    - `metrics`: numbers for the history, or (small) arrays of them; their mean over a
        tick's steps is recorded.
    """

    net: Any = None
    metrics: dict[str, Any] = eqx.field(default_factory=dict)


def split_result(result: Any) -> tuple[Any, Aux]:
    """A loss function's result as `(value, Aux)`."""
    if not isinstance(result, tuple):
        if jnp.shape(result) != () or not jnp.issubdtype(result.dtype, jnp.inexact):
            raise ValueError(
                f"the loss returned an array of shape {jnp.shape(result)}; "
                "it returns one number"
            )
        return result, Aux()
    value, aux = result
    if not isinstance(aux, Aux):
        raise ValueError(
            f"the loss returned {type(aux).__name__} beside its value; return a "
            "scalar, or (scalar, growthnet.Aux(net=..., metrics=...))"
        )
    return value, aux


def returned(net: Any, result: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Every array of a call's result, with the names of the network's leaves that it is
    a new value of (none: it is an output).

    A `State` belongs to the one in the network that has its entries. Where several do,
    as many as the network has are taken in order; one alone belongs to all of them.

    **Raises:** `ValueError` if something is brought back that the network doesn't have.
    """
    parts = jtu.tree_leaves(result, is_leaf=lambda x: is_state(x) or _is_aux(x))
    homes = [_homes(net, part) if is_state(part) else [] for part in parts]
    known = array_leaves(net)
    found: list[tuple[tuple[str, ...], Any]] = []
    for i, part in enumerate(parts):
        if _is_aux(part):
            new = own_leaves(net, part.net)
            found += [((name,), array) for name, array in new.items()]
            found += [((), x) for x in jax.tree.leaves(part.metrics) if is_array(x)]
        elif is_state(part):
            alike = [j for j, other in enumerate(homes) if other == homes[i]]
            if len(alike) == len(homes[i]):
                owners = [homes[i][alike.index(i)]]
            else:
                owners = homes[i]
            for k, (_, array) in enumerate(named_leaves(part)):
                names = tuple(home[k] for home in owners)
                for name in names:
                    _check_shape(name, array, known[name])
                found.append((names, array))
        elif is_array(part):
            found.append(((), part))
    return found


def own_leaves(net: Any, part: Any) -> dict[str, Any]:
    """The arrays of a part of the network (`Aux.net`), by their names in the network.

    **Raises:** `ValueError` for a leaf that the network doesn't have, or has in
    another shape.
    """
    known = array_leaves(net)
    arrays = array_leaves(part)
    if is_state(part) and not is_state(net):
        homes = _homes(net, part)
        if len(homes) != 1:
            raise ValueError(
                f"a State came back that fits {len(homes)} states of the network; "
                "return a tree shaped like the network, with None where nothing is new"
            )
        arrays = dict(zip(homes[0], arrays.values(), strict=True))
    for name, array in arrays.items():
        if name not in known:
            raise ValueError(
                f"a leaf {name!r} came back that the network doesn't have; return a "
                "tree shaped like the network, with None where nothing is new"
            )
        _check_shape(name, array, known[name])
    return arrays


def _is_aux(tree: Any) -> bool:
    return isinstance(tree, Aux)


def _homes(net: Any, state: Any) -> list[list[str]]:
    """For each state of the network that has all of this state's entries, the names of
    their leaves."""
    (mine,) = states(state)
    return [
        [name for marker in mine for name, _ in home[marker]]
        for home in states(net)
        if mine.keys() <= home.keys()
    ]


def _check_shape(name: str, array: Any, old: Any) -> None:
    if jnp.shape(array) != jnp.shape(old):
        raise ValueError(
            f"{name!r} came back with shape {jnp.shape(array)}; the network has "
            f"{jnp.shape(old)} (under vmap, the state has out_axes=None)"
        )
