"""The size weight: one trainable real number per width says how many units it has.

With N the size weight and m = 0, 1, ... the index of a unit, unit m has the gate

    g_m = theta(N - m),   theta(u) = sin^2(pi u / 2) on [0, 1], 0 below, 1 above

so that the first floor(N) units are fully there and the next one is partly. The
objective gets a size loss, rate * (N - target)^2, and N follows its gradient. Without
the data term, gradient descent with learning rate eta gives, after e steps,

    N(e) = target + (N(0) - target) (1 - 2 eta rate)^e

Source: Radhakrishnan, Lindner, Miller, Sinha, Ditto, "Growing Neural Networks: Dynamic
Evolution through Gradient Descent", arXiv 2501.18012, Proc. R. Soc. A 481, 20250222
(2025); the gate is that of the authors' published notebooks. Two differences: arrays
really change their shape here, and the size isn't fed to the network as an input, since
then adding a unit would change what the others compute.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import growthnet as gn

from ._arguments import at_least


_GATES: dict[str, Callable[[Any], Any]] = {
    "sin2": lambda u: jnp.sin(jnp.pi * u / 2) ** 2,
    "linear": lambda u: u,
    "smoothstep": lambda u: u * u * (3 - 2 * u),
}


class GradientSizeWeight(gn.AbstractPolicy):
    """A trainable size per width, moved by gradient descent.

    **Arguments:**

    - `target`: the size that the size loss pulls to, for every width. It is *given*,
        not found. `None`: there is only a cost per unit, and the data has to pay.
    - `rate`: weight of the size loss, `rate * (N - target)^2`, or of the cost,
        `rate * N`.
    - `learning_rate`: of plain gradient descent on N. N has an optimizer of its own,
        since under Adam the scale of its loss would mean nothing.
    - `gate`: `"sin2"`, `"linear"` or `"smoothstep"`. `sin2` and `smoothstep` have no
        slope at whole sizes, so there the data can't move N; `linear` has.
    - `every`: training steps between decisions; at most `max(spare, 1)` units per width
        are born at each.
    - `spare`: open units kept ready behind a gate of 0, so that the data can say
        through the gate's slope whether another one would help. By default 1 without a
        target and 0 with one.
    - `data_gradient`: may the data loss move N? (It does in the paper's first method,
        and doesn't in its second.)
    - `minimum`: no width gets smaller than this many units.
    - `optimizer`: another optimizer for N, instead of gradient descent.

    A unit is born when N exceeds the number of units, with random weights and gate
    exactly 0: the function stays as it is, and the gate has a slope as soon as N moves
    on. The last unit goes when N is more than half a unit below the size without it,
    when its gate has long been 0. So a size that hovers about a whole number changes
    once. It also means that a width that shrinks to its target comes to rest just above
    it, with one unit more whose gate tends to 0.

    **Raises:** `ValueError` for numbers out of range.

    !!! example

        ```python
        policy = GradientSizeWeight(target=24, rate=0.1, learning_rate=0.02)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=2_000, key=jax.random.key(0))
        ```
    """

    preserves = True
    ordered = True

    target: Any
    rate: Any
    learning_rate: Any
    gate: Literal["sin2", "linear", "smoothstep"] = eqx.field(static=True)
    every: int = eqx.field(static=True)
    spare: int = eqx.field(static=True)
    data_gradient: bool = eqx.field(static=True)
    minimum: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: optax.GradientTransformation

    def __init__(
        self,
        target: Any = None,
        rate: Any = 0.1,
        *,
        learning_rate: Any = 1e-2,
        gate: Literal["sin2", "linear", "smoothstep"] = "sin2",
        every: int = 10,
        spare: int | None = None,
        data_gradient: bool = True,
        minimum: int = 1,
        optimizer: optax.GradientTransformation | None = None,
    ):
        if gate not in _GATES:
            raise ValueError(f"gate={gate!r}; use one of {', '.join(_GATES)}")
        at_least("every", every, 1)
        at_least("minimum", minimum, 1)
        if isinstance(target, str | dict | list):
            raise ValueError(f"target={target!r}; one number for all widths, or None")
        if isinstance(target, int | float) and not target >= minimum:
            raise ValueError(
                f"target={target} is below the smallest size, {minimum}; "
                "give at least that, or None for no target"
            )
        if isinstance(rate, int | float) and not rate >= 0:
            raise ValueError(f"rate={rate}; the weight of the size loss is 0 or more")
        self.target = target
        self.rate = rate
        self.learning_rate = learning_rate if optimizer is None else None
        self.gate = gate
        self.every = every
        self.spare = (1 if target is None else 0) if spare is None else spare
        at_least("spare", self.spare, 0)
        self.data_gradient = data_gradient
        self.minimum = minimum
        self.needs = frozenset()
        self.optimizer = optax.sgd(learning_rate) if optimizer is None else optimizer

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[dict[str, Any], None]:
        del key
        sizes = {n: jnp.asarray(float(w.size)) for n, w in anatomy.widths.items()}
        return sizes, None

    def gates(
        self, trainable: Any, anatomy: gn.Anatomy, *, key: Any, train: bool
    ) -> dict[str, Any]:
        del key, train
        return {
            name: self._ramp(size, anatomy.widths[name].size)
            for name, size in trainable.items()
        }

    def _ramp(self, size: Any, capacity: int) -> Any:
        if not self.data_gradient:
            size = jax.lax.stop_gradient(size)
        # Only the unit at the edge has a gate between 0 and 1, so theta is taken of two
        # numbers. Of a vector, compilers take it anew wherever a weight is read.
        last = jax.lax.stop_gradient(jnp.ceil(size) - 1)
        theta = _GATES[self.gate]
        edge = theta(jnp.clip(size - last, 0.0, 1.0))
        beyond = theta(jnp.clip(size - last - 1, 0.0, 1.0))
        unit = jnp.arange(capacity, dtype=size.dtype)
        gates = jnp.where(unit < last, jnp.ones_like(size), jnp.zeros_like(size))
        gates = jnp.where(unit == last, edge, gates)
        return jnp.where(unit == last + 1, beyond, gates)

    def penalty(
        self, trainable: Any, net: Any, cost: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        del net, cost
        sizes = jnp.stack(list(trainable.values()))
        if self.target is None:
            return self.rate * jnp.sum(sizes)
        return self.rate * jnp.sum((sizes - self.target) ** 2)

    def forecast(self, anatomy: gn.Anatomy, steps: int) -> dict[str, Any]:
        """By the equation above: without the data term, which may hold a size back."""
        numbers = self.target, self.rate, self.learning_rate
        if not all(isinstance(number, int | float) for number in numbers):
            return {}
        left = max(0.0, 1 - 2 * self.learning_rate * self.rate) ** steps
        births = max(self.spare, 1) * (steps // self.every)
        return {
            name: min(
                self.target + (width.size - self.target) * left + self.spare,
                width.size + births,
            )
            for name, width in anatomy.widths.items()
        }

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        changes, sizes = {}, {}
        for name, size in trainable.items():
            mask = evidence.open[name]
            units = jnp.sum(mask)
            active = units - self.spare
            wanted = jnp.ceil(size).astype(units.dtype)
            add = jnp.clip(wanted - active, 0, max(self.spare, 1))
            falls = size < active.astype(size.dtype) - 1.5
            least = jnp.maximum(wanted + self.spare, self.minimum)
            keep = jnp.where(falls, jnp.arange(mask.size) < least, True)
            changes[name] = gn.Change(mask & keep, add, init="drawn")
            # The newborns' gates have to be exactly 0: N waits at the edge for them.
            sizes[name] = jnp.clip(size, 0.0, units.astype(size.dtype))
        info = {f"size/{name}": size for name, size in sizes.items()}
        return gn.Decision(changes), sizes, memory, info
