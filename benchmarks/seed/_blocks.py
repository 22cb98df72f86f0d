"""Many networks of method A: in blocks of one shape, so that one program does all."""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._method_a import data_loss, Net, Setting, size_loss, train
from ._tasks import Data, Loss


# 256 networks of 9 units: an array of 9 KiB, so a step stays in the first-level cache.
BLOCK = 256


def setting(k: int, **fields: Any) -> Setting:
    """Settings of k networks: numbers or arrays; what isn't named is as published."""
    published = {
        "rate": 1e-3,
        "cosine": False,
        "weight": 0.1,
        "size_input": True,
        "own_rate": False,
        "ramp": False,
    }
    unknown = fields.keys() - published
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; use {', '.join(published)}")
    kinds = {name: np.asarray(value).dtype.kind for name, value in published.items()}
    return Setting(
        **{
            name: jnp.broadcast_to(
                jnp.asarray(value, bool if kinds[name] == "b" else jnp.float32), (k,)
            )
            for name, value in (published | fields).items()
        }
    )


def train_blocks(
    net: Net,
    settings: Setting,
    data: Data,
    test: Data,
    epochs: int,
    loss: Loss,
    what: str,
) -> dict[str, np.ndarray]:
    """Train any number of networks, then read `test`: data loss, size loss and size."""
    k = settings.rate.shape[0]
    rows = []
    began = time.perf_counter()
    for start in range(0, k, BLOCK):
        # The last block is filled up with networks whose results are dropped.
        at = np.minimum(np.arange(start, start + BLOCK), k - 1)
        part, how, (x, y), (tx, ty) = jax.tree.map(
            lambda a, at=at: a[..., at], (net, settings, tuple(data), tuple(test))
        )
        part, _ = train(part, how, x, y, epochs=epochs, loss=loss)
        rows.append(
            (data_loss(part, how, tx, ty, loss), size_loss(part, how), part.size)
        )
        jax.block_until_ready(rows[-1])
        seconds = time.perf_counter() - began
        print(f"{what}: {min(start + BLOCK, k)}/{k}, {seconds:.0f} s", file=sys.stderr)
    data_part, size_part, size = (
        np.concatenate([np.asarray(r[i]) for r in rows])[:k] for i in range(3)
    )
    return {"data": data_part, "size loss": size_part, "size": size}
