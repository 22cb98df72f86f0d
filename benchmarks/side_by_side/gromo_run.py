"""Arm: gromo's container tutorial: train, grow a layer by its statistics, and so on.

The task, sizes, epochs and optimizer are the tutorial's: sums of sines of 10 normal
inputs, an MLP 10-2-2-3 with SELU, 4 rounds of 3 epochs of plain gradient descent, and
after each a growth of one layer with a line search over 4 scales.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from gromo.containers.growing_mlp import GrowingMLP

from benchmarks.side_by_side.clock import Clock
from benchmarks.side_by_side.user_lines import user_lines


def batches(seed: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`y[d] = sum over i of sin(i x[i] + d)`, in batches of 1,000."""
    torch.manual_seed(seed)
    made = []
    for _ in range(count):
        x = torch.randn(1_000, 10)
        waves = torch.arange(1, 11) * x
        y = torch.stack([torch.sin(waves + d).sum(1) for d in range(3)], 1)
        made.append((x, y))
    return made


def mean_loss(model: GrowingMLP, data: Any, extended: bool = False) -> float:
    call = model.extended_forward if extended else model
    with torch.no_grad():
        losses = [torch.nn.functional.mse_loss(call(x), y) for x, y in data]
    return float(torch.stack(losses).mean())


# --- what the user of the library writes: a network, its training, its growth


def build(width: int) -> GrowingMLP:
    return GrowingMLP(10, 3, hidden_size=width, number_hidden_layers=2)


def train(model: GrowingMLP, data: Any, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()


def grow(model: GrowingMLP, data: Any, layer: int) -> None:
    model.set_growing_layers(index=layer)
    model.init_computation()
    for x, y in data:
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x), y, reduction="sum").backward()
        model.update_computation()
    model.compute_optimal_updates()
    model.reset_computation()
    model.dummy_select_update()
    scored = []
    for scale in (0.0, 0.1, 0.5, 1.0):
        model.set_scaling_factor(scale)
        scored.append((mean_loss(model, data, extended=True), scale))
    model.set_scaling_factor(min(scored)[1])
    model.apply_change()


# ---


def sizes(model: GrowingMLP) -> list[int]:
    return [len(p) for name, p in model.named_parameters() if name.endswith("bias")][:2]


def run(job: dict[str, Any]) -> dict[str, Any]:
    train_data, test_data = batches(0, 10), batches(1, 1)
    torch.manual_seed(job.get("seed", 0))
    torch.set_num_threads(job.get("threads", 1))
    model, growing, grown = build(job["width"]), [], []
    if "data" in job:
        # What growthnet's arm begins with: the same data, the same weights.
        arrays = {
            name: torch.stack([batch[i] for batch in data]).numpy()
            for data, names in ((train_data, "xy"), (test_data, "uv"))
            for i, name in enumerate(names)
        }
        weights = [p.detach().numpy().copy() for p in model.parameters()]
        arrays |= {f"weights{i}": array for i, array in enumerate(weights)}
        np.savez(job["data"], **arrays)
    clock = Clock()
    for step in range(4):
        train(model, train_data, 3)
        before = time.perf_counter()
        grow(model, train_data, step % 2)
        growing.append(time.perf_counter() - before)
        grown.append(sizes(model))
    times = clock.read()
    return {
        **times,
        "growing_seconds": growing,
        "loss": mean_loss(model, test_data),
        "schedule": grown,
        "lines": user_lines(build, train, grow),
        "version": torch.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
