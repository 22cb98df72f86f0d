"""How long `trace` takes on a network of GPT-2 small's shape, abstractly.

    python -m benchmarks.trace_gpt2 [--cpu] [--top 20]

12 layers, 768 units, 12 heads, vocabulary 50257, 1024 positions; no array is ever made.
Two ways to write it: unmodified `eqx.nn` layers, and a dict of arrays with a fused
projection for queries, keys and values. The first call of a process is cold: JAX has
traced nothing yet. `--cpu` counts processor time, for a machine that is busy with other
things (a trace runs on one core); `--top` also prints where a warm call spends most.
"""

import argparse
import contextlib
import cProfile
import functools as ft
import platform
import pstats
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn
from growthnet._reading import trace as tracing  # noqa: PLC2701


LAYERS, WIDTH, HEADS, VOCABULARY, LENGTH = 12, 768, 12, 50257, 1024
TOKENS = jax.ShapeDtypeStruct((LENGTH,), jnp.int32)


class Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key: Any):
        keys = jr.split(key, 3)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
        self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2])

    def __call__(self, x: Any, mask: Any) -> Any:
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, mask)
        y = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm2)(x)))
        return x + jax.vmap(self.down)(y)


class Modules(eqx.Module):
    """GPT-2 out of `eqx.nn`; the head is the embedding's table."""

    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, key: Any):
        keys = jr.split(key, LAYERS + 2)
        self.tokens = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.positions = eqx.nn.Embedding(LENGTH, WIDTH, key=keys[1])
        self.blocks = [Block(k) for k in keys[2:]]
        self.norm = eqx.nn.LayerNorm(WIDTH)

    def __call__(self, tokens: Any) -> Any:
        places = jnp.arange(len(tokens))
        x = jax.vmap(self.tokens)(tokens) + jax.vmap(self.positions)(places)
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.tokens.weight.T


def arrays() -> dict[str, Any]:
    """The same network as a dict of shapes, with biases, as GPT-2's files have it."""

    def of(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def norm() -> dict[str, Any]:
        return {"scale": of(WIDTH), "offset": of(WIDTH)}

    def linear(n: int, m: int) -> dict[str, Any]:
        return {"w": of(n, m), "b": of(m)}

    def block() -> dict[str, Any]:
        return {
            "norm1": norm(),
            "qkv": linear(WIDTH, 3 * WIDTH),
            "out": linear(WIDTH, WIDTH),
            "norm2": norm(),
            "up": linear(WIDTH, 4 * WIDTH),
            "down": linear(4 * WIDTH, WIDTH),
        }

    return {
        "tokens": of(VOCABULARY, WIDTH),
        "positions": of(LENGTH, WIDTH),
        "blocks": [block() for _ in range(LAYERS)],
        "norm": norm(),
    }


def _norm(p: Any, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / jnp.sqrt(variance + 1e-5) * p["scale"] + p["offset"]


def _linear(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"]


def _attention(p: Any, x: Any) -> Any:
    def heads(y: Any) -> Any:
        return y.reshape(len(y), HEADS, -1).transpose(1, 0, 2)

    query, key, value = map(heads, jnp.split(_linear(p["qkv"], x), 3, axis=-1))
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    past = jnp.tril(jnp.ones((len(x), len(x)), bool))
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
    mixed = (weights @ value).transpose(1, 0, 2).reshape(len(x), -1)
    return _linear(p["out"], mixed)


def by_hand(p: Any, tokens: Any) -> Any:
    """The network on a dict of arrays."""
    x = p["tokens"][tokens] + p["positions"][: len(tokens)]
    for block in p["blocks"]:
        x = x + _attention(block, _norm(block["norm1"], x))
        y = jax.nn.gelu(_linear(block["up"], _norm(block["norm2"], x)))
        x = x + _linear(block["down"], y)
    return _norm(p["norm"], x) @ p["tokens"].T


# --- measuring


class Clock:
    """Seconds spent in functions of the reader, by part, without what they call in
    turn of other parts."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self.seconds: dict[str, float] = {}
        self._open: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        self._open.append(0.0)
        try:
            yield
        finally:
            total = self._now() - start
            inside = self._open.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + total - inside
            if self._open:
                self._open[-1] += total

    def wrap(self, name: str, function: Any) -> Any:
        @ft.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed


PARTS = {
    "make_jaxpr": (jax, "make_jaxpr"),
    "reading": (tracing, "read"),
    "resolving": (tracing, "resolve"),
}
"""What a trace is made of; the rest (building skeletons, comparing) is `other`."""


@contextlib.contextmanager
def measured(clock: Clock) -> Iterator[None]:
    """Clocks the parts of every trace inside."""
    saved = {name: getattr(*at) for name, at in PARTS.items()}

    def jaxpr_maker(function: Any) -> Any:
        return clock.wrap("make_jaxpr", saved["make_jaxpr"](function))

    wrapped = {n: clock.wrap(n, f) for n, f in saved.items()}
    wrapped["make_jaxpr"] = jaxpr_maker
    for name, (module, attribute) in PARTS.items():
        setattr(module, attribute, wrapped[name])
    try:
        yield
    finally:
        for name, (module, attribute) in PARTS.items():
            setattr(module, attribute, saved[name])


def row(
    name: str, trace: Callable[[], Any], now: Callable[[], float]
) -> tuple[Any, str]:
    """One call of `trace`: the anatomy, and a line of the table."""
    clock = Clock(now)
    with measured(clock), clock.part("other"):
        anatomy = trace()
    seconds = clock.seconds
    total = sum(seconds.values())
    cells = [total, *(seconds[part] for part in (*PARTS, "other"))]
    return anatomy, f"| {name} | " + " | ".join(f"{c:.2f}" for c in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--top", type=int, default=0, metavar="N")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    now = time.process_time if options.cpu else time.perf_counter
    modules = eqx.filter_eval_shape(Modules, jr.key(0))
    traces = {
        "dict, fused qkv": ft.partial(gn.trace, arrays(), TOKENS, call=by_hand),
        "`eqx.nn` layers": ft.partial(gn.trace, modules, TOKENS),
    }
    unit = "CPU seconds" if options.cpu else "seconds"
    print(f"| {unit} | total | {' | '.join(PARTS)} | other |")
    print("|" + "---|" * (len(PARTS) + 3))
    for name, trace in traces.items():
        anatomy, line = row(f"{name}, cold", trace, now)
        print(line)
        print(row(f"{name}, warm", trace, now)[1])
        grow = sum(w.growable for w in anatomy.all_widths)
        print(f"{name}: {len(anatomy.all_widths)} widths, {grow} growable")
    for name, trace in traces.items() if options.top else ():
        profile = cProfile.Profile()
        profile.runcall(trace)
        print(name)
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.top)
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"equinox {eqx.__version__}, CPU"
    )


if __name__ == "__main__":
    main()
