"""What all arms are given: data and first weights, in numpy alone.

Nothing here may import JAX or PyTorch, since each arm runs in an interpreter that has
only one of them.
"""

from typing import Any

import numpy as np

from benchmarks.fashion_mnist import fashion_mnist


def waves() -> tuple[np.ndarray, np.ndarray]:
    """200 points on [-1, 1]^2 and a product of two waves."""
    x = np.random.default_rng(1).uniform(-1, 1, (200, 2))
    y = np.sin(3 * x[:, :1]) * np.cos(2 * x[:, 1:])
    return x.astype(np.float32), y.astype(np.float32)


def data_of(task: str) -> tuple[np.ndarray, np.ndarray]:
    return waves() if task == "waves" else fashion_mnist()


def first_weights(task: str, size: int) -> list[np.ndarray]:
    """Weights and biases of one hidden layer: `[size, in]`, `[size]`, `[out, size]`,
    `[out]`, uniform within `1 / sqrt(inputs)`."""
    inputs, outputs = (2, 1) if task == "waves" else (784, 10)
    draw = np.random.default_rng(0).uniform
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((size, inputs), inputs),
        ((size,), inputs),
        ((outputs, size), size),
        ((outputs,), size),
    ]
    return [
        draw(-1, 1, s).astype(np.float32) / np.sqrt(n, dtype=np.float32)
        for s, n in shapes
    ]


def trials(count: int) -> dict[str, Any]:
    """Method A of "Growing neural networks": per trial 32 points of a cubic and the 38
    first parameters (the size, 18 + 9 weights and 10 biases), by name."""
    draw = np.random.default_rng(2).uniform
    x = draw(-1, 1, (count, 32)).astype(np.float32)
    y = 1 + np.float32(45 / 32) * (x + 1) ** 2 * (x - 1)
    shapes = {"w2": (count, 9, 2), "b2": (count, 9), "w3": (count, 9), "b3": (count,)}
    params = {name: draw(-1, 1, s).astype(np.float32) for name, s in shapes.items()}
    return {"x": x, "y": y, "params": {"N": np.zeros(count, np.float32), **params}}
