"""The rows of the comparison: which arms do which work."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.intervals import interval

from .arms import (
    alternating,
    Arm,
    Column,
    COMPILE_SECONDS,
    COMPILES,
    CPU,
    LOSS,
    Result,
    show,
    SIZE,
    TRACES,
    warmed,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """`torch` is the interpreter that has PyTorch and gromo; `scale` shortens runs, to
    try the scripts out."""

    torch: str
    repeats: int
    scale: float

    def steps(self, count: int) -> int:
        return max(10, int(count * self.scale) // 10 * 10)


# One growing network: 8 to 64 units on 200 points.
WAVES = {"task": "waves", "start": 8, "target": 64, "size_rate": 1e-3}
# Larger ones, on batches of Fashion-MNIST. The size weight ends at its target, and the
# spare units beyond it are silent; together they fill the capacity.
FASHION_256 = {
    "task": "fashion",
    "start": 32,
    "target": 248,
    "spare": 8,
    "size_rate": 1e-2,
    "batch_size": 128,
}
FASHION_1024 = {
    "task": "fashion", "start": 128, "target": 1008, "spare": 16,
    "size_rate": 2e-2, "batch_size": 128,
}  # fmt: skip


def seed(settings: Settings) -> None:
    """Method A for 200 trials, per network and step."""
    long, short = settings.steps(20_000), settings.steps(1_000)
    arms = {
        name: Arm("jax_seed_a", {"trials": 200, "steps": long, "style": style})
        for name, style in (("JAX, vmapped", "vmapped"), ("JAX, networks last", "last"))
    }
    # A policy can't feed the size to the units, so these two do without.
    blind: dict[str, Any] = {"trials": 200, "steps": long}
    without = {**blind, "style": "vmapped", "size_input": False}
    arms["JAX, vmapped, no size input"] = Arm("jax_seed_a", without)
    arms["growthnet, no size input"] = Arm("growthnet_seed_a", blind)
    for style, trials, steps, threads in (
        ("eager", 200, max(10, short // 50), (1, None)),
        ("vmap", 200, short, (1, None)),
        ("batched", 200, short, (1, None)),
        ("compiled", 200, 5 * short, (1, None)),
    ):
        for count in threads:
            job: dict[str, Any] = {"style": style, "trials": trials, "steps": steps}
            if count is not None:
                job["threads"] = count
            name = f"PyTorch {style}, {'1 thread' if count else 'all threads'}"
            arms[name] = Arm("torch_seed_a", job, settings.torch)
    show(
        "Method A, 200 trials, per network and step",
        alternating(arms, settings.repeats),
        "JAX, vmapped",
        [CPU, ("compile s", lambda r: f"{r.get('compile_seconds', 0):.2g}")],
        lambda r: 1e6 * r["per_step"],
        "us",
    )


def growing(settings: Settings) -> None:
    """One growing network against PyTorch, and against compiling at every new unit."""
    job = {**WAVES, "steps": settings.steps(50_000)}
    arm = Arm("growthnet_run", job)
    first = arm.run()
    same = {**job, "schedule": first["schedule"]}
    with tempfile.TemporaryDirectory() as folder:
        arms = {
            "growthnet, cold": arm,
            "growthnet, warm cache": warmed(arm, folder),
            "PyTorch, real resizes": Arm("torch_run", same, settings.torch),
            "naive JAX, steps from Python": Arm(
                "jax_run", {**same, "style": "stepwise"}
            ),
            "naive JAX, steps in a program": Arm(
                "jax_run", {**same, "style": "segments"}
            ),
        }
        found = alternating(arms, settings.repeats)
    columns = [CPU, SIZE, LOSS, COMPILES]
    title = f"8 to {first['size']} units, 200 points, {job['steps']:,} Adam steps"
    show(title, found, "growthnet, cold", columns)
    warm = {k: v for k, v in found.items() if k != "growthnet, cold"}
    show(title, warm, "growthnet, warm cache", columns)
    styles = sorted({r["style"] for r in found["PyTorch, real resizes"]})
    print(f"\nPyTorch's fastest Adam: {'; '.join(styles)}")


def static(settings: Settings) -> None:
    """Growing runs against static networks of the final size."""
    for title, job, steps in (
        ("200 points", WAVES, 50_000),
        ("200 points", WAVES, 1_000_000),
        ("Fashion-MNIST", FASHION_256, 20_000),
        ("Fashion-MNIST", FASHION_256, 60_000),
        ("Fashion-MNIST", FASHION_1024, 6_000),
        ("Fashion-MNIST", FASHION_1024, 18_000),
    ):
        job = {**job, "steps": settings.steps(steps)}
        arm = Arm("growthnet_run", job)
        size = arm.run()["size"]
        final = {**job, "start": size}
        room = job["target"] + job.get("spare", 0)
        arms = {
            "static JAX": Arm("jax_run", {**final, "style": "segments"}),
            "growthnet": arm,
            "growthnet, room reserved": Arm("growthnet_run", {**job, "capacity": room}),
            "growthnet, static": Arm("growthnet_run", {**final, "policy": "none"}),
        }
        found = alternating(arms, settings.repeats)
        title = f"{job['start']} to {size} units, {title}, {job['steps']:,} steps"
        show(title, found, "static JAX", [CPU, SIZE, LOSS, COMPILES])


def tutorial(settings: Settings) -> None:
    """gromo's container tutorial, from the same seeds."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.npz")
        job = {"width": 2, "data": path}
        sizes = Arm("gromo_run", job, settings.torch).run()["schedule"]
        first = Arm("growthnet_tutorial", {**job, "schedule": sizes})
        cache = warmed(first, folder).warm
        found: dict[str, list[Result]] = {}
        for repeat in range(settings.repeats):
            own = {**job, "seed": repeat}
            mine = Arm("growthnet_tutorial", {**own, "schedule": sizes})
            arms = {
                "gromo": Arm("gromo_run", own, settings.torch),
                "growthnet, cold": mine,
                "growthnet, warm cache": dataclasses.replace(mine, warm=cache),
            }
            for name, results in alternating(arms, 1).items():
                found.setdefault(name, []).extend(results)
    for name, results in found.items():
        losses = ", ".join(f"{r['loss']:.3f}" for r in results)
        print(f"{name}: test MSE by seed {losses}")
    mine, other = ([r["loss"] for r in found[n]] for n in ("growthnet, cold", "gromo"))
    less = interval(np.subtract(mine, other), "+.4f")
    print(f"growthnet less gromo, paired by seed: {less}")
    gromo = [t for r in found["gromo"] for t in r["growing_seconds"]]
    print(f"gromo: growths alone {min(gromo):.3g}-{max(gromo):.3g} s; sizes {sizes}")
    show(
        "gromo's tutorial: seconds per round (3 epochs, one growth)",
        found,
        "gromo",
        [CPU, ("statements", lambda r: r["lines"]), LOSS, COMPILES],
        lambda r: r["seconds"] / 4,
    )


def scaling(settings: Settings) -> None:
    """growthnet's cost against capacity, the number of widths, and of networks; beside
    each the static networks of that size, as written by hand."""
    steps = settings.steps(20_000)
    for title, key, values in (
        ("capacity, 32 units open", "capacity", (64, 128, 256, 512, 1024)),
        ("number of widths, capacity 64", "widths", (1, 2, 4, 8)),
    ):
        arms = {}
        for value in values:
            job = {"widths": 1, "units": 32, "capacity": 64, "steps": steps, key: value}
            alike = {**job, "units": job["capacity"]}
            arms[f"{key} {value}, static JAX"] = Arm("jax_scaling", alike)
            arms[f"{key} {value}, growthnet"] = Arm("growthnet_scaling", job)
        found = alternating(arms, settings.repeats)
        title = f"Cost of a step against {title}"
        per_step = lambda r: r["microseconds_per_step"]
        show_pairs(title, found, [COMPILE_SECONDS, TRACES], per_step)
    job = {"units": 32, "widths": 1, "steps": settings.steps(4_000)}
    arms = {}
    for members in (1, 8, 64, 512):
        own = {**job, "members": members}
        arms[f"{members} members, static JAX"] = Arm("jax_scaling", own)
        arms[f"{members} members, growthnet"] = Arm("growthnet_population", own)
    found = alternating(arms, settings.repeats)
    title = "Growing networks in one program, capacity 32, per member and step"
    per_step = lambda r: 1e6 * r["per_step"]
    show_pairs(title, found, [COMPILE_SECONDS, SIZE], per_step)


def show_pairs(
    title: str,
    found: dict[str, list[Result]],
    columns: list[Column],
    measure: Callable[[Result], float],
) -> None:
    """A table of what grows over the smallest of it, and one of growthnet over what is
    written by hand, size by size."""
    names = list(found)
    show(title, found, names[1], columns, measure, "us")
    for control, ours in zip(names[::2], names[1::2], strict=True):
        pair = {name: found[name] for name in (control, ours)}
        ratios = [measure(b) / measure(a) for a, b in zip(*pair.values(), strict=True)]
        print(f"{ours} over static JAX: {median(ratios):.2f}")


ROWS: dict[str, Callable[[Settings], None]] = {
    "seed": seed,
    "growing": growing,
    "static": static,
    "tutorial": tutorial,
    "scaling": scaling,
}
