"""Runs the arms: a population of seeds and densities each, in one program."""

import functools as ft
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from ..stored import load, Row, timed, write
from .arms import Arm, ARMS, FIRST, SECOND
from .costs import of_step, spent
from .life import drawn, loss, Network, right
from .settings import DENSITIES, Settings


def steps_of(arm: Arm, s: Settings) -> int:
    """Until the budget is spent; of a network that changes its size, until the end."""
    if not (arm.static or arm.stays):
        return s.grown_steps
    return s.every * int(s.budget // (s.every * of_step(arm, s)))


@ft.cache
def program(arm: Arm, s: Settings) -> Any:
    """From keys, densities, rates and paths to what is seen of each run."""

    def one(key: Any, density: Any, rate: Any, path: Any) -> dict[str, Any]:
        keys = jr.split(key, 4)
        grown = gn.grow(
            Network((2 * arm.m, arm.m), keys[0]),
            loss,
            drawn(keys[1], density, s.boards, s.side),
            optimizer=optax.adam(rate),
            policy=arm.of(s, path),
            steps=steps_of(arm, s),
            key=keys[2],
            capacity=dict(zip((FIRST, SECOND), arm.room(s), strict=True)),
            batch_size=s.batch,
            overflow="hold",
        )
        reports, memory = grown.reports, grown.state.memory
        held_out = drawn(keys[3], density, 100, 32)
        return {
            "solved": memory[-1] if isinstance(memory, tuple) else memory,
            "path": jnp.stack(list(reports.sizes.values()), axis=-1),
            "loss": reports.loss,
            "held_out": right(grown.growing.view(), held_out),
        }

    return jax.jit(jax.vmap(one))


def runs(arm: Arm, s: Settings, seeds: Any, rates: Any, path: Any = None) -> Row:
    """What is seen, `[densities, runs]`, and what each run costs until it is solved."""
    count, ticks = len(seeds), -(-steps_of(arm, s) // s.every)
    densities = np.repeat(np.float32(DENSITIES), count)
    keys = jnp.stack([jr.key(int(seed)) for seed in [*seeds, *seeds]])
    rates = np.asarray(rates, np.float32).reshape(-1)
    if path is None:
        path = np.zeros((2 * count, 1, 1), int)
    seen = jax.device_get(program(arm, s)(keys, densities, rates, path))
    path = seen.pop("path")[:, :ticks]
    seen["loss"] = seen["loss"][:, ticks - 4 : ticks].mean(1)
    every = spent(arm, s, path)
    at = np.where(seen["solved"] < 0, ticks, seen["solved"] // s.every) - 1
    seen["flops"] = every[np.arange(len(every)), at]
    seen["sizes"] = path[np.arange(len(path)), at]
    seen["solved"] = (seen["solved"] > 0) & (seen["flops"] <= s.budget)
    seen["flops"] = np.minimum(seen["flops"], s.budget)
    seen["path"] = path
    return {k: np.reshape(v, (2, count, *np.shape(v)[1:])) for k, v in seen.items()}


def run(s: Settings, folder: Path, only: str = "", rates: Path | None = None) -> None:
    """All arms, or those whose names contain `only`; what is there isn't made again.
    First the tuning of all arms, unless `rates` is a folder that has it."""
    for make in (tuned, evaluated) if rates is None else (evaluated,):
        for name, arm in ARMS.items():
            path = folder / f"{make.__name__} {name}.json"
            if only not in name or path.exists():
                continue
            row = timed(ft.partial(make, name, arm, s, folder, rates or folder))
            write(path, row)
            print(f"{make.__name__} {name}: {told(row)}", flush=True)


def tuned(name: str, arm: Arm, s: Settings, folder: Path, _: Path) -> Row:
    """The rate by density at which least is spent until the game is known, the budget
    where it isn't; of equal ones that with the least loss at the end."""
    tries = {}
    seeds = np.tile(s.tuning, len(s.rates))
    rates = np.tile(np.repeat(s.rates, len(s.tuning)), (2, 1))
    path = None
    if arm.follows:
        path = np.asarray(load(folder, f"tuned {arm.follows}")["path"])
        path = np.tile(path, (1, len(s.rates), 1, 1)).reshape(-1, *path.shape[2:])
    seen = runs(arm, s, seeds, rates, path)
    by = lambda a: a.reshape(2, len(s.rates), len(s.tuning), *a.shape[2:])
    spent, loss = by(seen["flops"]).mean(-1), by(seen["loss"]).mean(-1)
    best = np.lexsort((np.nan_to_num(loss, nan=np.inf), spent))[:, 0]
    tries = {"flops": spent.tolist(), "solved": by(seen["solved"]).sum(-1).tolist()}
    path = by(seen["path"])[np.arange(2), best]
    row: Row = {"rates": [s.rates[i] for i in best], "tries": tries}
    if is_followed(name):
        row["path"] = path.tolist()
    return row


def evaluated(name: str, arm: Arm, s: Settings, folder: Path, tuning: Path) -> Row:
    rates = load(tuning, f"tuned {name}")["rates"]
    path = None
    if arm.follows:
        path = np.asarray(load(folder, f"evaluated {arm.follows}")["path"])
        path = path.reshape(-1, *path.shape[2:])
    seen = runs(arm, s, s.seeds, np.repeat(rates, len(s.seeds)), path)
    if not is_followed(name):
        seen.pop("path")
    seen["loss"] = np.asarray(seen["loss"], float).round(5)
    return {"rates": rates, **{k: v.tolist() for k, v in seen.items()}}


def is_followed(name: str) -> bool:
    return any(arm.follows == name for arm in ARMS.values())


def told(row: Row) -> str:
    seconds = f"{row['seconds']} s, {row['cpu_seconds']} s of processor"
    if "tries" in row:
        return f"rates {row['rates']}, solved {row['tries']['solved']}, {seconds}"
    solved, sizes = np.mean(row["solved"], 1), np.mean(row["sizes"], 1).round(1)
    flops = np.mean(row["flops"], 1) / 1e9
    return (
        f"rates {row['rates']}, solved {solved}, units {sizes.tolist()}, "
        f"{flops.round(2)} GFLOP, {seconds}"
    )
