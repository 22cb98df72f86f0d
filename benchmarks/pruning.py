"""Structural pruning on digits: accuracy against units kept.

Scikit-learn's digits, 1,200 for training and 597 for testing. A network of 64-64-64-10
units (relu) is trained for 800 steps (Adam, rate 2e-3, batches of 64), loses the same
fraction of both hidden widths in one look at the training data, and is trained for 200
more steps (rate 1e-3). Every arm shares data, first network and order of examples by
seed; rates weren't tuned per arm. `scratch` is a new network of the pruned sizes,
trained for 1,000 steps as the large one was.

    python -m benchmarks.pruning [--seeds 10]

Prints test accuracies in percent, and after training on their difference to `random`
with a paired 95 % bootstrap interval.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits

import growthnet as gn
from benchmarks.intervals import interval
from growthnet_policies import Pruning, SCORES


WIDTH, RATIOS = 64, (0.5, 0.75, 0.875)
STEPS, MORE, BATCH = 800, 200, 64
Data = tuple[Any, Any]
ARMS = [(score, "silence") for score in SCORES]
ARMS += [(s, r) for s in ("random", "fisher") for r in ("absorb", "refit")]


def digits() -> tuple[Data, Data]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = jnp.asarray(x[order] / 16, jnp.float32), jnp.asarray(y[order])
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def network(key: Any, width: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(64, 10, width, 2, activation=jax.nn.relu, key=key)


def loss(net: Any, batch: Data, key: Any) -> Any:
    del key
    x, y = batch
    scores = jax.vmap(net)(x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()


def accuracy(net: Any, data: Data) -> Any:
    x, y = data
    return 100 * jnp.mean(jnp.argmax(jax.vmap(net)(x), axis=-1) == y)


def trained(
    net: Any, view: Callable[[Any], Any], data: Data, key: Any, steps: int, rate: float
) -> Any:
    """Plain training of what `view` makes of the network."""
    optimizer = optax.adam(rate)
    params, rest = eqx.partition(net, eqx.is_inexact_array)

    def step(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        rows = jr.randint(key, (BATCH,), 0, len(data[0]))
        batch = data[0][rows], data[1][rows]
        value = lambda p: loss(view(eqx.combine(p, rest)), batch, None)
        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    first = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, first, jr.split(key, steps))
    return eqx.combine(params, rest)


class Benchmark:
    def __init__(self, seeds: int):
        self.train, self.test = digits()
        self.keys = jr.split(jr.key(0), seeds)
        self.large = self.learned(WIDTH, STEPS)
        net = network(jr.key(0), WIDTH)
        self.anatomy = gn.trace(net, self.train[0][0])
        self.on = jax.jit(jax.vmap(jax.vmap(self._on), in_axes=(0, 0, None)))

    def learned(self, width: int, steps: int) -> Any:
        """Networks by seed, trained from the start."""

        def one(key: Any) -> Any:
            net = network(jr.fold_in(key, 0), width)
            net = trained(net, lambda n: n, self.train, jr.fold_in(key, 1), steps, 2e-3)
            return eqx.filter(net, eqx.is_array)

        rest = eqx.filter(network(jr.key(0), width), eqx.is_array, inverse=True)
        return eqx.combine(jax.jit(jax.vmap(one))(self.keys), rest)

    def pruned(self, score: str, removal: Any) -> tuple[Any, Any, Any]:
        """Arrays, open units and accuracies, by ratio and seed."""
        arrays, rest = eqx.partition(self.large, eqx.is_array)

        def one(ratio: Any, arrays: Any, key: Any) -> tuple[Any, Any, Any]:
            grown = gn.grow(
                eqx.combine(arrays, rest), loss, self.train, anatomy=self.anatomy,
                optimizer=optax.set_to_zero(), steps=1, key=key, capacity=WIDTH,
                policy=Pruning(score, ratio=ratio, start=1, every=1, removal=removal),
            )  # fmt: skip
            growing = grown.growing
            return (
                eqx.filter(growing.net, eqx.is_array),
                growing.open,
                accuracy(growing.view(), self.test),
            )

        over = jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)), in_axes=(0, None, None))
        return jax.jit(over)(jnp.asarray(RATIOS), arrays, self.keys)

    def _on(self, arrays: Any, open_: Any, key: Any) -> Any:
        """The accuracy after training on; closed units stay closed."""
        rest = eqx.filter(self.large, eqx.is_array, inverse=True)
        view = lambda net: gn.gate(net, self.anatomy, open_)
        net = eqx.combine(arrays, rest)
        net = trained(net, view, self.train, jr.fold_in(key, 2), MORE, 1e-3)
        return accuracy(view(net), self.test)

    def scratch(self, ratio: float) -> np.ndarray:
        nets = self.learned(WIDTH - round(ratio * WIDTH), STEPS + MORE)
        return accuracies(nets, self.test)


def accuracies(nets: Any, data: Data) -> np.ndarray:
    """By seed."""
    over = eqx.filter_vmap(accuracy, in_axes=(eqx.if_array(0), None))
    return np.asarray(over(nets, data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    began = time.process_time()
    bench = Benchmark(parser.parse_args().seeds)
    print(f"before pruning: {accuracies(bench.large, bench.test).mean():.1f}\n")
    results = {}
    for arm in ARMS:
        arrays, open_, before = bench.pruned(*arm)
        results[arm] = (
            np.asarray(before),
            np.asarray(bench.on(arrays, open_, bench.keys)),
        )
    print("| units kept | score | removal | pruned | trained on | minus random |")
    print("|---|---|---|---|---|---|")
    for i, ratio in enumerate(RATIOS):
        kept = f"2 x {WIDTH - round(ratio * WIDTH)}"
        reference = results["random", "silence"][1][i]
        for (score, removal), (before, after) in results.items():
            print(
                f"| {kept} | {score} | {removal} | {before[i].mean():.1f} "
                f"| {after[i].mean():.1f} | {interval(after[i] - reference, '+.1f')} |"
            )
        small = bench.scratch(ratio)
        difference = interval(small - reference, "+.1f")
        print(f"| {kept} | scratch | | | {small.mean():.1f} | {difference} |")
    print(f"\n{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
