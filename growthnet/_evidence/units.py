"""Evidence about units: their values, cotangents, and what their contractions read."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._reading.anatomy import Anatomy
from .biases import Bias
from .contractions import Site
from .flat import flat_inputs, flat_loss, zeros_at
from .found_units import find_units, FoundUnits, Made, Read


UNIT_KINDS = {
    "activations": "units",
    "unit_cotangents": "units",
    "preactivations": "made",
    "producer_inputs": "made",
    "preactivation_cotangents": "made",
    "output_cotangents": "read",
}
"""Kinds of evidence about units, and the part of `FoundUnits` that each needs."""


class Entries:
    """Which entries of a leaf belong to which unit: `[units, entries]` flat indices."""

    def __init__(self, path: str, shape: tuple[int, ...], index: np.ndarray):
        self.path, self.shape, self.index = path, shape, index

    def rows(self, leaf: Any) -> Any:
        return jnp.reshape(leaf, -1)[self.index]

    def leaf(self, rows: Any) -> Any:
        size = int(np.prod(self.shape))
        empty = jnp.zeros(size, rows.dtype)
        return empty.at[self.index].set(rows).reshape(self.shape)


class Contraction(eqx.Module):
    """What a leaf does to a width's units: `path` is the leaf's."""

    entries: eqx.AbstractVar[Entries]

    @property
    def path(self) -> str:
        return self.entries.path

    def rows(self, leaf: Any) -> Any:
        """The leaf by unit: `[units, entries]`."""
        return self.entries.rows(leaf)

    def leaf(self, rows: Any) -> Any:
        """An array of the leaf's shape from rows; 0 where no unit of the width is."""
        return self.entries.leaf(rows)


class Producer(Contraction):
    """A contraction that makes a width's units out of its leaf `path`.

    - `inputs`: what it reads, `[samples, entries]`. Times a unit's row of the leaf this
        is what it gives for the unit.
    - `preactivations`: what it gives with offsets added, `[samples, units]`.
    - `cotangents`: d loss / d preactivation, `[samples, units]`. The gradient of the
        rows is `cotangents.T @ inputs`, where nothing else uses the leaf.
    - `aligned`: is a unit, as it is read, a function of its preactivation at the same
        sample (and of nothing else that depends on them)? Otherwise (a norm over the
        batch, a pooling) this producer's samples have an order of their own.
    """

    inputs: Any
    preactivations: Any
    cotangents: Any
    aligned: bool = eqx.field(static=True)
    entries: Entries = eqx.field(static=True)


class Consumer(Contraction):
    """A contraction that reads a width's units with its leaf `path`.

    - `cotangents`: d loss / d its outputs, as the units see it: `[samples, entries]`.
        For a dense layer that is `[samples, outputs]`. Times a unit's row of the leaf
        it is the contraction's share of d loss / d unit.
    - `bias`: the leaf `bias.path` is added to its outputs, and `bias.leaf(row)` is what
        must be added to the bias where a constant unit with this row falls silent (away
        from the padding of a convolution). `None` where there is no such leaf.
    """

    cotangents: Any
    bias: Bias | None = eqx.field(static=True)
    entries: Entries = eqx.field(static=True)


class Units(eqx.Module):
    """Evidence about the units of one width, on one batch.

    A sample is one place beside the unit: an example, a position in a sequence or an
    image. Arrays have a row for each; their order is one and the same for everything
    of a width, `aligned` producers included. Closed units are columns like others.

    - `activations`: the units as their consumers read them, `[samples, units]`.
    - `cotangents`: d loss / d activation, `[samples, units]`.
    - `producers`, `consumers`: the contractions that make and read them.
    """

    activations: Any
    cotangents: Any
    producers: tuple[Producer, ...]
    consumers: tuple[Consumer, ...]


def units_of(
    net: Any,
    anatomy: Anatomy,
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    kinds: Iterable[str],
    names: Iterable[str],
    who: str,
) -> dict[str, Units]:
    """Evidence of some kinds about the units of some widths.

    **Arguments:**

    - `loss`, `args`: `loss(net, *args)`, as in `fit`.
    - `who`: whose wish it is, for errors.

    **Raises:** `ValueError` naming the width, and why a kind can't be had of it.
    """
    kinds = [kind for kind in UNIT_KINDS if kind in set(kinds)]
    flat = flat_loss(net, loss, args)
    found = find_units(flat, anatomy, names)
    for name, units in found.items():
        for kind in kinds:
            if why := units.reasons.get(UNIT_KINDS[kind]):
                raise ValueError(
                    f"{who} needs {kind} of {name!r}, which can't be had: {why}; leave "
                    "the width out (`widths=`)"
                )
    values, slopes = _variables(found.values(), kinds)
    inputs = flat_inputs(net, args)
    shapes = {leaf.path: leaf.shape for leaf in anatomy.leaves}

    def run(taps: Any) -> Any:
        return flat.run(inputs, dict(zip(slopes, taps, strict=True)), values)

    cotangents: Any = [None] * len(slopes)
    if slopes:
        one, pull, given = jax.vjp(run, list(map(zeros_at, slopes)), has_aux=True)
        (cotangents,) = pull(jnp.ones_like(one))
    else:
        _, given = run([])
    value = dict(zip(values, given, strict=True)).get
    slope = dict(zip(slopes, cotangents, strict=True)).get
    return {
        name: _evidence(units, set(kinds), value, slope, shapes)
        for name, units in found.items()
    }


def _variables(
    found: Iterable[FoundUnits], kinds: Iterable[str]
) -> tuple[list[Any], list[Any]]:
    """The variables whose values, and whose cotangents, some kinds need."""
    values: dict[Any, None] = {}
    slopes: dict[Any, None] = {}
    for units in found:
        root = units.units and units.units.variable
        wanted = {
            "activations": (values, [root]),
            "unit_cotangents": (slopes, [root]),
            "preactivations": (values, [m.before.variable for m in units.made]),
            "producer_inputs": (values, [m.site.other for m in units.made]),
            "preactivation_cotangents": (
                slopes,
                [m.before.variable for m in units.made],
            ),
            "output_cotangents": (slopes, [r.site.eqn.outvars[0] for r in units.read]),
        }
        for kind in kinds:
            where, variables = wanted[kind]
            where.update(dict.fromkeys(variables))
    return list(values), list(slopes)


def _evidence(
    found: FoundUnits,
    kinds: set[str],
    value: Callable[[Any], Any],
    slope: Callable[[Any], Any],
    shapes: dict[str, tuple[int, ...]],
) -> Units:
    """The evidence about one width, from values and cotangents of variables."""

    def if_asked(kind: str, make: Callable[..., Any], of: Any, order: Any) -> Any:
        if kind not in kinds:
            return None
        rows = make(of)
        return rows if order is None else rows[order]

    def entries(site: Site) -> Entries:
        path = site.member.path
        return Entries(path, shapes[path], site.entries)

    def producer(m: Made) -> Producer:
        before, site = m.before, m.site
        at, slope_at = value(before.variable), slope(before.variable)
        return Producer(
            inputs=if_asked(
                "producer_inputs", site.inputs, value(site.other), m.inputs_at
            ),
            preactivations=if_asked("preactivations", before.rows, at, m.before_at),
            cotangents=if_asked(
                "preactivation_cotangents", before.rows, slope_at, m.before_at
            ),
            aligned=m.aligned,
            entries=entries(site),
        )

    def consumer(r: Read) -> Consumer:
        given = slope(r.site.eqn.outvars[0])
        rows = if_asked("output_cotangents", r.site.pulled, given, r.rows_at)
        return Consumer(cotangents=rows, bias=r.bias, entries=entries(r.site))

    def units(kind: str, of: Callable[[Any], Any]) -> Any:
        if kind in kinds and found.units is not None:
            return found.units.rows(of(found.units.variable))
        return None

    parts = {UNIT_KINDS[kind] for kind in kinds}
    return Units(
        units("activations", value),
        units("unit_cotangents", slope),
        tuple(map(producer, found.made)) if "made" in parts else (),
        tuple(map(consumer, found.read)) if parts & {"read", "units"} else (),
    )
