"""What newborn entries hold where they are never drawn: running statistics."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import equinox as eqx

from .._libraries.kinds import node_kind
from .._paths import array_leaves, join, states, within
from .._reading.anatomy import Anatomy
from .._reading.layout import Atom
from .._reading.widths import Leaf
from .statics import Found, modules


_RULES: dict[type, Mapping[str, tuple[float, ...]]] = {}


def register_initials(cls: type, **fields: float | tuple[float, ...]) -> None:
    """Teaches growthnet what a layer's arrays hold before they have learnt anything.

    Newborn units, and slots that no unit lives in yet, get these numbers; without a
    rule, scales hold 1, other leaves of a state 0, and weights are drawn.

    **Arguments:**

    - `cls`: the layer class; subclasses inherit the rule.
    - `fields`: a number per array of the field (a field may hold several, or be the
        `eqx.nn.StateIndex` of several).

    **Raises:** `ValueError` if the class has a rule already.

    !!! example

        ```python
        class Whiten(eqx.Module):
            log_scale: jax.Array
            statistics: eqx.nn.StateIndex  # of (mean, variance)

        gn.register_initials(Whiten, log_scale=0.0, statistics=(0.0, 1.0))
        ```
    """
    if cls in _RULES:
        raise ValueError(f"{cls.__name__} has its initial values already")
    _RULES[cls] = {
        name: given if isinstance(given, tuple) else (given,)
        for name, given in fields.items()
    }


register_initials(
    eqx.nn.BatchNorm, ema_state_index=(0.0, 1.0), batch_state_index=(0.0, 1.0)
)


def with_initials(anatomy: Anatomy, net: Any, moving: Collection[int]) -> Anatomy:
    """The anatomy, with initial values of leaves that have such: known ones, those of a
    state, and those that calls write (`moving`)."""
    known = _known(net)
    held = {
        name for state in states(net) for leaves in state.values() for name, _ in leaves
    }
    scales = {
        m.leaf for w in anatomy.all_widths for m in w.members if "scale" in m.roles
    }

    def initial(i: int, leaf: Leaf) -> float | None:
        if leaf.path in known:
            return known[leaf.path]
        if i not in moving and leaf.path not in held:
            return None
        return 1.0 if i in scales and len(leaf.shape) == 1 else 0.0

    leaves = tuple(
        dataclasses.replace(leaf, initial=initial(i, leaf))
        for i, leaf in enumerate(anatomy.leaves)
    )
    return dataclasses.replace(anatomy, leaves=leaves)


def state_fields(anatomy: Anatomy, net: Any) -> tuple[Found, ...]:
    """Sizes that a normalisation without a scale keeps of its statistics alone."""
    leaves = {leaf.path: leaf for leaf in anatomy.leaves}
    widths = {w.id for w in anatomy.all_widths}
    found = []
    for path, module in modules(net):
        if isinstance(module, eqx.nn.BatchNorm) and module.weight is None:
            index = module.batch_state_index or module.ema_state_index
            for name in _state_leaves(net, index)[:1]:
                layout = leaves[name].layouts[-1]
                if isinstance(layout, Atom) and layout.id in widths:
                    found.append((path, "input_size", None, layout))
    return tuple(found)


def _state_leaves(net: Any, index: Any) -> list[str]:
    """The names of what a `StateIndex` points at, in every state of the network."""
    return [
        name
        for state in states(net)
        for marker, leaves in state.items()
        if marker == index.marker
        for name, _ in leaves
    ]


def _known(net: Any) -> dict[str, float]:
    """By leaf name, what the layers' rules say."""
    entries = [
        (marker, [name for name, _ in leaves])
        for state in states(net)
        for marker, leaves in state.items()
    ]
    names = list(array_leaves(net))
    known: dict[str, float] = {}
    for path, module in modules(net):
        told = node_kind(type(module)).initials
        if told is not None:
            known.update({join((path, n)): x for n, x in told(module).items()})
        rule = next((_RULES[c] for c in type(module).__mro__ if c in _RULES), {})
        for field, values in rule.items():
            here = getattr(module, field, None)
            if isinstance(here, eqx.nn.StateIndex):
                found = [leaves for marker, leaves in entries if marker == here.marker]
            else:
                child = join((path, field))
                found = [[name for name in names if within(name, child)]]
            for leaves in filter(None, found):
                if len(leaves) != len(values):
                    raise ValueError(
                        f"{type(module).__name__}.{field} holds {len(leaves)} arrays, "
                        f"but {len(values)} initial values are registered for it"
                    )
                known.update(zip(leaves, values, strict=True))
    return known
