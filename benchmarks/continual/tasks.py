"""Fashion-MNIST by class: what is trained on, rates are chosen on, tested on."""

from typing import Any

import numpy as np

from ..fashion_mnist import fashion_mnist
from .settings import CLASSES, HELD_OUT, TRAIN


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 60,000 images; of each class the numbers of the first 5,500, which are
    trained on, and of the 500 others, which rates are chosen on."""
    x, y = fashion_mnist()
    rows = by_class(y)
    return x, rows[:, :TRAIN], rows[:, TRAIN : TRAIN + HELD_OUT]


def test_images() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images, and their numbers by class."""
    x, y = fashion_mnist(test=True)
    return x, by_class(y)


def by_class(labels: Any) -> np.ndarray:
    return np.stack([np.flatnonzero(labels == c) for c in range(CLASSES)])
