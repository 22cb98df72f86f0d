"""Residual fitting beside its controls, on three tasks and on noise.

    python -m benchmarks.residual_fitting [--seeds 10] [--tasks digits regression clone]
        [--batches 8] [--results FOLDER] [--report]

Arms that `FOLDER` has already aren't run again; `--report` runs none. Tasks, all new
for every seed (data, split, first weights):

- `digits`: scikit-learn's 8 x 8 digits; 800 training, 400 held-out, 597 test examples.
- `regression`: a teacher of 12 tanh units on 4 inputs, noise of 0.3 times the signal's
    size; 1,024 training, 1,024 held-out, 2,048 test examples.
- `clone`: a pendulum is swung up by a hand-written expert; its torque is learned from
    states on its ways (behaviour cloning; 40, 24 and 16 ways of 64 states). The score
    is the cost of 200 steps with the clone in its place.
- `noise`: the same inputs as `regression`, outputs that have nothing to do with them.

Arms, one hidden tanh layer each, Adam; the rate of every arm is the best of five on
held-out data of three other seeds:

- `small`: 4 units. `large`: 48 units.
- `residual`: from 4 units, `ResidualFitting`. `frozen`: the same with `freeze=True`.
- `silent`: as many units at the same steps as `residual`, but silent ones.
- `final`: static, at the size that `residual` ends with on that seed.
- `longer`: the same for as many steps as all that `residual` executes pays for.
- `wider`: static, of as many units as that pays for in the same number of steps.
- `ensemble`: the mean of small networks with as many units together.

FLOPs are those of the open units: training, and for `residual` all that is done to look
(residuals of 20 orders, probes, their trials, the stopping error), per run.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

from .arms import run  # noqa: E402
from .report import table  # noqa: E402
from .tasks import TASKS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent / "results"
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--results", type=Path, default=here)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.tasks:
        task = dataclasses.replace(TASKS[name](), batches=given.batches)
        path = given.results / f"{name}{given.batches}.json"
        rows = json.loads(path.read_text()) if given.report else None
        rows = run(task, path, given.seeds) if rows is None else rows
        print(f"\n{name}, {given.batches} batches\n\n{table(task, rows)}")


if __name__ == "__main__":
    main()
