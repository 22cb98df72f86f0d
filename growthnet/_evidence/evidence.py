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
    "hessian_vector": "hessian_vector(tree): the product with the loss's Hessian",
    "average": "average(function, batches): mean of a function of evidence",
    "activations": "`units[name].activations`: units as they are read",
    "unit_cotangents": "`units[name].cotangents`: d loss / d activation",
    "preactivations": "`units[name].producers[i].preactivations`: before any function",
    "producer_inputs": "`units[name].producers[i].inputs`: what makes the units",
    "preactivation_cotangents": "`units[name].producers[i].cotangents`",
    "output_cotangents": "`units[name].consumers[i].cotangents`: d loss / d output",
    "valid_at": "valid_at(gates): the loss on the validation data under other gates",
    "valid": "the validation data given to `fit`",
    "batches": "batches(n): the last batches of the tick, stacked",
    "on": "on(batch): this evidence, on another batch",
    "candidates": "`candidates[name]`: units that don't exist, and what they would do",
}
_WITH_VALID = {"valid_loss", "valid_at", "valid"}
_OF_THE_PROGRAM = {
    "hessian_vector", "average", "valid_at", "batches", "on", "candidates",
}  # fmt: skip


GIVEN_IN_A_LOOP = ("loss", "valid_loss", "network", "gradients")
"""The kinds that `Grower.step` can give."""


class Evidence(eqx.Module):
    """Exactly what a policy declared in `needs`; the rest is `None`.

    Always there: `step` (training steps so far), `open` (`bool[capacity]` by width) and
    `sizes` (open units by width), as arrays; `anatomy`, at capacity.

    - `loss`: mean training loss of the tick, a scalar.
    - `valid_loss`: loss on the validation data, a scalar.
    - `network`: its arrays at capacity, without gates (for scores of weights).
    - `gradients`: of the loss on the last batch, shaped like the network.
    - `gate_slopes`: d loss / d gate on the last batch, `[capacity]` by width name.
    - `evaluate`: `evaluate(decision) -> loss` on the last batch, without committing;
        maps under `vmap`.
    - `hessian_vector`: `hessian_vector(tree) -> tree`, the loss's Hessian on the last
        batch times a tree shaped like the network (`None` for leaves at rest).
    - `average`: `average(function, batches)`, the mean of `function(evidence)` over the
        last `batches` batches of the tick, one at a time: second moments of more than a
        batch (`lambda e: x(e).T @ y(e)`). At most `every` batches.
    - `units`: by width name, `Units`: activations, cotangents, and what the
        contractions that make and read them see. Every kind of evidence about units is
        a field in there.
    - `valid_at`: `valid_at(gates) -> loss` on the validation data, with these gates for
        the widths that they name and the present ones elsewhere; maps under `vmap`.
    - `valid`: the validation data itself, as given to `fit`.
    - `batches`: `batches(n)`, the last `n` batches of the tick, stacked along a new
        first axis, the last one first. At most `every`, and one where every batch is
        all of the data.
    - `on`: `on(batch) -> Evidence`, what of this evidence is about a batch, on another
        one (parts of `valid`, several batches in one); maps under `vmap`.
    - `candidates`: by width name, `Candidates`: what units that don't exist would say,
        and what the loss would be with them.
    """

    step: Any
    open: dict[str, Any]
    loss: Any = None
    valid_loss: Any = None
    network: Any = None
    gradients: Any = None
    gate_slopes: Any = None
    evaluate: Any = None
    hessian_vector: Any = None
    average: Any = None
    units: Any = None
    anatomy: Any = None
    valid_at: Any = None
    valid: Any = None
    batches: Any = None
    on: Any = None
    candidates: Any = None

    @property
    def sizes(self) -> dict[str, Any]:
        return {name: mask.sum() for name, mask in self.open.items()}


def given_in_fit(policy: Any, valid: Any) -> list[str]:
    """The kinds that `fit` can give. Functions of a tick's batches aren't for a policy
    that speaks after the tick, on the host."""
    absent = _OF_THE_PROGRAM if policy.on_host else set()
    absent = absent | (_WITH_VALID if valid is None else set())
    return [kind for kind in KINDS if kind not in absent]


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
        fix = "use `fit`, or pass it to `Grower.step`"
        if missing == ["valid_loss"]:
            fix = "pass `valid=` to fit, or `valid_loss=` to `Grower.step`"
        elif _WITH_VALID >= set(missing) and not policy.on_host:
            fix = "pass `valid=` to fit"
        elif policy.on_host:
            fix = "a policy has it in the program alone; do without `on_host = True`"
        what = "; ".join(f"{m} ({KINDS[m]})" for m in missing)
        raise ValueError(f"{name} needs {what}, which wasn't given: {fix}")
