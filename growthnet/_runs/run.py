"""What a run leaves: its network, its records, and all that it takes to go on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._history.history import History
from .._optimizer.trainable import TrainableSpec
from .._policies.capacities import Ahead
from .._policies.growing import compact_edit, GrowerState, Growing
from .._reading.anatomy import Anatomy


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands, beside its arrays: what Python knows of it.

    - `data`: what identifies the data; `served`: how many batches it has given.
    - `buckets`: the ladder of its capacities (ratio, multiple_of, smallest).
    - `ahead`: the units that there is room for from the start, until when.
    - `rollbacks`: how often the run went back because its loss was no number.
    - `seconds`: wall time so far; `traces`: programs traced so far.
    - `programs`: which ones: what was traced, and at which capacities. When a run goes
        on in another process, these are traced once more, and not counted again.
    """

    data: Mapping[str, Any]
    served: int
    buckets: tuple[float | int, int, int]
    rollbacks: int
    seconds: float
    traces: int
    programs: tuple[tuple[str, tuple[int, ...]], ...]
    ahead: Ahead | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What `fit` returns.

    - `net`: the final network, an ordinary one of its real size, gates folded in.
    - `anatomy`: its anatomy.
    - `history`: events and ticks; `history.plot()`, `print(history.table())`.
    - `growing`, `state`: the run as it stood at its last step, with spare capacity.
    - `overflowed`: it stopped early, at a decision that didn't fit the capacity (only
        where capacities are fixed: `grow`, `fit_population`).
    - `position`: what else `fit` needs to go on from here; `None` if it wasn't `fit`
        that ran.
    """

    net: Any
    anatomy: Anatomy
    history: History
    growing: Growing
    state: GrowerState
    overflowed: bool = False
    position: Position | None = None

    @staticmethod
    def of(
        growing: Growing, state: GrowerState, history: History, **others: Any
    ) -> "Run":
        """The run that stands so: with its compact network."""
        after = final_anatomy(growing)
        return Run(growing.compact(), after, history, growing, state, **others)

    def opt_state(self, optimizer: Any, trainable: Any = None) -> Any:
        """The optimizer's state for `net`: what another run may go on with.

        **Arguments:** `optimizer` and `trainable` as the run had them.

        !!! example

            ```python
            edit = gn.plan_rows(run.anatomy, {"layers[1]": 4})  # Another class.
            net, trained = edit(run.net, key=key), eqx.is_inexact_array
            before, after = eqx.filter(run.net, trained), eqx.filter(net, trained)
            opt_state = edit.transfer(adam, run.opt_state(adam), before, after)
            run = gn.fit(net, loss, data, optimizer=adam, opt_state=opt_state, ...)
            ```
        """
        edit = compact_edit(self.growing)
        if edit is None:
            return self.state.opt_state
        spec = TrainableSpec(trainable)
        before, after = spec.of(self.growing.net), spec.of(self.net)
        return edit.transfer(optimizer, self.state.opt_state, before, after)

    @property
    def sizes(self) -> dict[str, int]:
        """Units per width of the final network."""
        return {name: self.anatomy.widths[name].size for name in self.growing.open}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        step = (
            f"step={int(self.state.step)}{' (overflowed)' if self.overflowed else ''}"
        )
        return f"Run({step}, {sizes or 'nothing grows'})"


def final_anatomy(growing: Growing) -> Anatomy:
    """The anatomy of the compact network."""
    edit = compact_edit(growing)
    return growing.anatomy if edit is None else edit.after
