"""What is known of each width's units in a flat program: where they are made and read,
or why that can't be had."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.extend.core as jexc
import numpy as np

from .._reading.anatomy import Anatomy
from .._reading.reader import user_line
from .._reading.widths import Member, Width
from .biases import Bias, find_bias
from .contractions import axes_of, Site, site_at, unit_numbers, View, Weights
from .flat import Flat
from .flows import follow, moved


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """A producing contraction. `before`: the units before any function is applied to
    them, offsets added. `inputs_at` and `before_at` put their rows into the order of
    the width's samples (`None`: they are in it). `aligned`: are these samples those of
    the units as they are read?"""

    site: Site
    before: View
    inputs_at: np.ndarray | None
    before_at: np.ndarray | None
    aligned: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A consuming contraction. `rows_at` puts its rows into the samples' order; `bias`
    is what is added to its result, if that is a leaf."""

    site: Site
    rows_at: np.ndarray | None
    bias: Bias | None


@dataclasses.dataclass(frozen=True, eq=False)
class FoundUnits:
    """One width: `units` as its consumers read them, where they are made and read; and
    why not, by `"made"`, `"read"` and `"units"`."""

    units: View | None
    made: tuple[Made, ...]
    read: tuple[Read, ...]
    reasons: dict[str, str]


def find_units(flat: Flat, anatomy: Anatomy, names: Iterable[str]) -> dict[str, Any]:
    """Looks for the units of some widths: `FoundUnits` by name."""
    weights = Weights(flat, anatomy)
    makers = {v: eqn for eqn in flat.jaxpr.eqns for v in eqn.outvars}
    return {
        name: _Width(flat, anatomy, weights, makers, anatomy.widths[name]).found()
        for name in names
    }


class _NotHad(Exception):
    """Why something can't be had of a width."""


class _Width:
    def __init__(
        self, flat: Flat, anatomy: Anatomy, weights: Weights, makers: Any, width: Width
    ):
        self.flat, self.anatomy, self.weights = flat, anatomy, weights
        self.makers, self.width = makers, width
        self.shapes = {leaf.path: leaf.shape for leaf in anatomy.leaves}

    def found(self) -> FoundUnits:
        reasons: dict[str, str] = {}
        read: tuple[Read, ...] = ()
        made: tuple[Made, ...] = ()
        units = None
        try:
            consumers = self._sites("consumer")
            units, read = self._as_read(consumers)
        except _NotHad as why:
            reasons["units"] = reasons["read"] = str(why)
        try:
            made = tuple(self._as_made(s, units) for s in self._sites("producer"))
        except _NotHad as why:
            reasons["made"] = str(why)
        return FoundUnits(units, made, read, reasons)

    # --- contractions with the width's leaves

    def _sites(self, role: str) -> list[Site]:
        members = [m for m in self.width.members if role in m.roles]
        if self.width.size < 2:
            raise _NotHad("it has room for one unit only; give it a capacity of 2")
        if not members:
            raise _NotHad(f"it has no {role}")
        return [self._site(member, role) for member in members]

    def _site(self, member: Member, role: str) -> Site:
        """The one equation in which a member plays its role."""
        found: list[Site] = []
        why = f"`{member.path}` isn't used"
        numbers = unit_numbers(self.anatomy, member)
        for eqn, side, label in self.weights.uses(member.path):
            if label is None:
                if axes_of(eqn, side):
                    why = f"`{member.path}` is computed on before it is used"
                    raise _NotHad(_at(why, eqn))
                continue
            result = site_at(eqn, side, label, member, numbers, self.width.size)
            if result is not None and result[1] == role:
                found.append(result[0])
            elif not found:
                name = eqn.primitive.name
                why = _at(f"`{member.path}` is used by `{name}`", eqn)
        if len(found) > 1:
            lines = ", ".join(dict.fromkeys(site.line for site in found))
            raise _NotHad(f"`{member.path}` is used {len(found)} times, at {lines}")
        if not found:
            raise _NotHad(f"no contraction with its {role} was found: {why}")
        return found[0]

    # --- units as they are read

    def _as_read(self, sites: list[Site]) -> tuple[View, tuple[Read, ...]]:
        roots = {self._root(site.other): site for site in sites}
        if len(roots) > 1:
            lines = ", ".join(dict.fromkeys(site.line for site in sites))
            raise _NotHad(f"its consumers read different values, at {lines}")
        (root,) = roots
        labels = follow(self.flat.jaxpr, root)
        first = sites[0]
        units = _transferred(
            first.view(first.other), labels[first.other], root, self.width.size
        )
        if units is None:
            raise _NotHad(_at("its units are entangled with others", first.eqn))
        read = []
        for site in sites:
            order = _order(units, site.view(site.other), labels[site.other])
            if order is None:
                raise _NotHad(_at("its consumers read it in other orders", site.eqn))
            bias = find_bias(self.weights, site, self.shapes)
            read.append(Read(site, _unless_same(np.argsort(order)), bias))
        return units, tuple(read)

    def _root(self, variable: Any) -> Any:
        """The value that this one is, moved about but whole."""
        while variable in self.makers:
            eqn = self.makers[variable]
            sources = [v for v in eqn.invars if not isinstance(v, jexc.Literal)]
            if len(sources) != 1 or len(eqn.outvars) != 1:
                break
            if sources[0].aval.size != variable.aval.size:
                break
            if moved(eqn, np.zeros(sources[0].aval.shape, np.int8)) is None:
                break
            (variable,) = sources
        return variable

    # --- units as they are made

    def _as_made(self, site: Site, units: View | None) -> Made:
        (result,) = site.eqn.outvars
        given = site.view(result)
        labels = follow(self.flat.jaxpr, result, entries=True)
        last = self._offset(result)
        before = View.of(last, _numbers(given)[labels[last]], self.width.size)
        assert before is not None, "adding an offset moves no unit"
        if units is not None and units.variable in labels:
            inputs_at = _order(given, units, labels[units.variable])
            after = follow(self.flat.jaxpr, last, entries=True)
            before_at = None
            if units.variable in after:
                before_at = _order(before, units, after[units.variable])
            if inputs_at is not None and before_at is not None:
                orders = map(_unless_same, (inputs_at, before_at))
                return Made(site, before, *orders, aligned=True)
        inputs_at = _order(given, before, labels[last])
        assert inputs_at is not None
        return Made(site, before, _unless_same(inputs_at), None, aligned=False)

    def _offset(self, variable: Any) -> Any:
        """The value once everything that leaves alone make is added to it."""
        while True:
            users = [e for e in self.flat.jaxpr.eqns if variable in _variables(e)]
            outputs = _plain(self.flat.jaxpr.outvars)
            if len(users) != 1 or variable in outputs:
                return variable
            (eqn,) = users
            others = [v for v in _variables(eqn) if v is not variable]
            adds = eqn.primitive.name in ("add", "add_any") and len(others) == 1
            if adds and others[0] in self.weights.computed:
                variable = eqn.outvars[0]
            elif moved(eqn, np.zeros(variable.aval.shape, np.int8)) is None:
                return variable
            elif eqn.outvars[0].aval.size != variable.aval.size:
                return variable
            else:
                variable = eqn.outvars[0]


def _at(text: str, eqn: Any) -> str:
    line = user_line([eqn])
    return f"{text}, at {line}" if line else text


def _plain(atoms: Iterable[Any]) -> list[Any]:
    return [v for v in atoms if not isinstance(v, jexc.Literal)]


def _variables(eqn: Any) -> list[Any]:
    return _plain(eqn.invars)


def _numbers(view: View) -> np.ndarray:
    """The unit of each entry, flat (-1: none)."""
    numbers = np.full(view.variable.aval.size, -1)
    numbers[view.places] = np.arange(view.places.shape[1])
    return numbers


def _transferred(view: View, label: np.ndarray, root: Any, units: int) -> View | None:
    """The view of the value that another one comes from."""
    numbers = np.full(root.aval.size, -1)
    numbers[label.reshape(-1)] = _numbers(view)
    return View.of(root, numbers.reshape(root.aval.shape), units)


def _order(source: View, target: View, label: np.ndarray) -> np.ndarray | None:
    """For each row of `target`, the row of `source` that its entries come from; `None`
    where they come from several, or from other units. `label` is of the target's
    entries in the source's array."""
    rows = np.full(source.variable.aval.size, -1)
    rows[source.places] = np.arange(source.places.shape[0])[:, None]
    came = label.reshape(-1)[target.places]
    if (_numbers(source)[came] != np.arange(came.shape[1])).any():
        return None
    found = rows[came]
    return found[:, 0] if (found == found[:, :1]).all() else None


def _unless_same(order: np.ndarray) -> np.ndarray | None:
    return None if np.array_equal(order, np.arange(order.size)) else order
