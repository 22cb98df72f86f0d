"""The first state of an optimizer, without running its `init`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .init_values import read_init


def initial_state(optimizer: Any, params: Any) -> Any:
    """`optimizer.init(params)`, read instead of run where that can be done: running it
    compiles every operation for every shape."""
    if not all(map(_is_plain, jax.tree.leaves(params))):
        return optimizer.init(params)
    init = read_init(optimizer, params)
    kinds = [aval.dtype for aval in init.program.closed.out_avals]
    if any(jnp.issubdtype(dtype, jax.dtypes.extended) for dtype in kinds):
        return optimizer.init(params)  # PRNG keys are nothing to numpy.
    values = [init.value(k) for k in range(len(init.shapes))]
    return init.unflatten([jax.device_put(value) for value in values])


def _is_plain(leaf: Any) -> bool:
    """Numbers that are known, on one device."""
    if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
        return len(leaf.sharding.device_set) == 1
    return isinstance(leaf, np.ndarray)
