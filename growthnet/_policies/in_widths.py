"""A policy for some of the widths: what it sees and decides is about these alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .around import Around
from .growing import replaced
from .policy import AbstractPolicy, Decision


class _InWidths(Around):
    policy: AbstractPolicy
    patterns: tuple[str, ...] = eqx.field(static=True)

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        return self.policy.init(anatomy.only(self.patterns), key=key)

    def gates(self, trainable: Any, anatomy: Anatomy, **given: Any) -> dict[str, Any]:
        return self.policy.gates(trainable, anatomy.only(self.patterns), **given)

    def rates(self, memory: Any, anatomy: Anatomy, open: Any) -> dict[str, Any]:
        own = anatomy.only(self.patterns)
        return self.policy.rates(memory, own, {n: open[n] for n in own.widths})

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        return self.policy.forecast(anatomy.only(self.patterns), steps)

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        own = _of_these(evidence, self.patterns)
        return self.policy.step(trainable, memory, own, key=key)


def _of_these(evidence: Evidence, patterns: Sequence[str]) -> Evidence:
    anatomy = evidence.anatomy.only(patterns)
    some = lambda found: found and {n: found[n] for n in anatomy.widths}
    on, average = evidence.on, evidence.average

    def mean(function: Callable[[Evidence], Any], batches: int) -> Any:
        return average(lambda e: function(_of_these(e, patterns)), batches)

    return replaced(
        evidence,
        anatomy=anatomy,
        open=some(evidence.open),
        gate_slopes=some(evidence.gate_slopes),
        units=some(evidence.units),
        candidates=some(evidence.candidates),
        on=on and (lambda batch: _of_these(on(batch), patterns)),
        average=average and mean,
    )


def in_widths(policy: AbstractPolicy, widths: str | Iterable[str]) -> AbstractPolicy:
    """A policy for some of the widths that a run may change; others it neither sees
    nor decides on. In a `chain`, each width can have a policy of its own.

    **Arguments:**

    - `widths`: a name or pattern, or several. Only `*` is special.

    **Raises:** `ValueError`, when a run begins, for a pattern that matches none of its
        widths.

    !!! example

        Two units more in the first layer for every one in the second:

        ```python
        policy = gn.chain(
            gn.in_widths(GradMax(add=2, every=100), "layers[0]"),
            gn.in_widths(GradMax(add=1, every=100), "layers[1]"),
        )
        ```
    """
    patterns = (widths,) if isinstance(widths, str) else tuple(widths)
    # The fields of a policy are properties here.
    return _InWidths(policy=policy, patterns=patterns)  # pyright: ignore[reportCallIssue]
