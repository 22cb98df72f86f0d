"""What the transfer of an optimizer state says that it did."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """What happened to one leaf of the state; `param` is empty if it follows none."""

    path: str
    param: str
    action: str
    reason: str


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What happened to every leaf of a state. A row's action is

    - `kept`: the same array as before;
    - `moved`: survivors bit for bit, newborn entries as `init` has them;
    - `scaled`: moved, and entries of split or merged units changed as their gradients
        (or, in copies of parameters, as their values) do;
    - `reset`: wholly or partly back to what `init` gives; the reason says which;
    - `born`, `gone`: it belongs to a parameter that came, or went, as a whole.
    """

    rows: tuple[TransferRow, ...]

    def __str__(self) -> str:
        cells = [(r.action, r.path, r.param, r.reason) for r in self.rows]
        cells.insert(0, ("action", "state leaf", "parameter", "reason"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (zip(row, widths, strict=True) for row in cells)
        return "\n".join("  ".join(c.ljust(w) for c, w in x).rstrip() for x in lines)
