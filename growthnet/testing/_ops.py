"""What the laws are about: growthnet's operations, exchangeable one by one."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu

from .._capacity.capacity import close_units, compact, open_units, reserve
from .._capacity.gates import gate
from .._edits.edit import Edit
from .._edits.plan import plan
from .._paths import is_array
from .._policies.grower import Grower
from .._reading.anatomy import Anatomy
from .._reading.trace import trace
from ._networks import Case


def _apply(edit: Edit, tree: Any, *, key: Any = None) -> Any:
    return edit(tree, key=key)


def _inverse(edit: Edit) -> Edit:
    return edit.inverse()


def _transfer(
    edit: Edit, optimizer: Any, opt_state: Any, params: Any, params2: Any
) -> Any:
    return edit.transfer(optimizer, opt_state, params, params2)


@dataclasses.dataclass(frozen=True)
class Ops:
    """The operations that laws are stated about.

    Exchange one to see that a law notices: `dataclasses.replace(OPS, gate=my_gate)`.
    """

    trace: Callable[..., Any] = trace
    plan: Callable[..., Any] = plan
    apply: Callable[..., Any] = _apply
    inverse: Callable[..., Any] = _inverse
    transfer: Callable[..., Any] = _transfer
    gate: Callable[..., Any] = gate
    reserve: Callable[..., Any] = reserve
    compact: Callable[..., Any] = compact
    open_units: Callable[..., Any] = open_units
    close_units: Callable[..., Any] = close_units
    grower: Callable[..., Any] = Grower


OPS = Ops()


def read(case: Case, ops: Ops) -> Anatomy:
    """The anatomy of a case; networks of one structure are traced once."""
    leaves, treedef = jtu.tree_flatten((case.net, case.args))
    kinds = tuple((x.shape, str(x.dtype)) if is_array(x) else x for x in leaves)
    try:
        hash((treedef, kinds))
    except TypeError:
        return ops.trace(case.net, *case.args, call=case.call)
    x64 = bool(jax.config.read("jax_enable_x64"))
    return _read(_Structure(treedef, kinds, case.call, ops.trace, x64, case))


@dataclasses.dataclass(frozen=True)
class _Structure:
    """Everything that a trace depends on."""

    treedef: Any
    kinds: tuple[Any, ...]
    call: Callable[..., Any] | None
    trace: Callable[..., Any]
    x64: bool
    case: Case = dataclasses.field(compare=False)


@ft.lru_cache(maxsize=256)
def _read(structure: _Structure) -> Anatomy:
    case = structure.case
    return structure.trace(case.net, *case.args, call=case.call)
