"""The laws of policies: what growthnet counts on, whoever wrote them.

Every check is a plain function of a policy and a task that raises `AssertionError`,
with a text that tells the author what to mend. Which checks apply is read off what the
policy declares (`on_host`, `needs`, `preserves`), never off its name.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._capacity.buckets import Buckets
from .._evidence.evidence import check_needs, KINDS
from .._policies.grower import Grower
from .._policies.policy import AbstractPolicy, never_decides, PerUnit
from .._reading.anatomy import Anatomy
from .._runs.fit import Run
from .._runs.grow import grow
from ._policy_runs import DECISIONS, OPTIMIZER, run_of, steps_of, Task


OWN_LOOP = frozenset({"loss", "valid_loss", "network", "gradients"})
"""Evidence that there is in a loop of one's own."""


class Skipped(Exception):
    """A check that doesn't apply; the text says why."""


def require(good: Any, policy: AbstractPolicy, check: str, text: str) -> None:
    if not good:
        name = type(policy).__name__
        raise AssertionError(f"{name} doesn't pass the check {check!r}: {text}")


# --- what it declares


def declares(policy: AbstractPolicy, task: Task) -> None:
    """`every` is a whole number, `needs` names known evidence, `optimizer` has `init`
    and `update`."""
    del task
    fail = lambda good, text: require(good, policy, "declares", text)
    fail(
        isinstance(policy, AbstractPolicy),
        "it isn't a growthnet.AbstractPolicy; give an instance, not a class",
    )
    fail(
        isinstance(policy.needs, frozenset),
        f"`needs` is a {type(policy.needs).__name__}; make it a frozenset of names",
    )
    try:
        check_needs(policy, KINDS)
    except ValueError as error:
        fail(False, str(error))
    own = policy.optimizer
    works = own is None or (hasattr(own, "init") and hasattr(own, "update"))
    fail(works, f"`optimizer` is {own!r}; give an optax optimizer, or None")


def is_a_value(policy: AbstractPolicy, task: Task) -> None:
    """An immutable pytree: taken apart and put together it is the same; two of them
    with the same fields are equal, and can be told apart in print."""
    del task
    leaves, treedef = jtu.tree_flatten(policy)
    fail = lambda good, text: require(good, policy, "is_a_value", text)
    for field in dataclasses.fields(policy):
        if field.metadata.get("static"):
            value = getattr(policy, field.name)
            text = (
                f"the static field {field.name!r} is {value!r}, which can't be hashed"
            )
            fail(_hashable(value), f"{text}; use a tuple or a frozenset")
    again = jtu.tree_structure(jtu.tree_unflatten(treedef, leaves))
    fail(again == treedef, "its static fields aren't equal to themselves")
    fail(type(policy).__name__ in repr(policy), f"its repr, {policy!r}, has no name")
    for leaf in leaves:
        known = eqx.is_array(leaf) or isinstance(leaf, bool | int | float | np.ndarray)
        fail(
            known or callable(leaf),
            f"a field holds {leaf!r}; mark what isn't a number as "
            "`eqx.field(static=True)`",
        )


# --- its parts


def starts(policy: AbstractPolicy, task: Task) -> None:
    """`init` gives a pair, the same for the same key; `PerUnit` arrays have a row per
    unit of a width that is there."""
    anatomy = task.anatomy()
    fail = lambda good, text: require(good, policy, "starts", text)
    first, again = (policy.init(anatomy, key=jr.key(0)) for _ in range(2))
    pair = isinstance(first, tuple) and len(first) == 2
    fail(pair, f"`init` gives {first!r}; return the pair (trainable, memory)")
    fail(_equal(first, again), "`init` gives other numbers for the same key")
    for leaf in jtu.tree_leaves(first, is_leaf=lambda x: isinstance(x, PerUnit)):
        if isinstance(leaf, PerUnit):
            there = anatomy.sizes.get(leaf.width)
            fail(there is not None, f"a PerUnit is about {leaf.width!r}, no width here")
            rows = np.shape(leaf.array)[:1]
            text = (
                f"a PerUnit of {leaf.width!r} has {rows} rows, the width {there} units"
            )
            fail(rows == (there,), text)


def gates_are_gates(policy: AbstractPolicy, task: Task) -> None:
    """Gates are in [0, 1], one per unit, for widths that are there, whatever the
    capacity; their slopes are finite."""
    anatomy = task.anatomy()
    fail = lambda good, text: require(good, policy, "gates_are_gates", text)
    trainable, _ = policy.init(anatomy, key=jr.key(0))
    for train in (True, False):
        gates = _gates(policy, trainable, anatomy, train)
        unknown = sorted(gates.keys() - anatomy.sizes.keys())
        fail(not unknown, f"gates for {unknown}, which aren't widths of the network")
        for name, gate in gates.items():
            shape, size = jnp.shape(gate), anatomy.sizes[name]
            fail(
                shape == (size,),
                f"the gates of {name!r} have the shape {shape}; the anatomy that "
                f"`gates` is given says ({size},)",
            )
            values = np.asarray(gate, np.float64)
            good = np.isfinite(values).all() and (0 <= values).all()
            good = good and (values <= 1).all()
            fail(good, f"gates of {name!r} are {values}; they are in [0, 1]")

    def total(trainable: Any) -> Any:
        gates = _gates(policy, trainable, anatomy, True).values()
        return sum((gate.astype(jnp.float32).sum() for gate in gates), jnp.zeros(()))

    if jtu.tree_leaves(eqx.filter(trainable, eqx.is_inexact_array)):
        _finite(policy, "gates_are_gates", total, trainable, "of the gates")


def _gates(
    policy: AbstractPolicy, trainable: Any, anatomy: Anatomy, train: bool
) -> dict[str, Any]:
    return policy.gates(trainable, anatomy, key=jr.key(1), train=train)


def penalty_is_a_number(policy: AbstractPolicy, task: Task) -> None:
    """The penalty is a finite scalar with finite slopes."""
    anatomy = task.anatomy()
    trainable, _ = policy.init(anatomy, key=jr.key(0))
    value = lambda t: policy.penalty(t, task.net, anatomy.params)
    found = value(trainable)
    fail = lambda good, text: require(good, policy, "penalty_is_a_number", text)
    fail(jnp.shape(found) == (), f"the penalty has the shape {jnp.shape(found)}")
    fail(bool(jnp.isfinite(found)), f"the penalty is {found}")
    if jtu.tree_leaves(eqx.filter(trainable, eqx.is_inexact_array)):
        _finite(policy, "penalty_is_a_number", value, trainable, "of the penalty")


def _finite(
    policy: AbstractPolicy, check: str, function: Callable, at: Any, what: str
) -> None:
    slopes = eqx.filter_grad(lambda t: jnp.asarray(function(t), float))(at)
    good = all(bool(jnp.isfinite(s).all()) for s in jtu.tree_leaves(slopes))
    require(good, policy, check, f"the slope {what} in `trainable` isn't finite")


# --- its runs


def trains(policy: AbstractPolicy, task: Task) -> None:
    """A run of a few decisions goes through, with finite losses and numbers, and leaves
    the policy and the network that it was given as they were."""
    before, net = _bits(policy), _bits(task.net)
    run = run_of(policy, task)
    fail = lambda good, text: require(good, policy, "trains", text)
    fail(_bits(policy) == before, "the run changed the policy's own fields")
    fail(_bits(task.net) == net, "the run changed the network it was given")
    bad = [t.step for t in run.history.ticks if not np.isfinite(t.loss)]
    fail(not bad, f"the loss isn't finite from step {bad[:1]} on")
    for leaf in jtu.tree_leaves((run.net, run.growing.trainable)):
        if eqx.is_inexact_array(leaf):
            good = bool(jnp.isfinite(leaf).all())
            fail(good, "the network or the policy's trainables hold NaN or infinity")


def decides(policy: AbstractPolicy, task: Task) -> None:
    """It does something, and a run of a few decisions changes something: else the
    checks of what a policy decides have seen nothing."""
    methods = ("step", "gates", "penalty", "rates")
    own = [m for m in methods if getattr(type(policy), m) is not _inherited(m)]
    text = f"its class has none of {', '.join(methods)}; is a name misspelt?"
    require(bool(own), policy, "decides", text)
    if never_decides(policy):
        raise Skipped("it has no `step` of its own, so it decides nothing")
    if not run_of(policy, task).history.events:
        raise Skipped(
            f"it changed nothing in {DECISIONS} decisions, so the checks of what it "
            "decides say little; give an instance that decides soon"
        )


def _inherited(method: str) -> Any:
    return getattr(AbstractPolicy, method)


def repeats(policy: AbstractPolicy, task: Task) -> None:
    """The same key gives the same run, bit for bit."""
    first, again = (run_of(policy, task) for _ in range(2))
    difference = _difference(first, again)
    text = (
        f"two runs with one key differ: {difference}; draw from the keys that `step` "
        "and `gates` are given, and keep nothing outside of `trainable` and `memory`"
    )
    require(not difference, policy, "repeats", text)


def chunks_agree(policy: AbstractPolicy, task: Task) -> None:
    """One tick per program or all of them: the same run, bit for bit."""
    if policy.on_host:
        raise Skipped("it runs on the host, between single ticks")
    difference = _difference(run_of(policy, task, chunk=1), run_of(policy, task))
    text = (
        f"single ticks and one chunk of ticks differ: {difference}; `step` may depend "
        "on nothing but its arguments"
    )
    require(not difference, policy, "chunks_agree", text)


def ignores_capacity(policy: AbstractPolicy, task: Task) -> None:
    """Spare room is no argument: sizes are the same whatever the capacity."""
    tight = run_of(policy, task, buckets=Buckets(ratio=1.5))
    roomy = run_of(policy, task, buckets=Buckets(smallest=48))
    sizes = [[t.sizes for t in run.history.ticks] for run in (tight, roomy)]
    text = (
        f"the sizes of a run are {sizes[0]}, and {sizes[1]} with more spare room; "
        "count `evidence.open[name].sum()`, and mask closed units out of scores"
    )
    require(sizes[0] == sizes[1], policy, "ignores_capacity", text)


def preserves(policy: AbstractPolicy, task: Task) -> None:
    """What it decides leaves the outputs as they are, to rounding. Only for policies
    that say so (`preserves = True`)."""
    if not policy.preserves:
        raise Skipped("it doesn't promise to (`preserves` isn't True)")
    run = run_of(policy, task)
    scale = float(jnp.max(jnp.abs(task.predict(run.net, task.data))))
    for event in run.history.events:
        change = event.output_change or 0.0
        text = (
            f"at step {event.step} {event.width} went from {event.old} to {event.new} "
            f"units and an output changed by {change:.3g}; newborns are silent with "
            "`zero_out`, or with `drawn` and a gate of 0; closing a unit that speaks "
            "changes the outputs, so a policy that does can't promise this"
        )
        require(change <= 1e-4 * max(scale, 1.0), policy, "preserves", text)


def vmaps(policy: AbstractPolicy, task: Task) -> None:
    """Two runs under `vmap` train as two runs alone until the first decision, and grow
    as they do. (A choice between weights may go another way for a last bit.)"""
    if policy.on_host:
        raise Skipped("it runs on the host")

    def one(key: Any) -> Any:
        given = {"steps": steps_of(policy), "batch_size": task.batch_size}
        given |= {"valid": task.valid, "predict": task.predict, "overflow": "hold"}
        data = jtu.tree_map(jnp.asarray, task.data)
        grown = grow(
            task.net, task.loss, data, optimizer=OPTIMIZER, policy=policy, key=key,
            capacity=32, **given,
        )  # fmt: skip
        return grown.reports.sizes, grown.reports.loss

    keys = jr.split(jr.key(5), 2)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        many = jax.jit(jax.vmap(one))(keys)
        alone = [jax.jit(one)(key) for key in keys]
    for i, (sizes, losses) in enumerate(alone):
        found = {name: np.asarray(s[i]).tolist() for name, s in many[0].items()}
        wanted = {name: np.asarray(s).tolist() for name, s in sizes.items()}
        text = f"member {i} has the sizes {found} under vmap and {wanted} alone"
        require(found == wanted, policy, "vmaps", text)
        close = np.allclose(many[1][i, 0], losses[0], rtol=1e-3, atol=1e-5)
        require(close, policy, "vmaps", f"member {i} has another loss under vmap")


def works_in_own_loop(policy: AbstractPolicy, task: Task) -> None:
    """`Grower.step` asks it as `fit` does. For policies whose evidence is there."""
    more = sorted(policy.needs - OWN_LOOP)
    if policy.on_host or more or never_decides(policy):
        raise Skipped(f"it needs {', '.join(more) or 'the host, or nothing'}")
    grower = Grower(policy, OPTIMIZER)
    batch = jtu.tree_map(jnp.asarray, task.data)
    growing, state = grower.init(task.net, task.anatomy(), key=jr.key(3))
    traces = []

    @eqx.filter_jit
    def train(growing: Any, state: Any) -> Any:
        traces.append(None)
        objective = grower.loss(lambda net: task.loss(net, batch, jr.key(0)), state)
        loss, grads = eqx.filter_value_and_grad(objective)(growing)
        seen = {
            "loss": loss,
            "valid_loss": task.loss(growing.view(), task.valid, jr.key(0)),
        }
        given = {name: value for name, value in seen.items() if name in policy.needs}
        return grower.step(growing, grads, state, **given)

    shapes = set()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(steps_of(policy)):
            shapes.add(tuple(len(mask) for mask in growing.open.values()))
            growing, state = train(growing, state)
            growing, state = grower.resize(growing, state)
    text = (
        f"{len(traces)} traces at {len(shapes)} capacities; return arrays of one shape "
        "and dtype at every call"
    )
    require(len(traces) <= len(shapes), policy, "works_in_own_loop", text)


CHECKS: Mapping[str, Callable[[AbstractPolicy, Task], None]] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            declares,
            is_a_value,
            starts,
            gates_are_gates,
            penalty_is_a_number,
            trains,
            decides,
            repeats,
            chunks_agree,
            ignores_capacity,
            preserves,
            vmaps,
            works_in_own_loop,
        )
    }
)
"""All checks by name: cheap ones first, then those that compile."""


# --- comparing


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _bits(tree: Any) -> list[Any]:
    return [
        (x.shape, x.dtype.name, np.asarray(x).tobytes()) if _plain(x) else repr(x)
        for x in jtu.tree_leaves(tree)
    ]


def _plain(leaf: Any) -> bool:
    return eqx.is_array_like(leaf) and hasattr(leaf, "dtype") and leaf.dtype != object


def _equal(a: Any, b: Any) -> bool:
    same = jtu.tree_structure(a) == jtu.tree_structure(b)
    return same and _bits(a) == _bits(b)


def _difference(first: Run, other: Run) -> str:
    """What tells two runs apart; empty if nothing does."""
    for one, two in zip(_told(first), _told(other), strict=False):
        if one != two:
            return f"{one} and {two}"
    if len(first.history.ticks) != len(other.history.ticks):
        return "one has more ticks"
    return "" if _equal(first.net, other.net) else "other weights at the end"


def _told(run: Run) -> Iterator[str]:
    for tick in run.history.ticks:
        sizes = ", ".join(f"{name} {size}" for name, size in tick.sizes.items())
        yield f"step {tick.step} has loss {tick.loss!r} at {sizes}"
