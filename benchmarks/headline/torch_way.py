"""A way to a network in eager PyTorch: sizes are known, resizes carry Adam's state."""

import json
import math
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.headline.by_hand import batches, first_weights, resized
from benchmarks.side_by_side.clock import Clock


def carried(
    params: list[torch.Tensor], optimizer: torch.optim.Adam, size: int, random: Any
) -> tuple[list[torch.Tensor], torch.optim.Adam]:
    """New units have moments of 0; those that go take theirs along."""
    arrays = resized([p.detach().numpy() for p in params], size, random)
    grown = [torch.tensor(a).requires_grad_() for a in arrays]
    other = torch.optim.Adam(grown, lr=optimizer.param_groups[0]["lr"], fused=True)
    for name in ("exp_avg", "exp_avg_sq"):
        moments = resized([optimizer.state[p][name].numpy() for p in params], size)
        for new, moment in zip(grown, moments, strict=True):
            other.state[new][name] = torch.tensor(moment)
    for old, new in zip(params, grown, strict=True):
        other.state[new]["step"] = optimizer.state[old]["step"]
    return grown, other


def run(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    s, arrays = job["settings"], np.load(job["data"])
    numbers = job["loss"] == "numbers"
    criterion = torch.nn.MSELoss() if numbers else torch.nn.CrossEntropyLoss()
    kind = torch.float32 if numbers else torch.int64
    linear, random = torch.nn.functional.linear, np.random.default_rng(0)
    clock = Clock()
    x, y = torch.tensor(arrays["train_x"]), torch.tensor(arrays["train_y"]).to(kind)
    rows = torch.tensor(batches(len(x), s["batch"], s["steps"], random))
    outputs = y.shape[-1] if numbers else 10
    weights = first_weights(x.shape[1], job["start"], outputs, random)
    params = [torch.tensor(a).requires_grad_() for a in weights]
    optimizer = torch.optim.Adam(params, fused=True)
    sizes = {step: size for step, size in job["schedule"]}

    def predict(x: torch.Tensor) -> torch.Tensor:
        return linear(torch.tanh(linear(x, params[0], params[1])), params[2], params[3])

    for step in range(s["steps"]):
        if step in sizes:
            params, optimizer = carried(params, optimizer, sizes[step], random)
        share = (1 + math.cos(math.pi * step / s["steps"])) / 2
        optimizer.param_groups[0]["lr"] = job["rate"] * share
        optimizer.zero_grad()
        criterion(predict(x[rows[step]]), y[rows[step]]).backward()
        optimizer.step()
    with torch.no_grad():
        held_out = torch.tensor(arrays["valid_y"]).to(kind)
        loss = float(criterion(predict(torch.tensor(arrays["valid_x"])), held_out))
    return {**clock.read(), "valid_loss": loss, "version": torch.__version__}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
