"""An edit of a 124M-parameter transformer with Adam, beside a numpy copy of its bytes.

    python -m benchmarks.edit_124m [--repeat 3] [--only NAME]

The network of `benchmarks.trace_gpt2` (unmodified `eqx.nn` layers, float32), with
random weights and moments: 1.5 GB. The stream grows by zeros, which LayerNorm notices
(`allow_drift`), and exactly, to twice its size by copies. Every edit is measured in a
process of its own that does nothing else: seconds of `plan`, of the edit and of
`transfer`, first call and best of the next ones; and how far the resident memory rose
above what was there before (`VmHWM` of /proc, reset before), as a multiple of the bytes
of the result. An edit that holds just old and new, until the caller lets go of the old,
has 1.0. Times are compared with that of copying as many bytes as the result has.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from .trace_gpt2 import Modules, TOKENS


OPTIMIZER = optax.adam(1e-4)
EDITS: dict[str, tuple[dict[str, int], Any]] = {
    "MLPs 3072 -> 3328": ({"blocks[*].up": 3328}, "zero_out"),
    "heads 12 -> 13": ({"blocks[*].attention.query_proj": 13}, "zero_out"),
    "stream 768 -> 832": ({"tokens": 832}, "zero_out"),
    "stream 768 -> 1536": ({"tokens": 1536}, "clone"),
    "MLPs 3072 -> 2816": ({"blocks[*].up": 2816}, "zero_out"),
}


def params(net: Any) -> Any:
    return eqx.filter(net, eqx.is_inexact_array)


def random(tree: Any) -> Any:
    """A tree of shapes filled with numbers; no zeros, whose pages don't exist."""
    rng = np.random.default_rng(0)

    def fill(s: Any) -> Any:
        if not isinstance(s, jax.ShapeDtypeStruct):
            return s
        if not np.issubdtype(s.dtype, np.floating):
            return jax.device_put(np.ones(s.shape, s.dtype))
        return jax.device_put(rng.random(s.shape, np.float32))

    return jax.block_until_ready(jax.tree.map(fill, tree))


def size_of(*trees: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(trees) if eqx.is_array(x))


# --- memory


def peak_reset() -> None:
    """From here on `VmHWM` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(what: str) -> int:
    """`VmRSS` or `VmHWM`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {what}")


def measured(function: Callable[[], Any]) -> tuple[Any, float, int]:
    """The result, seconds, and by how many bytes memory rose above what it was."""
    gc.collect()
    before = resident("VmRSS")
    peak_reset()
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    seconds = time.perf_counter() - start
    return result, seconds, resident("VmHWM") - before


# --- what is measured


def one_copy(net: Any, state: Any, repeat: int) -> dict[str, Any]:
    arrays = [np.asarray(x) for x in jax.tree.leaves((params(net), state))]
    copies = lambda: [np.array(x) for x in arrays]
    found = []
    for _ in range(repeat + 1):
        result, seconds, rise = measured(copies)
        found.append((seconds, rise / size_of(result)))
        del result
    return {"first": found[0][0], "best": min(s for s, _ in found), "rise": found[0][1]}


def one_edit(net: Any, state: Any, repeat: int, name: str) -> dict[str, Any]:
    sizes, init = EDITS[name]
    anatomy = gn.trace(eqx.filter_eval_shape(Modules, jr.key(0)), TOKENS)
    rows: dict[str, list[float]] = {"plan": [], "edit": [], "transfer": []}
    rises: list[float] = []
    facts: dict[str, Any] = {}
    for i in range(repeat + 1):
        start = time.perf_counter()
        edit = gn.plan(anatomy, sizes, init=init, allow_drift=True)
        rows["plan"].append(time.perf_counter() - start)

        def whole(edit: gn.Edit = edit, seed: int = i) -> Any:
            start = time.perf_counter()
            net2 = edit(net, key=jr.key(seed))
            jax.block_until_ready(params(net2))
            rows["edit"].append(time.perf_counter() - start)
            state2 = edit.transfer(OPTIMIZER, state, params(net), params(net2))
            return params(net2), state2

        result, seconds, rise = measured(whole)
        rows["transfer"].append(seconds - rows["edit"][-1])
        rises.append(rise / size_of(result))
        facts = {"exactness": edit.exactness, "bytes": size_of(result)}
        del result
    totals = [sum(parts) for parts in zip(*rows.values(), strict=True)]
    best = int(np.argmin(totals))
    return {
        **{name: seconds[best] for name, seconds in rows.items()},
        "first": totals[0],
        "best": totals[best],
        "rise": rises[0],
        **facts,
    }


def child(name: str, repeat: int) -> None:
    net = random(eqx.filter_eval_shape(Modules, jr.key(0)))
    state = random(jax.eval_shape(OPTIMIZER.init, params(net)))
    if name == "copy":
        found = one_copy(net, state, repeat)
    else:
        found = one_edit(net, state, repeat, name)
    print(json.dumps({"bytes": size_of(params(net), state), **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", help="one of the edits, in this process")
    options = parser.parse_args()
    if options.only:
        return child(options.only, options.repeat)
    command = [sys.executable, "-m", "benchmarks.edit_124m"]
    command += ["--repeat", str(options.repeat), "--only"]
    rows = {}
    for name in ("copy", *EDITS):
        out = subprocess.run([*command, name], check=True, stdout=subprocess.PIPE)
        rows[name] = json.loads(out.stdout)
    copy = rows.pop("copy")
    pace = copy["bytes"] / copy["best"]
    print(f"{copy['bytes'] / 1e9:.2f} GB, a numpy copy: {copy['best']:.2f} s\n")
    print("| edit | GB | plan | edit | transfer | total | copies | first | memory | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        parts = " | ".join(f"{row[part]:.2f}" for part in ("plan", "edit", "transfer"))
        ratio = row["best"] * pace / row["bytes"]
        print(
            f"| {name} | {row['bytes'] / 1e9:.2f} | {parts} | {row['best']:.2f} | "
            f"{ratio:.1f} | {row['first']:.2f} | {row['rise']:.2f} | "
            f"{row['exactness']} |"
        )
    print(
        f"\nPython {platform.python_version()}, jax {jax.__version__}, equinox "
        f"{eqx.__version__}, optax {optax.__version__}, numpy {np.__version__}, CPU"
    )


if __name__ == "__main__":
    main()
