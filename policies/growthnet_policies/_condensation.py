"""Condensation merging: units that do the same thing become one.

In training, units of a layer often line up in a few directions (they condense). With v
a unit's incoming weights and bias, and w the weights that read it, units of the same v
are one unit read with the sum of their w. Units of parallel v are, too, where the
activation function is positively homogeneous, f(c z) = c f(z):

    w_r += sum over merged units u of  (|v_u| / |v_r|) w_u

and units of opposite v where it is odd, with the sign -1. How alike two units are:

    homogeneous   cos(v_u, v_r)
    otherwise     2 v_u . v_r / (|v_u|^2 + |v_r|^2),  which is 1 only where v_u = v_r

The louder unit stays as it is. It is the inverse of cloning: exact on duplicates.

Source of the method: Chen & Xu, "Efficient and Flexible Method for Reducing Moderate-
size Deep Neural Networks with Condensation", arXiv 2405.01041, Entropy 26(7):567
(2024). The merge rules for the three kinds of functions are derived here.
"""

from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

import growthnet as gn

from ._arguments import at_least


Activation = Literal["homogeneous", "odd", "general"]


class Condensation(gn.AbstractPolicy):
    """Merges units whose incoming weights are nearly the same.

    **Arguments:**

    - `threshold`: how alike two units are at least, up to 1 (duplicates in float32 are
        alike to about 1e-6).
    - `activation`: what the function between is: `"homogeneous"` (relu, leaky relu, the
        identity), `"odd"` (tanh, sine), or `"general"`, which is right for all.
    - `start`: no merging before this training step.
    - `every`: training steps between decisions.
    - `tolerance`: a width merges only if the loss on the batch grows by no more than
        this fraction; `None`: always. It needs the loss, so not in your own loop.

    `info["directions/NAME"]` is the number of units that no louder one is like: how
    many a width really has, whether or not it is time to merge.

    Works on widths that copies can share out exactly, made by weights and biases: not
    where a norm scales the units. Widths made by several layers (gated linear units)
    can be merged by `"general"` only.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = Condensation(0.99, activation="homogeneous", start=1_000)
        run = gn.fit(mlp, loss, (x, y), optimizer=optax.adam(1e-3), policy=policy,
                     steps=2_000, key=jax.random.key(0))
        ```
    """

    threshold: Any
    start: Any
    tolerance: Any
    activation: Activation = eqx.field(static=True)
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        threshold: Any = 0.99,
        *,
        activation: Activation = "general",
        start: Any = 0,
        every: int = 100,
        tolerance: Any = None,
    ):
        if isinstance(threshold, int | float) and not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}; a likeness in (0, 1]")
        if activation not in get_args(Activation):
            allowed = ", ".join(map(repr, get_args(Activation)))
            raise ValueError(f"activation={activation!r}; one of {allowed}")
        at_least("every", every, 1)
        self.threshold, self.start, self.tolerance = threshold, start, tolerance
        self.activation, self.every = activation, every
        self.needs = frozenset({"network"} | ({"evaluate"} if tolerance else set()))
        self.optimizer = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, None]:
        del key
        for width in anatomy.widths.values():
            _check(width, self.activation)
        return None, None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        changes, info = {}, {}
        for name, mask in evidence.open.items():
            into, factors = self._groups(evidence, name)
            stays = mask & (into == jnp.arange(mask.size))
            info[f"directions/{name}"] = jnp.sum(stays)
            merges = evidence.step >= self.start
            change = _merged(evidence, name, mask, into, factors, merges)
            if self.tolerance is not None:
                same = _merged(evidence, name, mask, into, factors, False)
                losses = [
                    evidence.evaluate(gn.Decision({name: c})) for c in (change, same)
                ]
                pays = losses[0] <= losses[1] * (1 + self.tolerance)
                change = _merged(evidence, name, mask, into, factors, merges & pays)
            changes[name] = change
        return gn.Decision(changes), trainable, memory, info

    def _groups(self, evidence: gn.Evidence, name: str) -> tuple[Any, Any]:
        """Per slot, the unit that it goes into (itself, if it stays), and by how much
        that one stands for it."""
        width = evidence.anatomy.widths[name]
        rows = gn.unit_rows(evidence.anatomy, name, evidence.network)
        read = {width.members[i] for i in width.copied.cover}
        made = [r for member, r in rows.items() if member not in read]
        vectors = jnp.concatenate(made, axis=1)
        outgoing = jnp.concatenate([r for m, r in rows.items() if m in read], axis=1)
        squares = jnp.sum(vectors**2, axis=1)
        sizes = jnp.sqrt(squares)
        loudness = sizes * jnp.sqrt(jnp.sum(outgoing**2, axis=1))
        homogeneous = self.activation == "homogeneous"
        scale = sizes[:, None] * sizes[None]
        if not homogeneous:
            scale = (squares[:, None] + squares[None]) / 2
        like = vectors @ vectors.T / jnp.where(scale > 0, scale, 1)
        into = _representatives(
            jnp.abs(like) if self.activation == "odd" else like,
            evidence.open[name],
            loudness,
            self.threshold,
        )
        if homogeneous:
            return into, sizes / jnp.where(sizes > 0, sizes, 1)[into]
        slots = jnp.arange(into.size)
        signs = jnp.sign(like[slots, into]) if self.activation == "odd" else 1
        return into, jnp.ones_like(sizes) * signs


def _representatives(like: Any, mask: Any, loudness: Any, threshold: Any) -> Any:
    """From the loudest open unit down: each goes into the most similar of those that
    stay, or stays if none is similar enough."""
    order = jnp.argsort(jnp.where(mask, -loudness, jnp.inf), stable=True)
    slots = jnp.arange(mask.size)

    def one(i: Any, state: Any) -> Any:
        into, stays = state
        unit = order[i]
        found = jnp.where(stays, like[unit], -jnp.inf)
        best = jnp.argmax(found)
        goes = mask[unit] & (found[best] >= threshold)
        into = into.at[unit].set(jnp.where(goes, best, unit).astype(into.dtype))
        return into, stays.at[unit].set(mask[unit] & ~goes)

    return jax.lax.fori_loop(0, mask.size, one, (slots, jnp.zeros_like(mask)))[0]


def _merged(
    evidence: gn.Evidence, name: str, mask: Any, into: Any, factors: Any, merges: Any
) -> gn.Change:
    """The change that merges units, where it is time to."""
    width = evidence.anatomy.widths[name]
    slots = jnp.arange(mask.size)
    goes = mask & (into != slots) & merges
    goes_here = goes[None] & (into[None] == slots[:, None])
    shares = jnp.where(goes_here, factors[None], 0)
    rows = gn.unit_rows(evidence.anatomy, name, evidence.network)
    read = {m: rows[m] for m in (width.members[i] for i in width.copied.cover)}
    new = {m: r + shares.astype(r.dtype) @ r for m, r in read.items()}
    rewrite = gn.with_unit_rows(evidence.anatomy, name, evidence.network, new)
    return gn.Change(mask & ~goes, 0, rewrite=rewrite)


def _check(width: gn.Width, activation: Activation) -> None:
    """**Raises:** `ValueError` for a width whose copies can't be merged exactly."""
    recipe = width.copied
    read = [width.members[i] for i in recipe.cover]
    made = [member for member in width.members if member not in read]
    other = [m for m in made if not set(m.roles) <= {"producer", "offset"}]
    makers = [m.path for m in made if "producer" in m.roles]
    why = ""
    if recipe.exactness != "exact" or recipe.scales or recipe.fields or recipe.whole:
        why = recipe.why or "what has to be scaled depends on how many units there are"
    elif other:
        why = f"{other[0]} has a part in it"
    elif len(makers) != 1 and activation != "general":
        why = (
            f"its units are made by {', '.join(makers)} together; "
            "use activation='general'"
        )
    if why:
        raise ValueError(
            f"Condensation can't merge units of {width.name!r}: {why}; or leave the "
            "width out (`widths=`)"
        )
