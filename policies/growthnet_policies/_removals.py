"""What becomes of a removed unit: its changes to survivors, as `Change.rewrite`.

- `silence`: nothing.
- `absorb`: its mean goes to the biases of what reads it. Exact where it is constant.
- `refit`: it is replaced by the affine function of the survivors that is nearest to it
    in the mean square, and what reads it reads that instead. For dense consumers these
    are the least-squares weights.

With a the units' values and r the removed ones, kept ones k, refit solves

    min_D  E |a_r - m_r - (a_k - m_k) D|^2 + ridge |D|^2

so on the batch it is never worse than absorbing, which is D = 0. Sources: Sietsma & Dow
(1991) for both; He, Zhang, Sun, arXiv 1707.06168, for the least squares.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

import growthnet as gn

from ._factorizations import solve
from ._newborns import arrays_of


Removal = Literal["silence", "absorb", "refit"]
NEEDS: dict[str, frozenset[str]] = {
    "silence": frozenset(),
    "absorb": frozenset({"network", "activations"}),
    "refit": frozenset({"network", "activations"}),
}


class Moments(NamedTuple):
    """Of a width's units on a batch: means `[units]`, and means of products `[units,
    units]` (`None` where they aren't needed)."""

    mean: Any
    second: Any


def moments(evidence: gn.Evidence, name: str, removal: Removal) -> Moments | None:
    """What a removal has to know of the units."""
    if removal == "silence":
        return None
    values = evidence.units[name].activations
    second = values.T @ values / len(values) if removal == "refit" else None
    return Moments(jnp.mean(values, axis=0), second)


def rewrite(
    evidence: gn.Evidence,
    name: str,
    keep: Any,
    seen: Moments | None,
    removal: Removal,
    ridge: Any,
    who: str,
) -> dict[str, Any] | None:
    """What survivors take when the other open units go.

    **Raises:** `ValueError` for consumers without a bias: nothing could absorb.
    """
    if seen is None:
        return None
    gone = evidence.open[name] & ~keep
    arrays = arrays_of(evidence)
    solution = None if removal == "absorb" else _nearest(keep, gone, seen, ridge)
    new: dict[str, Any] = {}
    for consumer in evidence.units[name].consumers:
        if consumer.bias is None:
            raise ValueError(
                f"{who}: {consumer.path!r}, which reads {name!r}, has no bias that "
                "could absorb a mean; use removal='silence', or leave the width out "
                "(`widths=`)"
            )
        rows = consumer.rows(arrays[consumer.path])
        mean = jnp.where(gone, seen.mean, 0)
        if solution is not None:
            mean = mean - jnp.where(keep, seen.mean, 0) @ solution
            moved = consumer.leaf(jnp.where(keep[:, None], solution @ rows, 0))
            new[consumer.path] = arrays[consumer.path] + moved
        path = consumer.bias.path
        new[path] = new.get(path, arrays[path]) + consumer.bias.leaf(mean @ rows)
    return new


def _nearest(keep: Any, gone: Any, seen: Moments, ridge: Any) -> Any:
    """`[units, units]`: column r holds what replaces removed unit r, by kept unit; 0
    elsewhere."""
    covariance = seen.second - seen.mean[:, None] * seen.mean[None]
    both = keep[:, None] & keep[None]
    scale = jnp.max(jnp.where(keep, jnp.diagonal(covariance), 0))
    damping = jnp.where(keep, ridge * scale, 0) + jnp.where(keep & (scale > 0), 0, 1)
    matrix = jnp.where(both, covariance, 0) + jnp.diag(damping)
    shares = jnp.where(keep[:, None] & gone[None], covariance, 0)
    return solve(matrix, shares)
