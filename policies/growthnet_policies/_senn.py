"""Self-expanding networks: grow where new units let the natural gradient go further.

With g the gradient of the loss and F the Fisher matrix, g' F^-1 g is (twice) how far a
step of natural gradient lowers the loss as it is seen from here: the *expansion score*.
Silent units have no gradient of their own, but those weights that would read them do,
so a network with proposed units p beside its own units a has a larger score. F is taken
to be a product for every layer: A, the mean of a a', times S, the mean of c c', with c
the cotangents at what reads the units. With G the mean of a c', the present score is

    trace(G' A^-1 G S^-1)

and with proposals it grows, by the rule for inverses of blocks, by

    trace(M' C^-1 M S^-1),    C = A_pp - A_pa A^-1 A_ap,   M = G_p - A_pa A^-1 G

which asks for what the proposals say that the present units don't, of what these can't
do by themselves. Proposals are trained for a few steps on that number. They are taken
if the score grows by more than a factor; near a minimum of the present network its own
score is near 0, so it is time then, and each growth leaves less for the next.

Source: Mitchell, Mundt, Kersting, "Self-Expanding Neural Networks", arXiv 2307.04526.
There scores are of all layers and only widths of dense layers grow; here the present
score is that of the layers that read the run's widths, and c are the cotangents of the
loss (the "empirical" Fisher matrix).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._adam import adam
from ._arguments import at_least
from ._batches import recent, recent_needs
from ._kronecker import best_of, Layer, layer_of
from ._newborns import room_for
from ._splits import (
    apart_again,
    of_the_best,
    parameters,
    Rows,
    rows_now,
    side_by_side,
    there,
)


class SENN(gn.AbstractPolicy):
    """Adds silent units that raise the natural-gradient score, as long as some do.

    **Arguments:**

    - `add`: how many units are born at a time at most, all in one width: the one where
        the score grows most.
    - `every`: training steps between decisions.
    - `until`: no width gets more units than this; `None` for no limit.
    - `ratio`: the score with a unit more is at least this times the score without it.
    - `gain`: and larger by this at least, times what chance gives to a trained unit, so
        that growth ends. Chance is taken to be (sqrt(d) + sqrt(m))^2 / N, as for a
        linear unit of d weights, m outputs and N independent samples. (In the paper it
        is a number of the user's.)
    - `proposals`: how many units are proposed per width.
    - `steps`, `rate`: of their training (Adam, at the scale of a fresh unit's weights).
    - `ridge`: what is added to both factors of F, relative to their mean eigenvalues.
    - `batches`: how many of the last batches all this is on, at most `every`.

    `info["score"]` is the present score, `info["gain/NAME"]` by how much a width's best
    units would raise it.

    Works wherever units can be found in the loss's program and tried (`candidates`),
    whatever makes them; where what reads them can't be found (a residual stream), the
    run is refused with the reason.

    **Raises:** `ValueError` for numbers out of range.

    !!! example

        ```python
        policy = SENN(every=200, until=64)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    ratio: Any
    gain: Any
    ridge: Any
    rate: Any
    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    proposals: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    batches: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None
    preserves = True

    def __init__(
        self,
        add: int = 1,
        *,
        every: int = 200,
        until: int | None = None,
        ratio: Any = 2.0,
        gain: Any = 2.0,
        proposals: int = 32,
        steps: int = 20,
        rate: Any = 0.1,
        ridge: Any = 1e-3,
        batches: int = 1,
    ):
        for name, value, least in (
            ("add", add, 1),
            ("every", every, 1),
            ("proposals", proposals, add),
            ("steps", steps, 0),
            ("batches", batches, 1),
        ):
            at_least(name, value, least)
        for name, value, least in (("ratio", ratio, 1), ("gain", gain, 0)):
            if isinstance(value, int | float) and not value >= least:
                raise ValueError(f"{name}={value}; a number from {least} up")
        if isinstance(ridge, int | float) and not ridge > 0:
            raise ValueError(f"ridge={ridge}; a number above 0")
        self.add, self.every, self.until = add, every, until
        self.ratio, self.gain, self.ridge = ratio, gain, ridge
        self.proposals, self.steps, self.rate = proposals, steps, rate
        self.batches = batches
        kinds = {"network", "activations", "output_cotangents", "candidates"}
        self.needs = frozenset(kinds | recent_needs(batches))
        self.optimizer = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        seen = recent(evidence, self.batches)
        layers = {n: layer_of(seen, n, self.ridge) for n in evidence.open}
        score = sum((layer.score for layer in layers.values()), jnp.zeros(()))
        rows, orders, gains, births = {}, {}, {}, {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            rows[name] = self._proposed(seen, name, layers[name], jr.fold_in(key, i))
            said = seen.candidates[name].activations(rows[name])
            orders[name], more = best_of(*layers[name].beside(said), self.add)
            chance = _chance(layers[name], _weights(seen, name))
            before = score + jnp.cumsum(more) - more
            good = before + more > self.ratio * before
            good = good & (more > self.gain * chance)
            good = jnp.cumprod(good.astype(int)).astype(bool)
            good = good & (jnp.arange(self.add) < room_for(self, mask))
            births[name] = jnp.sum(good)
            gains[name] = jnp.sum(jnp.where(good, more, 0))
        changes = {}
        for name, count in of_the_best(gains, births).items():
            best = {path: r[orders[name]] for path, r in rows[name].items()}
            changes[name] = evidence.candidates[name].change(best, count)
        info = {f"gain/{name}": gain for name, gain in gains.items()}
        return gn.Decision(changes), trainable, memory, {"score": score, **info}

    def _proposed(
        self, evidence: gn.Evidence, name: str, layer: Layer, key: Any
    ) -> Rows:
        """Proposals after their training; nothing reads them yet."""
        candidates = evidence.candidates[name]
        drawn = candidates.drawn(self.proposals, key)
        own = parameters(evidence, name, drawn)
        start = side_by_side(own)
        entries = self.proposals * _weights(evidence, name)
        scale = jnp.sqrt(jnp.sum(start**2) / entries.astype(start.dtype))

        def rows(values: Any) -> Rows:
            return {**drawn, **apart_again(values * scale, own)}

        def worth(values: Any) -> Any:
            return -jnp.sum(layer.alone(candidates.activations(rows(values))))

        start = start / jnp.where(scale > 0, scale, 1)
        return rows(adam(jax.grad(worth), start, self.steps, self.rate))


def _weights(evidence: gn.Evidence, name: str) -> Any:
    """How many numbers make a unit."""
    own = parameters(evidence, name, rows_now(evidence, name))
    return jnp.max(jnp.sum(side_by_side(there(evidence, name, own)), axis=1))


def _chance(layer: Layer, weights: Any) -> Any:
    """What a unit that is trained on N samples of noise raises the score by: the
    largest squared correlation of as many variables as it has weights, and outputs."""
    root = lambda n: jnp.sqrt(n.astype(layer.white.dtype))
    return (root(weights) + root(layer.outputs)) ** 2 / len(layer.units)
