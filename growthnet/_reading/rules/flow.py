"""Which of a kernel's weights consume which axes, told from how the axes are shared.

Activations come in; a weight that shares an axis with what is known consumes it and
produces its other axes, which the next weight may consume, and so on: in
`b i, i h, h, h o -> b o` the first matrix makes `h`, the second reads it, and the
vector is added to it in between.
"""

import dataclasses
from collections.abc import Sequence

from ..events import Contraction, Kind, Role, Value
from ..reader import Reader


@dataclasses.dataclass
class _Flow:
    """Where weights stand: `(input, axis)` by word."""

    made: set[str]
    """The words of the outputs: these axes aren't summed away."""
    given: set[str]
    """The words of the activations."""
    readers: dict[str, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    """Weights that lead on from an axis that is summed away."""
    beside: dict[str, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    """Weights that only have axes that are there already."""


def note_flow(
    reader: Reader,
    values: Sequence[Value],
    inputs: Sequence[tuple[str, ...]],
    made: set[str],
) -> None:
    """Notes roles and contractions of a kernel's inputs."""
    high = max((v.kind for v in values), default=Kind.CONST)
    weights = [i for i, v in enumerate(values) if Kind.CONST < v.kind < high]
    others = [i for i, v in enumerate(values) if i not in weights and v.kind == high]
    flow = _Flow(made, {w for i in others for w in inputs[i]} - {"_", "1"})
    _note_meetings(reader, values, inputs, others, made)
    for i in others if weights else ():
        # Rows of a table that meet other leaves are what comes in.
        reader.absorb(values[i])
    reached = set(flow.given)
    while ready := [i for i in weights if reached & {*inputs[i]}]:
        for i in ready:
            _place(reader, flow, values[i], i, inputs[i], reached)
        reached |= {w for i in ready for w in inputs[i]} - {"_", "1"}
        weights = [i for i in weights if i not in ready]
    _note_meetings(reader, values, inputs, weights, made)
    for i in weights:
        reader.absorb(values[i])
    for word in {**flow.readers, **flow.beside}:
        consumers = flow.readers.get(word) or flow.beside[word]
        for i, d in consumers:
            _consume(reader, values[i], d)
        for i, d in flow.beside.get(word, ()):
            if (i, d) not in consumers:
                reader.touch(values[i], d, _beside(flow, word))


def _place(
    reader: Reader,
    flow: _Flow,
    value: Value,
    i: int,
    words: tuple[str, ...],
    reached: set[str],
) -> None:
    onward = {*words} - reached - {"_", "1"}
    for d, word in enumerate(words):
        if word in ("_", "1"):
            continue
        if word not in reached:
            reader.touch(value, d, Role.PRODUCER)
        elif word in flow.made:
            reader.touch(value, d, _beside(flow, word))
        else:
            kind = flow.readers if onward else flow.beside
            kind.setdefault(word, []).append((i, d))


def _beside(flow: _Flow, word: str) -> Role:
    """A vector beside activations scales them; beside what the kernel makes itself it
    is an offset, as the bias of a matrix."""
    return Role.SCALE if word in flow.given else Role.OFFSET


def _consume(reader: Reader, value: Value, d: int) -> None:
    reader.touch(value, d, Role.CONSUMER)
    node = value.dims[d]
    inflow = Value((node,), Kind.ACT)
    reader.events.append(Contraction(node, (value, inflow), (d, 0), reader.line))


def _note_meetings(
    reader: Reader,
    values: Sequence[Value],
    inputs: Sequence[tuple[str, ...]],
    alike: Sequence[int],
    made: set[str],
) -> None:
    """Values of one kind that share an axis which is summed away."""
    for n, i in enumerate(alike):
        for j in alike[n + 1 :]:
            for d, word in enumerate(inputs[i]):
                if word in inputs[j] and word not in made and word not in ("_", "1"):
                    e = inputs[j].index(word)
                    reader.contract(values[i], d, values[j], e)
                    reader.touch(values[i], d, Role.FACTOR)
                    reader.touch(values[j], e, Role.FACTOR)
