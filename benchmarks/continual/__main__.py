"""Class-incremental Fashion-MNIST: does it pay to grow when a class comes?

    python -m benchmarks.continual [--results FILE] [--only ARM] [--figure FILE]

Five phases of two classes, `eqx.nn.MLP` with one hidden layer. Arms that the file has
already aren't run again.
"""

import argparse
import os
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

from .figure import figure  # noqa: E402
from .report import table  # noqa: E402
from .run import run  # noqa: E402
from .settings import SETTINGS  # noqa: E402


HERE = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--only", default="", help="a part of an arm's name")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    given = parser.parse_args()
    rows = run(given.results, given.only)
    for memory in SETTINGS:
        print(f"\n**{memory}**\n\n{table(rows, memory)}")
    spent = sum(row["cpu_seconds"] for row in rows.values())
    print(f"\n{spent:.0f} seconds of processor time")
    if given.figure:
        figure(rows, given.figure)


if __name__ == "__main__":
    main()
