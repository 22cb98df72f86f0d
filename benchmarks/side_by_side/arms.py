"""Runs arms in processes of their own, in alternating order, and prints the ratios."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias


ROOT = Path(__file__).parent.parent.parent
Result: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side: a module of a package, what it is asked, and its interpreter.

    `warm` names a folder with JAX's compilation cache; without it nothing is cached.
    """

    module: str
    job: Mapping[str, Any]
    python: str = sys.executable
    warm: str | None = None
    package: str = "benchmarks.side_by_side"

    def run(self) -> Result:
        """**Raises:** `RuntimeError` with what the process said, if it fails."""
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        for name in [n for n in environment if "CACHE" in n and n.startswith("JAX")]:
            del environment[name]
        if self.warm is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = self.warm
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        module = f"{self.package}.{self.module}"
        command = [self.python, "-m", module, json.dumps(dict(self.job))]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2_000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def warmed(arm: Arm, folder: str) -> Arm:
    """The arm with a compilation cache that one run has filled."""
    arm = dataclasses.replace(arm, warm=tempfile.mkdtemp(dir=folder))
    arm.run()
    return arm


def alternating(arms: Mapping[str, Arm], repeats: int) -> dict[str, list[Result]]:
    """Every arm once per repeat, forwards and backwards in turn, so that a drift of the
    machine's speed hits all of them alike."""
    found: dict[str, list[Result]] = {name: [] for name in arms}
    for repeat in range(repeats):
        names = list(arms) if repeat % 2 == 0 else list(arms)[::-1]
        for name in names:
            print(f"  [{os.getloadavg()[0]:.1f}] {name}", file=sys.stderr, flush=True)
            found[name].append(arms[name].run())
    return found


Column: TypeAlias = tuple[str, Callable[[Result], Any]]

SIZE: Column = ("units", lambda r: r["size"])
LOSS: Column = ("loss", lambda r: f"{r['loss']:.3g}")
COMPILES: Column = ("compiles", lambda r: r.get("compiles", ""))
CPU: Column = ("CPU s", lambda r: f"{r['cpu_seconds']:.3g}")
COMPILE_SECONDS: Column = ("compile s", lambda r: f"{r['compile_seconds']:.2g}")
TRACES: Column = ("traces", lambda r: r.get("traces", ""))


def show(
    title: str,
    found: Mapping[str, Sequence[Result]],
    base: str,
    columns: Sequence[Column] = (),
    measure: Callable[[Result], float] = lambda r: r["seconds"],
    unit: str = "s",
) -> None:
    """Prints a Markdown table: medians, ranges, and the time of every arm over that of
    `base` in the same repeat."""
    heads = [f"median {unit}", "range", f"over {base}", *(c[0] for c in columns)]
    print(f"\n### {title}\n\n| arm | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for name, results in found.items():
        times = [measure(r) for r in results]
        ratios = [t / measure(b) for t, b in zip(times, found[base], strict=True)]
        cells = [
            f"{median(times):.3g}",
            _range(times),
            f"{median(ratios):.2f} ({_range(ratios)})",
            *(str(column(results[-1])) for _, column in columns),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g}-{max(values):.3g}"
