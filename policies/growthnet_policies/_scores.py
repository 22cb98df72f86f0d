"""How much a unit is worth: plain functions of evidence, one number per slot.

Numbers in the last column are arXiv's.

| score | what it is | source |
|---|---|---|
| `magnitude` | norm of all weights that make and read the unit | 2301.12900 |
| `incoming` | norm of those that make it | 1608.08710 (there L1) |
| `outgoing` | norm of those that read it | |
| `activation` | mean absolute activation | 1611.06440 |
| `variance` | variance of the activation | Sietsma & Dow, 1991 |
| `nonzero` | 1 - APoZ: how often the unit isn't 0 | 1607.03250 |
| `taylor` | abs of the sum of weight times gradient, of what makes it | 1906.10771 |
| `fisher` | half the mean square of the gate's slope on a sample | 1801.05787 |
| `gate_slope` | abs of d loss / d gate | Mozer & Smolensky, 1988 |
| `random` | uniform numbers: the control | |

`taylor`, `fisher` and `gate_slope` estimate how much the loss changes, so they compare
across widths as they are. For `fisher` every sample (a place in an image, a position)
counts as an example of its own; a loss is taken to be a mean over samples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr

import growthnet as gn


class Score(NamedTuple):
    """A score and the evidence that it reads.

    - `of`: `of(evidence, name, key)`, `[capacity]`: more is worth more. What it says of
        closed slots doesn't matter.
    """

    of: Callable[[gn.Evidence, str, Any], Any]
    needs: frozenset[str]


def _squares(evidence: gn.Evidence, name: str, roles: set[str]) -> Any:
    rows = gn.unit_rows(evidence.anatomy, name, evidence.network)
    found = [jnp.sum(r**2, axis=1) for m, r in rows.items() if roles & set(m.roles)]
    if not found:
        raise ValueError(
            f"no leaf of {name!r} is a {' or '.join(sorted(roles))}, so its units have "
            "no such magnitude; use another score or leave the width out (`widths=`)"
        )
    return sum(found)


def magnitude(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.sqrt(_squares(evidence, name, {"producer", "consumer"}))


def incoming(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.sqrt(_squares(evidence, name, {"producer"}))


def outgoing(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.sqrt(_squares(evidence, name, {"consumer"}))


def activation(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.mean(jnp.abs(evidence.units[name].activations), axis=0)


def variance(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.var(evidence.units[name].activations, axis=0)


def nonzero(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    values = evidence.units[name].activations
    return jnp.mean((values != 0).astype(values.dtype), axis=0)


def taylor(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    weights = gn.unit_rows(evidence.anatomy, name, evidence.network)
    slopes = gn.unit_rows(evidence.anatomy, name, evidence.gradients)
    cover = evidence.anatomy.widths[name].cover
    read = [evidence.anatomy.widths[name].members[i] for i in cover]
    made = [m for m in slopes if m not in read]
    shares = [jnp.sum(weights[m] * slopes[m], axis=1) for m in made]
    if not shares:
        raise ValueError(
            f"no trained leaf makes the units of {name!r}, so there is no Taylor term; "
            "use another score or leave the width out (`widths=`)"
        )
    return jnp.abs(sum(shares))


def fisher(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    units = evidence.units[name]
    slopes = units.activations * units.cotangents
    return jnp.sum(slopes**2, axis=0) * (slopes.shape[0] / 2)


def gate_slope(evidence: gn.Evidence, name: str, key: Any) -> Any:
    del key
    return jnp.abs(evidence.gate_slopes[name])


def random(evidence: gn.Evidence, name: str, key: Any) -> Any:
    key = jr.fold_in(key, list(evidence.open).index(name))
    return jr.uniform(key, evidence.open[name].shape)


SCORES: dict[str, Score] = {
    "magnitude": Score(magnitude, frozenset({"network"})),
    "incoming": Score(incoming, frozenset({"network"})),
    "outgoing": Score(outgoing, frozenset({"network"})),
    "activation": Score(activation, frozenset({"activations"})),
    "variance": Score(variance, frozenset({"activations"})),
    "nonzero": Score(nonzero, frozenset({"activations"})),
    "taylor": Score(taylor, frozenset({"network", "gradients"})),
    "fisher": Score(fisher, frozenset({"activations", "unit_cotangents"})),
    "gate_slope": Score(gate_slope, frozenset({"gate_slopes"})),
    "random": Score(random, frozenset()),
}
"""Scores by name."""


def score_of(score: str | Score) -> Score:
    """**Raises:** `ValueError` for a score that isn't known."""
    if isinstance(score, Score):
        return score
    if score not in SCORES:
        raise ValueError(
            f"score={score!r}; use one of {', '.join(SCORES)}, or a Score(of, needs)"
        )
    return SCORES[score]
