"""Seconds of one run of some arms by `fit`, each in a process of its own.

Compilation is in it, the import of libraries and the reading of data aren't. Warm is a
second process that finds the first one's programs in JAX's compilation cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


TIMED = ("static hand", "grown")


def measured(folder: Path) -> dict[str, Any]:
    """By name, cold and warm; XLA as it comes."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    found: dict[str, Any] = {}
    for name in TIMED:
        rate = json.loads((folder / f"tuning {name}.json").read_text())["rate"]
        command = [sys.executable, "-m", __name__, name, str(rate)]
        with tempfile.TemporaryDirectory() as cache:
            env["JAX_COMPILATION_CACHE_DIR"] = cache
            for state in ("cold", "warm"):
                made = subprocess.run(command, env=env, check=True, capture_output=True)
                told = json.loads(made.stdout.splitlines()[-1])
                found.setdefault(name, {})[state] = told
                print(f"{name}, {state}: {told}", flush=True)
    return {"timed": found}


def _timed(name: str, rate: float) -> dict[str, Any]:
    import jax.random as jr

    import growthnet as gn

    from .settings import ARMS, BATCH, optimizer, SEEDS, STEPS
    from .task import learnt, loss, network, WIDTHS

    arm, (train, _) = ARMS[name], learnt()
    assert arm.start is not None
    began, cpu = time.perf_counter(), time.process_time()
    first, rest = jr.split(jr.key(SEEDS[0]))
    run = gn.fit(
        network(arm.start, first),
        loss,
        train,
        optimizer=optimizer(rate, STEPS),
        policy=arm.policy(),
        steps=STEPS,
        key=rest,
        batch_size=BATCH,
    )
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "programs": run.history.ticks[-1].traces,
        "sizes": [run.sizes[name] for name in WIDTHS],
    }


if __name__ == "__main__":
    print(json.dumps(_timed(sys.argv[1], float(sys.argv[2]))))
