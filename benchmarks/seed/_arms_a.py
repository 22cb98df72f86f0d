"""The arms of method A, and the controls that show what carries the result."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._blocks import setting, train_blocks
from ._method_a import init, TARGET
from ._protocol import compare, Job, Stage
from ._sweeps import TEST_POINTS
from ._tasks import Data, draw, Task, TASKS


# Every arm ends with the same size and has the same arithmetic per step.
ARMS: dict[str, dict[str, Any]] = {
    "static": {"start": TARGET},
    "static, small output": {"start": TARGET, "out_scale": 0.01},
    "growing": {"start": 0.0},
    "growing, size rate fixed": {"start": 0.0, "own_rate": True},
    "open-loop ramp": {"start": 0.0, "ramp": True},
}
# One step beyond 3e-2, where most arms would otherwise be at the edge.
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def tasks(quick: bool) -> Iterator[tuple[str, Any]]:
    """Every task of method A, through the protocol."""
    for name, task in TASKS.items():
        began = time.perf_counter()
        count = {
            "held out": (2, 2) if quick else (5, 6),
            "test": (3, 2) if quick else (10, 20),
        }
        if task.fresh:
            count = {stage: (d * t, 1) for stage, (d, t) in count.items()}
        epochs = task.epochs // 50 if quick else task.epochs

        def run(
            jobs: Sequence[Job],
            stage: Stage,
            name: str = name,
            count: Any = count,
            epochs: int = epochs,
        ) -> np.ndarray:
            draws, trials = count[stage]
            return _run(TASKS[name], jobs, stage, draws, trials, epochs, name)

        rows = compare(list(ARMS), RATES, task.rate, run)
        yield (
            name,
            {
                "rows": rows,
                "draws x trials": count,
                "epochs": epochs,
                "points": [task.points, TEST_POINTS],
                "lambda": task.weight,
                "seconds": time.perf_counter() - began,
            },
        )


def _run(
    task: Task,
    jobs: Sequence[Job],
    stage: Stage,
    draws: int,
    trials: int,
    epochs: int,
    name: str,
) -> np.ndarray:
    """Data losses [jobs, draws, trials]; each job gets the same networks and data."""
    seed, each = {"held out": 30, "test": 31}[stage], draws * trials
    arms = [ARMS[job.arm] for job in jobs]

    def per_job(values: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.asarray(values), each)

    def tiled(data: Data) -> Data:
        return Data(*(np.tile(a, len(jobs)) for a in data.repeat(trials)))

    net = init(jr.key(seed), each)
    net = jax.tree.map(lambda a: jnp.tile(a, len(jobs)), net)
    net = net._replace(
        size=jnp.asarray(per_job([arm["start"] for arm in arms]), jnp.float32),
        out=net.out * per_job([arm.get("out_scale", 1.0) for arm in arms]),
    )
    how = setting(
        each * len(jobs),
        rate=per_job([job.rate for job in jobs]),
        cosine=per_job([job.cosine for job in jobs]),
        weight=task.weight,
        size_input=per_job([job.size_input for job in jobs]),
        own_rate=per_job([arm.get("own_rate", False) for arm in arms]),
        ramp=per_job([arm.get("ramp", False) for arm in arms]),
    )
    data = tiled(draw(task, task.points, draws, (seed, 0)))
    test = tiled(draw(task, TEST_POINTS, draws, (seed, 1)))
    ends = train_blocks(net, how, data, test, epochs, task.loss, f"{name}, {stage}")
    return ends["data"].reshape(len(jobs), draws, trials)
