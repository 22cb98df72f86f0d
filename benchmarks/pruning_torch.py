"""The units that `Pruning` takes beside those of Torch-Pruning (PyPI), on the same
weights, with the same reduction over a group and the same normaliser.

    pip install torch==2.13.0 torch-pruning==1.6.1
    python -m benchmarks.pruning_torch

Importance is the sum of squares of all weights that make and read a unit, without
biases, in units of its mean over a width.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports]
import torch_pruning as tp  # pyright: ignore[reportMissingImports]

import growthnet as gn
from growthnet_policies import Pruning, Score, SCORES


squares = Score(
    lambda evidence, name, key: SCORES["magnitude"].of(evidence, name, key) ** 2,
    SCORES["magnitude"].needs,
)


class Convolutions(eqx.Module):
    layers: list

    def __init__(self, key: Any):
        keys = jr.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, 12, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(12, 16, 3, stride=2, key=keys[1]),
            eqx.nn.Linear(16 * 9, 10, key=keys[2]),
        ]

    def __call__(self, x: Any) -> Any:
        first, second, out = self.layers
        h = jax.nn.relu(second(jax.nn.relu(first(x))))
        return out(h.reshape(-1))


def twin(net: Any) -> Any:
    """The network in torch, with the same weights."""
    parts: list[Any] = []
    for layer in net.layers:
        if isinstance(layer, eqx.nn.Linear):
            other = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
            if parts and layer.weight.ndim == 2 and isinstance(net, Convolutions):
                parts.append(torch.nn.Flatten())
        else:
            other = torch.nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size,
                stride=layer.stride, padding=layer.padding[0][0],
            )  # fmt: skip
        with torch.no_grad():
            other.weight.copy_(torch.from_numpy(np.array(layer.weight)))
            bias = np.array(layer.bias).reshape(-1)
            other.bias.copy_(torch.from_numpy(bias))
        parts += [other, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1])


def theirs(net: Any, x: np.ndarray, ratio: float, scope: str) -> Any:
    model = twin(net)
    importance = tp.importance.GroupMagnitudeImportance(
        p=2, group_reduction="sum", normalizer="mean"
    )
    pruner = tp.pruner.MetaPruner(
        model, torch.from_numpy(x), importance, pruning_ratio=ratio,
        global_pruning=scope == "global", ignored_layers=[model[-1]],
    )  # fmt: skip
    pruner.step()
    return model


def ours(net: Any, batch: Any, ratio: float, scope: Any) -> gn.Run:
    def loss(net: Any, batch: Any, key: Any) -> Any:
        del key
        return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)

    policy = Pruning(squares, ratio=ratio, scope=scope, start=1, every=1)
    return gn.fit(
        net, loss, batch, optimizer=optax.set_to_zero(), policy=policy, steps=1,
        key=jr.key(0),
    )  # fmt: skip


def main() -> None:
    mlp = eqx.nn.MLP(20, 10, 32, 2, activation=jax.nn.relu, key=jr.key(1))
    conv = Convolutions(jr.key(2))
    shapes = {"dense": (mlp, (64, 20)), "convolutions": (conv, (64, 1, 8, 8))}
    print("| network | scope | ratio | sizes | same units | outputs differ by |")
    print("|---|---|---|---|---|---|")
    for name, (net, shape) in shapes.items():
        x = np.array(jr.normal(jr.key(3), shape))
        batch = jnp.asarray(x), jax.vmap(net)(jnp.asarray(x))
        for scope in ("layer", "global"):
            for ratio in (0.25, 0.5, 0.75):
                run, model = (
                    ours(net, batch, ratio, scope),
                    theirs(net, x, ratio, scope),
                )
                kept = [p for p in model if hasattr(p, "weight")]
                pairs = list(zip(kept, run.net.layers, strict=True))
                same = all(
                    a.weight.shape == b.weight.shape
                    and np.array_equal(a.weight.detach().numpy(), np.asarray(b.weight))
                    for a, b in pairs
                )
                off = np.nan
                if same:
                    outputs = model(torch.from_numpy(x)).detach().numpy()
                    off = np.abs(outputs - jax.vmap(run.net)(x)).max()
                sizes = " ".join(str(size) for size in run.sizes.values())
                other = " ".join(str(len(a.weight)) for a, _ in pairs[:-1])
                told = "yes" if same else f"no (theirs: {other})"
                print(f"| {name} | {scope} | {ratio} | {sizes} | {told} | {off:.1e} |")


if __name__ == "__main__":
    main()
