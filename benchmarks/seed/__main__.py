"""The founding paper's experiments, as published and beside their controls.

python -m benchmarks.seed law        # the size against the size law
python -m benchmarks.seed lambdas    # growing / static over lambda
python -m benchmarks.seed tasks      # method A: every task, every arm
python -m benchmarks.seed controller # method B: every task, every arm
python -m benchmarks.seed page       # figures and tables from stored results
python -m benchmarks.seed all        # all of these; --quick: small, in a minute
"""

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path

from ._arms_a import tasks
from ._arms_b import controller
from ._sweeps import lambdas, size_law


RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = {
    "law": size_law,
    "lambdas": lambdas,
    "tasks": tasks,
    "controller": controller,
}


def rounded(value: object) -> object:
    """Five digits are plenty, and small files."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def run(name: str, quick: bool, folder: Path) -> None:
    """One experiment, stored with what it was run on."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    made: dict[str, object] = {
        "command": f"python -m benchmarks.seed {name}{' --quick' * quick}",
        "python": platform.python_version(),
        **{
            n: importlib.metadata.version(n) for n in ("jax", "optax", "numpy", "scipy")
        },
    }
    result: dict[str, object] = {"made": made}
    for part, values in EXPERIMENTS[name](quick):
        result[part] = rounded(values)
        made["seconds"] = round(time.perf_counter() - began)
        text = json.dumps(result, indent=None, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.seed", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("what", choices=[*EXPERIMENTS, "page", "all"])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the stored results"
    )
    options = parser.parse_args()
    if options.quick and options.out == RESULTS:
        parser.error("--quick would replace the stored results; give another --out")
    for name in EXPERIMENTS:
        if options.what in (name, "all"):
            run(name, options.quick, options.out)
    if options.what in ("page", "all") and not options.quick:
        # Only here, since it needs matplotlib.
        from . import _page

        _page.write(options.out)


if __name__ == "__main__":
    main()
