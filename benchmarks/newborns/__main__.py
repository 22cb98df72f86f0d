"""Newborns under Adam: five networks that grow, six ways to treat newborns' entries.

    python -m benchmarks.newborns [--quick] [--results FILE]

What the file has already isn't run again. The figure is written beside it.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from .arms import ARMS  # noqa: E402
from .report import figure, tables  # noqa: E402
from .run import run  # noqa: E402
from .tasks import TASKS  # noqa: E402


HERE = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 steps")
    parser.add_argument("--results", type=Path, default=HERE)
    options = parser.parse_args()
    path = options.results
    results = json.loads(path.read_text()) if path.exists() else {}
    for name, task in TASKS.items():
        if options.quick:
            task = dataclasses.replace(task, steps=300)
        for arm in ARMS:
            own = results.setdefault(name, {})
            if arm not in own:
                began = time.process_time()
                own[arm] = run(task, arm)
                own[arm]["cpu_seconds"] = round(time.process_time() - began, 1)
                path.write_text(json.dumps(results, separators=(",", ":")))
                print(name, arm, own[arm]["rate"], own[arm]["cpu_seconds"], flush=True)
        jax.clear_caches()
    spent = sum(arm["cpu_seconds"] for own in results.values() for arm in own.values())
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}, ")
    print(f"{spent:.0f} s of CPU\n\n{tables(results)}")
    figure(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
