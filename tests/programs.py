"""Random programs whose hidden widths are known, since they were built from them.

A program is a list of steps over a growing list of values of shape (time, units). The
layout of a value's units is written down while the program is drawn: a width by its
number, `("cat", ...)` for a row of parts, `("mul", outer, inner)` for heads. Sizes are
read off the leaves when it runs, so it runs at any.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import hypothesis.strategies as st
import jax
import jax.nn as jnn
import jax.numpy as jnp
import numpy as np


Layout: TypeAlias = Any
INPUT = -1
"""The units of the input: no width, its size is `FEATURES`."""
TIME, FEATURES, OUTPUTS = 4, 3, 2

SIZES = (2, 5, 7, 3, 11, 13, 4, 17, 6, 19, 23, 9)
"""Sizes of the first widths, as far as they are to differ."""

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jnn.relu,
    "softplus": jnn.softplus,
    "sin": jnp.sin,
    "gelu": jnn.gelu,
}


def widths_of(layout: Layout) -> list[int]:
    """The widths in a layout, without the input."""
    if isinstance(layout, tuple):
        return [w for part in layout[1:] for w in widths_of(part)]
    return [] if layout == INPUT else [layout]


@dataclasses.dataclass
class Program:
    """Steps, the leaves that they use, and what is known of the widths."""

    leaves: dict[str, tuple[Layout, ...]] = dataclasses.field(default_factory=dict)
    steps: list[tuple[str, Callable[..., Any]]] = dataclasses.field(
        default_factory=list
    )
    values: list[Layout] = dataclasses.field(default_factory=lambda: [INPUT])
    rigid: set[int] = dataclasses.field(default_factory=set)
    count: int = 0

    def __repr__(self) -> str:
        said = [f"v{i + 1} = {text}" for i, (text, _) in enumerate(self.steps)]
        return "\n".join(["", *said, f"leaves: {self.leaves}"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def width(self) -> int:
        self.count += 1
        return self.count - 1

    def leaf(self, *layouts: Layout) -> str:
        name = f"p{len(self.leaves):02d}"
        self.leaves[name] = layouts
        return name

    def add(self, text: str, layout: Layout, step: Callable[..., Any]) -> None:
        self.steps.append((text, step))
        self.values.append(layout)

    def size(self, layout: Layout, sizes: dict[int, int]) -> int:
        if layout == INPUT:
            return FEATURES
        if layout == "out":
            return OUTPUTS
        if isinstance(layout, int):
            return sizes[layout]
        parts = [self.size(part, sizes) for part in layout[1:]]
        return sum(parts) if layout[0] == "cat" else math.prod(parts)

    def net(self, *, alike: int | None = None, dtype: str = "float32") -> Any:
        """The leaves, with random numbers; all widths of size `alike`, or all of
        another size."""
        rng = np.random.default_rng(0)
        sizes = {w: alike or SIZES[w % len(SIZES)] for w in range(self.count)}
        return {
            name: jnp.asarray(
                0.5 * rng.standard_normal([self.size(x, sizes) for x in layouts]),
                dtype,
            )
            for name, layouts in self.leaves.items()
        }

    def members(self) -> dict[int, set[tuple[str, int]]]:
        """Per width, the axes of leaves that it is on."""
        found: dict[int, set[tuple[str, int]]] = {w: set() for w in range(self.count)}
        for name, layouts in self.leaves.items():
            for axis, layout in enumerate(layouts):
                for w in widths_of(layout) if layout != "out" else []:
                    found[w].add((name, axis))
        return found

    def call(self, wrap: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """The program as a function of leaves and input, each step wrapped."""

        def run(p: Any, x: Any) -> Any:
            values = [x]
            for _, step in self.steps:
                step = step if wrap is None else wrap(step)
                values.append(step(p, list(values)))
            # What is left is the output: of every value, by a last layer.
            return sum(p[f"out{i:02d}"] @ v.T for i, v in enumerate(values))

        return run


# --- steps


def dense(draw: Any, program: Program, i: int) -> None:
    w, act = program.width(), draw(st.sampled_from(sorted(ACTIVATIONS)))
    weight, bias = program.leaf(program.values[i], w), program.leaf(w)
    program.add(
        f"{act}(v{i} @ {weight} + {bias})",
        w,
        lambda p, v: ACTIVATIONS[act](v[i] @ p[weight] + p[bias][None]),
    )


def heads(draw: Any, program: Program, i: int) -> None:
    h, d, e = program.width(), program.width(), program.width()
    weight = program.leaf(program.values[i], ("mul", h, d))
    inner, scale = program.leaf(d, e), program.leaf(h)

    def step(p: Any, v: Any) -> Any:
        x = (v[i] @ p[weight]).reshape(len(v[i]), -1, p[inner].shape[0])
        y = jnp.tanh(jnp.einsum("thd,de->the", x, p[inner]) * p[scale][None, :, None])
        return y.reshape(len(y), -1)

    program.add(f"heads(v{i}; {weight}, {inner}, {scale})", ("mul", h, e), step)


def gate(draw: Any, program: Program, i: int) -> None:
    w = program.width()
    weight = program.leaf(program.values[i], ("cat", w, w))

    def step(p: Any, v: Any) -> Any:
        one, other = jnp.split(v[i] @ p[weight], 2, axis=-1)
        return one * jnn.sigmoid(other)

    program.add(f"glu(v{i} @ {weight})", w, step)


def join(draw: Any, program: Program, i: int) -> None:
    j = draw(st.integers(0, len(program.values) - 1))
    weight = program.leaf(program.values[j], program.values[i])
    program.add(
        f"v{i} + v{j} @ {weight}",
        program.values[i],
        lambda p, v: v[i] + v[j] @ p[weight],
    )


def affine(draw: Any, program: Program, i: int) -> None:
    layout = program.values[i]
    scale, offset = program.leaf(layout), program.leaf(layout)
    program.add(
        f"tanh(v{i} * {scale} + {offset})",
        layout,
        lambda p, v: jnp.tanh(v[i] * p[scale][None] + p[offset][None]),
    )


def concatenate(draw: Any, program: Program, i: int) -> None:
    j = draw(st.integers(0, len(program.values) - 1))
    program.add(
        f"[v{i}, v{j}]",
        ("cat", program.values[i], program.values[j]),
        lambda p, v: jnp.concatenate([v[i], v[j]], axis=-1),
    )


def multiply(draw: Any, program: Program, i: int) -> None:
    layout = program.values[i]
    alike = [j for j, other in enumerate(program.values) if other == layout]
    j = draw(st.sampled_from(alike))
    program.add(f"v{i} * tanh(v{j})", layout, lambda p, v: v[i] * jnp.tanh(v[j]))


def attend(draw: Any, program: Program, i: int) -> None:
    j, k = draw(st.integers(0, len(program.values) - 1)), program.width()
    query = program.leaf(program.values[i], k)
    key = program.leaf(program.values[j], k)

    def step(p: Any, v: Any) -> Any:
        scores = jnp.einsum("sk,tk->st", v[i] @ p[query], v[j] @ p[key])
        return jnn.softmax(scores, axis=-1) @ v[j]

    program.add(f"attend(v{i}, v{j}; {query}, {key})", program.values[j], step)


def over_time(draw: Any, program: Program, i: int) -> None:
    program.add(
        f"v{i} - mean(v{i}, 0) + v{i}[::-1]",
        program.values[i],
        lambda p, v: v[i] - jnp.mean(v[i], axis=0, keepdims=True) + v[i][::-1],
    )


def tied(draw: Any, program: Program, i: int) -> None:
    """Goes back through a weight that ends where this value is."""
    layout = program.values[i]
    ends = [n for n, axes in program.leaves.items() if axes[1:] == (layout,)]
    if not ends:
        return affine(draw, program, i)
    weight = draw(st.sampled_from(ends))
    program.add(
        f"v{i} @ {weight}.T",
        program.leaves[weight][0],
        lambda p, v: v[i] @ p[weight].T,
    )


def softmax(draw: Any, program: Program, i: int) -> None:
    """Over the units: they can change, but not silently."""
    program.add(
        f"softmax(v{i})", program.values[i], lambda p, v: jnn.softmax(v[i], axis=-1)
    )


REDUCTIONS = {"sum": jnp.sum, "max": jnp.max, "min": jnp.min, "mean": jnp.mean}


def reduce_units(draw: Any, program: Program, i: int) -> None:
    """Over the units of another value."""
    j = draw(st.integers(0, len(program.values) - 1))
    how = draw(st.sampled_from(sorted(REDUCTIONS)))
    program.add(
        f"v{i} + {how}(v{j}, -1)",
        program.values[i],
        lambda p, v: v[i] + REDUCTIONS[how](v[j], axis=-1, keepdims=True),
    )


def reduce_leaf(draw: Any, program: Program, i: int) -> None:
    """Over all that a leaf holds, as weight decay inside a network would."""
    leaf = draw(st.sampled_from(sorted(program.leaves)))
    how = draw(st.sampled_from(sorted(REDUCTIONS)))
    program.add(
        f"v{i} * {how}({leaf})",
        program.values[i],
        lambda p, v: v[i] * REDUCTIONS[how](p[leaf]),
    )


ORDERINGS = {
    "counted": lambda x: x * jnp.arange(x.shape[-1], dtype=x.dtype)[None],
    "flip": lambda x: jnp.flip(x, axis=-1),
}


def order(draw: Any, program: Program, i: int) -> None:
    """Uses the order of the units, which makes all of them rigid."""
    how = draw(st.sampled_from(sorted(ORDERINGS)))
    program.rigid.update(widths_of(program.values[i]))
    program.add(f"{how}(v{i})", program.values[i], lambda p, v: ORDERINGS[how](v[i]))


MOVES = (
    dense,
    heads,
    gate,
    join,
    affine,
    concatenate,
    multiply,
    attend,
    over_time,
    tied,
    softmax,
    reduce_units,
    reduce_leaf,
    order,
)


@st.composite
def programs(draw: Any, moves: Any = MOVES, longest: int = 7) -> Program:
    """Programs of a few steps. Concatenations of what is concatenated stay short."""
    program = Program()
    dense(draw, program, 0)
    for _ in range(draw(st.integers(2, longest))):
        fit = [i for i, v in enumerate(program.values) if len(widths_of(v)) <= 4]
        i = draw(st.sampled_from(fit[::-1]))
        draw(st.sampled_from(moves))(draw, program, i)
    for i, layout in enumerate(program.values):
        program.leaves[f"out{i:02d}"] = ("out", layout)
    return program


# --- the same program, said otherwise


def _scanned(step: Callable[..., Any]) -> Callable[..., Any]:
    def once(p: Any, v: Any) -> Any:
        body = lambda carry, _: (carry, step(p, carry))
        return jax.lax.scan(body, v, None, length=1)[1][0]

    return once


def _own_gradient(step: Callable[..., Any]) -> Callable[..., Any]:
    function = jax.custom_vjp(step)
    function.defvjp(
        lambda p, v: (step(p, v), (p, v)),
        lambda kept, ct: jax.vjp(step, *kept)[1](ct),
    )
    return function


def _branching(step: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p, v: jax.lax.cond(jnp.sum(v[0]) > 0.1, step, step, p, v)


WRAPPERS: dict[str, Callable[..., Any]] = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "custom_vjp": _own_gradient,
    "scan": _scanned,
    "cond": _branching,
}
