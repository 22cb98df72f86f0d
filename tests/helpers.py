"""What several tests need."""

from typing import Any

import jax
import optax


def lenient(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer with JAX's standard promotion inside its update: optax mixes
    Python floats with integer counts, while everything of ours runs under `strict`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
