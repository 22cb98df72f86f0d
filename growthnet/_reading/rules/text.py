"""Rules as texts: `"b i, i o -> b o"` says which axes of a kernel are the same."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ..events import combined, Kind, Value
from ..reader import Reader
from ..unify import Node
from .flow import note_flow
from .moves import moved_origins


ALLOWED = (
    "write it like 'b i, i o -> b o': a word for each axis, commas between arrays; `_` "
    "is an axis that nobody may change, `1` one of size 1, a leading `...` any axes, "
    "and `word!` one that the kernel also computes over (a norm, a softmax)"
)

Words = tuple[str, ...]


class PrimitiveError(ValueError):
    """A registered rule is malformed, or doesn't fit a call."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A rule that was read. `over` are the words marked by `!`."""

    text: str
    inputs: tuple[Words, ...]
    outputs: tuple[Words, ...]
    over: frozenset[str]


def parse(text: str) -> Spec:
    """**Raises:** `PrimitiveError` for a malformed text."""
    left, arrow, right = text.partition("->")
    if not arrow or "->" in right:
        raise PrimitiveError(f"the rule {text!r} needs one `->`: {ALLOWED}")
    over: set[str] = set()
    inputs, outputs = (
        tuple(_words(text, part, over) for part in side.split(",") if side.strip())
        for side in (left, right)
    )
    for words in (*inputs, *outputs):
        named = [w for w in words if w not in ("_", "1")]
        twice = next((w for w in named if named.count(w) > 1), None)
        if twice is not None:
            raise PrimitiveError(
                f"the rule {text!r} has {twice!r} twice in one array: {ALLOWED}"
            )
    return Spec(text, inputs, outputs, frozenset(over))


def _words(text: str, part: str, over: set[str]) -> Words:
    words = []
    for place, word in enumerate(part.split()):
        bare = word.removesuffix("!")
        if word != "..." and not re.fullmatch(r"_|1|[A-Za-z]\w*!?", word):
            raise PrimitiveError(
                f"the rule {text!r} has {word!r} where an axis stands: {ALLOWED}"
            )
        if word == "..." and place:
            raise PrimitiveError(f"the rule {text!r} has axes before `...`: {ALLOWED}")
        if bare != word:
            over.add(bare)
        words.append(bare)
    return tuple(words)


def apply_spec(
    spec: Spec, reader: Reader, eqn: Any, values: tuple[Value, ...]
) -> list[Value]:
    """Reads an equation as the text says."""
    inputs, outputs = _aligned(spec, eqn, values)
    name = eqn.primitive.name
    nodes: dict[str, Any] = {}
    for value, words in zip(values, inputs, strict=True):
        for node, word in zip(value.dims, words, strict=True):
            if word == "_":
                reader.rigid(node, f"the rule of `{name}` has it fixed")
            elif word != "1" and word in nodes:
                reader.solver.unify(nodes[word], node)
            elif word != "1":
                nodes[word] = node
    made = {w for words in outputs for w in words}
    for word in nodes:
        at = [(i, words.index(word)) for i, words in enumerate(inputs) if word in words]
        if word in spec.over or (word not in made and len(at) == 1):
            (i, d), *_ = at
            reader.reduce(values[i], d, f"`{name}` goes over its units")
    note_flow(reader, values, inputs, made)
    results = []
    for i, words in enumerate(outputs):
        dims = list(reader.dims(reader.out(i)))
        for d, word in enumerate(words):
            if word in nodes:
                dims[d] = nodes[word]
            elif word != "1":
                reader.rigid(dims[d], f"`{name}` makes it anew")
        results.append(_result(values, inputs, words, tuple(dims)))
    return results


def _result(
    values: Sequence[Value],
    inputs: Sequence[Words],
    words: Words,
    dims: tuple[Node, ...],
) -> Value:
    """What a kernel makes of leaves alone is some function of them."""
    kind = combined(values)
    if kind == Kind.ACT:
        return Value(dims, kind)
    origins = []
    for value, own in zip(values, inputs, strict=True):
        shared = [w for w in own if w in words and w not in ("_", "1")]
        to = {own.index(w): words.index(w) for w in shared}
        origins += moved_origins(value, to, dims)
    return Value(dims, kind, tuple(origins), linear=False)


def _aligned(
    spec: Spec, eqn: Any, values: Sequence[Value]
) -> tuple[list[Words], list[Words]]:
    """The words of every axis, with `...` written out.

    **Raises:** `PrimitiveError` where numbers of arrays, ranks or sizes don't fit.
    """
    rule = f"the rule {spec.text!r} of `{eqn.primitive.name}`"
    sizes: dict[str, int] = {}
    sides = []
    for what, shapes, side in (
        ("inputs", [v.shape for v in values], spec.inputs),
        ("outputs", [tuple(v.aval.shape) for v in eqn.outvars], spec.outputs),
    ):
        if len(shapes) != len(side):
            raise PrimitiveError(
                f"{rule} has {len(side)} {what}, but this call has {len(shapes)}, of "
                f"shapes {', '.join(map(str, shapes))}"
            )
        sides.append([_spelled(rule, w, s) for w, s in zip(side, shapes, strict=True)])
        for words, shape in zip(sides[-1], shapes, strict=True):
            for word, size in zip(words, shape, strict=True):
                expected = 1 if word == "1" else sizes.setdefault(word, size)
                if word != "_" and size != expected:
                    raise PrimitiveError(
                        f"{rule} says that {word!r} is one axis, but it is {expected} "
                        f"and {size} in this call"
                    )
    return sides[0], sides[1]


def _spelled(rule: str, words: Words, shape: tuple[int, ...]) -> Words:
    named = words[1:] if words[:1] == ("...",) else words
    missing = len(shape) - len(named)
    if missing < 0 or (missing and named == words):
        raise PrimitiveError(
            f"{rule} has {' '.join(words)!r} for an array of shape {shape}"
        )
    # Counted from the last, as broadcasting does.
    return (*(f"...{i}" for i in range(missing, 0, -1)), *named)
