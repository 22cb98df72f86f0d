"""`fit`: a whole growing run in one call."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from ._anatomy import Anatomy
from ._aux import Aux, split_result
from ._buckets import Buckets
from ._data import ArrayData, BatchStream, is_arrays
from ._evidence import check_needs
from ._grower import Grower
from ._growing import compact_edit, GrowerState, Growing
from ._history import GrowthEvent, History, JsonLog, Tick
from ._policy import AbstractPolicy
from ._room import give_back, make_room
from ._tick import Report, Ticker
from ._trace import trace


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What `fit` returns.

    - `net`: the final network, an ordinary one of its real size, gates folded in.
    - `anatomy`: its anatomy.
    - `history`: events and ticks; `history.plot()`, `print(history.table())`.
    - `growing`, `state`: the run as it stood at its last step, with spare capacity.
    """

    net: Any
    anatomy: Anatomy
    history: History
    growing: Growing
    state: GrowerState

    @property
    def sizes(self) -> dict[str, int]:
        """Units per width of the final network."""
        return {name: self.anatomy.widths[name].size for name in self.growing.open}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"Run(step={int(self.state.step)}, {sizes or 'nothing grows'})"


def fit(
    net: Any,
    loss: Callable[..., Any],
    data: Any,
    *,
    optimizer: optax.GradientTransformation,
    policy: AbstractPolicy,
    steps: int,
    key: Any,
    valid: Any = None,
    predict: Callable[[Any, Any], Any] | None = None,
    trainable: Any = None,
    anatomy: Anatomy | None = None,
    widths: str | Iterable[str] = "*",
    batch_size: int | None = None,
    buckets: Buckets | None = None,
    capacity: dict[str, int] | None = None,
    log: Any = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Trains a network while a policy grows and shrinks it.

    **Main arguments:**

    - `net`: any pytree of arrays.
    - `loss`: `loss(net, batch, key)`, a scalar or
        `(scalar, Aux(net=..., metrics=...))`.
    - `data`: a tuple or dict of arrays with a common first axis, or an iterable of
        batches of one shape.
    - `optimizer`: any optax optimizer; its state follows every change of size.
    - `policy`: decides. `NoGrowth()` for a static network.
    - `steps`: training steps.
    - `key`: the run's PRNG key. Same key, same run.

    **Other arguments:**

    - `valid`: a batch to compute a validation loss on, at every tick.
    - `predict`: `predict(net, batch)`, the outputs. With it, events say how much an
        output changed, and the network is read through it instead of through the loss.
    - `trainable`: see `Grower`.
    - `anatomy`: from `trace`, if you have it.
    - `widths`: pattern(s) of the widths that may change.
    - `batch_size`: for arrays; all examples at once by default.
    - `buckets`, `capacity`: how much room widths get; see `Grower`.
    - `log`: a path; events and ticks are written there as JSON lines while training.
    - `callback`: called once per tick with a dict of plain values.

    **Returns:** a `Run`.

    **Raises:** `ValueError` for impossible arguments, a policy that needs evidence that
    isn't given, a network none of whose widths can grow, data that ends early.
    """
    _check_arguments(steps, key)
    stream = ArrayData.of(data, batch_size) if is_arrays(data) else _stream(data)
    grower = Grower(
        policy,
        optimizer,
        widths=widths,
        trainable=trainable,
        buckets=buckets,
        capacity=capacity,
    )
    given = ["loss", "network", "gradients", "gate_slopes", "evaluate"]
    check_needs(policy, [*given, "valid_loss"] if valid is not None else given)
    if anatomy is None:
        anatomy = _read(net, stream.example, loss, predict, key)
    growing, state = grower.init(net, anatomy, key=key)
    ticker = Ticker(grower, loss, predict=predict, valid=valid)
    loop = _Loop(grower, ticker, stream, valid, steps, callback)
    if log is None:
        growing, state = loop.run(growing, state)
    else:
        with JsonLog(log) as loop.log:
            growing, state = loop.run(growing, state)
    final, after = growing.compact(), _final_anatomy(growing)
    return Run(final, after, loop.history, growing, state)


def _check_arguments(steps: Any, key: Any) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps!r}; a whole number from 1 up")
    if not isinstance(key, jax.Array):
        raise ValueError(
            f"key={key!r}; a PRNG key such as jax.random.key(0), not a number"
        )


def _stream(data: Any) -> BatchStream:
    if not isinstance(data, Iterable):
        raise ValueError(
            f"data is a {type(data).__name__}; give a tuple or dict of arrays, or an "
            "iterable of batches"
        )
    return BatchStream(data)


def _read(
    net: Any, example: Any, loss: Callable, predict: Callable | None, key: Any
) -> Anatomy:
    """The network is read through its outputs; through its loss where these aren't
    given, and where they leave parts of it out."""

    def training(net: Any, batch: Any) -> Any:
        value, aux = split_result(loss(net, batch, key))
        return value, Aux(net=aux.net)

    if predict is None:
        return trace(net, example, call=training)
    anatomy = trace(net, example, call=lambda net, batch: predict(net, batch))
    if all(leaf.reached for leaf in anatomy.leaves):
        return anatomy
    return trace(
        net, example, call=lambda net, batch: predict(net, batch), also=[training]
    )


def _final_anatomy(growing: Growing) -> Anatomy:
    edit = compact_edit(growing)
    return growing.anatomy if edit is None else edit.after


class _Loop:
    """The Python side of a run: ticks, new buckets, records."""

    def __init__(
        self,
        grower: Grower,
        ticker: Ticker,
        stream: ArrayData | BatchStream,
        valid: Any,
        steps: int,
        callback: Callable[[dict[str, Any]], None] | None,
    ):
        self.grower, self.ticker, self.stream = grower, ticker, stream
        self.valid, self.steps, self.callback = valid, steps, callback
        self.history = History()
        self.log: JsonLog | None = None
        self.started = time.perf_counter()

    def run(self, growing: Growing, state: GrowerState) -> tuple[Growing, GrowerState]:
        every, step = self.grower.policy.every, int(state.step)
        while step < self.steps:
            count = min(every - step % every, self.steps - step)
            batches = self._batches(state, step, count)
            due = (step + count) % every == 0
            growing, state, report = self._tick(growing, state, batches, count, due)
            step += count
            change = report
            started, traces = time.perf_counter(), self.ticker.traces
            if report.waiting:
                growing, state, again = make_room(self.grower, growing, state)
                if not again:
                    growing, state, change = self._tick(growing, state, batches, 0)
            elif report.roomy:
                growing, state = give_back(self.grower, growing, state)
                # Compiles the new bucket here, where its cost belongs.
                growing, state, _ = self._tick(growing, state, batches, 0)
            resized = bool(report.waiting or report.roomy)
            seconds = time.perf_counter() - started if resized else 0.0
            compiles = self.ticker.traces - traces
            events = self._events(step, change, resized, seconds, compiles)
            self._record(step, report, growing, events)
        return growing, state

    def _tick(
        self,
        growing: Growing,
        state: GrowerState,
        batches: Any,
        count: int,
        due: bool = False,
    ) -> tuple[Growing, GrowerState, Report]:
        growing, state, report = self.ticker.run(
            growing, state, batches, jnp.asarray(count), jnp.asarray(due), self.valid
        )
        return growing, state, jax.device_get(report)

    def _batches(self, state: GrowerState, step: int, count: int) -> Any:
        every = self.grower.policy.every
        if isinstance(self.stream, ArrayData):
            key, first = jr.fold_in(state.key, 6), jnp.asarray(step)
            return _Sampled(self.stream, _orders(self.stream, key, first, every), first)
        return _Stacked(self.stream.take(count, every), jnp.asarray(step))

    def _events(
        self,
        step: int,
        report: Report,
        resized: bool,
        seconds: float,
        compiles: int,
    ) -> list[GrowthEvent]:
        changed = [
            name
            for name, size in report.sizes.items()
            if int(size) != int(report.old_sizes[name])
        ]
        events = []
        for name in changed:
            event = GrowthEvent(
                step=step,
                width=name,
                old=int(report.old_sizes[name]),
                new=int(report.sizes[name]),
                kind="resized" if resized else "opened",
                loss_before=float(report.loss_before),
                loss_after=float(report.loss_after),
                output_change=(
                    None if self.ticker.predict is None else float(report.output_change)
                ),
                seconds=seconds,
                compiles=compiles,
            )
            events.append(event)
        return events

    def _record(
        self,
        step: int,
        report: Report,
        growing: Growing,
        events: list[GrowthEvent],
    ) -> None:
        sizes = {n: int(m.sum()) for n, m in jax.device_get(growing.open).items()}
        tick = Tick(
            step=step,
            loss=float(report.loss),
            valid_loss=None if self.valid is None else float(report.valid_loss),
            sizes=sizes,
            params=int(growing.anatomy.params(sizes)),
            seconds=time.perf_counter() - self.started,
            traces=self.ticker.traces,
            metrics={name: float(m) for name, m in report.metrics.items()},
        )
        self.history.add_tick(tick)
        for event in events:
            self.history.add_event(event)
        if self.log is not None:
            self.log.add_tick(tick)
            for event in events:
                self.log.add_event(event)
        if self.callback is not None:
            record = {**dataclasses.asdict(tick), "steps": self.steps}
            self.callback({**record, "events": events})


_orders = eqx.filter_jit(ArrayData.orders)


class _Sampled(eqx.Module):
    """Batches of a tick, drawn from arrays inside the program.

    The orders of the epochs come ready: they don't depend on any size, and so the
    programs of all buckets needn't compile a permutation each.
    """

    data: ArrayData
    orders: Any
    first: Any

    def prepared(self) -> Callable[[Any], Any]:
        return lambda step: self.data.batch(self.orders, self.first, step)


class _Stacked(eqx.Module):
    """Batches of a tick, stacked by the host."""

    batches: Any
    first: Any

    def prepared(self) -> Callable[[Any], Any]:
        return lambda step: jax.tree.map(
            lambda a: jnp.asarray(a)[step - self.first], self.batches
        )
