"""Policies whose decisions count under a condition: plain functions of evidence, a
plateau, which has to remember, and that the loss falls by what is decided."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .around import Around
from .combined import if_due
from .fading import refuse_fading
from .faults import asked
from .policy import AbstractPolicy, Decision, free_slots


class _Provided(Around):
    policy: AbstractPolicy
    condition: Callable[[Evidence, Any], Any] = eqx.field(static=True)
    more: frozenset[str] = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs | self.more

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        decision, *rest = asked(self.policy, trainable, memory, evidence, key=key)
        trainable, memory, info = rest
        holds = self.condition(evidence, jr.fold_in(key, 1))
        return self._where(holds, decision, evidence), trainable, memory, info

    def _where(self, holds: Any, decision: Decision, evidence: Evidence) -> Decision:
        if not isinstance(holds, Mapping):
            return if_due(jnp.asarray(holds), decision, evidence)
        unknown = sorted(holds.keys() - evidence.open.keys())
        if unknown:
            raise ValueError(
                f"provided: the condition speaks of {unknown[0]!r}; the widths of this "
                f"run are {', '.join(evidence.open)}"
            )
        if any(c.values and c.rewrite for c in decision.widths.values()):
            raise ValueError(
                f"provided: {type(self.policy).__name__} moves survivors for its "
                "newborns, so its decision is taken as a whole or not at all; give one "
                "boolean, or choose widths by `widths=`"
            )
        parts = {
            name: if_due(
                jnp.asarray(holds.get(name, False)), Decision({name: c}), evidence
            )
            for name, c in decision.widths.items()
        }
        return Decision({name: part.widths[name] for name, part in parts.items()})


def provided(
    policy: AbstractPolicy,
    condition: Callable[[Evidence, Any], Any],
    *,
    needs: Iterable[str] = (),
) -> AbstractPolicy:
    """A policy whose decisions count when, and where, a condition holds.

    **Arguments:**

    - `condition`: a function `(evidence, key)`, as in `as_policy`. It returns a
        boolean, or booleans by width name (widths that it leaves out stay as they are).
    - `needs`: the evidence that it reads, beside what the policy needs.

    **Raises:** `ValueError` for an unknown width, for booleans by width around a policy
    whose changes of several widths belong together, and around `fading`.

    !!! example

        Where gates' slopes are steepest, and only as long as the loss is above 0.1:

        ```python
        def steepest(evidence, key):
            steep = {n: jnp.abs(s).max() for n, s in evidence.gate_slopes.items()}
            most = jnp.max(jnp.stack(list(steep.values())))
            return {n: (s == most) & (evidence.loss > 0.1) for n, s in steep.items()}

        policy = gn.provided(grows, steepest, needs=["loss", "gate_slopes"])
        ```
    """
    refuse_fading(policy, "provided")
    if isinstance(needs, str):
        raise ValueError(f"needs={needs!r}; give several names, as in [{needs!r}]")
    # The fields of a policy are properties here.
    return _Provided(  # pyright: ignore[reportCallIssue]
        policy=policy, condition=condition, more=frozenset(needs)
    )


Watched = Literal["loss", "valid_loss"]


class _OnPlateau(Around):
    policy: AbstractPolicy
    patience: int = eqx.field(static=True)
    tolerance: Any
    watch: Watched = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs | {self.watch}

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        trainable, memory = self.policy.init(anatomy, key=key)
        return trainable, (memory, jnp.asarray(jnp.inf), jnp.asarray(0))

    def rates(self, memory: Any, anatomy: Anatomy, open: Any) -> dict[str, Any]:
        return self.policy.rates(memory[0], anatomy, open)

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        memory, best, waited = memory
        decision, trainable, memory, info = asked(
            self.policy, trainable, memory, evidence, key=key
        )
        now = getattr(evidence, self.watch).astype(best.dtype)
        falls = now < best - self.tolerance * jnp.abs(best)
        falls = falls | ~jnp.isfinite(best)
        waited = jnp.where(falls, 0, waited + 1)
        due = waited >= self.patience
        # After a change everything is compared with what came of it.
        best = jnp.where(due, jnp.inf, jnp.where(falls, now, best))
        waited = jnp.where(due, 0, waited)
        decision = if_due(due, decision, evidence)
        return decision, trainable, (memory, best, waited), info


def on_plateau(
    policy: AbstractPolicy,
    *,
    patience: int = 3,
    tolerance: Any = 0.01,
    watch: Watched = "valid_loss",
) -> AbstractPolicy:
    """A policy whose decisions count when a loss has stopped falling.

    **Arguments:**

    - `patience`: so many decisions in a row without a fall make a plateau. After one,
        counting starts anew.
    - `tolerance`: the least fall below the best loss so far that counts as one, as a
        fraction of it.
    - `watch`: `"valid_loss"`, or `"loss"`, the mean training loss since the last
        decision.

    **Raises:** `ValueError` for numbers out of range, and around `fading`.

    !!! example

        ```python
        policy = gn.on_plateau(GradMax(add=4, every=100), patience=3)
        run = gn.fit(net, loss, data, valid=held_out, policy=policy, ...)
        ```
    """
    refuse_fading(policy, "on_plateau")
    _check_count("patience", patience)
    if isinstance(tolerance, int | float) and not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}; a number from 0 up")
    if watch not in ("loss", "valid_loss"):
        raise ValueError(f"watch={watch!r}; 'loss' or 'valid_loss'")
    return _OnPlateau(  # pyright: ignore[reportCallIssue]
        policy=policy, patience=patience, tolerance=tolerance, watch=watch
    )


class _IfItPays(Around):
    policy: AbstractPolicy
    batches: int = eqx.field(static=True)
    tolerance: Any

    @property
    def needs(self) -> frozenset[str]:
        own = {"evaluate"} | ({"average"} if self.batches > 1 else set())
        return self.policy.needs | own

    def _instead(self, decision: Decision, evidence: Evidence) -> Decision:
        def losses(evidence: Evidence) -> Any:
            tries = Decision(), decision
            return jnp.stack([evidence.evaluate(tried) for tried in tries])

        if self.batches > 1:
            before, after = evidence.average(losses, self.batches)
        else:
            before, after = losses(evidence)
        pays = after < before - self.tolerance * jnp.abs(before)
        return if_due(pays | ~_fits(decision, evidence), decision, evidence)


def _fits(decision: Decision, evidence: Evidence) -> Any:
    """Are there slots for all births? Else nothing can be tried yet: room is made, and
    where newborns have values the policy is asked again."""
    fits = jnp.ones((), bool)
    for name, change in decision.widths.items():
        free = jnp.sum(free_slots(evidence.open[name], change))
        fits = fits & (jnp.asarray(change.add) <= free)
    return fits


def if_it_pays(
    policy: AbstractPolicy, *, batches: int = 1, tolerance: Any = 0.0
) -> AbstractPolicy:
    """A policy whose decisions count if the training loss is lower with them than
    without, each taken as a whole: tried before anything is changed. For policies whose
    decisions change the outputs (`Firefly`, `Splitting`, `Pruning` with a removal); one
    that leaves them as they are would never act.

    **Arguments:**

    - `batches`: how many of the last batches it is tried on, at most `policy.every`.
    - `tolerance`: the least fall that counts, as a fraction of the loss; below 0, the
        rise that is allowed.

    Births beyond the capacity can't be tried. Where newborns have values, room is made
    and the policy asked again; others are believed.

    **Raises:** `ValueError` for numbers out of range, for a policy that promises to
    leave the outputs as they are, and around `fading`.

    !!! example

        ```python
        policy = gn.if_it_pays(Firefly(add=4, every=100, batches=4), batches=4)
        ```
    """
    refuse_fading(policy, "if_it_pays")
    _check_count("batches", batches)
    if policy.preserves:
        raise ValueError(
            f"if_it_pays: {type(policy).__name__} promises to leave the outputs as "
            "they are (`preserves`), so the loss never falls by what it decides; use "
            "it without, or `on_plateau`"
        )
    return _IfItPays(  # pyright: ignore[reportCallIssue]
        policy=policy, batches=batches, tolerance=tolerance
    )


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}; a whole number from 1 up")
