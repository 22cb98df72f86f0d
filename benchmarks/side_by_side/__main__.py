"""growthnet beside its peers on the same work: ratios of times in one run.

    python -m benchmarks.side_by_side [row ...] --python-torch PATH

Rows: seed, growing, static, tutorial, scaling; all by default. `--scale 0.02` tries the
scripts out in short runs, whose numbers mean nothing.

PyTorch and gromo live in an environment of their own, in no relation to growthnet's:

    python -m venv peers
    peers/bin/pip install --extra-index-url <PyTorch's index of CPU builds> \\
        "torch==2.13.0+cpu" numpy gromo==0.1.0

PyTorch's front page gives that index (choose CPU). The version without `+cpu` that pip
finds by itself is a CUDA build with gigabytes of dependencies; Debian's `python3-torch`
is years older. Fashion-MNIST is Debian's package `dataset-fashion-mnist`.
"""

import argparse
import os
import platform
from importlib.metadata import version

from .rows import ROWS, Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(ROWS))
    parser.add_argument("--python-torch", default="python", help="has PyTorch, gromo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.rows) - ROWS.keys())
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    settings = Settings(arguments.python_torch, arguments.repeats, arguments.scale)
    packages = ", ".join(f"{p} {version(p)}" for p in ("jax", "equinox", "optax"))
    print(f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores")
    for name in arguments.rows or ROWS:
        print(f"\n## {name} (load {os.getloadavg()[0]:.1f})", flush=True)
        ROWS[name](settings)


if __name__ == "__main__":
    main()
