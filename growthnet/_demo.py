"""The demo: a network grows on handwritten digits, beside two that don't."""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import growthnet as gn
from growthnet_policies import GradientSizeWeight  # noqa: TID251 - users import it so

from ._history.history import columns
from ._history.progress import Progress


TRAINING, VALIDATION = 300, 300  # of 1797 examples: few enough that size matters
BATCH = 50
LEARNING_RATE = 1e-3  # this and --steps: chosen by the loss on the validation examples

Batch = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images `[examples, 64]`, standardised by those of `train`, and their labels."""

    train: Batch
    valid: Batch
    test: Batch


def digits() -> Digits:
    """scikit-learn's bundled digits in a fixed split, stratified by class."""
    x, y = load_digits(return_X_y=True)

    def split(x: np.ndarray, y: np.ndarray, size: int) -> Any:
        return train_test_split(x, y, train_size=size, stratify=y, random_state=0)

    x, x_rest, y, y_rest = split(x, y, TRAINING)
    x_valid, x_test, y_valid, y_test = split(x_rest, y_rest, VALIDATION)
    # One scale for all pixels: in so few images some pixels are always blank.
    mean, scale = x.mean(axis=0), x.std()

    def batch(x: np.ndarray, y: np.ndarray) -> Batch:
        return jnp.asarray((x - mean) / scale, jnp.float32), jnp.asarray(y, jnp.int32)

    return Digits(batch(x, y), batch(x_valid, y_valid), batch(x_test, y_test))


def predict(net: Any, batch: Batch) -> jax.Array:
    """Logits `[examples, 10]`."""
    images, _ = batch
    return jax.vmap(net)(images)


def loss(net: Any, batch: Batch, key: Any) -> jax.Array:
    """Mean cross entropy in nats."""
    del key
    _, labels = batch
    each = optax.softmax_cross_entropy_with_integer_labels(predict(net, batch), labels)
    return jnp.mean(each)


def size_weight(target: int, steps: int) -> GradientSizeWeight:
    """A size weight that takes about a third of the run to grow.

    Its distance from the target falls by exp(-2 * rate * learning_rate) per step, that
    is by exp(-8) in the whole run.
    """
    return GradientSizeWeight(
        target, rate=0.1, learning_rate=40 / steps, every=_every(steps)
    )


def _every(steps: int) -> int:
    return max(1, steps // 200)


def train(
    label: str,
    units: int,
    policy: gn.AbstractPolicy,
    data: Digits,
    settings: argparse.Namespace,
) -> tuple[gn.Run, float]:
    """Trains an ordinary network, which knows nothing of growth, under a policy.

    **Returns:** the run and its seconds.
    """
    net_key, run_key = jr.split(jr.key(settings.seed))
    start = time.perf_counter()
    with Progress(label) as progress:
        run = gn.fit(
            eqx.nn.MLP(64, 10, width_size=units, depth=1, key=net_key),
            loss,
            data.train,
            optimizer=optax.adam(LEARNING_RATE),
            policy=policy,
            steps=settings.steps,
            key=run_key,
            valid=data.valid,
            predict=predict,
            batch_size=BATCH,
            callback=progress,
        )
    return run, time.perf_counter() - start


_HEAD = ("network", "units", "parameters", "test accuracy", "test loss", "seconds")


def _result(label: str, run: gn.Run, seconds: float, test: Batch) -> tuple[str, ...]:
    hits = jnp.argmax(predict(run.net, test), axis=-1) == test[1]
    return (
        label,
        str(_units(run)),
        str(run.anatomy.params()),
        f"{100 * float(jnp.mean(hits)):.1f} %",
        f"{float(loss(run.net, test, None)):.3f}",
        f"{seconds:.1f}",
    )


def _units(run: gn.Run) -> int:
    (width,) = run.anatomy.widths.values()
    return width.size


_OPENING = """\
Handwritten digits: {train} examples to train on, {valid} to validate, {test} to test.
A perceptron's hidden layer starts at {start}, and its size weight is drawn to {target}.
That target was given (--target), not found in training.
"""

_RESULTS = """
The size weight ended at {weight:.2f}, which makes the final size {units}.

Test examples, used for nothing else:

{table}

All three had the same optimizer, steps and batches; seconds include compiling.
This is one seed ({seed}) without an interval: it shows how a run goes, and doesn't show
that growing is better or worse than starting at the final size.
"""


def main(settings: argparse.Namespace) -> None:
    """Trains a growing network and two static ones, and prints what came of them.

    **Arguments:** `settings` has `start`, `target`, `steps`, `seed` and `out`, a folder
    that exists.
    """
    data, start, seed = digits(), settings.start, settings.seed
    counts = {"train": TRAINING, "valid": VALIDATION, "test": len(data.test[1])}
    print(_OPENING.format(**counts, start=start, target=settings.target), flush=True)

    policy = size_weight(settings.target, settings.steps)
    sized, seconds = train("size weight", start, policy, data, settings)
    units = _units(sized)
    arms = [(f"size weight, {start} -> {units}", sized, seconds)]
    for label, size in (("final", units), ("starting", start)):
        policy = gn.NoGrowth(every=_every(settings.steps))
        run, seconds = train(f"static, {size}", size, policy, data, settings)
        arms.append((f"static, {label} size", run, seconds))

    print("\nGrowth events:\n", sized.history.table(), sep="\n")
    table = "\n".join(columns([_HEAD, *(_result(*arm, data.test) for arm in arms)]))
    (weight,) = sized.growing.trainable.values()
    print(_RESULTS.format(weight=float(weight), units=units, table=table, seed=seed))
    _save(sized.history, settings.out, f"digits: {start} -> {units} hidden units")


def _save(history: gn.History, folder: Path, title: str) -> None:
    picture, records = folder / "growth.png", folder / "growth.jsonl"
    history.plot(picture, title=title)
    history.to_jsonl(records)
    print(f"Picture: {picture}\nRecords: {records}")
