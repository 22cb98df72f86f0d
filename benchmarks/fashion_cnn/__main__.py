"""Channels and dense units of a small CNN under one parameter budget, on Fashion-MNIST.

    python -m benchmarks.fashion_cnn [--only NAME] [--parts tuning evaluation]
        [--results FOLDER] [--figure PATH] [--report]

Arms that `FOLDER` has already aren't run again; `--report` runs none. The data are
those of Debian's package `dataset-fashion-mnist`.
"""

import argparse
import os
import platform
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiles in half the time, and steps take as long; seconds are measured without it.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from .figure import figure  # noqa: E402
from .report import gathered, pairs, sizes, spent, table, timed  # noqa: E402
from .run import run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).parent / "results"
    both = ["tuning", "evaluation"]
    parser.add_argument("--only", default="", help="a part of an arm's name")
    parser.add_argument("--parts", nargs="+", choices=both, default=both)
    parser.add_argument("--results", type=Path, default=here)
    parser.add_argument("--figure", type=Path, default=here / "fashion_cnn.png")
    parser.add_argument("--report", action="store_true")
    o = parser.parse_args()
    if not o.report:
        run(o.results, o.only, o.parts)
    rows = gathered(o.results)
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}")
    if "static hand" in rows:
        for part in (table(rows), pairs(rows), sizes(rows), timed(o.results)):
            print(f"\n{part}")
        print(f"\n{spent(o.results)}")
        figure(rows, o.figure)


if __name__ == "__main__":
    main()
