"""From results to tables."""

import numpy as np

from benchmarks.intervals import interval

from .run import Results, SCRATCH
from .settings import ARMS, KEPT, WIDTH


def tables(results: Results) -> str:
    return "\n\n".join([accuracies(results), differences(results)])


def accuracies(results: Results) -> str:
    """Test accuracies in percent, before and after training on."""
    runs, params = results["runs"], results["params"]
    share = lambda width: 100 * params[str(width)] / params[str(WIDTH)]
    head = ["score", "removal"]
    for width in KEPT:
        head += [f"2 x {width} ({share(width):.0f} %), pruned", "trained on"]
    rows = [head, ["---"] * len(head)]
    for arm in ARMS:
        means = [
            f"{np.mean(runs[f'{arm} {width}'][what]):.1f}"
            for width in KEPT
            for what in ("pruned", "on")
        ]
        rows.append([*arm.split(), *means])
    for name in SCRATCH:
        means = [(" ", f"{np.mean(on(results, name, width)):.1f}") for width in KEPT]
        rows.append([name, " ", *(cell for pair in means for cell in pair)])
    before = interval(runs["large"], ".1f")
    return f"Before pruning {before}.\n\n{_lines(rows)}"


def on(results: Results, name: str, width: int) -> np.ndarray:
    """Test accuracies after training on, by seed."""
    return np.asarray(results["runs"][f"{name} {width}"]["on"])


def differences(results: Results) -> str:
    """After training on, less three controls: random units, and networks from scratch
    at equal steps and at equal FLOPs. Paired by seed."""
    controls = {"random": "random silence"}
    controls |= {name.split(", ")[1]: name for name in SCRATCH}
    head = ["score", "removal"]
    head += [f"2 x {width} - {short}" for width in KEPT for short in controls]
    rows = [head, ["---"] * len(head)]
    for arm in ARMS:
        cells = [
            " "
            if control == arm
            else interval(on(results, arm, width) - on(results, control, width), "+.1f")
            for width in KEPT
            for control in controls.values()
        ]
        rows.append([*arm.split(), *cells])
    return _lines(rows)


def _lines(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
