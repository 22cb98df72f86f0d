"""What the ways by hand share, in numpy alone: weights, resizes, batches."""

from typing import Any

import numpy as np


UNITS = (0, 0, 1, None)
"""Which axis of the weights and biases of both layers goes by hidden unit."""


def first_weights(inputs: int, size: int, outputs: int, random: Any) -> list[Any]:
    """Uniform within `1 / sqrt(inputs of the layer)`, as Equinox and PyTorch do."""
    shapes = (((size, inputs), inputs), ((size,), inputs))
    shapes = (*shapes, ((outputs, size), size), ((outputs,), size))
    draw = lambda shape, fan: random.uniform(-1, 1, shape) / np.sqrt(fan)
    return [draw(shape, fan).astype(np.float32) for shape, fan in shapes]


def resized(arrays: list[Any], size: int, random: Any = None) -> list[Any]:
    """The first units stay. New ones read at random and aren't read yet; without
    `random`, as for Adam's moments, they are 0."""
    old, inputs = arrays[0].shape
    new = max(0, size - old)
    born = [np.zeros((new, inputs)), np.zeros(new), np.zeros((len(arrays[3]), new))]
    if random is not None:
        born[:2] = [random.uniform(-1, 1, b.shape) / np.sqrt(inputs) for b in born[:2]]
    made = []
    for array, more, axis in zip(arrays, [*born, None], UNITS, strict=True):
        if axis is not None:
            kept = array[:size] if axis == 0 else array[:, :size]
            array = np.concatenate([kept, more.astype(np.float32)], axis)
        made.append(array)
    return made


def batches(size: int, batch: int, steps: int, random: Any) -> np.ndarray:
    """Rows of every step `[steps, batch]`: each epoch is a permutation."""
    epochs = -(-steps // (size // batch))
    whole = [random.permutation(size)[: size // batch * batch] for _ in range(epochs)]
    return np.concatenate(whole).reshape(-1, batch)[:steps].astype(np.int32)
