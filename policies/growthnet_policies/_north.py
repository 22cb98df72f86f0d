"""NORTH: units are born where all there are say something of their own, and the new
ones say what none of them does.

With H a layer's activations on n samples and M its units, the *effective dimension* is

    phi = |{singular values of H / sqrt(n) above epsilon}| / M

and a layer whose units are as different as at the start is full. It gets

    max(0, floor(M (phi - gamma phi_0)))

new units. These are chosen among many random ones, one after another: next is the one
of whose activations the largest share lies outside of what the others span.

Source: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
ANNs", AutoML 2022, arXiv 2202.08539: NORTH-Select and NORTH-Pre. The measure that
candidates are chosen by, greedily, is ours.
"""

from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._arguments import at_least
from ._batches import recent, recent_needs
from ._factorizations import eigh
from ._newborns import offsets, one_layer, room_for
from ._splits import parameters, Rows, rows_now


Choice = Literal["select", "pre"]
Baseline = Literal["first", "largest"]


class North(gn.AbstractPolicy):
    """Adds units that say something new, as many as the layer is ready for.

    **Arguments:**

    - `add`: how many units a width gets at a time at most.
    - `every`: training steps between looks.
    - `until`: no width gets more units than this; `None` for no limit.
    - `gamma`: how much of its first effective dimension a width must have to grow.
    - `epsilon`: up to which singular value a direction doesn't count.
    - `choice`: `"select"` among random units, or, before that, make their
        preactivations orthogonal to those of the present units: `"pre"`.
    - `tried`: how many random units are chosen from.
    - `baseline`: phi_0 is that of the `"first"` look, or the `"largest"` so far, which
        the source takes for convolutions.
    - `batches`: how many of the last batches activations are from, at most `every`.
        There should be more samples than units.

    Newborns are silent: what reads them starts at 0. `info["dimension/NAME"]` is phi.

    Works wherever units can be found and candidates tried; `"pre"` on widths that one
    contraction makes, with functions of single numbers after it.

    **Raises:** `ValueError` for arguments out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = North(add=4, every=100, until=64, gamma=0.97)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    preserves = True

    gamma: Any
    epsilon: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    choice: Choice = eqx.field(static=True)
    tried: int = eqx.field(static=True)
    baseline: Baseline = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 4,
        *,
        every: int = 100,
        until: int | None = None,
        gamma: Any = 0.9,
        epsilon: Any = 0.01,
        choice: Choice = "select",
        tried: int = 100,
        baseline: Baseline = "first",
        batches: int = 1,
    ):
        at_least("add", add, 1)
        at_least("every", every, 1)
        at_least("tried", tried, add)
        at_least("batches", batches, 1)
        for name, value, known in (
            ("choice", choice, Choice),
            ("baseline", baseline, Baseline),
        ):
            if value not in get_args(known):
                allowed = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"{name}={value!r}; one of {allowed}")
        self.add, self.every, self.until = add, every, until
        self.gamma, self.epsilon, self.choice = gamma, epsilon, choice
        self.tried, self.baseline, self.batches = tried, baseline, batches
        kinds = {"network", "activations", "candidates"}
        if choice == "pre":
            kinds |= {"preactivations", "producer_inputs"}
        self.needs = frozenset(kinds | recent_needs(batches))
        self.optimizer = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        """Remembered is phi_0 by width; below 0 before the first look."""
        del key
        return None, {name: -jnp.ones(()) for name in anatomy.widths}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        seen = recent(evidence, self.batches)
        changes, first, info = {}, {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            units = jnp.where(mask[None], seen.units[name].activations, 0)
            own = jr.fold_in(key, i)
            rows = seen.candidates[name].drawn(self.tried, own)
            if self.choice == "pre":
                rows = self._orthogonal(seen, name, rows)
            said = seen.candidates[name].activations(rows)
            rest, count = outside(units, said, self.epsilon)
            best = most_apart(rest, said, self.add)
            size = jnp.sum(mask).astype(memory[name].dtype)
            phi = count.astype(size.dtype) / size
            start = jnp.where(memory[name] < 0, phi, memory[name])
            if self.baseline == "largest":
                start = jnp.maximum(start, phi)
            # A little more than rounding can take away.
            ready = jnp.floor(size * (phi - self.gamma * start) + 1e-4)
            births = jnp.clip(ready.astype(jnp.int32), 0, room_for(self, mask))
            chosen = {path: r[best] for path, r in rows.items()}
            changes[name] = evidence.candidates[name].change(chosen, births)
            first[name], info[f"dimension/{name}"] = start, phi
        return gn.Decision(changes), trainable, first, info

    def _orthogonal(self, evidence: gn.Evidence, name: str, drawn: Rows) -> Rows:
        """The same units, less what the present ones' preactivations have of theirs; as
        large as they were drawn."""
        producer, mask = one_layer(self, evidence, name), evidence.open[name]
        now = parameters(evidence, name, rows_now(evidence, name))
        paths = [producer.path, *offsets(evidence, name)]
        if set(now) != set(paths):
            raise ValueError(
                f"North(choice='pre') can't turn units of {name!r}: they are made by "
                f"{', '.join(sorted(now))} together; use choice='select', or leave the "
                "width out (`widths=`)"
            )
        given = producer.inputs @ drawn[producer.path].T
        for path in paths[1:]:
            given = given + drawn[path].T
        present = jnp.where(mask[None], producer.preactivations, 0)
        shares = _least_squares(present, given)
        norms = lambda rows: jnp.sqrt(sum(jnp.sum(rows[p] ** 2, 1) for p in paths))
        turned = {p: drawn[p] - shares.T @ now[p] for p in paths}
        scale = norms(drawn) / jnp.maximum(norms(turned), 1e-12)
        return {**drawn, **{p: r * scale[:, None] for p, r in turned.items()}}


def outside(units: Any, said: Any, epsilon: Any) -> tuple[Any, Any]:
    """What candidates say, `[samples, count]`, less what is in the span of what units
    say; and the number of directions that these have."""
    values, vectors = eigh(units.T @ units / len(units))
    there = values > epsilon**2
    basis = units @ jnp.where(there[None], vectors, 0)
    scale = jnp.where(there, jnp.sqrt(jnp.maximum(values, 0) * len(units)), 1)
    basis = basis / scale[None]
    rest = said
    for _ in range(2):
        rest = rest - basis @ (basis.T @ rest)
    return rest, jnp.sum(there)


def most_apart(rest: Any, said: Any, count: int) -> Any:
    """`count` candidates: each the one with the largest share outside of the span of
    units and of those chosen before."""
    square = lambda values: jnp.sum(values**2, axis=0)
    whole = square(said)
    whole = jnp.where(whole > 0, whole, 1)

    def choose(rest: Any, _: Any) -> tuple[Any, Any]:
        shares = square(rest) / whole
        best = jnp.argmax(shares)
        size = jnp.sqrt(square(rest)[best])
        one = rest[:, best] / jnp.where(size > 0, size, 1)
        rest = rest - one[:, None] * (one @ rest)[None]
        return rest.at[:, best].set(0), best

    return jax.lax.scan(choose, rest, None, length=count)[1]


def _least_squares(present: Any, given: Any) -> Any:
    """What of each present unit is in each given one, `[units, count]`."""
    values, vectors = eigh(present.T @ present)
    there = values > 1e-6 * jnp.max(values)
    inverse = jnp.where(there, 1 / jnp.where(there, values, 1), 0)
    return vectors @ (inverse[:, None] * (vectors.T @ (present.T @ given)))
