"""Which bias is added to what reads a width: it can take a constant share of a unit."""

from typing import Any

import jax.extend.core as jexc
import jax.numpy as jnp
import numpy as np

from .contractions import axes_of, Site, Weights
from .flows import follow, Label, moved


class Bias:
    """The leaf `path` that is added to a consumer's outputs, and nowhere else.

    `index`: for each of a unit's entries of the consumer, which entry of the (flat)
    bias is added where that entry speaks.
    """

    def __init__(self, path: str, shape: tuple[int, ...], index: np.ndarray):
        self.path, self.shape, self.index = path, shape, index

    def leaf(self, entries: Any) -> Any:
        """An array of the bias's shape: sums of what belongs to each of its entries."""
        flat = jnp.zeros(int(np.prod(self.shape)), entries.dtype)
        return flat.at[self.index].add(entries).reshape(self.shape)


def find_bias(weights: Weights, site: Site, shapes: dict[str, Any]) -> Bias | None:
    """The bias of a consumer; `None` where none is added to all that it gives."""
    found = _addend(weights, site)
    if found is None:
        return None
    path, variable, label = found
    (result,) = site.eqn.outvars
    came = follow(weights.flat.jaxpr, result)[variable]
    bias = np.full(result.aval.size, -1)
    bias[came.reshape(-1)] = np.broadcast_to(label, came.shape).reshape(-1)
    index = _by_entry(site, bias.reshape(result.aval.shape))
    return None if index is None else Bias(path, shapes[path], index)


def _addend(weights: Weights, site: Site) -> tuple[str, Any, Label] | None:
    """The leaf that is added, what it is added to, and which of its entries where."""
    (variable,) = site.eqn.outvars
    jaxpr = weights.flat.jaxpr
    plain = lambda atoms: [v for v in atoms if not isinstance(v, jexc.Literal)]
    outputs = plain(jaxpr.outvars)
    while True:
        users = [eqn for eqn in jaxpr.eqns if variable in plain(eqn.invars)]
        if len(users) != 1 or variable in outputs:
            return None
        (eqn,) = users
        others = [v for v in plain(eqn.invars) if v is not variable]
        if eqn.primitive.name in ("add", "add_any") and len(others) == 1:
            paths = weights.computed.get(others[0], frozenset())
            if len(paths) != 1:
                return None
            (path,) = paths
            label = weights.label(path, others[0])
            if label is None or len(list(weights.uses(path))) > 1:
                return None
            return path, variable, label
        same = moved(eqn, np.zeros(variable.aval.shape, np.int8))
        if same is None or same[0].size != variable.aval.size:
            return None
        (variable,) = eqn.outvars


def _by_entry(site: Site, bias: np.ndarray) -> np.ndarray | None:
    """For each of a unit's entries, the bias's entry; `None` where it has several."""
    axes = axes_of(site.eqn, site.side)
    assert axes is not None, "a site is a contraction"
    free = sorted(axes[1].items())
    first = np.moveaxis(bias, [r for _, r in free], range(len(free)))
    table = first.reshape(*first.shape[: len(free)], -1)
    if (table != table[..., :1]).any() or (table < 0).any():
        return None
    shape = list(site.eqn.invars[site.side].aval.shape)
    lifted = [shape[d] if d in dict(free) else 1 for d in range(len(shape))]
    full = np.broadcast_to(table[..., 0].reshape(lifted), shape)
    return full.take(site.table[0], axis=site.axis).reshape(-1)[site.order]
