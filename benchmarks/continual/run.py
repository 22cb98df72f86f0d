"""Runs the arms, each once, and keeps what came out arm by arm."""

import functools as ft
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..stored import timed, write
from .flops import executed
from .learner import accuracies
from .report import final
from .settings import Arm, ARMS, RATES, SEEDS, TUNING
from .tasks import images, test_images


Rows = dict[str, dict[str, Any]]


def run(path: Path, only: str = "", arms: dict[str, Arm] = ARMS) -> Rows:
    """All arms, or those whose names contain `only`, that `path` doesn't have yet."""
    rows: Rows = json.loads(path.read_text()) if path.exists() else {}
    missing = {n: arm for n, arm in arms.items() if n not in rows and only in n}
    for name, arm in missing.items():
        make = lambda arm=arm: {**tuned(arm), "flops": executed(arm)}
        row = rows[name] = timed(make)
        write(path, rows)
        last = 100 * final(row).mean()
        print(f"{name}: {last:.1f} %, {row['cpu_seconds']} s", flush=True)
    return {name: rows[name] for name in arms if name in rows}


@ft.cache
def _images() -> tuple[Any, ...]:
    """Those to train and to choose rates on, with their numbers by class; then the test
    images."""
    x, train, held_out = images()
    asked, test = test_images()
    return jnp.asarray(x), train, held_out, jnp.asarray(asked), test


def tuned(arm: Arm) -> dict[str, Any]:
    """The evaluation seeds, at the rate that is best on held-out data of the others."""
    x, train, held_out, asked, test = _images()
    seeds, rates = [*TUNING] * len(RATES), np.repeat(RATES, len(TUNING))
    tries, _ = accuracies(arm, seeds, rates, x, train, (x, held_out))
    last = tries[:, -1].mean(axis=1).reshape(len(RATES), -1).mean(axis=1)
    rate = RATES[int(np.argmax(last))]
    rates = np.full(len(SEEDS), rate)
    accuracy, sizes = accuracies(arm, SEEDS, rates, x, train, (asked, test))
    return {
        "rate": rate,
        "tries": dict(zip(map(str, RATES), last.round(4).tolist(), strict=True)),
        "accuracy": accuracy.round(4).tolist(),
        "units": sizes.tolist(),
    }
