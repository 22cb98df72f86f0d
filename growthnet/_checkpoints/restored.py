"""The way back from a file to a run.

It needs the network that the run started from (or one of its shape without numbers):
the skeleton is brought to the saved capacities by an edit, and every array is then
taken from the file, by name. Nothing is guessed: what is missing, left over, or of
another shape or dtype is refused, and so is what the run at hand says otherwise (its
widths, its policy's numbers, its key).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np

from .._capacity.buckets import Buckets
from .._paths import array_leaves, join, key_part, map_arrays
from .._policies.capacities import Ahead
from .._policies.grower import Grower
from .._policies.growing import as_arrays, Growing, on_device, replaced
from .._policies.policy import Change, Decision, NoGrowth
from .._policies.room import begun
from .._reading.anatomy import Anatomy
from .._runs.run import Position, Run
from .container import CheckpointError
from .saved import (
    ARRAY,
    class_of,
    is_key,
    numbers_of,
    parts_of,
    Saved,
    states_in,
    well_formed,
    widths_of,
)
from .spread import spread_alike


GIVEN = {
    "net": "network",
    "policy": "policy",
    "trainable": "policy",
    "memory": "policy",
    "policy_opt_state": "policy's optimizer",
    "opt_state": "optimizer",
    "key": "key",
}
"""What the user gives, by the part of the run that comes of it."""


def restored(
    saved: Saved, grower: Grower, net: Any, anatomy: Anatomy, *, key: Any = None
) -> Run:
    """The run that was saved.

    **Arguments:**

    - `grower`: with the policy and the optimizer that the run had.
    - `net`: the network that it started from; `jax.ShapeDtypeStruct`s do.
    - `anatomy`: that of `net`.
    - `key`: the run's key, if it should be checked.

    **Raises:** `CheckpointError` naming what differs.
    """
    managed = grower.managed(anatomy)
    _check_asked(saved, grower, managed)
    # Not abstractly: a policy of the host may look at numbers.
    any_key = jr.key(0) if key is None else key
    own = as_arrays(grower.policy.init(managed, key=jr.fold_in(any_key, 0)))
    capacities = saved.record["capacities"]
    begin = lambda net, own: grower.begin(net, managed, own, any_key, capacities)
    growing, state = eqx.filter_eval_shape(begin, net, own)
    _check_widths(saved, growing.anatomy)
    parts = parts_of(growing, state)
    del parts["key"]
    _check_numbers(saved, parts)
    new = _filled(saved, parts)
    then, now = saved.record["optimizer"], states_in(state.opt_state)
    if then != now:
        text = f"its optimizer is {_plainly(then)}"
        raise _other(saved, text, _plainly(now), "optimizer")
    _check_given(saved, "policy", grower.policy, new)
    parts = {**map_arrays(parts, new), "policy": grower.policy}
    parts["key"] = _array_of(saved, "key", key)
    if key is not None:
        _check_given(saved, "key", key, parts)
    growing = replaced(growing, **parts)
    state = replaced(state, **parts)
    with well_formed(saved.source):
        state = replaced(state, decision=_decision(saved, growing))
    growing, state = spread_alike(growing, state, grower, net)
    rest = {"overflowed": saved.record["overflowed"], "position": position_of(saved)}
    return Run.of(growing, state, saved.history, **rest)


def _check_asked(saved: Saved, grower: Grower, managed: Anatomy) -> None:
    record = saved.record
    capacities = record["capacities"]
    if list(managed.widths) != list(capacities):
        raise CheckpointError(
            f"{saved.source} is of a run in which {_listed(capacities)} may change; "
            f"here it is {_listed(managed.widths)}: give the same network and `widths=`"
        )
    for what, then, now in (
        ("policy", record["policy"], class_of(grower.policy)),
        ("`every`", record["every"], grower.policy.every),
    ):
        if then != now:
            raise _other(saved, f"its {what} is {then}", f"{now}", "policy")


def restored_net(
    saved: Saved, net: Any, anatomy: Anatomy
) -> tuple[Any, Anatomy, Any, Any]:
    """Of the run just the network at its capacities, its anatomy, which units are open,
    and their gates.

    **Raises:** `CheckpointError` naming what differs.
    """
    capacities = saved.record["capacities"]
    unknown = [name for name in capacities if name not in anatomy.widths]
    if unknown:
        names = _listed(anatomy.widths)
        raise _other(saved, f"it has the width {unknown[0]!r}", names, "network")
    managed = anatomy.only(capacities) if capacities else anatomy
    begin = lambda net: begun(net, (None, None), NoGrowth(), managed, capacities)[:2]
    growing, _ = eqx.filter_eval_shape(begin, net)
    _check_widths(saved, growing.anatomy)
    parts = {"net": growing.net}
    _check_numbers(saved, parts)
    parts = map_arrays(parts, _filled(saved, parts))
    named = lambda what, like: {
        name: _array_of(saved, _named(what, name), mask if like else None)
        for name, mask in growing.open.items()
        if name in capacities
    }
    return parts["net"], growing.anatomy, named("open", True), named("gates", False)


def position_of(saved: Saved) -> Position | None:
    """The place of the saved run; none if it wasn't one of `fit`."""
    entry = saved.record["position"]
    if entry is None:
        return None
    with well_formed(saved.source):
        programs = tuple((name, tuple(sizes)) for name, sizes in entry["programs"])
        counts = {name: int(entry[name]) for name in ("served", "rollbacks", "traces")}
        buckets = dataclasses.astuple(Buckets(*entry["buckets"]))
        seconds = float(entry["seconds"])
        ahead = entry.get("ahead")
        return Position(
            dict(entry["data"]),
            **counts,
            buckets=buckets,
            seconds=seconds,
            programs=programs,
            ahead=None if ahead is None else _ahead_of(ahead),
        )


def _ahead_of(entry: Mapping[str, Any]) -> Ahead:
    units = {str(name): int(count) for name, count in entry["units"].items()}
    return Ahead(units, int(entry["until"]))


def _plainly(names: Any) -> str:
    return ", ".join(map(str, names)) or "nothing"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "no width"


def _other(saved: Saved, then: str, now: str, given: str) -> CheckpointError:
    return CheckpointError(
        f"{saved.source} is of another run: {then}, here {now}; give the {given} of "
        "the run that was saved, or another place to save this one"
    )


def _check_widths(saved: Saved, anatomy: Anatomy) -> None:
    with well_formed(saved.source):
        pairs = zip(saved.record["widths"], saved.record["capacities"], strict=True)
        there = [(dict(then), name) for then, name in pairs]
    for then, name in there:
        (here,) = widths_of(anatomy, [name])
        if then != here:
            first = next(k for k in (*here, *then) if then.get(k) != here.get(k))
            raise _other(
                saved,
                f"the width {here['name']!r} has {first} {then.get(first)}",
                f"{here.get(first)}",
                "network",
            )


def _check_numbers(saved: Saved, parts: Mapping[str, Any]) -> None:
    here = numbers_of(parts)
    there = _among(parts, saved.record["numbers"])
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            then = f"{name} is {there.get(name, 'no number')}"
            raise _other(saved, then, here.get(name, "none"), _given(name))


def _among(parts: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """What is in one of these parts of the run."""
    return {name: x for name, x in named.items() if _part(name) in parts}


def _named(*parts: str) -> str:
    """The name of a leaf in dictionaries."""
    return join(tuple(map(key_part, parts)))


def _part(name: str) -> str:
    return re.split(r"[.[]", name, maxsplit=1)[0]


def _given(name: str) -> str:
    """What of the user's a leaf comes from."""
    return GIVEN.get(_part(name), "network")


def _check_given(saved: Saved, part: str, given: Any, new: Mapping[str, Any]) -> None:
    """The arrays that the user gives have to be the ones that were saved."""
    for name, leaf in array_leaves({part: given}).items():
        pair = [jr.key_data(x) if is_key(x) else x for x in (new[name], leaf)]
        then, now = map(np.asarray, pair)
        if then.tobytes() != now.tobytes():
            text = f"{name} is {then.tolist()}"
            raise _other(saved, text, f"{now.tolist()}", GIVEN[part])


def _filled(saved: Saved, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The saved arrays for all leaves of these parts of the run, and no others."""
    wanted, known = array_leaves(parts), _among(parts, saved.arrays)
    for name in {**wanted, **known}:
        if name not in known or name not in wanted:
            given = _given(name)
            has, lacks = f"the {given} at hand", "the file"
            if name in known:
                has, lacks = lacks, has
            raise CheckpointError(
                f"{saved.source}: {has} has {name!r}, which {lacks} lacks; give the "
                f"{given} of the run that was saved"
            )
    return {name: _array_of(saved, name, leaf) for name, leaf in wanted.items()}


def _array_of(saved: Saved, name: str, like: Any = None) -> Any:
    """One array, which has to be like the leaf that it is for."""
    array = saved.arrays[name]
    key = saved.record["keys"].get(name)
    try:
        new = on_device(array)
        new = new if key is None else jr.wrap_key_data(new, impl=key)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{saved.source}: {name!r}: {error}") from error
    there, here = _described(array if key is None else new), _described(new)
    if like is not None:
        here = _described(like)
    if there != here:
        raise CheckpointError(
            f"{saved.source}: {name!r} is {there} there, and {here} by the "
            f"{_given(name)} at hand; give the {_given(name)} of the run that was saved"
            f"{' (and jax_enable_x64 as it was)' if '64' in there else ''}"
        )
    return new


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _decision(saved: Saved, growing: Growing) -> Decision:
    """The decision as it stood, waiting or not."""
    changes = {}
    for name, outline in saved.record["decision"].items():
        array = lambda *parts, name=name: _array_of(
            saved, _named("decision", name, *parts)
        )
        fields = {}
        for field, value in outline.items():
            if value == ARRAY:
                value = array(field)
            elif isinstance(value, dict):
                value = {path: array(field, path) for path in value["paths"]}
            fields[field] = value
        changes[name] = Change(**fields)
        if changes[name].keep.shape != growing.open[name].shape:
            raise ValueError(f"a decision on {name!r} of {changes[name].keep.shape}")
    return Decision(changes)
