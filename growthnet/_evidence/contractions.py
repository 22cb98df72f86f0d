"""Where a width's units are made and read in a program: contractions with its leaves.

A *site* is an equation in which activations meet a leaf of the width. Everything about
it is read off labels (`flows`): which entries of the leaf are its operand's, which of
them belong to which unit, and where the units of its result are found again.
"""

import dataclasses
import functools as ft
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import numpy as np

from .._reading.anatomy import Anatomy
from .._reading.layout import spread
from .._reading.reader import user_line
from .._reading.widths import Member
from .flat import bind, Flat
from .flows import along_one_axis, follow, Label, table_of


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """How the units of a width stand in an array: unit `u` has the indices `table[u]`
    of the axis. One *sample* is one place beside the unit: an example, a position."""

    variable: Any
    axis: int
    table: np.ndarray

    def rows(self, array: Any) -> Any:
        """The array as `[samples, units]`."""
        xp: Any = np if isinstance(array, np.ndarray) else jnp
        units, each = self.table.shape
        parts = xp.take(array, self.table.reshape(-1), axis=self.axis)
        shape = array.shape
        parts = parts.reshape(
            (*shape[: self.axis], units, each, *shape[self.axis + 1 :])
        )
        return xp.moveaxis(parts, self.axis, -1).reshape(-1, units)

    @ft.cached_property
    def places(self) -> np.ndarray:
        """Which entry of the array stands in which row and column of `rows`."""
        shape = self.variable.aval.shape
        count = int(np.prod(shape, dtype=np.int64))
        return self.rows(np.arange(count).reshape(shape))

    @staticmethod
    def of(variable: Any, numbers: np.ndarray, units: int) -> "View | None":
        """From the unit that every entry belongs to (-1: none)."""
        if (found := along_one_axis(numbers)) is None:
            return None
        table = table_of(found[1], units)
        return None if table is None else View(variable, found[0], table)


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A contraction with a leaf of a width.

    - `side`: which operand the leaf is; `axis` of it holds the units, at `table`.
    - `entries`: the entries of the (flat) leaf that belong to each unit, in leaf order:
        `[units, entries]`. The operand holds them in the order `order`.
    - `across`: that axis in the result (of a producer), or in the other operand (of a
        consumer).
    """

    member: Member
    eqn: Any
    side: int
    axis: int
    table: np.ndarray
    entries: np.ndarray
    order: np.ndarray
    across: int

    @property
    def other(self) -> Any:
        """The variable of the operand that isn't the leaf."""
        return self.eqn.invars[1 - self.side]

    @property
    def line(self) -> str:
        return user_line([self.eqn])

    def view(self, variable: Any) -> View:
        """Of the result or the other operand, along `across`."""
        return View(variable, self.across, self.table)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the operand cut down to one unit."""
        shape = list(self.eqn.invars[self.side].aval.shape)
        shape[self.axis] = self.table.shape[1]
        return tuple(shape)

    def basis(self) -> Any:
        """One operand per entry of a unit, with a one there: `[entries, ...]`."""
        dtype = self.eqn.invars[self.side].aval.dtype
        ones = jnp.eye(self.order.size, dtype=dtype)[self.order]
        return ones.reshape((-1, *self.unit_shape))

    def contract(self, other: Any, weights: Any) -> Any:
        """The equation with another pair of operands."""
        args = (weights, other) if self.side == 0 else (other, weights)
        (result,) = bind(self.eqn, args)
        return result

    def inputs(self, other: Any) -> Any:
        """What a producer reads, `[samples, entries]`: times a unit's entries it is
        what the contraction gives for the unit."""
        given = jax.vmap(lambda w: self.contract(other, w))(self.basis())
        return given.reshape(given.shape[0], -1).T

    def pulled(self, cotangent: Any) -> Any:
        """The cotangent of a consumer's result, as the units see it: `[samples,
        entries]`, times a unit's entries it is the cotangent at the unit."""
        aval = self.other.aval
        shape = list(aval.shape)
        shape[self.across] = self.table.shape[1]
        zero = jnp.zeros(shape, aval.dtype)

        def pull(weights: Any) -> Any:
            _, back = jax.vjp(lambda units: self.contract(units, weights), zero)
            return back(cotangent)[0]

        given = jax.vmap(pull)(self.basis())
        return given.reshape(given.shape[0], -1).T


class Weights:
    """Which variables of a flat program are leaves, moved or computed on."""

    def __init__(self, flat: Flat, anatomy: Anatomy):
        self.flat = flat
        self._numbers = {path: i for i, path in enumerate(flat.leaves)}
        variables = dict(zip(flat.leaves, flat.jaxpr.invars, strict=False))
        self._labels = {leaf.path: {} for leaf in anatomy.leaves}
        for path, variable in variables.items():
            self._labels[path] = follow(flat.jaxpr, variable)
        self.computed = self._computed(variables)

    def _computed(self, variables: dict[str, Any]) -> dict[Any, frozenset[str]]:
        """Values of leaves alone: which leaves."""
        found = {v: frozenset({path}) for path, v in variables.items()}
        for eqn in self.flat.jaxpr.eqns:
            operands = [v for v in eqn.invars if not isinstance(v, jexc.Literal)]
            known = [v for v in operands if v in found]
            consts = [v for v in operands if v in self.flat.jaxpr.constvars]
            if known and len(known) + len(consts) == len(operands):
                paths = frozenset().union(*(found[v] for v in known))
                found.update(dict.fromkeys(eqn.outvars, paths))
        return found

    def label(self, path: str, variable: Any) -> Label | None:
        """Which entries of a leaf a variable holds, where they only moved."""
        return self._labels[path].get(variable)

    def uses(self, path: str) -> Iterator[tuple[Any, int, Label | None]]:
        """The equations in which a leaf meets activations: `(equation, operand, label)`
        with the label of its entries where they only moved on the way."""
        labels = self._labels[path]
        for eqn in self.flat.jaxpr.eqns:
            if eqn.outvars and eqn.outvars[0] in self.computed:
                continue
            for i, variable in enumerate(eqn.invars):
                if isinstance(variable, jexc.Literal):
                    continue
                if path in self.computed.get(variable, ()):
                    yield eqn, i, labels.get(variable)


def unit_numbers(anatomy: Anatomy, member: Member) -> np.ndarray:
    """For each entry of a member's leaf, its unit (-1: none)."""
    leaf = anatomy.leaves[member.leaf]
    shape = [-1 if d == member.axis else 1 for d in range(len(leaf.shape))]
    return np.broadcast_to(unit_line(anatomy, member).reshape(shape), leaf.shape)


def unit_line(anatomy: Anatomy, member: Member) -> np.ndarray:
    """For each index of a member's axis, its unit (-1: none)."""
    layout = anatomy.leaves[member.leaf].layouts[member.axis]
    here = lambda place: place == member.place
    unit = spread(
        layout,
        lambda place, atom: np.arange(atom.size) * here(place),
        times=lambda outer, inner: outer + inner,
    )
    inside = spread(
        layout,
        lambda place, atom: np.full(atom.size, here(place)),
        times=lambda outer, inner: outer | inner,
    )
    return np.where(inside, unit, -1)


def axes_of(eqn: Any, side: int) -> tuple[dict[int, int], dict[int, int]] | None:
    """Of a contraction's operand: which axes are summed against which of the other
    operand, and which go to which of the result. `None` for anything else."""
    params = eqn.params
    if eqn.primitive.name == "dot_general":
        contract, batch = params["dimension_numbers"]
        summed = dict(zip(contract[side], contract[1 - side], strict=True))
        ranks = [len(v.aval.shape) for v in eqn.invars]
        free = [
            [d for d in range(rank) if d not in (*contract[s], *batch[s])]
            for s, rank in enumerate(ranks)
        ]
        first = len(batch[0]) + (len(free[0]) if side else 0)
        return summed, {d: first + i for i, d in enumerate(free[side])}
    if eqn.primitive.name == "conv_general_dilated" and side == 1:
        if params["feature_group_count"] == params["batch_group_count"] == 1:
            numbers = params["dimension_numbers"]
            return (
                {numbers.rhs_spec[1]: numbers.lhs_spec[1]},
                {numbers.rhs_spec[0]: numbers.out_spec[1]},
            )
    return None


def site_at(
    eqn: Any, side: int, label: Label, member: Member, numbers: np.ndarray, units: int
) -> tuple[Site, str] | None:
    """The site where this operand's units are made (`"producer"`) or read
    (`"consumer"`); `None` if the operand has no units of the member."""
    axes = axes_of(eqn, side)
    own = numbers.reshape(-1)[label]
    if axes is None or not (own >= 0).any():
        return None
    view = View.of(eqn.invars[side], own, units)
    if view is None:
        return None
    entries = label.take(view.table, axis=view.axis)
    entries = np.moveaxis(entries, view.axis, 0).reshape(units, -1)
    order = np.argsort(entries[0])
    summed, free = axes
    if view.axis in summed:
        role, across = "consumer", summed[view.axis]
    elif view.axis in free:
        role, across = "producer", free[view.axis]
    else:
        return None
    site = Site(
        member, eqn, side, view.axis, view.table, entries[:, order], order, across
    )
    return site, role
