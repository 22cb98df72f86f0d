"""What a reading keeps of a program: its equations with abstract values beside them."""

import dataclasses
from typing import Any

from .._reading.events import Value


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One equation as it was read. `bodies` are the programs inside it, in the order
    of its parameters (a scan's body, a conditional's branches)."""

    eqn: Any
    ins: tuple[Value, ...]
    outs: tuple[Value, ...]
    bodies: tuple["Tape", ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Tape:
    """A program as it was read: its equations with the values that went in and out."""

    jaxpr: Any
    consts: tuple[Any, ...]
    args: tuple[Value, ...]
    steps: list[Step]
    outs: list[Value]
