"""Every policy on digits and MNIST-1D, each beside its own controls.

    pip install mnist1d==0.0.2.post1
    python -m benchmarks.compare_policies [--tasks digits mnist1d] [--only NAME]
        [--results FOLDER] [--figures FOLDER] [--report]

Arms that `FOLDER` has already aren't run again; `--report` runs none. The tables, and a
figure per data set, are made of what is there.
"""

import argparse
import os
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")

from .figure import figure  # noqa: E402
from .report import table  # noqa: E402
from .run import run  # noqa: E402
from .tasks import TASKS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).parent / "results"
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--only", default="", help="a part of a policy's name")
    parser.add_argument("--results", type=Path, default=here)
    parser.add_argument("--figures", type=Path, default=here)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.tasks:
        path = given.results / f"{name}.json"
        if not given.report:
            run(TASKS[name](), path, given.only)
        print(f"\n{name}\n\n{table(path)}")
        figure(path, given.figures / f"compare_{name}.png")


if __name__ == "__main__":
    main()
