"""The table of docs/real_models.md: models of other people, put to the proof.

pip install -e ".[real]" && python -m benchmarks.real_models [name ...]
"""

import argparse
import collections
import importlib.metadata
import platform
import re
import sys
import time
import warnings

import jax

from tests.real_models import Model, MODELS
from tests.real_proof import Proof, prove


COLUMNS = (
    "model",
    "package",
    "parameters",
    "widths",
    "grow exactly",
    "grown at once",
    "rigid, or not exact, and why",
    "trace, CPU s",
    "difference",
)


def counted(names: list[str]) -> str:
    """Names without their numbers, and how many there are of each."""
    counts = collections.Counter(re.sub(r"\d+", "*", name) for name in names)
    return ", ".join(f"`{n}`" + (f" x{k}" if k > 1 else "") for n, k in counts.items())


def others(proof: Proof) -> str:
    """The widths that didn't grow, by the first reason."""
    grown = {name for sizes in proof.growth.values() for name in sizes}
    why: dict[str, list[str]] = {}
    for width in proof.anatomy.all_widths:
        if width.name not in grown:
            reason = (*width.reasons, width.exactness("zero_out")[1])[0]
            text = re.sub(r", at \S+ \(.*", "", reason).replace("|", "/")
            text = re.sub(r"(with another size: \w+Error).*", r"\1", text)
            why.setdefault(text, []).append(width.name)
    return "; ".join(f"{len(names)}: {text}" for text, names in why.items())


def row(model: Model, proof: Proof) -> str:
    version = importlib.metadata.version(model.packages[0])
    grown = [name for sizes in proof.growth.values() for name in sizes]
    inits = ", ".join(f"{len(s)} by `{init}`" for init, s in proof.growth.items())
    cells = (
        model.title + (" (replayed)" if model.replay else ""),
        f"{model.packages[0]} {version}",
        f"{proof.parameters:,}",
        len(proof.anatomy.all_widths),
        f"{len(grown)}: {counted(grown)}",
        inits,
        others(proof),
        f"{proof.seconds:.2f}",
        f"{proof.difference:.0e}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name")
    warnings.simplefilter("ignore")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for name in parser.parse_args().names or MODELS:
        start = time.perf_counter()
        proof = prove(MODELS[name])
        print(row(MODELS[name], proof), flush=True)
        held = proof.shrunk and proof.true and proof.finite and not proof.reset
        held = held and proof.difference < 1e-5
        moved = proof.losses[0] != proof.losses[1]
        seconds = time.perf_counter() - start
        print(
            f"{name}: {'all held' if held and moved else 'DOES NOT HOLD'}; losses "
            f"{proof.losses[0]:.6f}, {proof.losses[1]:.6f}; round trip "
            f"{proof.round_trip:.0e}; {seconds:.0f} s",
            file=sys.stderr,
        )
    print(f"Python {platform.python_version()}, jax {jax.__version__}, CPU")


if __name__ == "__main__":
    main()
