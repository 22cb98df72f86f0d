"""How long an edit takes: hidden layers of 64 units grown to 65..164, with Adam.

    python -m benchmarks.edit_latency

Every size is new, so nothing that depends on a shape can have been compiled before.
Beside it, what naive growth pays on top: reading the network again, and compiling the
train step for the new shapes.
"""

import platform
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn


OPTIMIZER = optax.adam(1e-3)
X, Y = jnp.ones((128, 16)), jnp.ones((128, 4))


def params(net: Any) -> Any:
    return eqx.filter(net, eqx.is_inexact_array)


def ready(tree: Any) -> Any:
    return jax.block_until_ready(eqx.filter(tree, eqx.is_array))


@eqx.filter_jit
def train(net: Any, state: Any) -> Any:
    def loss(net: Any) -> Any:
        return jnp.mean((jax.vmap(net)(X) - Y) ** 2)

    grads = eqx.filter_grad(loss)(net)
    updates, state = OPTIMIZER.update(grads, state, params(net))
    return eqx.apply_updates(net, updates), state


def main() -> None:
    net = eqx.nn.MLP(16, 4, 64, 2, key=jr.key(0))
    anatomy = gn.trace(net, X[0])
    net, state = train(net, OPTIMIZER.init(params(net)))
    rows: dict[str, list[float]] = {}

    def timed(name: str, function: Any) -> Any:
        start = time.perf_counter()
        result = function()
        ready(result)
        rows.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for size in range(65, 165):
        start = time.perf_counter()
        edit = timed("plan", lambda n=size: gn.plan(anatomy, {"layers[*]": n}))
        grown = timed("edit", lambda e=edit, n=size: e(net, key=jr.key(n)))
        moved = timed(
            "transfer",
            lambda e=edit, g=grown: e.transfer(
                OPTIMIZER, state, params(net), params(g)
            ),
        )
        total = 1e3 * (time.perf_counter() - start)
        rows.setdefault("plan + edit + transfer", []).append(total)
        timed("trace again", lambda g=grown: gn.trace(g, X[0]))
        if size % 10 == 5:
            name = "train step: trace, compile, run"
            timed(name, lambda g=grown, m=moved: train(g, m))
    print(f"{'ms':32}{'median':>9}{'p90':>9}{'max':>9}{'n':>6}")
    for name, times in rows.items():
        cells = np.median(times), np.quantile(times, 0.9), max(times)
        numbers = "".join(f"{c:9.2f}" for c in cells)
        print(f"{name:32}{numbers}{len(times):6}")
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"equinox {eqx.__version__}, optax {optax.__version__}, CPU"
    )


if __name__ == "__main__":
    main()
