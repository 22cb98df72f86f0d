"""Equinox's own primitives: what its loops and checks add to a program.

They are matched by name. `noinline` isn't among them: its body isn't in the program.
"""

from typing import Any

from ..events import Kind, Value
from ..reader import opaque, Reader, Rule
from .elementwise import elementwise


def over_everything(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    """`unvmap_any` and its like: one number out of all entries, batched ones too."""
    (value,) = values
    for axis in range(len(value.dims)):
        if value.kind != Kind.CONST:
            name = eqn.primitive.name
            reader.reduce(value, axis, f"`{name}` goes over its units")
    return Value((), value.kind)


def maybe_set(
    reader: Reader, eqn: Any, values: tuple[Value, ...]
) -> Value | list[Value]:
    """`xs.at[i].set(x)`, or `xs` as it was: a loop saves a step.

    The axes of `x` are the last ones of `xs`; those before them are picked by numbers.
    """
    _, buffer, entry, *indices = values
    plain = eqn.params["i_static"] is None and not any(i.dims for i in indices)
    if not plain or len(buffer.dims) != len(entry.dims) + len(indices):
        return opaque(reader, values, "`maybe_set` with a slice")
    for node in buffer.dims[: len(indices)]:
        reader.rigid(node, "its entries are picked by a number")
    for a, b in zip(buffer.dims[len(indices) :], entry.dims, strict=True):
        reader.solver.unify(a, b)
    for value in (buffer, entry):
        reader.absorb(value)
    # Which entries of it still are a leaf's, nobody knows before the program runs.
    made = any(v.kind != Kind.CONST for v in values)
    return Value(buffer.dims, Kind.ACT if made else Kind.CONST)


EQUINOX: dict[str, Rule] = {
    **dict.fromkeys(
        "nonbatchable nondifferentiable_backward nontraceable select_if_vmap".split(),
        elementwise,
    ),
    **dict.fromkeys("unvmap_all unvmap_any unvmap_max".split(), over_everything),
    "maybe_set": maybe_set,
}
