"""Two sweeps of method A at the published settings: the size law, and lambda."""

import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._blocks import setting, train_blocks
from ._method_a import init, law, train
from ._tasks import Data, draw, TASKS


TEST_POINTS = 256
RATE, EPOCHS = TASKS["J0"].rate, TASKS["J0"].epochs


def size_law(quick: bool) -> Iterator[tuple[str, Any]]:
    """N after every 1/100 of the run, for four lambdas, beside the law."""
    weights = [0.01, 0.033, 0.1, 0.3]
    trials, draws = (4, 2) if quick else (10, 5)
    each, record = trials * draws, 177
    data = draw(TASKS["J0"], TASKS["J0"].points, draws, (10,)).repeat(trials)
    k = each * len(weights)
    x, y = (np.tile(a, len(weights)) for a in data)
    weight = np.repeat(weights, each)
    net = init(jr.key(10), k)
    _, sizes = train(
        net, setting(k, weight=weight), x, y, epochs=100 * record, record=record
    )
    epochs = record * np.arange(1, 101)
    sizes = np.asarray(sizes).reshape(100, len(weights), each)
    rows = [
        {
            "lambda": w,
            "mean": sizes[:, i].mean(axis=1).tolist(),
            "low": np.quantile(sizes[:, i], 0.05, axis=1).tolist(),
            "high": np.quantile(sizes[:, i], 0.95, axis=1).tolist(),
            "law": law(jnp.asarray(epochs), RATE, w).tolist(),
        }
        for i, w in enumerate(weights)
    ]
    yield "networks", each
    yield "epochs", epochs.tolist()
    yield "rows", rows


def lambdas(quick: bool) -> Iterator[tuple[str, Any]]:
    """Growing and static networks over lambda, with the size as an input and not."""
    weights = np.logspace(-2, 2, 5 if quick else 41)
    draws = 1 if quick else 5
    arms = {"as published": (True, 8 if quick else 200)}
    arms["no size input"] = (False, 8 if quick else 200)
    yield from {"lambdas": weights.tolist(), "draws": draws, "epochs": EPOCHS}.items()
    for name, (fed, trials) in arms.items():
        began = time.perf_counter()
        means = _over_lambda(name, weights, draws, trials, fed)
        seconds = time.perf_counter() - began
        yield name, means | {"trials": trials, "seconds": seconds}


def _over_lambda(
    name: str, weights: np.ndarray, draws: int, trials: int, size_input: bool
) -> dict[str, Any]:
    """Mean test losses [lambda, draw] of both arms; each lambda has its own draws."""
    task, n = TASKS["J0"], len(weights) * draws
    data, test = (
        draw(task, points, n, (20, i)).repeat(trials)
        for i, points in enumerate((task.points, TEST_POINTS))
    )
    k = n * trials
    weight = np.repeat(weights, draws * trials)
    # One run for both arms, with the same initial weights: growing first.
    start = np.repeat([0.0, 5.0], k)
    one = init(jr.key(20), k)
    net = type(one)(*(np.concatenate([a, a], axis=-1) for a in one))
    net = net._replace(size=jnp.asarray(start, jnp.float32))
    ends = train_blocks(
        net,
        setting(2 * k, weight=np.tile(weight, 2), size_input=size_input),
        Data(*(np.tile(a, 2) for a in data)),
        Data(*(np.tile(a, 2) for a in test)),
        EPOCHS,
        "square",
        f"lambda, {name}",
    )
    means = {
        part: values.reshape(2, len(weights), draws, trials).mean(axis=-1)
        for part, values in ends.items()
    }
    return {
        arm: {part: values[i].tolist() for part, values in means.items()}
        for i, arm in enumerate(("growing", "static"))
    }
