"""How many of 60 runs on pure noise ever grow, at two rates of training.

python -m benchmarks.residual_fitting.noise
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .runs import residual_runs, START
from .tasks import TASKS


RUNS, RATES = 60, (3e-4, 1e-3)


def main() -> None:
    runs = residual_runs(TASKS["noise"]())
    for rate in RATES:
        keys = jr.split(jr.key(7), RUNS)
        sizes = runs(keys, jnp.full(RUNS, rate), jnp.zeros(RUNS)).sizes
        grew = [int(np.argmax(own > START)) + 1 for own in sizes if own[-1] > START]
        print(f"rate {rate:g}: {len(grew)} of {RUNS} grew, at looks {grew}")


if __name__ == "__main__":
    main()
