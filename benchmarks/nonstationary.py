"""Digits whose labels change: does recycling or growth keep a network plastic?

    python -m benchmarks.nonstationary [--results FILE] [--only ARM] [--report]

Scikit-learn's 1,797 digits, 50 phases of `PHASE` steps on batches of `BATCH`; in each
phase the ten labels are permuted anew. Every batch is told before it is learned from:
accuracy is that of the answers given so. A perceptron of two hidden relu layers, Adam.

- `static`, `wide`: as many units as growth starts with, and as it ends with.
- `reset`: new weights and a new optimizer state in every phase.
- `L2 to init`: `static`, with `DECAY` times the squared distance to the first weights.
- `ReDo`, `continual backprop`: `Recycling` by `threshold` and by `rate`.
- `random`, `GradMax`: one more unit in both layers after every phase.

The rate of every arm is the best of four by the accuracy on three other seeds. Arms
that the file has already aren't run again.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from benchmarks.digits import digits
from benchmarks.intervals import interval
from growthnet_policies import GradMax, Recycling


PHASES, PHASE, BATCH = 50, 100, 32
SMALL, WIDE = 32, 32 + PHASES - 1
RATES, TUNING = (1e-3, 3e-3, 1e-2, 3e-2), (1_000, 1_001, 1_002)
SEEDS = tuple(range(100, 110))
DECAY = 1e-2
HERE = Path(__file__).parent / "nonstationary.json"


class Online(eqx.Module):
    """A perceptron that knows how many batches it has learned from, and what the digits
    are called in every phase."""

    layers: list[eqx.nn.Linear]
    count: Any
    names: Any  # [phases + 1, 10]
    first: list[Any] | None = None

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def network(key: Any, width: int, phase: Any = 0, pulled: bool = False) -> Online:
    keys = jr.split(jr.fold_in(key, 0), 3)
    ends = (64, width, width, 10)
    sizes = zip(ends[:-1], ends[1:], strict=True)
    layers = [eqx.nn.Linear(*s, key=k) for s, k in zip(sizes, keys, strict=True)]
    shuffle = lambda key: jr.permutation(key, 10)
    names = jax.vmap(shuffle)(jr.split(jr.fold_in(key, 1), PHASES + 1))
    first = jax.tree.leaves(layers) if pulled else None
    return Online(layers, jnp.asarray(phase * PHASE, jnp.int32), names, first)


def loss(net: Online, batch: Any, key: Any) -> tuple[Any, gn.Aux]:
    del key
    x, digit = batch
    y = net.names[net.count // PHASE][digit]
    scores = jax.vmap(net)(x)
    value = optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
    if net.first is not None:
        pairs = zip(jax.tree.leaves(net.layers), net.first, strict=True)
        far = [jnp.sum((now - jax.lax.stop_gradient(then)) ** 2) for now, then in pairs]
        value = value + DECAY * jnp.sum(jnp.stack(far))
    right = jnp.mean(jnp.argmax(scores, axis=-1) == y)
    after = eqx.tree_at(lambda n: n.count, net, net.count + 1)
    return value, gn.Aux(net=after, metrics={"accuracy": right})


def random_newborns() -> gn.AbstractPolicy:
    one = lambda evidence, key: gn.Decision(
        {name: gn.Change(mask, 1) for name, mask in evidence.open.items()}
    )
    return gn.as_policy(one, every=PHASE)


ARMS: dict[str, tuple[int, Callable[[], gn.AbstractPolicy]]] = {
    "static": (SMALL, lambda: gn.NoGrowth(PHASE)),
    "wide": (WIDE, lambda: gn.NoGrowth(PHASE)),
    "reset": (SMALL, lambda: gn.NoGrowth(PHASE)),
    "L2 to init": (SMALL, lambda: gn.NoGrowth(PHASE)),
    "ReDo": (SMALL, lambda: Recycling(threshold=0.1, every=PHASE)),
    "continual backprop": (SMALL, lambda: Recycling(rate=1e-3, every=10)),
    "random": (SMALL, random_newborns),
    "GradMax": (SMALL, lambda: GradMax(1, every=PHASE)),
}


def runs(arm: str) -> Callable[[Any, Any], np.ndarray]:
    """Accuracies `[runs, phases]`, from seeds and rates."""
    width, policy = ARMS[arm]
    data = digits()

    def part(net: Online, key: Any, rate: Any, steps: int) -> Any:
        grown = gn.grow(
            net, loss, data, optimizer=optax.adam(rate), policy=policy(), steps=steps,
            key=key, batch_size=BATCH, capacity=max(width, WIDE + 1), overflow="hold",
        )  # fmt: skip
        told = grown.reports.metrics["accuracy"][: steps // policy().every]
        return told.reshape(steps // PHASE, -1).mean(1)

    def whole(key: Any, rate: Any) -> Any:
        if arm != "reset":
            net = network(key, width, pulled=arm == "L2 to init")
            return part(net, jr.fold_in(key, 2), rate, PHASES * PHASE)

        def phase(number: Any) -> Any:
            own = jr.fold_in(jr.fold_in(key, 3), number)
            net = network(own, width, number)
            named = eqx.tree_at(lambda n: n.names, net, network(key, width).names)
            return part(named, jr.fold_in(own, 2), rate, PHASE)[0]

        return jax.vmap(phase)(jnp.arange(PHASES))

    every = jax.jit(jax.vmap(whole))
    return lambda seeds, rates: np.asarray(
        every(jnp.stack([jr.key(s) for s in seeds]), jnp.asarray(rates))
    )


def tuned(arm: str) -> dict[str, Any]:
    began, run = time.process_time(), runs(arm)
    tries = run([*TUNING] * len(RATES), np.repeat(RATES, len(TUNING)))
    by_rate = tries.reshape(len(RATES), -1).mean(axis=1)
    rate = RATES[int(np.nanargmax(by_rate))]
    as_many = np.resize(SEEDS, len(tries))  # The same program.
    accuracy = run(as_many, np.full(len(tries), rate))[: len(SEEDS)]
    return {
        "rate": rate,
        "tries": dict(zip(map(str, RATES), by_rate.tolist(), strict=True)),
        "accuracy": accuracy.round(5).tolist(),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def table(rows: dict[str, Any]) -> str:
    """Accuracies in percent: over all phases, the first five, the last ten."""
    lines = [
        "| arm | rate | all phases | first 5 | last 10 | last 10 - static |"
        " last 10 - reset | last 10 - wide |",
        "|---" * 8 + "|",
    ]
    late = {
        a: 100 * np.asarray(r["accuracy"])[:, -10:].mean(1) for a, r in rows.items()
    }
    for arm, row in rows.items():
        all_ = 100 * np.asarray(row["accuracy"])
        cells = [arm, f"{row['rate']:g}", interval(all_.mean(1))]
        cells += [interval(all_[:, :5].mean(1)), interval(late[arm])]
        for other in ("static", "reset", "wide"):
            less = late[arm] - late.get(other, np.nan)
            cells.append("" if arm == other else interval(less, "+.2f"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(rows: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    parts = (
        ("static", "wide", "reset", "L2 to init", "ReDo", "continual backprop"),
        ("static", "wide", "reset", "random", "GradMax"),
    )
    colors = dict(zip(ARMS, ["k", "grey", *(f"C{i}" for i in range(6))], strict=True))
    for axis, arms in zip(axes, parts, strict=True):
        for arm in (a for a in arms if a in rows):
            values = 100 * np.asarray(rows[arm]["accuracy"])
            axis.plot(
                np.arange(1, PHASES + 1), values.mean(0), color=colors[arm], label=arm
            )
        axis.set(xlabel="phase")
        axis.legend(frameon=False, fontsize=8, ncols=2)
    axes[0].set(ylabel="accuracy within the phase, percent", title="recycling")
    axes[1].set(title="growth, one unit per layer and phase")
    fig.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--only", default="", help="a part of an arm's name")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    file = given.results
    rows = json.loads(file.read_text()) if file.exists() else {}
    for arm in ARMS:
        if given.only in arm and arm not in rows and not given.report:
            rows[arm] = tuned(arm)
            beside = file.with_suffix(".part")
            beside.write_text(json.dumps(rows))
            os.replace(beside, file)
            mean = 100 * np.mean(rows[arm]["accuracy"])
            print(f"{arm}: {mean:.1f} %, {rows[arm]['cpu_seconds']} s", flush=True)
    rows = {arm: rows[arm] for arm in ARMS if arm in rows}
    print(table(rows))
    if given.figure:
        figure(rows, given.figure)


if __name__ == "__main__":
    main()
