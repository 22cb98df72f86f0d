"""Populations: many growing networks, of different sizes, as one program."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._evidence.look import Look
from .._paths import array_leaves
from .._policies.grower import Grower
from .._policies.growing import GrowerState, Growing, stacked
from .._policies.policy import AbstractPolicy
from .._reading.anatomy import Anatomy
from .fit import check_arguments, read
from .grow import arrays_of, grower_of, Grown, run_whole
from .run import Run
from .tick import Ticker


def fit_population(
    nets: Any,
    loss: Callable[..., Any],
    data: Any,
    *,
    optimizer: optax.GradientTransformation | Callable[[Any], Any],
    policy: AbstractPolicy | Callable[[Any], AbstractPolicy],
    steps: int,
    keys: Any,
    capacity: int | dict[str, int],
    overflow: Literal["stop", "hold"] = "stop",
    hyper: Any = None,
    valid: Any = None,
    predict: Callable[[Any, Any], Any] | None = None,
    trainable: Any = None,
    widths: str | Iterable[str] = "*",
    batch_size: int | None = None,
) -> list[Run]:
    """Trains many growing networks at once, in one call of one program.

    Each member grows by its own decisions inside the common capacity. For populations
    over data, or as a part of a larger program, put `jax.vmap` around `grow`.

    **Arguments:** those of `fit`, and

    - `nets`: a network for every key: a list, or one network for all. They are of one
        architecture, but may start at different sizes.
    - `keys`: the members' PRNG keys, such as `jax.random.split(key, 100)`.
    - `capacity`: most units that a width can have, for all widths or by width name or
        pattern.
    - `overflow`: a member whose decision doesn't fit stops there, alone, and is
        reported (`"stop"`), or does what fits of it (`"hold"`).
    - `hyper`: arrays with a first axis of members. Where it is given, `policy` and
        `optimizer` may be functions of one member's part of it.

    **Returns:** a `Run` for every member: an ordinary network of its own size, its
    history, and whether it `overflowed`. Times aren't known inside the program.

    **Raises:** `ValueError` for impossible arguments, and for networks that aren't of
    one architecture.

    !!! example

        ```python
        nets = [eqx.nn.MLP(4, 1, size, 1, key=key) for size in (2, 8, 32)]
        runs = gn.fit_population(
            nets, loss, (x, y), keys=jax.random.split(key, 3), steps=2_000,
            hyper={"rate": jnp.array([1e-3, 3e-3, 1e-2])},
            optimizer=lambda h: optax.adam(h["rate"]), policy=policy, capacity=64,
        )
        ```
    """
    members = _members(nets, keys)
    check_arguments(keys, steps=steps)
    stream = arrays_of(data, batch_size)
    _check_hyper(hyper, len(members))
    groups = _groups(members)
    anatomies = [
        read(members[g[0]], stream.example, loss, predict, keys[0]) for g in groups
    ]

    def grower(h: Any) -> Grower:
        own = policy if isinstance(policy, AbstractPolicy) else policy(h)
        opt: Any = optimizer(h) if callable(optimizer) else optimizer
        look = Look.at(loss, stream, valid)
        return grower_of(own, opt, capacity, widths, trainable, valid, look)

    def whole(stacks: list[Any], keys: Any, hyper: Any, valid: Any) -> Grown:
        begun = []
        for group, anatomy, stack in zip(groups, anatomies, stacks, strict=True):

            def begin(net: Any, key: Any, h: Any, anatomy: Anatomy = anatomy) -> Any:
                return grower(h).init(net, anatomy, key=key)

            at = np.asarray(group)
            own = jax.tree.map(lambda leaf, at=at: leaf[at], (keys, hyper))
            begun.append(eqx.filter_vmap(begin)(stack, *own))

        def go_on(growing: Growing, state: GrowerState, h: Any) -> Grown:
            ticker = Ticker(grower(h), loss, predict)
            return run_whole(ticker, growing, state, stream, valid, steps, overflow)

        return eqx.filter_vmap(go_on)(*_together(begun, groups), hyper)

    stacks = [_alike([members[i] for i in group]) for group in groups]
    runs = eqx.filter_jit(whole)(stacks, keys, hyper, valid).runs()
    _report(runs, capacity)
    return runs


def _members(nets: Any, keys: Any) -> list[Any]:
    if not isinstance(keys, jax.Array) or jnp.ndim(keys) == 0 or not len(keys):
        raise ValueError(
            f"keys={keys!r}; one PRNG key per member, such as "
            "jax.random.split(jax.random.key(0), 100)"
        )
    if not isinstance(nets, list):
        return [nets] * len(keys)
    if len(nets) != len(keys):
        raise ValueError(
            f"there are {len(nets)} networks and {len(keys)} keys; give one of each "
            "per member, or a single network for all"
        )
    return nets


def _check_hyper(hyper: Any, count: int) -> None:
    for name, leaf in array_leaves(jax.tree.map(jnp.asarray, hyper)).items():
        if jnp.ndim(leaf) == 0 or len(leaf) != count:
            raise ValueError(
                f"hyper {name!r} has shape {jnp.shape(leaf)}; its first axis is the "
                f"{count} members"
            )


def _groups(members: Sequence[Any]) -> list[list[int]]:
    """Members of one size start together."""
    found: dict[Any, list[int]] = {}
    for i, net in enumerate(members):
        shapes = {path: array.shape for path, array in array_leaves(net).items()}
        found.setdefault(tuple(shapes.items()), []).append(i)
    return list(found.values())


def _alike(nets: Sequence[Any]) -> Any:
    """The networks as one, with a new first axis."""
    first = nets[0]
    for net in nets:
        if jax.tree.structure(net) != jax.tree.structure(first):
            raise ValueError(
                "networks of one size differ in what isn't an array (their static "
                "fields); a population is of one architecture"
            )
    return eqx.combine(*stacked(nets))


def _together(begun: Sequence[Any], groups: Sequence[Sequence[int]]) -> Any:
    """All members, in their order, now that they have one capacity."""
    first = eqx.filter(begun[0], eqx.is_array, inverse=True)
    arrays = [eqx.filter(started, eqx.is_array) for started in begun]
    for group, other in zip(groups, arrays, strict=True):
        if jax.tree.structure(other) != jax.tree.structure(arrays[0]):
            raise ValueError(
                f"members {groups[0][0]} and {group[0]} don't become the same network "
                "at the common capacity; a population is of one architecture"
            )
    order = np.argsort(np.concatenate(groups))
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *arrays)
    return eqx.combine(joined, first)


def _report(runs: Sequence[Run], capacity: Any) -> None:
    over = [i for i, run in enumerate(runs) if run.overflowed]
    if over:
        some = ", ".join(map(str, over[:5])) + (", ..." if len(over) > 5 else "")
        warnings.warn(
            f"{len(over)} of {len(runs)} members needed more units than the capacity "
            f"({capacity}) and stopped early: {some}",
            stacklevel=3,
        )
