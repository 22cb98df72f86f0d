"""`grow`: a whole growing run as a pure function, for `jit` and `vmap`."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._evidence.evidence import check_needs, given_in_fit
from .._evidence.look import Look
from .._history.history import History
from .._policies.grower import Grower
from .._policies.growing import data_key, GrowerState, Growing, replaced
from .._policies.policy import AbstractPolicy
from .._reading.anatomy import Anatomy
from .chunk import run_chunk, Stretch
from .data import ArrayData, is_arrays
from .fit import check_arguments, read
from .reports import counting, events_in, Report, ticks_of
from .run import Run
from .tick import Ticker


WINDOW = 2**16
"""About how many indices of examples are drawn ahead."""


class _Rest:
    """What of a run isn't an array (functions, anatomy); compared by identity, so that
    programs may return it whatever it holds."""

    def __init__(self, tree: Any):
        self.tree = tree


class Grown(eqx.Module):
    """A run that was a program: a pytree of arrays, with a leading axis under `vmap`.

    - `reports`: what each tick told, along the last axis.
    - `overflowed`: a decision didn't fit the capacity, so the run stopped there.
    - `growing`, `state`: the run as it stood at its last step, at its capacity.

    `run()` and `runs()` give ordinary networks, outside the program.
    """

    arrays: Any
    reports: Report
    overflowed: Any
    rest: _Rest = eqx.field(static=True)
    outputs: bool = eqx.field(static=True)
    valid: bool = eqx.field(static=True)

    @property
    def growing(self) -> Growing:
        return eqx.combine(self.arrays, self.rest.tree)[0]

    @property
    def state(self) -> GrowerState:
        return eqx.combine(self.arrays, self.rest.tree)[1]

    @property
    def sizes(self) -> dict[str, Any]:
        """Open units by width; an array per width under `vmap`."""
        return {name: mask.sum(axis=-1) for name, mask in self.growing.open.items()}

    def run(self) -> Run:
        """The run of a `Grown` that isn't batched: compact network and history.

        **Raises:** `ValueError` for a batch: `runs()` takes it apart.
        """
        if np.ndim(self.overflowed) != 0:
            raise ValueError(
                f"this is a batch of {len(self.overflowed)} runs; use .runs()"
            )
        reports = jax.device_get(self.reports)
        reports = reports[reports.count > 0]
        events = events_in(reports, outputs=self.outputs)
        params = counting(self.growing.anatomy)
        known = {"valid": self.valid, "seconds": 0.0, "traces": 1}
        history = History(ticks_of(reports, events, params, **known), events)
        over = bool(self.overflowed)
        return Run.of(self.growing, self.state, history, overflowed=over)

    def runs(self) -> list[Run]:
        """A `Run` per member of a batch, each with a compact network of its own size.

        Times aren't known inside a program: the ticks say 0 seconds.
        """
        host = jax.device_get(self)
        if np.ndim(host.overflowed) == 0:
            return [host.run()]
        every: list[Run] = []
        for i in range(len(host.overflowed)):
            every += jax.tree.map(lambda leaf, i=i: leaf[i], host).runs()
        return every


def grow(
    net: Any,
    loss: Callable[..., Any],
    data: Any,
    *,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    policy: AbstractPolicy,
    steps: int,
    key: Any,
    capacity: int | dict[str, int],
    overflow: Literal["stop", "hold"] = "stop",
    valid: Any = None,
    predict: Callable[[Any, Any], Any] | None = None,
    trainable: Any = None,
    anatomy: Anatomy | None = None,
    widths: str | Iterable[str] = "*",
    opt_state: Any = None,
    batch_size: int | None = None,
) -> Grown:
    """`fit` as a pure function: everything of a growing run inside one program.

    Put it under `jax.jit`, and under `jax.vmap` over keys, data, hyper-parameters of
    the policy and of the optimizer, networks.

    **Arguments:** those of `fit`, any array of which may be traced, and

    - `capacity`: most units that a width can have, for all widths or by width name or
        pattern.
    - `overflow`: a decision that doesn't fit ends the run there (`"stop"`; the result
        says `overflowed`), or is done as far as it fits (`"hold"`).
    - `data`: a tuple or dict of arrays.

    **Returns:** a `Grown`. With the same capacity and key it is what `fit` gives, to
    rounding.

    **Raises:** `ValueError` as `fit` does; also for data that isn't arrays, and for a
    policy that runs on the host.

    !!! example

        ```python
        def one(key, rate):
            net = eqx.nn.MLP(4, 1, 2, 1, key=key)
            return gn.grow(
                net, loss, (x, y), optimizer=optax.adam(rate), policy=policy,
                steps=2_000, key=key, capacity=64,
            )

        grown = jax.jit(jax.vmap(one))(jax.random.split(key, 100), rates)
        for run in grown.runs():
            print(run.sizes, run.net)
        ```
    """
    check_arguments(key, steps=steps)
    stream = arrays_of(data, batch_size)
    look = Look.at(loss, stream, valid)
    grower = grower_of(policy, optimizer, capacity, widths, trainable, valid, look)
    if anatomy is None:
        anatomy = read(net, stream.example, loss, predict, key)
    growing, state = grower.init(net, anatomy, key=key, opt_state=opt_state)
    ticker = Ticker(grower, loss, predict)
    return run_whole(ticker, growing, state, stream, valid, steps, overflow)


def grower_of(
    policy: AbstractPolicy,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    capacity: int | dict[str, int],
    widths: str | Iterable[str],
    trainable: Any,
    valid: Any,
    look: Look,
) -> Grower:
    """The grower of a run inside a program.

    **Raises:** `ValueError` for a policy that runs on the host or lacks evidence.
    """
    everywhere = capacity if isinstance(capacity, dict) else {"*": capacity}
    grower = Grower(
        policy, optimizer, widths=widths, trainable=trainable, capacity=everywhere
    )
    if policy.on_host:
        raise ValueError(
            f"{type(policy).__name__} runs on the host, so it can't be part of a "
            "program; use `fit`"
        )
    check_needs(policy, given_in_fit(policy, valid))
    grower.look = look
    return grower


def run_whole(
    ticker: Ticker,
    growing: Growing,
    state: GrowerState,
    stream: ArrayData,
    valid: Any,
    steps: int,
    overflow: Literal["stop", "hold"],
) -> Grown:
    """All ticks of a run from its first step on: pure."""
    if overflow not in ("stop", "hold"):
        raise ValueError(f"overflow={overflow!r}; 'stop' or 'hold'")
    state = replaced(state, held=jnp.asarray(overflow == "hold"))
    every = ticker.grower.policy.every
    ticks = -(-steps // every)
    drawn = max(1, stream.step_size * every)
    length = max(1, min(ticks, WINDOW // drawn)) if stream.step_size else ticks
    key = data_key(state.key)
    dynamic, static = eqx.partition((growing, state), eqx.is_array)

    def window(dynamic: Any, first: Any) -> tuple[Any, Report]:
        growing, state = eqx.combine(dynamic, static)
        batches = stream.window(key, first, length * every)
        stretch = Stretch(first, jnp.minimum(first + length * every, steps))
        growing, state, reports, _ = run_chunk(
            ticker, growing, state, batches, valid, stretch, length, together=True
        )
        return eqx.filter((growing, state), eqx.is_array), reports

    firsts = np.arange(0, ticks, length, dtype=np.int32) * every
    if len(firsts) == 1:
        dynamic, reports = window(dynamic, firsts[0])
    else:
        dynamic, reports = jax.lax.scan(window, dynamic, jnp.asarray(firsts))
        reports = jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:]), reports)
    overflowed = eqx.combine(dynamic, static)[1].waiting
    outputs = ticker.predict is not None
    rest = _Rest(static)
    return Grown(dynamic, reports, overflowed, rest, outputs, valid is not None)


def arrays_of(data: Any, batch_size: int | None) -> ArrayData:
    if not is_arrays(data):
        raise ValueError(
            f"data is a {type(data).__name__}; inside a program it is a tuple or dict "
            "of arrays (`fit` takes iterables)"
        )
    return ArrayData.of(data, batch_size)
