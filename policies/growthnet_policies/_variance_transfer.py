"""Variance transfer: newborn pairs that cancel, beside weights made smaller for them.

A new pair of units is made alike, by random weights V, and read by opposite ones, Z and
-Z: together they say nothing, and each has a gradient. What reads a width sums over its
units, so with more of them its variance would grow once they part; from C to C' units
the weights that read the others are multiplied by sqrt(C / C').

Source: Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural
Networks using Variance Transfer and Learning Rate Adaptation", NeurIPS 2023, arXiv
2306.12700, sections 3.1 and 3.2. There networks have batch norms, which hide the
rescaling, and are parametrised for any width; here the usual 1 / fan-in is meant, and
V and Z are as large as the weights beside them are. Learning rates by stage of growth,
the other half of the method, are `gn.scale_by_stage_norm`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn

from ._arguments import at_least
from ._newborns import regular, room_for


class VarianceTransfer(gn.AbstractPolicy):
    """Adds pairs of units at regular times.

    **Arguments:**

    - `add`: how many units each width gets at a time, an even number.
    - `every`: training steps between births.
    - `until`: no width gets more units than this; `None` for no limit.
    - `rescale`: are the weights that read the other units made smaller? That changes
        the function, except before a norm. Without it the function stays.

    Works on widths of any layers, but for leaves that have a width along two axes (a
    recurrent matrix). Running statistics of batch norms aren't rescaled.

    **Raises:** `ValueError` for numbers out of range, and on widths that it doesn't
    work on.

    !!! example

        ```python
        policy = VarianceTransfer(add=8, every=500, until=64)
        optimizer = optax.chain(optax.adam(1e-3), gn.scale_by_stage_norm())
        run = gn.fit(mlp, loss, (x, y), optimizer=optimizer, policy=policy,
                     steps=5_000, key=jax.random.key(0))
        ```
    """

    add: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    until: int | None = eqx.field(static=True)
    rescale: bool = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    optimizer: None

    def __init__(
        self,
        add: int = 2,
        *,
        every: int = 200,
        until: int | None = None,
        rescale: bool = True,
    ):
        at_least("add", add, 2)
        at_least("every", every, 1)
        if add % 2:
            raise ValueError(f"add={add}; newborns come in pairs: an even number")
        self.add, self.every, self.until = add, every, until
        self.rescale = rescale
        self.needs, self.optimizer = frozenset({"network"}), None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, None]:
        del key
        for width in anatomy.widths.values():
            paths = [member.path for member in width.members]
            twice = [path for path in paths if paths.count(path) > 1]
            if twice and width.gateable != "no":
                raise ValueError(
                    f"VarianceTransfer can't pair units of {width.name!r}: "
                    f"{twice[0]!r} has them twice; leave the width out (`widths=`)"
                )
        return None, None

    def forecast(self, anatomy: gn.Anatomy, steps: int) -> dict[str, Any]:
        units = regular(self, anatomy, steps)
        sizes = anatomy.sizes
        return {n: sizes[n] + (u - sizes[n]) // 2 * 2 for n, u in units.items()}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        changes = {}
        for i, (name, mask) in enumerate(evidence.open.items()):
            births = room_for(self, mask) // 2 * 2
            changes[name] = self._change(evidence, name, births, jr.fold_in(key, i))
        return gn.Decision(changes), trainable, memory, {}

    def _change(
        self, evidence: gn.Evidence, name: str, births: Any, key: Any
    ) -> gn.Change:
        anatomy, mask = evidence.anatomy, evidence.open[name]
        width, before = anatomy.widths[name], jnp.sum(mask)
        shrunk = jnp.sqrt(before / (before + births)) if self.rescale else 1.0
        cover = {width.members[i] for i in width.cover}
        # Newborns take the closed slots, lowest first.
        birth = jnp.cumsum(~mask) - 1
        sign = jnp.where(birth % 2 == 0, 1.0, -1.0)[:, None]
        values, rewrite = {}, {}
        for i, (member, rows) in enumerate(
            gn.unit_rows(anatomy, name, evidence.network).items()
        ):
            if member not in cover and not {"producer", "offset"} & {*member.roles}:
                continue  # Scales start at one.
            own = rows * jnp.asarray(shrunk, rows.dtype) if member in cover else rows
            new = _alike(own, birth // 2, jr.fold_in(key, i))
            new = new * sign.astype(rows.dtype) if member in cover else new
            put = lambda r, m=member: gn.with_unit_rows(
                anatomy, name, evidence.network, {m: r}
            )
            values |= put(new)
            if member in cover and self.rescale:
                rewrite |= put(own)
        return gn.Change(mask, births, values=values, rewrite=rewrite or None)


def _alike(rows: Any, pair: Any, key: Any) -> Any:
    """Random rows, the same for both of a pair, of the size of what isn't zero in the
    present ones: closed units are."""
    there = jnp.maximum(jnp.sum(rows != 0), 1).astype(rows.dtype)
    size = jnp.sqrt(jnp.sum(rows**2) / there)
    keys = jax.vmap(lambda p: jr.fold_in(key, p))(pair)
    draw = lambda k: jr.normal(k, rows.shape[1:], rows.dtype)
    return size * jax.vmap(draw)(keys)
