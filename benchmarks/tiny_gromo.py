"""TINY's first-order gain beside that of gromo (PyPI), on the same weights and batch.

    pip install gromo torch
    python -m benchmarks.tiny_gromo

The gain is the rate at which the loss falls as the new units are turned on: the sum of
the squared singular values of `S^-1/2 N`. gromo's loss is summed over the batch.
"""

import itertools as it
from typing import Any

import equinox as eqx
import gromo.containers.growing_mlp as gromo  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports]

import growthnet as gn
from growthnet_policies import Tiny


class Gain(Tiny):
    """Remembers the gain of each width and adds nothing."""

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        del key
        return None, {name: jnp.zeros(()) for name in anatomy.widths}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        *_, info = super().step(trainable, memory, evidence, key=key)
        gains = {name: info[f"gain/{name}"] for name in memory}
        return gn.Decision(), trainable, gains, info


def loss(net: Any, batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    return jnp.mean(jnp.sum((jax.vmap(net)(x) - y) ** 2, axis=1))


def ours(net: Any, batch: Any, add: int) -> dict[str, float]:
    run = gn.fit(
        net,
        loss,
        batch,
        optimizer=optax.sgd(0.0),
        policy=Gain(add, every=1),
        steps=1,
        key=jr.key(0),
    )
    return {name: float(gain) for name, gain in run.state.memory.items()}


def theirs(net: Any, batch: Any, activation: Any, add: int) -> list[float]:
    """gromo's gain for each hidden width."""
    gains = []
    sizes = [layer.weight.shape for layer in net.layers]
    x, y = (torch.from_numpy(np.array(array)) for array in batch)
    for number in range(1, len(sizes)):
        model = gromo.GrowingMLP(
            sizes[0][1], sizes[-1][0], sizes[0][0], len(sizes) - 1, activation
        )
        with torch.no_grad():
            for layer, mine in zip(model.layers, net.layers, strict=True):
                layer.layer.weight.copy_(torch.from_numpy(np.array(mine.weight)))
                layer.layer.bias.copy_(torch.from_numpy(np.array(mine.bias)))
        model.set_growing_layers(index=number - 1)
        model.init_computation()
        model.zero_grad()
        torch.sum((model(x) - y) ** 2).backward()
        model.update_computation()
        model.compute_optimal_updates(
            maximum_added_neurons=add, statistical_threshold=0.0
        )
        layer = model.layers[number]
        gains.append(float(layer.new_neurons_fo_improvement))
    return gains


def main() -> None:
    print("| activation | width | add | growthnet | gromo | difference |")
    print("|---|---|---|---|---|---|")
    kinds = {
        "tanh": (jnp.tanh, torch.nn.Tanh()),
        "relu": (jax.nn.relu, torch.nn.ReLU()),
    }
    for name, add in it.product(kinds, (1, 3)):
        mine, other = kinds[name]
        net = eqx.nn.MLP(5, 3, 6, 2, activation=mine, key=jr.key(1))
        x = jr.normal(jr.key(2), (200, 5))
        batch = (x, jnp.sin(x @ jr.normal(jr.key(3), (5, 3))))
        a, b = ours(net, batch, add), theirs(net, batch, other, add)
        for (width, gain), gromos in zip(a.items(), b, strict=True):
            print(
                f"| {name} | {width} | {add} | {gain:.6f} | {gromos:.6f} "
                f"| {abs(gain / gromos - 1):.1e} |"
            )


if __name__ == "__main__":
    main()
