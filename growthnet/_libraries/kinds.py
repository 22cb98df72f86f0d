"""Kinds of tree nodes: what the core has to know of other libraries' classes.

Equinox's modules are known here. Another library's come in when one of its objects is
first met, so that the core never imports it.
"""

import dataclasses
import functools as ft
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is known of a class and its subclasses.

    - `fields`: of modules: `fields(module)`, its attributes by name, static ones too.
    - `replaced`: of modules: `replaced(module, updates)`, a copy with other attributes.
    - `alike`: of modules: `alike(old, new)`, the new one with its attributes in the old
        one's order, which is that of its repr.
    - `call`: of modules: how one is called as a network, if not plainly.
    - `fitting`: of modules built by a factory: `fitting(module, path, anatomy, sizes)`,
        the sizes of widths together with those that can't differ from them.
    - `initials`: `initials(module)`, what leaves that calls write hold at first, by
        name inside the module.
    - `box`: an object around one value, of which leaf names say nothing. The same box
        at two places of a tree is one shared leaf.
    - `learns`: whether arrays inside are trained by default; `None`: as those around.
    """

    fields: Callable[[Any], dict[str, Any]] | None = None
    replaced: Callable[[Any, Mapping[str, Any]], Any] | None = None
    alike: Callable[[Any, Any], Any] | None = None
    call: Callable[..., Any] | None = None
    fitting: Callable[..., dict[str, int]] | None = None
    initials: Callable[[Any], dict[str, float]] | None = None
    box: bool = False
    learns: bool | None = None


_KINDS: dict[type, Kind] = {}
_NONE = Kind()

# Modules of growthnet that register kinds, by the modules whose classes they know.
_ON_DEMAND = {"flax.nnx": "growthnet.flax", "flax.core.meta": "growthnet.flax"}


def register_kind(cls: type, kind: Kind) -> None:
    """Says what is known of a class; a subclass's own entry comes before it."""
    _KINDS[cls] = kind
    node_kind.cache_clear()


@ft.lru_cache(maxsize=4096)
def node_kind(cls: type) -> Kind:
    """What is known of a class, from itself or its nearest base."""
    for base in cls.__mro__:
        for prefix, module in _ON_DEMAND.items():
            if f"{base.__module__}.".startswith(f"{prefix}."):
                importlib.import_module(module)
    return next((_KINDS[base] for base in cls.__mro__ if base in _KINDS), _NONE)


def is_box(node: Any) -> bool:
    """Is this an object around one value?"""
    return node_kind(type(node)).box


def with_fields(module: Any, updates: Mapping[str, Any]) -> Any:
    """A module with other attributes, static ones too."""
    replaced = node_kind(type(module)).replaced
    return module if replaced is None or not updates else replaced(module, updates)


def _fields(module: Any) -> dict[str, Any]:
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if hasattr(module, field.name)
    }


def _replaced(module: Any, updates: Mapping[str, Any]) -> Any:
    """Neither `tree_at` (static fields aren't leaves) nor `dataclasses.replace` (custom
    `__init__`) can do this, so it is built by hand."""
    copy = object.__new__(type(module))
    for name, value in {**_fields(module), **updates}.items():
        object.__setattr__(copy, name, value)
    return copy


register_kind(eqx.Module, Kind(fields=_fields, replaced=_replaced))
register_kind(eqx.nn.State, Kind(learns=False))
