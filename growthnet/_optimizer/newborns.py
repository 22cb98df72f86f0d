"""Optax transformations that know how old the entries of a network are.

They need nobody to tell them of growth. A state follows every edit and opening, and its
newborn entries hold what `init` gives: so a number that `init` sets to 0 and `update`
counts up is an age, by the rules that hold for every state.

Units are born, and units are indices of axes. So ages are kept per index of each axis,
which is next to nothing beside the moments, and an entry is as old as the youngest of
its indices.
"""

import string
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from .._capacity.gates import along


Indices: TypeAlias = Any
"""Shaped like the parameters, with a tuple of `int32[size]`, one per axis, for each."""


class AgeState(NamedTuple):
    """How many updates there have been, and how many of them each index has seen."""

    count: Any
    ages: Indices


class StageState(NamedTuple):
    """How many stages of growth there have been, and at which each index was born;
    0 at its first update."""

    count: Any
    stages: Indices


def scale_by_age(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Scales the updates of newborn entries by a schedule over their own ages.

    Like `optax.scale_by_schedule`, but every entry that is born later has a count of
    its own, which starts at 0 with its first update. Entries that were there from the
    start are left as they are, bit for bit.

    **Arguments:**

    - `schedule`: any schedule of optax, or a function from ages (an integer array) to
        factors (an array of the same shape, or a number).

    **Returns:** a transformation, to be chained before or after any other.

    **Raises:** `ValueError` if the schedule gives an array of another shape.

    !!! example

        Newborns warm up over 100 steps:

        ```python
        warmup = gn.scale_by_age(optax.linear_schedule(0.0, 1.0, 100))
        optimizer = optax.chain(optax.adam(1e-3), warmup)
        ```
    """

    def factor(age: Any, count: Any) -> Any:
        del count
        value = schedule(age)
        if jnp.shape(value) not in ((), age.shape):
            raise ValueError(
                f"schedule gives shape {jnp.shape(value)} for ages of shape "
                f"{age.shape}; it must treat every age by itself"
            )
        return jnp.broadcast_to(jnp.asarray(value), age.shape)

    return _scaling(factor)


def debias_by_age(b1: float = 0.9, b2: float = 0.999) -> optax.GradientTransformation:
    """Turns Adam's bias correction into one by the age of each entry.

    Adam divides its moments, which start at 0, by `1 - b1**t` and `1 - b2**t`. For a
    unit that is born after many steps these are 1, so its first step is
    `(1 - b1) / sqrt(1 - b2)` times the learning rate: 3.2 times with the usual numbers,
    and up to 6.6 times where its gradients agree. This multiplies by

        c(age) / c(t),    c(n) = sqrt(1 - b2**n) / (1 - b1**n),

    so that every entry is corrected as if training had begun at its birth (Kingma & Ba,
    arXiv 1412.6980, section 3; but for `eps`, which counts as much as it does in old
    entries). Entries that were there from the start are left as they are, bit for bit.

    **Arguments:**

    - `b1`, `b2`: the decay rates that Adam has.

    **Returns:** a transformation, to be chained after one of Adam's kind (`adam`,
    `scale_by_adam`, `adabelief`, `lamb`'s first part); before weight decay, which has
    no bias.

    **Raises:** `ValueError` for a rate that isn't at least 0 and below 1.

    !!! example

        ```python
        optimizer = optax.chain(optax.adam(1e-3), gn.debias_by_age())
        ```
    """
    for name, rate in (("b1", b1), ("b2", b2)):
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"{name}={rate!r}; a decay rate is at least 0 and below 1")

    def correction(age: Any) -> Any:
        steps = (age + 1).astype(float)
        return jnp.sqrt(1 - b2**steps) / (1 - b1**steps)

    return _scaling(lambda age, count: correction(age) / correction(count))


def scale_by_stage_norm(stages: int = 16) -> optax.GradientTransformation:
    """Gives what was born at one stage of growth a learning rate of its own.

    The rate of the weights born at stage k is multiplied by

        |weights born at stage k| / |weights that were there from the start|,

    Frobenius norms over all matrices (and kernels) of the network, at every step: Yuan,
    Savarese and Maire, "Accelerated Training via Incrementally Growing Neural Networks
    using Variance Transfer and Learning Rate Adaptation" (arXiv 2306.12700), section on
    learning rate adaptation. Here the norms are of whole stages rather than of their
    parts in a layer: newborns of `zero_out` are zero in the layer that reads them, and
    would stay so. A stage without any weight keeps the rate.

    **Arguments:**

    - `stages`: how many are told apart; whatever comes later counts as the last. Every
        step after which units were born or closed begins one.

    **Returns:** a transformation, to be chained after the one that makes steps of
    gradients. Its `update` needs `params`.

    **Raises:** `ValueError` for fewer than two stages, and for an update without
    `params`.

    !!! example

        ```python
        optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), gn.scale_by_stage_norm())
        ```
    """
    if stages < 2:
        raise ValueError(f"stages={stages!r}; two or more can be told apart")

    def init(params: Any) -> StageState:
        return StageState(jnp.zeros((), jnp.int32), _zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, StageState]:
        if params is None:
            raise ValueError(
                "scale_by_stage_norm compares weights; call update(updates, state, "
                "params) with the parameters"
            )
        born = [jnp.any(leaf == 0) for leaf in jax.tree.leaves(state.stages)]
        more = jnp.any(jnp.stack(born)) if born else jnp.zeros((), bool)
        count = jnp.minimum(state.count + more.astype(jnp.int32), stages)
        own = jax.tree.map(lambda s: jnp.where(s == 0, count, s), state.stages)
        rates = _stage_rates(params, own, stages)

        def scaled(update: Any, indices: tuple[Any, ...]) -> Any:
            # The later the stage, the younger.
            values = [(-s, rates[s - 1]) for s in indices]
            return _scaled(update, values, jnp.full((), -1, jnp.int32))

        return _mapped(scaled, updates, own), StageState(count, own)

    return optax.GradientTransformation(init, update)


def _scaling(factor: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Scales entries born later by a function of their age and of the count."""

    def init(params: Any) -> AgeState:
        return AgeState(jnp.zeros((), jnp.int32), _zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AgeState]:
        del params
        count = state.count

        def scaled(update: Any, ages: tuple[Any, ...]) -> Any:
            return _scaled(update, [(a, factor(a, count)) for a in ages], count)

        ages = jax.tree.map(optax.safe_increment, state.ages)
        after = AgeState(optax.safe_increment(count), ages)
        return _mapped(scaled, updates, state.ages), after

    return optax.GradientTransformation(init, update)


def _zeros(params: Any) -> Indices:
    sizes = lambda p: tuple(jnp.zeros((n,), jnp.int32) for n in jnp.shape(p))
    return jax.tree.map(sizes, params)


def _mapped(function: Callable, updates: Any, indices: Indices) -> Any:
    """As optax does it: an update may be missing."""
    each = lambda update, own: None if update is None else function(update, own)
    return jax.tree.map(each, updates, indices, is_leaf=lambda x: x is None)


def _scaled(update: Any, values: list[tuple[Any, Any]], oldest: Any) -> Any:
    """The update times the value of each entry's youngest index; the values are
    computed per index, so that an entry costs a comparison. 1 for the oldest."""
    age, value = oldest, jnp.ones((), update.dtype)
    for axis, (own, factor) in enumerate(values):
        own, factor = (along(x, axis, update.ndim) for x in (own, factor))
        value = jnp.where(own < age, factor.astype(update.dtype), value)
        age = jnp.minimum(own, age)
    return update * value


def _stage_rates(params: Any, indices: Indices, stages: int) -> Any:
    """`[stages]`: the norm of what was born at each, by that of the first."""
    numbers = jnp.arange(1, stages + 1)
    squares = jnp.zeros((stages,))

    def until(leaf: Any, own: tuple[Any, ...]) -> Any:
        """The sum of the squares of everything born up to each stage."""
        if leaf.ndim < 2:
            return None
        wide = jnp.square(jnp.abs(leaf)).astype(squares.dtype)
        there = [(s[:, None] <= numbers[None, :]).astype(squares.dtype) for s in own]
        axes = string.ascii_letters[: leaf.ndim]
        spec = ",".join([axes, *(f"{a}Z" for a in axes)]) + "->Z"
        return jnp.einsum(spec, wide, *there)

    for part in jax.tree.leaves(jax.tree.map(until, params, indices)):
        squares = squares + part
    own = jnp.maximum(jnp.diff(squares, prepend=0.0), 0.0)
    known = (own > 0) & (own[0] > 0)
    return jnp.where(known, jnp.sqrt(own / jnp.where(known, own[0], 1.0)), 1.0)
