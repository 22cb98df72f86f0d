"""Is the size found? `NestedSize` against the static sweep and two simple searches.

    python -m benchmarks.discovered_size [--quick] [--results FOLDER]

Runs that `FOLDER` has already aren't made again.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from .report import bars, figure, rows_of, table  # noqa: E402
from .run import run  # noqa: E402


TASKS = {"one": [(3,), (6,), (12,), (24,)], "two": [(4, 16)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 400 steps")
    parser.add_argument("--results", type=Path, default=Path("discovered_size"))
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    steps = 400 if options.quick else 8_000
    began, rows, first = time.perf_counter(), [], None
    for name, hidden in TASKS.items():
        path = options.results / f"{name}{'_quick' if options.quick else ''}.json"
        if not path.exists():
            run(hidden, steps, path, options.quick)
        results = json.loads(path.read_text())
        first = first or results
        rows += rows_of(results)
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}, ")
    print(f"{time.perf_counter() - began:.0f} s\n\n{table(rows)}\n\n{bars(rows)}")
    if first is not None:
        figure(rows, first, options.results / "discovered_size.png")


if __name__ == "__main__":
    main()
