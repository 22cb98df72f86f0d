"""What is known while a program is read: abstract values, and what happened to them."""

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any

import numpy as np

from .unify import Node


class Kind(enum.IntEnum):
    """What a value is made of; combining values takes the larger kind."""

    CONST = 0  # numbers of the program
    PARAM = 1  # leaves of the network, and functions of them alone
    ROWS = 2  # rows of a leaf picked by data: a weight for activations
    ACT = 3  # depends on the inputs


class Role(enum.StrEnum):
    """What a leaf's axis does in a width."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    OFFSET = "offset"
    SCALE = "scale"
    FACTOR = "factor"
    LOOKUP = "lookup"  # its rows are picked by index
    STACK = "stack"  # its units are layers, one after another


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Entry `[i, j, ...]` of a value comes from index `grid[i, j, ...]` of this leaf
    axis (-1: from elsewhere). `grid` has the value's rank and broadcasts against it;
    `along` names the value's axes in which it varies (sizes can't tell where they are
    1)."""

    leaf: int
    axis: int
    grid: np.ndarray
    along: frozenset[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An abstract array."""

    dims: tuple[Node, ...]
    kind: Kind
    origins: tuple[Origin, ...] = ()
    literal: Any = None
    zeroable: bool = False
    """Are the value's entries zero where the leaves' entries are?"""
    linear: bool = True
    """Is the value linear in the leaves? Only then can it be shared out over copies."""
    positive: bool = False
    """Is every entry above zero whatever the leaves are, as after `exp`?"""
    nonnegative: bool = False
    product: tuple["Value", "Value"] | None = None
    """The factors, where the value is an elementwise product: summing it contracts."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d.size for d in self.dims)


def combined(values: Iterable[Value]) -> Kind:
    """The kind of what several values make. Rows of a leaf are weights for activations,
    but where they meet other leaves they are what goes in."""
    kinds = {v.kind for v in values}
    if {Kind.PARAM, Kind.ROWS} <= kinds:
        return Kind.ACT
    return max(kinds, default=Kind.CONST)


@dataclasses.dataclass(frozen=True)
class Spot:
    """Some indices of a leaf axis; a `range` where they follow one another (most do,
    and a vocabulary is long)."""

    leaf: int
    axis: int
    indices: range | tuple[int, ...]


LOOKED_UP = "its entries are looked up by index"


@dataclasses.dataclass(frozen=True)
class Rigid:
    node: Node
    reason: str
    line: str


@dataclasses.dataclass(frozen=True)
class Interface:
    node: Node
    text: str
    given: bool
    """An input's axis, not an output's."""


@dataclasses.dataclass(frozen=True)
class Touch:
    node: Node
    role: Role
    spots: tuple[Spot, ...]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """Two axes are summed against each other: axis `dims[k]` of `values[k]`."""

    node: Node
    values: tuple[Value, Value]
    dims: tuple[int, int]
    line: str


@dataclasses.dataclass(frozen=True)
class Reduction:
    """An axis goes, or its units are looked at together. `how` is the primitive, or
    `"undefined"` where a function needn't be finite for new units, `"singular"` where
    it isn't for closed ones."""

    node: Node
    value: Value
    what: str
    how: str
    line: str


@dataclasses.dataclass(frozen=True, eq=False)
class Number:
    """An inexact number of the program, in the order of reading. Those that change
    with a width are baked."""

    value: Value
    name: str
    x: float
    line: str


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers along an axis. `cover`: the leaves whose zeros make a layer the identity;
    `None` where none do, and `why`."""

    node: Node
    cover: tuple[int, ...] | None
    why: str
    line: str


Event = Stack | Rigid | Interface | Touch | Contraction | Reduction
