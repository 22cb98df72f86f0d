"""`fit`: a whole growing run in one call."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax

from .._capacity.buckets import Buckets
from .._checkpoints.checkpoints import at, Checkpoints, whole
from .._checkpoints.restored import position_of, restored
from .._checkpoints.saved import Saved
from .._devices.places import mesh_of, on_mesh
from .._evidence.evidence import check_needs, given_in_fit
from .._evidence.look import Look
from .._history.history import JsonLog
from .._policies.grower import Grower
from .._policies.growing import GrowerState, Growing
from .._policies.policy import AbstractPolicy, never_decides
from .._reading.anatomy import Anatomy
from .._reading.aux import Aux, split_result
from .._reading.trace import trace
from .data import ArrayData, BatchStream, is_arrays
from .first_room import make_first_room
from .guard import Guard, OnNan
from .journal import Journal
from .loop import Loop
from .place import rolled_back
from .run import Run
from .tick import Ticker


def fit(
    net: Any,
    loss: Callable[..., Any],
    data: Any,
    *,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    policy: AbstractPolicy,
    steps: int,
    key: Any,
    valid: Any = None,
    predict: Callable[[Any, Any], Any] | None = None,
    trainable: Any = None,
    anatomy: Anatomy | None = None,
    widths: str | Iterable[str] = "*",
    opt_state: Any = None,
    batch_size: int | None = None,
    buckets: Buckets | None = None,
    capacity: int | dict[str, int] | None = None,
    chunk: int | None = None,
    max_traces: int | None = None,
    log: Any = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    checkpoint: Checkpoints | str | os.PathLike | None = None,
    resume: Run | str | os.PathLike | None = None,
    on_nan: OnNan = "stop",
) -> Run:
    """Trains a network while a policy grows and shrinks it.

    **Main arguments:**

    - `net`: any pytree of arrays, on one device or spread over a mesh.
    - `loss`: `loss(net, batch, key)`, a scalar or
        `(scalar, Aux(net=..., metrics=...))`.
    - `data`: a tuple or dict of arrays with a common first axis, or an iterable of
        batches of one shape. Arrays and batches may be spread over a mesh.
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
    - `opt_state`: a state of the optimizer for `net`, to go on with where another run
        ended (`run.opt_state`, and `edit.transfer` if the network was edited since). By
        default the optimizer starts anew.
    - `batch_size`: for arrays; all examples at once by default.
    - `buckets`, `capacity`: how much room widths get; see `Grower`. By default small
        networks start with as much as costs less than compiling for more of it later,
        and so do those whose policy says how fast they will grow (`forecast`).
    - `chunk`: how many ticks (of `policy.every` steps) the program runs before it
        returns to Python, which records them; by default as many as take about a tenth
        of a second. The result doesn't depend on it.
    - `max_traces`: how many programs may be traced (and compiled): one for the first
        capacities, one for every change of them. When they are spent, a warning says so
        and widths stay within the capacities that they have.
    - `log`: a path; events and ticks are written there as JSON lines while training.
    - `callback`: called once per tick with a dict of plain values.
    - `checkpoint`: a folder, or `Checkpoints(folder, every=..., keep=...)`: the run is
        saved there, and goes on from the newest checkpoint if there is one. Killed at
        any moment and started again, it is the run that it would have been.
    - `resume`: a `Run`, or a path to a saved one, to go on with if there is no
        checkpoint yet. All other arguments are those of that run, but for `steps`.
    - `on_nan`: what to do when the loss isn't finite any more. `"stop"` raises, with
        the state before; `"rollback"` goes on from that state with other random numbers
        (of an iterable, with the batches that follow); `"ignore"` does nothing.

    **Returns:** a `Run`.

    **Raises:** `ValueError` for impossible arguments, a policy that needs evidence that
    isn't given, a network none of whose widths can grow, data that ends early;
    `CheckpointError` (a `ValueError`) for a checkpoint that is damaged or isn't this
    run's; `OSError` where one can't be written; `FloatingPointError` for a loss that
    isn't finite. Whatever ends a run, be it Ctrl-C: the error's attribute `run` is the
    run as it stood then, and so is the newest checkpoint.
    """
    check_arguments(key, steps=steps, chunk=chunk, max_traces=max_traces)
    stream = ArrayData.of(data, batch_size) if is_arrays(data) else _stream(data)
    mesh = mesh_of((net, stream.first))
    net, valid = on_mesh((net, valid), mesh)
    stream = on_mesh(stream, mesh) if isinstance(stream, ArrayData) else stream
    grower = Grower(
        policy,
        optimizer,
        widths=widths,
        trainable=trainable,
        buckets=buckets,
        capacity=capacity,
    )
    check_needs(policy, given_in_fit(policy, valid))
    grower.look = Look.at(loss, stream, valid)
    if anatomy is None:
        anatomy = read(net, stream.example, loss, predict, key)
    loop = Loop(
        Ticker(grower, loss, predict),
        stream,
        valid,
        steps,
        journal=Journal(steps, callback),
        guard=Guard(on_nan, policy.every),
        chunk=chunk,
        max_traces=max_traces,
        checkpoints=_folder(checkpoint),
    )
    found = _found(loop, resume)
    if found is not None:
        growing, state = _resumed(loop, found, net, anatomy, key, buckets is None)
    else:
        if buckets is None and not never_decides(policy):
            managed, work = grower.managed(anatomy), (net, loss, stream.example)
            make_first_room(grower.capacities, policy, managed, *work, steps, key)
        growing, state = grower.init(net, anatomy, key=key, opt_state=opt_state)
    if log is None:
        return loop.run(growing, state)
    with JsonLog(log, step=int(state.step)) as loop.journal.log:
        return loop.run(growing, state)


def _folder(checkpoint: Checkpoints | str | os.PathLike | None) -> Checkpoints | None:
    if checkpoint is None or isinstance(checkpoint, Checkpoints):
        return checkpoint
    return Checkpoints(checkpoint)


def _found(loop: Loop, resume: Run | str | os.PathLike | None) -> Saved | None:
    """The saved run to go on with."""
    newest = None if loop.checkpoints is None else loop.checkpoints.newest()
    if newest is not None or resume is None:
        return newest
    return whole(resume) if isinstance(resume, Run) else at(resume)


def _resumed(
    loop: Loop, found: Saved, net: Any, anatomy: Anatomy, key: Any, same_room: bool
) -> tuple[Growing, GrowerState]:
    """The run where it is to go on, by the same ladder of capacities if need be."""
    if found.step > loop.steps:
        raise ValueError(
            f"{found.source} is at step {found.step}, beyond steps={loop.steps}; "
            "give as many steps as the run is to have in all"
        )
    where = position_of(found)
    key = rolled_back(key, 0 if where is None else where.rollbacks)
    run = restored(found, loop.grower, net, anatomy, key=key)
    if where is not None and same_room:
        loop.grower.capacities.buckets = Buckets(*where.buckets)
        loop.grower.capacities.ahead = where.ahead
    loop.resume(run)
    return run.growing, run.state


def check_arguments(key: Any, *, steps: Any, **counts: Any) -> None:
    given = {name: value for name, value in counts.items() if value is not None}
    for name, value in {"steps": steps, **given}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}; a whole number from 1 up")
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


def read(
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
