"""Data, networks and losses: teachers, scikit-learn's digits, MNIST-1D."""

import dataclasses
import functools as ft
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from ..discovered_size.tasks import INPUTS, teacher
from ..mnist_1d import mnist1d


NOISE = 0.05
Data = dict[str, tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program is made for: tasks of one shape share it."""

    kind: Literal["numbers", "classes"]
    inputs: int
    outputs: int
    depth: int = 1

    def network(self, width: int, key: Any) -> eqx.nn.MLP:
        return eqx.nn.MLP(
            self.inputs, self.outputs, width, self.depth, activation=jnp.tanh, key=key
        )

    @property
    def loss(self) -> Any:
        return squared_error if self.kind == "numbers" else cross_entropy

    def error(self, net: Any, part: tuple[Any, Any]) -> Any:
        """Wrongly told examples in percent; of numbers, the loss."""
        x, y = part
        if self.kind == "numbers":
            return squared_error(net, part)
        return 100 * jnp.mean(jnp.argmax(jax.vmap(net)(x), axis=-1) != y)


@dataclasses.dataclass(frozen=True)
class Task:
    """Parts of the data are `train`, `valid` and `test`; `hidden` of a teacher."""

    name: str
    title: str
    shape: Shape
    hidden: int = 0

    @property
    def drawn(self) -> bool:
        """Every seed has data of its own."""
        return self.hidden > 0

    def data(self, seeds: Any) -> Data:
        """With a leading axis of seeds, if drawn."""
        if self.drawn:
            every = [_taught(int(seed), self.hidden) for seed in seeds]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)
        return _digits() if self.name == "digits" else _mnist1d()

    def counts(self) -> dict[str, int]:
        """How many examples each part has."""
        axis = int(self.drawn)
        return {k: y.shape[axis] for k, (_, y) in self.data([0]).items()}


def squared_error(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def cross_entropy(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    logits = jax.vmap(net)(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def _taught(seed: int, hidden: int) -> Data:
    """Every seed draws a teacher, its data and its noise: 512, 256 and 4,096 points.
    Outputs have unit variance without the noise."""
    keys = jr.split(jr.key(seed), 3)
    x = jr.normal(keys[0], (512 + 256 + 4_096, INPUTS))
    clean = teacher(keys[1], (hidden,), x)
    clean = (clean - clean.mean()) / clean.std()
    y = clean + NOISE * jr.normal(keys[2], clean.shape)
    return {
        "train": (x[:512], y[:512]),
        "valid": (x[512:768], y[512:768]),
        "test": (x[768:], y[768:]),
    }


@ft.cache
def _digits() -> Data:
    """8 x 8 images: 1,097 to train, 300 held out, 400 to test, always the same ones,
    with every class in the same proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    known = load_digits()
    x, y = (known.data / 16).astype(np.float32), known.target.astype(np.int32)
    split = ft.partial(train_test_split, random_state=0)
    rest, test = split(np.arange(len(y)), test_size=400, stratify=y)
    train, valid = split(rest, test_size=300, stratify=y[rest])
    rows = {"train": train, "valid": valid, "test": test}
    return {k: (jnp.asarray(x[r]), jnp.asarray(y[r])) for k, r in rows.items()}


@ft.cache
def _mnist1d() -> Data:
    """MNIST-1D: 3,200 to train and 800 held out, and its 1,000 to test."""
    (x, y), test = mnist1d()
    order = np.random.default_rng(0).permutation(len(y))
    rows = {"train": order[:3_200], "valid": order[3_200:]}
    return {k: (x[r], y[r]) for k, r in rows.items()} | {"test": test}


_TAUGHT, _TOLD = Shape("numbers", INPUTS, 1), Shape("classes", 40, 10)
TASKS = {
    task.name: task
    for task in (
        Task("teacher_6", "teacher of 6 units", _TAUGHT, 6),
        Task("teacher_24", "teacher of 24 units", _TAUGHT, 24),
        Task("digits", "digits", Shape("classes", 64, 10)),
        Task("mnist1d", "MNIST-1D", _TOLD),
        Task("mnist1d_deep", "MNIST-1D, two layers", Shape("classes", 40, 10, 2)),
    )
}
