"""A growth policy in a package of its own."""

import equinox as eqx
import jax.numpy as jnp

import growthnet as gn


class Plateau(gn.AbstractPolicy):
    """Adds units to every width when the validation loss has stopped falling.

    - `add`: units per width and growth.
    - `least`: what counts as falling, relative to the best loss so far.
    - `patience`: decisions without a fall before it grows.
    - `maximum`: no width gets larger.
    """

    add: int = 2
    least: float = 0.01
    patience: int = eqx.field(static=True, default=2)
    maximum: int = eqx.field(static=True, default=256)
    every: int = eqx.field(static=True, default=100)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"valid_loss"}))
    optimizer: None = None
    preserves = True

    def init(self, anatomy, *, key):
        del anatomy, key
        best, stalled = jnp.asarray(jnp.inf), jnp.asarray(0)
        return None, (best, stalled)

    def step(self, trainable, memory, evidence, *, key):
        del key
        best, stalled = memory
        falls = evidence.valid_loss < (1 - self.least) * best
        stalled = jnp.where(falls, 0, stalled + 1)
        grows = stalled >= self.patience
        changes = {}
        for name, mask in evidence.open.items():
            room = jnp.maximum(self.maximum - mask.sum(), 0)
            changes[name] = gn.Change(
                mask, jnp.where(grows, jnp.minimum(self.add, room), 0)
            )
        memory = jnp.minimum(best, evidence.valid_loss), jnp.where(grows, 0, stalled)
        return gn.Decision(changes), trainable, memory, {"stalled": stalled}
