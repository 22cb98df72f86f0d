"""Seconds of one run of some arms by `fit`, each in a process of its own.

Compilation is in it, the import of libraries and the reading of data aren't.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


TIMED = {
    "static hand": ("static hand", ""),
    "grown": ("grown", ""),
    "grown, room for hand": ("grown", "hand"),
}
"""What is timed: an arm, and the room that `fit` is given (by default its own)."""


def measured(folder: Path) -> dict[str, Any]:
    """Seconds by name, of fresh processes: XLA as it comes, no compilation cache."""
    rates = {
        arm: json.loads((folder / f"tuning {arm}.json").read_text())["rate"]
        for arm, _ in TIMED.values()
    }
    others = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    env = {k: v for k, v in os.environ.items() if k not in others}
    found = {}
    for name, (arm, room) in TIMED.items():
        command = [sys.executable, "-m", __name__, arm, room, str(rates[arm])]
        told = subprocess.run(command, env=env, check=True, capture_output=True)
        found[name] = json.loads(told.stdout.splitlines()[-1])
        print(f"{name}: {found[name]}", flush=True)
    return {"timed": found}


def _timed(name: str, room: str, rate: float) -> dict[str, Any]:
    import jax.random as jr
    import optax

    import growthnet as gn

    from .settings import ARMS, BATCH, HAND, SEEDS, STEPS
    from .task import learnt, loss, network, WIDTHS

    arm, (train, _) = ARMS[name], learnt()
    assert arm.start is not None
    marks: list[tuple[int, float]] = []
    began, cpu = time.perf_counter(), time.process_time()
    first, rest = jr.split(jr.key(SEEDS[0]))
    run = gn.fit(
        network(arm.start, first),
        loss,
        train,
        optimizer=optax.adam(optax.cosine_decay_schedule(rate, STEPS)),
        policy=arm.policy(None),
        steps=STEPS,
        key=rest,
        batch_size=BATCH,
        capacity=dict(zip(WIDTHS, HAND, strict=True)) if room else None,
        chunk=1,
        callback=lambda tick: marks.append((tick["step"], time.process_time())),
    )
    total, spent = time.perf_counter() - began, time.process_time() - cpu
    late = [mark for mark in marks if mark[0] >= STEPS // 2]
    per_step = (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0])
    return {
        "seconds": total,
        "cpu_seconds": spent,
        "per_step": per_step,
        "first": spent - STEPS * per_step,
        "programs": run.history.ticks[-1].traces,
        "sizes": [run.sizes[name] for name in WIDTHS],
    }


if __name__ == "__main__":
    print(json.dumps(_timed(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
