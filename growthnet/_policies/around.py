"""Policies around policies: for a part of a run, within a budget; and of a function."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._evidence.evidence import Evidence
from .._reading.anatomy import Anatomy
from .combined import if_due
from .fading import refuse_fading
from .faults import asked
from .growing import replaced
from .policy import AbstractPolicy, Decision
from .windows import Window, Windowed, Windows, windows_of


class Around(AbstractPolicy, Windowed):
    """A policy that changes what another decides, and nothing else of it."""

    policy: eqx.AbstractVar[AbstractPolicy]

    @property
    def every(self) -> int:
        return self.policy.every

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs

    @property
    def optimizer(self) -> Any:
        return self.policy.optimizer

    @property
    def on_host(self) -> bool:
        return self.policy.on_host

    @property
    def preserves(self) -> bool:
        return self.policy.preserves

    @property
    def ordered(self) -> bool:
        return self.policy.ordered

    @property
    def windows(self) -> Windows:
        return windows_of(self.policy)

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        return self.policy.init(anatomy, key=key)

    def gates(self, trainable: Any, anatomy: Anatomy, **given: Any) -> dict[str, Any]:
        return self.policy.gates(trainable, anatomy, **given)

    def penalty(self, trainable: Any, net: Any, cost: Callable[..., Any]) -> Any:
        return self.policy.penalty(trainable, net, cost)

    def rates(self, memory: Any, anatomy: Anatomy, open: Any) -> dict[str, Any]:
        return self.policy.rates(memory, anatomy, open)

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        """By default unknown: what is changed of the decisions isn't known before."""
        return {}

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        decision, *rest = asked(self.policy, trainable, memory, evidence, key=key)
        trainable, memory, info = rest
        return self._instead(decision, evidence), trainable, memory, info

    def _instead(self, decision: Decision, evidence: Evidence) -> Decision:
        raise NotImplementedError


class _During(Around):
    policy: AbstractPolicy
    start: Any
    stop: Any
    period: int | None = eqx.field(static=True)

    @property
    def windows(self) -> Windows:
        return tuple((*inner, self._window) for inner in windows_of(self.policy))

    @property
    def _window(self) -> Window:
        return Window(self.start, self.stop, self.period)

    def forecast(self, anatomy: Anatomy, steps: int) -> dict[str, Any]:
        """By the decisions that count."""
        due = self._window.decisions(steps, self.every)
        if due is None:
            return {}
        return self.policy.forecast(anatomy, due * self.every)

    def _instead(self, decision: Decision, evidence: Evidence) -> Decision:
        return if_due(self._window.holds(evidence.step), decision, evidence)


def during(
    policy: AbstractPolicy,
    start: int = 0,
    stop: int | None = None,
    *,
    period: int | None = None,
) -> AbstractPolicy:
    """A policy whose decisions count from step `start` on and before step `stop`; with
    `period`, of every so many steps. Its gates, penalty and trainables go on as ever.

    **Raises:** `ValueError` for a part that is empty, and around `fading`.

    !!! example

        Growing for 800 of every 1,000 steps, and pruning in the last 200:

        ```python
        policy = gn.chain(
            gn.during(grows, 0, 800, period=1_000),
            gn.during(prunes, 800, 1_000, period=1_000),
        )
        ```
    """
    refuse_fading(policy, "during")
    last = period if stop is None else stop
    numbers = {"start": start, "stop": stop, "period": period}
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"during({name}={value!r}); a number of steps")
    if not start < (start + 1 if last is None else last) <= (period or jnp.inf):
        raise ValueError(
            f"during({start}, {stop}, period={period}) is empty or longer than its "
            "period; start < stop <= period"
        )
    stop = jnp.iinfo(jnp.int32).max if last is None else last
    # The fields of a policy are properties here.
    return _During(  # pyright: ignore[reportCallIssue]
        policy=policy, start=start, stop=stop, period=period
    )


class _Within(Around):
    policy: AbstractPolicy
    params: Any
    units: Any
    flops: Any

    def init(self, anatomy: Anatomy, *, key: Any) -> tuple[Any, Any]:
        for name, cost in self._costs(anatomy, anatomy.sizes).items():
            budget = getattr(self, name)
            if isinstance(budget, int | float) and cost > budget:
                raise ValueError(
                    f"within_budget({name}={budget}): the run starts with {cost:.0f}, "
                    "so nothing could ever be born; give a larger budget or a smaller "
                    "network, or, where another policy is to make room first, put "
                    "`within_budget` around the one that grows alone"
                )
        return super().init(anatomy, key=key)

    def _instead(self, decision: Decision, evidence: Evidence) -> Decision:
        kept = {n: jnp.sum(m) for n, m in evidence.open.items()}
        births = {}
        for name, change in decision.widths.items():
            kept[name] = jnp.sum(evidence.open[name] & change.keep)
            births[name] = jnp.maximum(jnp.asarray(change.add), 0)
        most = jnp.max(jnp.stack([*births.values(), jnp.zeros((), int)]))

        def sizes(share: Any) -> dict[str, Any]:
            part = {n: jnp.minimum(born, share) for n, born in births.items()}
            return {n: units + part.get(n, 0) for n, units in kept.items()}

        # The largest number of births per width that all of them can have.
        def larger(share: Any) -> Any:
            return (share < most) & self._fits(sizes(share + 1), evidence.anatomy)

        share = jax.lax.while_loop(larger, lambda n: n + 1, jnp.zeros((), int))
        if any(c.values and c.rewrite for c in decision.widths.values()):
            # Newborns and what survivors become for them belong together.
            return if_due((share == most) | (most == 0), decision, evidence)
        widths = {
            name: replaced(change, add=jnp.minimum(births[name], share))
            for name, change in decision.widths.items()
        }
        return Decision(widths)

    def _costs(self, anatomy: Anatomy, sizes: Mapping[str, Any]) -> dict[str, Any]:
        known = {
            "params": anatomy.params,
            "units": lambda sizes: sum(sizes.values()),
            "flops": anatomy.flops,
        }
        return {n: f(sizes) for n, f in known.items() if getattr(self, n) is not None}

    def _fits(self, sizes: Mapping[str, Any], anatomy: Anatomy) -> Any:
        costs = self._costs(anatomy, sizes)
        fits = [cost <= getattr(self, name) for name, cost in costs.items()]
        return jnp.all(jnp.stack(fits))


def within_budget(
    policy: AbstractPolicy, *, params: Any = None, units: Any = None, flops: Any = None
) -> AbstractPolicy:
    """A policy whose births end at a budget. Put it around everything else: closings go
    on, and where there is room for some of the births, no width gets more than the
    others unless it asked for less. A decision that moves survivors for its newborns
    (splits, copies) is taken as a whole or not at all, closings of the same turn
    included: beside such a policy, let what prunes have turns of its own (`during`).

    **Arguments:**

    - `params`: parameters of the whole network at its open units, `anatomy.params`.
    - `units`: open units of all widths that the run may change.
    - `flops`: operations of the call that was traced, at the open units:
        `anatomy.flops`. In a run they are counted in single precision.

    **Raises:** `ValueError` without a budget, and, when a run begins, if it begins
        beyond one; those of `anatomy.flops`.

    !!! example

        ```python
        policy = gn.within_budget(gn.chain(grows, prunes), params=50_000)
        anatomy = gn.trace(net, x[0])
        policy = gn.within_budget(grows, flops=4 * anatomy.flops())
        run = gn.fit(net, loss, data, policy=policy, anatomy=anatomy, ...)
        ```
    """
    given = {"params": params, "units": units, "flops": flops}
    if all(budget is None for budget in given.values()):
        raise ValueError(
            "within_budget without a budget; give params=, units= or flops="
        )
    return _Within(policy=policy, **given)


# --- a function


class _Function(AbstractPolicy):
    function: Callable[..., Any] = eqx.field(static=True)
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    on_host: bool = eqx.field(static=True)
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: Evidence, *, key: Any
    ) -> tuple[Decision, Any, Any, dict[str, Any]]:
        decided = self.function(evidence, key)
        if isinstance(decided, Mapping):
            decided = Decision(dict(decided))
        return decided, trainable, memory, {}


def as_policy(
    function: Callable[[Evidence, Any], Any],
    *,
    every: int,
    needs: Iterable[str] = (),
    on_host: bool = False,
) -> AbstractPolicy:
    """A policy of a function `(evidence, key)` that returns a `Decision`, or changes by
    width name. For what needs no memory and trains nothing.

    !!! example

        ```python
        def one_more(evidence, key):
            return {name: gn.Change(mask, 1) for name, mask in evidence.open.items()}

        policy = gn.within_budget(gn.as_policy(one_more, every=50), units=64)
        ```
    """
    if isinstance(needs, str):
        raise ValueError(f"needs={needs!r}; give several names, as in [{needs!r}]")
    return _Function(
        function=function, every=every, needs=frozenset(needs), on_host=on_host
    )
