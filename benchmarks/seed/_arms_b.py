"""The arms of method B, and the controls that show what carries the result."""

import functools as ft
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._method_b import data_loss, free_control, init, Net, Setting, SIZE_WEIGHT, train
from ._protocol import compare, Job, Stage
from ._tasks import bessel_grid, spirals, Split


ARMS: dict[str, dict[str, Any]] = {
    "static": {"control": 1.0},
    "static, small output": {"control": 1.0, "out_scale": 0.01},
    "growing": {},
    "growing, data gradient": {"data_gradient": True},
    "growing, mask per unit": {"per_unit": True},
    "growing, mask per unit, data gradient": {"per_unit": True, "data_gradient": True},
    "open-loop ramp": {"ramp": True},
}
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PUBLISHED, EPOCHS = 1e-3, 5_000
TOGETHER = 10  # networks in one call

# Data, outputs, width, points, seeds held out and for the test.
PLACES: dict[str, tuple[Callable[..., Split], int, int, int, tuple[int, int]]] = {
    "Bessel, width 10": (bessel_grid, 1, 10, 2048, (5, 20)),
    "Bessel, width 32": (bessel_grid, 1, 32, 2048, (3, 10)),
    "spirals, width 10": (spirals, 5, 10, 1024, (3, 10)),
    "spirals, width 32": (spirals, 5, 32, 1024, (2, 6)),
}


def controller(quick: bool) -> Iterator[tuple[str, Any]]:
    """Both tasks at both widths through the protocol, and the controller by itself."""
    yield "alone", _alone(quick)
    for place, (_, _, width, points, seeds) in PLACES.items():
        began = time.perf_counter()
        seeds = (2, 2) if quick else seeds
        epochs = 150 if quick else EPOCHS

        def run(
            jobs: Sequence[Job],
            stage: Stage,
            place: str = place,
            seeds: tuple[int, int] = seeds,
            epochs: int = epochs,
        ) -> np.ndarray:
            held_out = stage == "held out"
            which = range(100, 100 + seeds[0]) if held_out else range(seeds[1])
            losses, _ = _run(place, jobs, stage, which, epochs)
            return losses[:, :, None]

        yield (
            place,
            {
                **compare(list(ARMS), RATES, PUBLISHED, run),
                "seeds": seeds,
                "points": points,
                "width": width,
                "epochs": epochs,
                "seconds": time.perf_counter() - began,
            },
        )


def _alone(quick: bool) -> dict[str, Any]:
    """Does the task, or lambda, have any influence on the control's path?"""
    epochs = 150 if quick else EPOCHS
    job, at = Job("growing", True, PUBLISHED, False), np.arange(100, epochs, 100)
    seeds = range(2 if quick else 10)
    paths, losses = {}, {}
    for place in ("Bessel, width 10", "spirals, width 10"):
        _, controls = _run(place, [job], "test", range(1), epochs)
        paths[place] = controls[0, 0, at].tolist()
    for weight in (0.01, SIZE_WEIGHT, 100.0):
        test, _ = _run("Bessel, width 10", [job], "test", seeds, epochs, weight)
        losses[str(weight)] = [float(test.mean()), float(np.median(test))]
    return {"epochs": at.tolist(), "paths": paths, "lambda: mean, median": losses}


@ft.cache
def _split(data: Callable[..., Split], seed: int, points: int) -> Split:
    return data(seed, points)


def _run(
    place: str,
    jobs: Sequence[Job],
    stage: Stage,
    seeds: Sequence[int],
    epochs: int,
    weight: float = SIZE_WEIGHT,
) -> tuple[np.ndarray, np.ndarray]:
    """Data losses [jobs, seeds], and the controls [jobs, seeds, epochs]."""
    data, outputs, width, points, _ = PLACES[place]
    pairs = [(job, seed) for job in jobs for seed in seeds]
    curve = free_control(jnp.float32(1e-5), PUBLISHED, epochs)
    losses, controls, began = [], [], time.perf_counter()
    size = min(TOGETHER, len(pairs))
    for start in range(0, len(pairs), size):
        # The last call is filled up with networks whose results are dropped.
        part = [pairs[min(i, len(pairs) - 1)] for i in range(start, start + size)]
        splits = [_split(data, seed, points) for _, seed in part]
        nets = [_network(splits[0].train.x.shape[1], width, outputs, *p) for p in part]
        net = jax.tree.map(lambda *a: jnp.stack(a), *nets)
        how = _settings([job for job, _ in part], weight)
        x, y = (np.stack(a) for a in zip(*(s.train for s in splits), strict=True))
        net, path = train(net, how, curve, x, y, epochs=epochs)
        ends = [s.held_out if stage == "held out" else s.test for s in splits]
        x, y = (np.stack(a) for a in zip(*ends, strict=True))
        losses.append(np.asarray(jax.vmap(data_loss)(net, how, x, y)))
        controls.append(np.asarray(path))
        done, seconds = min(start + size, len(pairs)), time.perf_counter() - began
        print(
            f"{place}, {stage}: {done}/{len(pairs)}, {seconds:.0f} s", file=sys.stderr
        )
    shape = len(jobs), len(seeds)
    every, path = (np.concatenate(a)[: len(pairs)] for a in (losses, controls))
    return every.reshape(shape), path.reshape(*shape, epochs)


def _network(d: int, width: int, outputs: int, job: Job, seed: int) -> Net:
    """The same weights for every arm with as many inputs."""
    arm, key = ARMS[job.arm], jr.key(seed)
    start = 1e-5 * jr.normal(jr.fold_in(key, 1))
    control = jnp.asarray(arm.get("control", start), jnp.float32)
    net = init(key, d, width, outputs, control, jnp.float32(job.size_input))
    return net._replace(out=net.out * arm.get("out_scale", 1.0))


def _settings(jobs: Sequence[Job], weight: float) -> Setting:
    """A row per network."""
    arms = [ARMS[job.arm] for job in jobs]
    flags = {
        name: jnp.asarray([arm.get(name, False) for arm in arms])
        for name in ("per_unit", "data_gradient", "ramp")
    }
    return Setting(
        rate=jnp.asarray([job.rate for job in jobs]),
        cosine=jnp.asarray([job.cosine for job in jobs]),
        size_input=jnp.asarray([float(job.size_input) for job in jobs]),
        weight=jnp.full(len(jobs), weight),
        **flags,
    )
