"""What the networks learn: targets, draws of data, and the settings that go with them.

The targets and settings are those of the authors' notebooks and scripts
(github.com/NonlinearArtificialIntelligenceLab/N3, MIT), solved for in closed form where
the notebooks state them as conditions. numpy only, so that any arm can use them.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import jv


Loss = Literal["square", "logistic"]


class Task(NamedTuple):
    """A task of method A: one input in [-1, 1], one output, few points."""

    target: Callable[[np.ndarray], np.ndarray]
    points: int  # training points
    epochs: int
    rate: float
    weight: float  # lambda, of the size loss
    loss: Loss = "square"
    fresh: bool = True  # does every trial draw its own data?


class Data(NamedTuple):
    """Points first; the last axis counts draws (or networks, after `repeat`)."""

    x: np.ndarray
    y: np.ndarray

    def repeat(self, trials: int) -> "Data":
        return Data(*(np.repeat(a, trials, axis=-1) for a in self))


def rescaled(y: np.ndarray) -> np.ndarray:
    """`y` moved and stretched to [-1, 1]."""
    return 2 * (y - y.min()) / (y.max() - y.min()) - 1


def j0(x: np.ndarray) -> np.ndarray:
    """J0 on [0.1, 0.2], both axes rescaled: nearly an arc of a parabola."""
    high, low = jv(0, 0.1), jv(0, 0.2)
    return 2 * (jv(0, 0.15 + 0.05 * x) - low) / (high - low) - 1


def bessel(x: np.ndarray) -> np.ndarray:
    """J0 + J1 + J2 on [-2 pi, 2 pi], both axes rescaled."""
    z = np.linspace(-2 * np.pi, 2 * np.pi, 4001)
    curve = jv(0, z) + jv(1, z) + jv(2, z)
    at = 2 * np.pi * x
    value = jv(0, at) + jv(1, at) + jv(2, at)
    return 2 * (value - curve.min()) / (curve.max() - curve.min()) - 1


def cubic(x: np.ndarray) -> np.ndarray:
    return 1 + 45 / 32 * (x + 1) ** 2 * (x - 1)


def quadratic(x: np.ndarray) -> np.ndarray:
    return x**2 / 5 - x - 1 / 5


def quadratic_2(x: np.ndarray) -> np.ndarray:
    return (3 * x**2 - 3 * x - 2) / 4


def sine_classes(x: np.ndarray) -> np.ndarray:
    """Two classes, by the sign of a sine."""
    return np.floor(1 + np.sin(2 * np.pi * x))


TASKS = {
    "J0": Task(j0, 32, 17_783, 1e-3, 0.1, fresh=False),
    "cubic": Task(cubic, 32, 20_000, 1e-3, 0.1),
    "quadratic": Task(quadratic, 32, 20_000, 1e-3, 0.1),
    "quadratic 2": Task(quadratic_2, 32, 20_000, 1e-3, 0.1),
    "J0+J1+J2": Task(bessel, 32, 20_000, 1e-3, 0.1),
    "sine classes": Task(sine_classes, 40, 10_000, 0.08, 0.01, "logistic"),
}


def draw(task: Task, points: int, draws: int, seed: tuple[int, ...]) -> Data:
    """Uniform points in [-1, 1], an own set for each draw."""
    x = np.random.default_rng(seed).uniform(-1, 1, (points, draws))
    return Data(x.astype(np.float32), task.target(x).astype(np.float32))


class Split(NamedTuple):
    """A data set of method B, for one seed: inputs [points, d] and targets."""

    train: Data
    held_out: Data
    test: Data


def split(x: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """80 % to train on; of the rest, half to choose by and half to judge by."""
    order = np.random.default_rng((1, seed)).permutation(len(x))
    cuts = round(0.8 * len(x)), round(0.9 * len(x))
    return Split(*(Data(x[i], y[i]) for i in np.split(order, cuts)))


def bessel_grid(seed: int, points: int = 2048) -> Split:
    """J0 + J1 + J2 on a regular grid."""
    x = np.linspace(-1, 1, points)
    return split(x[:, None].astype(np.float32), bessel(x).astype(np.float32), seed)


def spirals(seed: int, points: int = 2048, classes: int = 5) -> Split:
    """Interleaved noisy spirals in the plane, one per class."""
    each = points // classes
    noise = np.random.default_rng((2, seed)).normal(size=(classes, each))
    turn = np.linspace(0, 4, each) + 4 * np.arange(classes)[:, None] + 0.2 * noise
    radius = np.linspace(0, 5, each)
    axes = [rescaled((radius * f(turn)).ravel()) for f in (np.sin, np.cos)]
    label = np.repeat(np.arange(classes, dtype=np.int32), each)
    return split(np.stack(axes, axis=1).astype(np.float32), label, seed)
