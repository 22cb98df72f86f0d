"""Is growing from the minimal network a cheaper way to learn the Game of Life?

    python -m benchmarks.game_of_life [--quick] [--only NAME] [--results FOLDER]
    python -m benchmarks.game_of_life --again [--only NAME]

Arms that the folder has aren't run again. The second line runs them on other seeds, at
the learning rates that were found.
"""

import argparse
import os
import platform
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiles in two thirds of the time, and runs as fast.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402

from .figure import figure  # noqa: E402
from .report import exactness, gathered, seconds, table  # noqa: E402
from .run import run  # noqa: E402
from .settings import AGAIN, DENSITIES, FULL, QUICK  # noqa: E402


HERE = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds, short runs")
    parser.add_argument("--again", action="store_true", help="50 other seeds")
    parser.add_argument("--only", default="", help="arms whose names contain this")
    parser.add_argument("--results", type=Path, default=HERE)
    o = parser.parse_args()
    s = QUICK if o.quick else AGAIN if o.again else FULL
    part = "quick" if o.quick else "again" if o.again else ""
    folder = o.results / part
    run(s, folder, o.only, o.results if o.again else None)
    rows = gathered(folder)
    print(f"{platform.machine()}, Python {platform.python_version()}, jax", end=" ")
    print(f"{jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}")
    for at in range(len(DENSITIES)):
        print(f"\n{table(rows, at)}")
    print(f"\n{exactness(rows)}\n{seconds(rows)}")
    figure(rows, s, folder / "game_of_life.png")


if __name__ == "__main__":
    main()
