"""What `fit(callback=...)` costs: the same run with and without, by turns.

    python -m benchmarks.callback_overhead [--pairs 4] [--steps 40000]

An `eqx.nn.MLP` 16-64-64-4 with Adam, batches of 64, a tick every 50 steps: hundreds of
ticks a second, each of which gives the callback a dict, which it flattens and
keeps. Counted are processor seconds between the first tenth of a run and its end, so
without compilation, and hardly disturbed by what else the machine does; two runs with
no callback beside each other say what noise is left. Telling (making the dicts, calling
the callback) is also clocked by itself, and given as a share.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from growthnet._runs.journal import Journal  # noqa: PLC2701


X = jr.normal(jr.key(0), (4096, 16))
Y = jnp.sin(X[:, :4])


def loss(net: Any, batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    value = jnp.mean((jax.vmap(net)(x) - y) ** 2)
    return value, gn.Aux(metrics={"rmse": jnp.sqrt(value)})


class Clock:
    """Processor seconds: at every tick of a run, and inside of what tells of them."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.telling = 0.0
        add, tell = Journal.add, Journal.tell

        def added(journal: Journal, *args: Any) -> None:
            self.ticks.append(time.process_time())
            add(journal, *args)

        def told(journal: Journal) -> None:
            start = time.process_time()
            tell(journal)
            self.telling += time.process_time() - start

        setattr(Journal, "add", added)  # noqa: B010 - a clock around a method
        setattr(Journal, "tell", told)  # noqa: B010

    def run(
        self, steps: int, callback: Callable[[dict[str, Any]], None] | None
    ) -> tuple[float, float]:
        """Seconds of nine tenths of a run, and the share of telling in it."""
        self.ticks, self.telling = [], 0.0
        gn.fit(
            eqx.nn.MLP(16, 4, 64, 2, key=jr.key(1)),
            loss,
            (X, Y),
            optimizer=optax.adam(1e-3),
            policy=gn.NoGrowth(every=50),
            steps=steps,
            key=jr.key(2),
            batch_size=64,
            chunk=20,
            callback=callback,
        )
        whole = self.ticks[-1] - self.ticks[0]
        last = self.ticks[-1] - self.ticks[len(self.ticks) // 10]
        return last, self.telling / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40_000)
    options = parser.parse_args()
    told: list[dict[str, float]] = []

    def keep(record: dict[str, Any]) -> None:
        sizes = {f"size/{name}": n for name, n in record["sizes"].items()}
        told.append({"loss": record["loss"], **sizes, **record["metrics"]})

    clock, shares = Clock(), []
    arms = {"none": None, "none again": None, "a callback": keep}
    rows: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.pairs):
        for name, callback in arms.items():
            seconds, share = clock.run(options.steps, callback)
            rows[name].append(seconds)
        shares.append(share)
    base = np.array(rows.pop("none"))
    print(f"{len(told)} dicts; without a callback {np.median(base):.3f} CPU s")
    for name, times in rows.items():
        ratios = np.array(times) / base - 1
        low, high = np.quantile(ratios, [0.25, 0.75])
        print(f"{name}: {np.median(ratios):+.2%} (quartiles {low:+.2%} to {high:+.2%})")
    print(f"telling: {np.median(shares):.2%} of a run's time")
    print(f"Python {platform.python_version()}, jax {jax.__version__}, CPU")


if __name__ == "__main__":
    main()
