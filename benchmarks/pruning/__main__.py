"""Structural pruning on digits and Fashion-MNIST: accuracy against units kept.

Perceptrons of two hidden relu layers of 64 units are trained (Adam, batches of 64),
lose the same fraction of both layers in one look at training data, and are trained on.
`scratch` is a new network of the pruned size, trained for as many steps in all, or for
as many as all FLOPs of the pruned one pay for. Data are parted anew by seed, first
networks and orders of examples are shared by the arms. Rates are the best of five on
held-out data of other seeds: of the large network, of every arm's training on at every
size, and from scratch.

    python -m benchmarks.pruning [--tasks digits fashion] [--results FOLDER]
        [--figure FILE] [--report]

What `FOLDER` has already isn't run again; `--report` runs nothing. For Fashion-MNIST's
files see `benchmarks/fashion_mnist.py`.
"""

import argparse
import os
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

from .figure import figure  # noqa: E402
from .report import tables  # noqa: E402
from .run import load, run  # noqa: E402
from .settings import TASKS  # noqa: E402


TITLES = {"digits": "Digits", "fashion": "Fashion-MNIST"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent / "results"
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--results", type=Path, default=here)
    parser.add_argument("--figure", type=Path, default=here / "pruning.png")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    paths = {name: given.results / f"{name}.json" for name in given.tasks}
    for name, path in paths.items():
        if not given.report:
            run(TASKS[name], path)
        results = load(path)
        print(f"\n{TITLES[name]}\n\n{tables(results)}\n\n{results['cpu_seconds']}")
    figure({TITLES[name]: load(path) for name, path in paths.items()}, given.figure)


if __name__ == "__main__":
    main()
