"""What reads a width, and its natural gradient: the Fisher matrix as a product.

With units a, and c the cotangents at what reads them, the matrix is the Kronecker
product of A, the mean of a a', and S, the mean of c c'. With G the mean of a c' the
score g' F^-1 g is trace(G' A^-1 G S^-1). Units beside them raise it, by the rule for
inverses of blocks.

Sources: Martens and Grosse, arXiv 1503.05671; for convolutions Grosse and Martens,
arXiv 1602.01407, here with places taken for examples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

import growthnet as gn

from ._newborns import cotangents


class Layer(NamedTuple):
    """What reads a width, on a batch: both factors of F, and the gradient.

    - `units`: what is read, `[samples, units]`, with a 1 for the bias.
    - `factor`: the Cholesky factor of A; `small` is what its ridge is.
    - `white`: cotangents times S^-1/2, `[samples, outputs]`.
    - `reached`: A^-1 G S^-1/2, `[units, outputs]`: what the units do by themselves.
    - `outputs`: how many there are (closed units of the next width are none).
    - `score`: of the layer.
    """

    units: Any
    factor: Any
    small: Any
    white: Any
    reached: Any
    outputs: Any
    score: Any

    def beside(self, said: Any) -> tuple[Any, Any]:
        """C and M S^-1/2 of units that say this, `[samples, count]`."""
        said, cross, explained = self._against(said)
        own = said.T @ said / len(said) + self.small * jnp.eye(said.shape[1])
        return own - cross.T @ explained, self._gradient(said, cross)

    def alone(self, said: Any) -> Any:
        """By how much each of them raises the score by itself."""
        said, cross, explained = self._against(said)
        own = jnp.mean(said**2, axis=0) + self.small
        rest = own - jnp.sum(cross * explained, axis=0)
        return _ratio(jnp.sum(self._gradient(said, cross) ** 2, axis=1), rest)

    def _against(self, said: Any) -> tuple[Any, Any, Any]:
        said = said.astype(self.units.dtype)
        cross = self.units.T @ said / len(said)
        return said, cross, cho_solve((self.factor, True), cross)

    def _gradient(self, said: Any, cross: Any) -> Any:
        return said.T @ self.white / len(said) - cross.T @ self.reached


def layer_of(evidence: gn.Evidence, name: str, ridge: Any) -> Layer:
    """The layer that reads a width."""
    units, mask = evidence.units[name], evidence.open[name]
    values = jnp.where(mask[None], units.activations, 0)
    if any(consumer.bias is not None for consumer in units.consumers):
        ones = jnp.ones((len(values), 1), values.dtype)
        values, mask = jnp.append(values, ones, 1), jnp.append(mask, True)
    given = cotangents(units)
    given = given / jnp.maximum(_size(given), jnp.finfo(given.dtype).tiny)
    moment = lambda v: v.T @ v / len(v)
    first, small = _damped(moment(values), ridge, jnp.sum(mask))
    outputs = jnp.sum(jnp.any(given != 0, axis=0))
    second, _ = _damped(moment(given), ridge, outputs)
    factor = cho_factor(first, lower=True)[0]
    root = jnp.linalg.cholesky(second)
    white = solve_triangular(root, given.T, lower=True).T
    slopes = values.T @ white / len(values)
    reached = cho_solve((factor, True), slopes)
    score = jnp.sum(slopes * reached)
    return Layer(values, factor, small, white, reached, outputs, score)


def best_of(own: Any, slopes: Any, count: int) -> tuple[Any, Any]:
    """The units that raise the score most, one after the other, each beside those that
    were chosen before; and by how much it does."""

    def choose(state: Any, _: Any) -> tuple[Any, tuple[Any, Any]]:
        own, slopes, free = state
        rest = jnp.diagonal(own)
        more = jnp.where(free, _ratio(jnp.sum(slopes**2, axis=1), rest), -jnp.inf)
        best = jnp.argmax(more)
        shares = _ratio(own[:, best], rest[best])
        own = own - shares[:, None] * own[best][None]
        slopes = slopes - shares[:, None] * slopes[best][None]
        return (own, slopes, free.at[best].set(False)), (best, more[best])

    state = own, slopes, jnp.ones(len(own), bool)
    return jax.lax.scan(choose, state, None, length=count)[1]


def _ratio(above: Any, below: Any) -> Any:
    """Their quotient; 0 where there is nothing below but rounding."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _size(array: Any) -> Any:
    return jnp.sqrt(jnp.mean(array**2))


def _damped(moment: Any, ridge: Any, count: Any) -> tuple[Any, Any]:
    """With the ridge on its diagonal; and what that is."""
    mean = jnp.trace(moment) / jnp.maximum(count, 1).astype(moment.dtype)
    small = jnp.maximum(ridge * mean, jnp.finfo(moment.dtype).tiny)
    return moment + small * jnp.eye(len(moment), dtype=moment.dtype), small
