"""Arm: method A of "Growing neural networks" in PyTorch.

- `eager`: a loop over the trials.
- `vmap`: `torch.func.vmap` of `torch.func.grad`.
- `batched`: the trials are an axis of every tensor and one `backward` serves them all.
- `compiled`: `batched`, its step through `torch.compile`; compiling isn't counted.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.side_by_side.clock import Clock
from benchmarks.side_by_side.tasks import trials


ETA, LAMBDA, TARGET = 1e-3, 0.1, 5.0
Params = dict[str, torch.Tensor]
UNITS = torch.arange(9.0)


def loss(p: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One trial, or many along a first axis: their losses."""
    size = p["N"][..., None]
    gates = torch.sin(torch.pi / 2 * (size - UNITS).clamp(0, 1)) ** 2
    shift = p["b2"] + size * p["w2"][..., 0]
    hidden = torch.tanh(shift[..., None, :] + x[..., None] * p["w2"][..., None, :, 1])
    out = p["b3"][..., None] + (hidden @ (p["w3"] * gates)[..., None])[..., 0]
    data = ((y - out) ** 2).mean(-1)
    return data + LAMBDA * (p["N"] - TARGET) ** 2


def descend(p: Params, grads: Any) -> Params:
    with torch.no_grad():
        return {
            name: (a - ETA * g).requires_grad_()
            for (name, a), g in zip(p.items(), grads, strict=True)
        }


def batched(p: Params, x: torch.Tensor, y: torch.Tensor) -> Params:
    return descend(p, torch.autograd.grad(loss(p, x, y).sum(), list(p.values())))


def vmapped(p: Params, x: torch.Tensor, y: torch.Tensor) -> Params:
    grads = torch.func.vmap(torch.func.grad(loss))(p, x, y)
    return {name: a - ETA * grads[name] for name, a in p.items()}


def compiled() -> Callable[..., Params]:
    """`grad` and the update as one graph."""

    def step(p: Params, x: torch.Tensor, y: torch.Tensor) -> Params:
        grads = torch.func.grad(lambda p: loss(p, x, y).sum())(p)
        return {name: a - ETA * grads[name] for name, a in p.items()}

    return torch.compile(step)


def run(job: dict[str, Any]) -> dict[str, Any]:
    style, count = job["style"], job["trials"]
    torch.set_num_threads(job.get("threads", torch.get_num_threads()))
    made = trials(count)
    x, y = torch.tensor(made["x"]), torch.tensor(made["y"])
    start = {name: torch.tensor(a) for name, a in made["params"].items()}
    if style in ("eager", "batched"):
        start = {name: a.requires_grad_() for name, a in start.items()}
    step = {"vmap": vmapped, "compiled": compiled()}.get(style, batched)

    def train(p: Params, x: torch.Tensor, y: torch.Tensor, steps: int) -> Params:
        for _ in range(steps):
            p = step(p, x, y)
        return p

    def everything(steps: int) -> Params:
        if style != "eager":
            return train(start, x, y, steps)
        ends = [
            train({n: a[i] for n, a in rows.items()}, x[i], y[i], steps)
            for i in range(count)
        ]
        return {name: torch.stack([p[name] for p in ends]) for name in start}

    rows = {n: a.detach().requires_grad_() for n, a in start.items()}
    everything(3)
    clock = Clock()
    p = everything(job["steps"])
    times = clock.read()
    with torch.no_grad():
        losses = loss(p, x, y)
    return {
        **times,
        "per_step": times["seconds"] / job["steps"] / count,
        "loss": float(losses.mean()),
        "size": float(p["N"].detach().mean()),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
