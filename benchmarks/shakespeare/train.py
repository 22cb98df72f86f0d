"""Training, and growth between two stages of it: the loop of a transformer's user.

The network is an ordinary module all the time, and every stage a program of its own. At
a growth, `gn.plan` and `gn.plan_deepen` give edits; each is applied to the network and
takes the optimizer's state along.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from .made import Made
from .network import loss, params, Sizes
from .settings import Arm, LENGTH, Settings


_loss = eqx.filter_jit(loss)


def held_out(net: Any, windows: Any) -> float:
    """By 64 windows at once; what is left over isn't told."""
    each = min(64, len(windows))
    parts = windows[: len(windows) // each * each].reshape(-1, each, LENGTH + 1)
    return float(np.mean([_loss(net, part) for part in parts]))


def optimizer(arm: Arm, s: Settings) -> optax.GradientTransformation:
    """Without its learning rate, which goes on as planned where Adam starts over."""
    if arm.state != "warmed":
        return optax.scale_by_adam()
    ages = gn.scale_by_age(optax.linear_schedule(0.0, 1.0, s.warm))
    return optax.chain(optax.scale_by_adam(), ages)


def rates(s: Settings, steps: int, rate: float) -> np.ndarray:
    """Warm-up, then the same, and in the end straight down to a twentieth: newborns
    should have a high one."""
    last = round(s.falling * steps)
    parts = (
        optax.linear_schedule(0.0, rate, s.warm),
        optax.constant_schedule(rate),
        optax.linear_schedule(rate, rate / 20, last),
    )
    made = optax.join_schedules(parts, (s.warm, steps - last))
    return np.asarray(made(np.arange(steps)), np.float32)


def grown(net: Any, state: Any, edits: list[Any], optim: Any, key: Any) -> Any:
    """The network and the state of its optimizer after `edits`."""
    for edit, now in zip(edits, jr.split(key, len(edits)), strict=True):
        new = edit(net, key=now)
        state = edit.transfer(optim, state, params(net), params(new))
        net = new
    return net, state


def run(arm: Arm, made: Made, seed: int, rate: float, part: str) -> dict[str, Any]:
    """A run of an arm, and its loss on the held-out play `part`. Seconds are of the
    processor; those of compiling and of planning are told apart, and held-out losses
    aren't in any."""
    s, stages = made.settings, made.settings.stages(arm)
    first, *keys = jr.split(jr.key(seed), 1 + len(arm.path))
    count = s.chunk * sum(stages)
    random = np.random.default_rng(seed)
    starts = random.integers(0, len(made.text) - LENGTH, (count, s.batch))
    chosen = rates(s, count, rate)
    play = made.windows(part)
    some = play[:: max(1, len(play) // s.windows)][: s.windows]
    looks = set(np.linspace(0, sum(stages), s.looks + 1).round().astype(int)[1:])
    net, optim = made.network(arm.path[0], first), optimizer(arm, s)
    state = optim.init(params(net))
    training, edits, flops, done = 0.0, 0.0, 0.0, 0
    curve: list[tuple[float, ...]] = []
    for i, chunks in enumerate(stages, start=1):
        path = arm.path[:i]
        if i > 1:
            ready = made.edits(path, arm.init)
            began = time.process_time()
            net, state = grown(net, state, ready, optim, keys[i - 1])
            if arm.state == "reset":
                state = optim.init(params(net))
            edits += time.process_time() - began
        arrays, static = eqx.partition(net, eqx.is_array)
        name = path, arm.init, arm.state == "warmed"
        steps, carry = made.steps(name, optim, (arrays, state), static), (arrays, state)
        for _ in range(chunks):
            at = slice(s.chunk * done, s.chunk * (done + 1))
            given = jnp.asarray(starts[at]), jnp.asarray(chosen[at])
            began = time.process_time()
            carry, _ = jax.block_until_ready(steps(carry, given))
            training += time.process_time() - began
            done, flops = done + 1, flops + s.chunk * operations(made, path, arm.init)
            net, state = eqx.combine(carry[0], static), carry[1]
            if done in looks:
                seen = held_out(net, some)
                curve.append((s.chunk * done, training + edits, flops, seen))
    return {
        "seed": seed, "rate": rate, "training": training, "edits": edits,
        "planning": made.spent(("trace", "edits"), arm) if len(arm.path) > 1 else 0.0,
        "compiling": made.spent(("program",), arm), "flops": flops, "curve": curve,
        "loss": held_out(net, play),
    }  # fmt: skip


def operations(made: Made, path: tuple[Sizes, ...], init: str) -> float:
    """Of a step: a gradient costs three calls, Adam a dozen operations a number."""
    anatomy = made.anatomy(path, init)
    calls = 3 * made.settings.batch * anatomy.flops()
    return float(calls + 12 * anatomy.params())
