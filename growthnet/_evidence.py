"""What a policy may look at when it decides."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx


KINDS = {
    "loss": "mean training loss of the tick",
    "valid_loss": "loss on the validation data given to `fit`",
    "network": "the network's arrays at capacity, gates not multiplied in",
    "gradients": "gradients of the loss on the last batch, shaped like the network",
    "gate_slopes": "d loss / d gate on the last batch, [capacity] by width; of closed "
    "units too (0 where their weights are 0)",
    "evaluate": "evaluate(decision): the loss on the last batch if it were taken",
    "valid_at": "valid_at(gates): the loss on the validation data under other gates",
}


class Evidence(eqx.Module):
    """Exactly what a policy declared in `needs`; the rest is `None`.

    Always there: `step` (training steps so far), `open` (`bool[capacity]` by width) and
    `sizes` (open units by width), as arrays.

    - `loss`: mean training loss of the tick, a scalar.
    - `valid_loss`: loss on the validation data, a scalar.
    - `network`: its arrays at capacity, without gates (for scores of weights).
    - `gradients`: of the loss on the last batch, shaped like the network.
    - `gate_slopes`: d loss / d gate on the last batch, `[capacity]` by width name.
    - `evaluate`: `evaluate(decision) -> loss` on the last batch, without committing;
        maps under `vmap`.
    - `valid_at`: `valid_at(gates) -> loss` on the validation data, with these gates for
        the widths that they name and the present ones elsewhere; maps under `vmap`.
    """

    step: Any
    open: dict[str, Any]
    loss: Any = None
    valid_loss: Any = None
    network: Any = None
    gradients: Any = None
    gate_slopes: Any = None
    evaluate: Any = None
    valid_at: Any = None

    @property
    def sizes(self) -> dict[str, Any]:
        return {name: mask.sum() for name, mask in self.open.items()}


def check_needs(policy: Any, given: Iterable[str]) -> None:
    """Refuses a policy that needs evidence nobody gives.

    **Raises:** `ValueError` naming the policy, what is missing and how to give it.
    """
    name = type(policy).__name__
    if not (isinstance(policy.every, int) and policy.every >= 1):
        raise ValueError(f"{name}.every={policy.every!r}; a whole number from 1 up")
    unknown = sorted(set(policy.needs) - KINDS.keys())
    if unknown:
        raise ValueError(
            f"{name} needs the evidence {', '.join(unknown)}; "
            f"known kinds are {', '.join(KINDS)}"
        )
    missing = sorted(set(policy.needs) - set(given))
    if missing:
        fix = (
            "pass `valid=` to fit, or `valid_loss=` to `Grower.step`"
            if missing == ["valid_loss"]
            else "pass `valid=` to fit"
            if missing == ["valid_at"]
            else "use `fit`, or pass it to `Grower.step`"
        )
        what = "; ".join(f"{m} ({KINDS[m]})" for m in missing)
        raise ValueError(f"{name} needs {what}, which wasn't given: {fix}")
