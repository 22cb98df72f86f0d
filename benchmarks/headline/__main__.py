"""One run instead of a sweep? Grown networks against searched ones.

    python -m benchmarks.headline [--quick] [--tasks NAME ...] [--results FOLDER]
    python -m benchmarks.headline --seconds --python-torch PATH

Runs that `FOLDER` has already aren't made again. MNIST-1D needs `pip install
mnist1d==0.0.2.post1`, the last panel an interpreter that has PyTorch; `--seconds` runs
just what that panel shows, and wants a quiet machine.
"""

import argparse
import itertools as it
import os
import platform
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from . import seconds  # noqa: E402
from .figure import figure  # noqa: E402
from .report import bars, gathered, spent, table  # noqa: E402
from .run import run  # noqa: E402
from .settings import FULL, QUICK  # noqa: E402
from .tasks import TASKS  # noqa: E402


PARTS = (("static", "growthnet"), ("trimmed",), ("plateau",), ("pruned",), ("open",))
"""Of every task, in this order: first what the bars are about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a teacher, short runs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="NAME")
    parser.add_argument("--only", default="", help="arms whose names contain this")
    parser.add_argument("--results", type=Path, default=Path("headline"))
    parser.add_argument("--seconds", action="store_true", help="time the last panel")
    parser.add_argument("--task", default="digits", help="whose seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python-torch", default="python", help="has PyTorch")
    o = parser.parse_args()
    s = QUICK if o.quick else FULL
    folder = o.results / "quick" if o.quick else o.results
    if o.seconds:
        seconds.measure(TASKS[o.task], s, folder, o.python_torch, o.repeats)
    names = o.tasks or (["teacher_6"] if o.quick else list(TASKS))
    parts = ((o.only,),) if o.only else PARTS
    for some, name in [] if o.seconds else it.product(parts, names):
        for part in some:
            run(TASKS[name], s, folder / name, part)
    found = {name: gathered(TASKS[name], s, folder / name) for name in names}
    found = {name: rows for name, rows in found.items() if "sweep" in rows}
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}")
    for name, rows in found.items():
        print(f"\n{table(TASKS[name], rows, s)}")
    print(f"\n{bars(found, s)}")
    print(spent([folder / name for name in names]))
    timed = seconds.load(folder)
    print(f"\n{seconds.table(timed)}" if timed else "\nNo seconds were measured.")
    figure(found, timed, s, folder / "headline.png")


if __name__ == "__main__":
    main()
