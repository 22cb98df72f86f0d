"""`read`: all programs of one network through one reader.

Leaves that a call leaves as they are (weights) are parameters. A leaf that comes back
with a new value (a running mean, the memory of a recurrent cell) holds what earlier
calls put there: it is data, so it produces nothing and can't be zeroed for good.
"""

from collections.abc import Sequence

import numpy as np

from .events import Interface, Kind, Origin, Value
from .programs import Program
from .reader import Reader, Reading, Rule
from .unify import Node


def read(
    programs: Sequence[Program],
    shapes: Sequence[tuple[int, ...]],
    rules: dict[str, Rule],
) -> Reading:
    """Reads programs of one network, whose leaves have the given shapes: what is known
    of a leaf's axes is known to all programs."""
    reader = Reader(rules)
    leaves = tuple(reader.dims(shape) for shape in shapes)
    for number, program in enumerate(programs):
        of = f" of `also[{number - 1}]`" if number else ""
        _read_program(reader, program, leaves, of)
    return Reading(
        reader.solver,
        leaves,
        tuple(reader.events),
        tuple(reader.numbers),
        tuple(reader.unknown),
        frozenset[int]().union(*(program.used for program in programs)),
        reader.tapes,
    )


def _read_program(
    reader: Reader, program: Program, leaves: Sequence[tuple[Node, ...]], of: str
) -> None:
    args = _arguments(reader, program, leaves, _never_negative(reader, program, leaves))
    for value, name in zip(args[len(leaves) :], program.inputs, strict=True):
        for axis, node in enumerate(value.dims):
            text = f"it is axis {axis} of the input {name}{of}"
            reader.events.append(Interface(node, text, given=True))
    results = reader.run(program.closed.jaxpr, program.closed.consts, args)
    for leaf, value in program.new_values(results):
        for a, b in zip(value.dims, leaves[leaf], strict=True):
            reader.solver.unify(a, b)
    outputs = [
        value
        for value, owners in zip(results, program.returned, strict=True)
        if not owners
    ]
    for i, value in enumerate(outputs):
        which = f" {i}" if len(outputs) > 1 else ""
        for axis, node in enumerate(value.dims):
            text = f"it is axis {axis} of the output{which}{of}"
            reader.events.append(Interface(node, text, given=False))


def _arguments(
    reader: Reader,
    program: Program,
    leaves: Sequence[tuple[Node, ...]],
    nonnegative: frozenset[int],
) -> list[Value]:
    args = []
    for i, dims in enumerate(leaves):
        if i in program.moving:
            args.append(Value(dims, Kind.ACT, nonnegative=i in nonnegative))
        else:
            shape = tuple(node.size for node in dims)
            args.append(Value(dims, Kind.PARAM, _origins(i, shape), zeroable=True))
    for var in program.closed.jaxpr.invars[len(leaves) :]:
        args.append(Value(reader.dims(var.aval.shape), Kind.ACT))
    return args


def _never_negative(
    reader: Reader, program: Program, leaves: Sequence[tuple[Node, ...]]
) -> frozenset[int]:
    """Moving leaves that no call makes negative if they aren't, such as running
    variances; and since newborns aren't negative, that is so for good."""
    leaving = program.moving
    while leaving:
        args = _arguments(reader, program, leaves, leaving)
        results = reader.rehearse(
            lambda args=args: reader.run(
                program.closed.jaxpr, program.closed.consts, args
            )
        )
        negative = {
            leaf
            for leaf, value in program.new_values(results)
            if not (value.nonnegative or value.positive)
        }
        if not leaving & negative:
            break
        leaving -= negative
    return leaving


def _origins(leaf: int, shape: tuple[int, ...]) -> tuple[Origin, ...]:
    origins = []
    for axis, n in enumerate(shape):
        grid = np.arange(n).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        origins.append(Origin(leaf, axis, grid, frozenset({axis})))
    return tuple(origins)
