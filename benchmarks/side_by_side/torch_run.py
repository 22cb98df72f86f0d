"""Arm: PyTorch with real resizes, and Adam's state carried by hand.

Which of Adam's three implementations and how many threads are fastest is found in a
short trial first, outside the time that counts.
"""

import json
import math
import sys
import time
from typing import Any

import torch

from benchmarks.side_by_side.clock import Clock
from benchmarks.side_by_side.tasks import data_of, first_weights


def adam(params: list[torch.Tensor], style: str) -> torch.optim.Adam:
    return torch.optim.Adam(
        params, lr=1e-3, foreach=style == "foreach", fused=style == "fused"
    )


def as_params(arrays: list[Any]) -> list[torch.Tensor]:
    return [torch.tensor(a).requires_grad_() for a in arrays]


def train(
    params: list[torch.Tensor],
    optimizer: torch.optim.Adam,
    x: torch.Tensor,
    y: torch.Tensor,
    steps: int,
) -> None:
    first, first_bias, last, last_bias = params
    linear = torch.nn.functional.linear
    for _ in range(steps):
        optimizer.zero_grad()
        out = linear(torch.tanh(linear(x, first, first_bias)), last, last_bias)
        torch.nn.functional.mse_loss(out, y).backward()
        optimizer.step()


def grown(
    params: list[torch.Tensor], optimizer: torch.optim.Adam, size: int, style: str
) -> tuple[list[torch.Tensor], torch.optim.Adam]:
    """New units read at random and aren't read yet; Adam's moments of theirs are 0."""
    old, inputs = params[0].shape
    new, limit = size - old, 1 / math.sqrt(inputs)
    with torch.no_grad():
        born = [
            torch.empty(new, inputs).uniform_(-limit, limit),
            torch.empty(new).uniform_(-limit, limit),
            torch.zeros(len(params[2]), new),
            None,
        ]
        axes = [0, 0, 1, 0]
        params2 = [
            (p if b is None else torch.cat([p, b], a)).detach().clone().requires_grad_()
            for p, b, a in zip(params, born, axes, strict=True)
        ]
        optimizer2 = adam(params2, style)
        for p, p2, b, a in zip(params, params2, born, axes, strict=True):
            state = dict(optimizer.state[p])
            for name in ("exp_avg", "exp_avg_sq"):
                if b is not None:
                    state[name] = torch.cat([state[name], torch.zeros_like(b)], a)
            optimizer2.state[p2] = state
    return params2, optimizer2


def fastest(job: dict[str, Any], x: torch.Tensor, y: torch.Tensor) -> tuple[str, int]:
    """The implementation and number of threads that train the final size fastest."""
    found = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for style in ("fused", "foreach", "single"):
            params = as_params(first_weights(job["task"], job["schedule"][-1][1]))
            optimizer = adam(params, style)
            train(params, optimizer, x, y, 100)
            started = time.perf_counter()
            train(params, optimizer, x, y, 1_000)
            found.append((time.perf_counter() - started, style, threads))
    return min(found)[1:]


def run(job: dict[str, Any]) -> dict[str, Any]:
    x, y = (torch.tensor(a) for a in data_of(job["task"]))
    torch.manual_seed(job.get("seed", 0))
    style, threads = fastest(job, x, y)
    torch.set_num_threads(threads)
    clock = Clock()
    params = as_params(first_weights(job["task"], job["start"]))
    optimizer, done = adam(params, style), 0
    for step, size in [*job["schedule"], [job["steps"], None]]:
        train(params, optimizer, x, y, step - done)
        done = step
        if size is not None:
            params, optimizer = grown(params, optimizer, size, style)
    times = clock.read()
    first, first_bias, last, last_bias = params
    with torch.no_grad():
        out = torch.tanh(x @ first.T + first_bias) @ last.T + last_bias
    return {
        **times,
        "loss": float(((out - y) ** 2).mean()),
        "size": len(first),
        "style": f"{style}, {threads} thread(s)",
        "compiles": 0,
        "version": torch.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
