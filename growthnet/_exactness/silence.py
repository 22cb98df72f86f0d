"""Which leaves silence a value: zeros that a network's zeros bring about.

Which members make the new units of a width say nothing where no weight reads them (a
head's queries, a stream under a norm)? A walk over a tape keeps, beside every value,
the sets of members that have to be zero so that the value is.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from .._reading.events import Kind, Value
from .tape import Step, Tape


Cause: TypeAlias = tuple[frozenset[Any], ...]
"""Ways to silence a value: each a set of members that have to be zero together; none
where no zeros do it, and the empty set for what is zero anyway."""

SILENT: Cause = (frozenset(),)
WAYS = 4
"""How many ways are kept in mind, the smallest ones."""

ZERO_TO_ZERO = set(
    "abs asin asinh atan atanh cbrt ceil conj convert_element_type copy copy_p "
    "erf expm1 floor imag integer_pow log1p neg optimization_barrier real "
    "reduce_precision round sharding_constraint sign sin sinh sqrt square "
    "stop_gradient tan tanh device_put name".split()
)
"""Elementwise functions with f(0) = 0: a leaf's zeros come through as zeros."""

_CARRYING = ZERO_TO_ZERO | set(
    "transpose squeeze broadcast_in_dim reshape slice split unstack tile reduce_sum "
    "reduce_max reduce_min gather dynamic_slice rev cumsum cummax cummin cumprod "
    "reduce_window_sum reduce_window_max psum expand_dims sort top_k".split()
)
ALL_OF = set(
    "add add_any sub max min concatenate stack pad dynamic_update_slice scatter "
    "scatter-add select_n".split()
)
ANY_OF = set("mul dot_general conv_general_dilated".split())


def nothing(value: Value) -> bool:
    """Is this a constant zero?"""
    return (
        value.literal is not None
        and not isinstance(value.literal, bool | str)
        and (value.literal == 0)
    )


def all_of(causes: Sequence[Cause]) -> Cause:
    """The ways to silence every one of several values."""
    ways: Cause = SILENT
    for cause in causes:
        ways = _fewest(a | b for a in ways for b in cause)
    return ways


def any_of(causes: Sequence[Cause]) -> Cause:
    """The ways to silence one of several values."""
    return _fewest(way for cause in causes for way in cause)


def _fewest(ways: Iterable[frozenset[Any]]) -> Cause:
    """The smallest ways, none of which asks for more than another."""
    found: list[frozenset[Any]] = []
    for way in sorted(set(ways), key=size_of_way):
        if not any(other <= way for other in found):
            found.append(way)
    return tuple(found[:WAYS])


def size_of_way(way: frozenset[Any]) -> tuple[int, list[Any]]:
    """Orders ways: those that ask for fewest first."""
    return len(way), sorted(way)


_LINEAR = set(
    "transpose squeeze broadcast_in_dim reshape slice split unstack tile reduce_sum "
    "gather dynamic_slice rev cumsum reduce_window_sum psum add add_any sub stack pad "
    "concatenate dynamic_update_slice scatter scatter-add select_n neg real imag copy "
    "copy_p convert_element_type optimization_barrier sharding_constraint name "
    "stop_gradient reduce_precision device_put".split()
)


def fills(params: Mapping[str, Any]) -> bool:
    """Does a gather put a number other than 0 where an index is out of bounds? (Not a
    number is what comes out of every unit then, before and after a resize.)"""
    value = params["fill_value"]
    if value is None or "FILL" not in str(params["mode"]):
        return False
    return value != 0 and not math.isnan(value)


def source_of(step: Step, k: int) -> int | None:
    """The operand that result `k` holds the entries of, for operations on one array, or
    on several at once; `None` for what is counted (the indices of `top_k`)."""
    if step.eqn.primitive.name in ("split", "unstack"):
        return 0
    return k if k < len(step.ins) else None


def carries_zeros(step: Step) -> bool:
    """Are the results zero where the first operand is?"""
    name = step.eqn.primitive.name
    if name == "integer_pow":
        return step.eqn.params["y"] > 0
    if name == "gather":
        return not fills(step.eqn.params)
    return name in _CARRYING or name == "div"


def arrays_of(step: Step, ins: Sequence[Any]) -> list[Any]:
    """The operands that hold entries, without predicates and indices."""
    name = step.eqn.primitive.name
    if name == "select_n":
        return list(ins[1:])
    if name == "dynamic_update_slice":
        return list(ins[:2])
    if name.startswith("scatter"):
        return [ins[0], ins[2]]
    return list(ins)


@dataclasses.dataclass(frozen=True)
class Silence:
    """What is known of one value along one width.

    - `zeros`: the ways to silence its new units.
    - `shares`: the ways in which it is linear: scale these members unit by unit, and
        the value is scaled so.
    - `depends`: all members that it depends on unit by unit.
    """

    zeros: Cause = ()
    shares: Cause = ()
    depends: frozenset[Any] = frozenset()


class UnitSilence:
    """What silences the new units of one width, value by value.

    - `count(value, dims)`: how often the width occurs in these axes of a value.
    - `members(value, dims)`: for a value made of leaves, the width's members there.
    - `steps`: those in which the width occurs; the others are passed over.
    """

    def __init__(
        self,
        count: Callable[[Value, Sequence[int]], int],
        members: Callable[[Value, Sequence[int]], frozenset[Any]],
        steps: Container[Step],
    ):
        self._count = count
        self._steps = steps
        self._members = members
        self._known: dict[int, Silence] = {}

    def of(self, value: Value, dims: Sequence[int] | None = None) -> Silence:
        """What is known of a value along some of its axes (all by default)."""
        if nothing(value):
            return Silence(SILENT, SILENT)
        dims = range(len(value.dims)) if dims is None else dims
        if not self._count(value, dims):
            return Silence()
        if value.kind in (Kind.PARAM, Kind.ROWS):
            found = self._members(value, dims)
            zeros: Cause = (found,) if value.zeroable and found else ()
            if zeros or value.kind == Kind.PARAM:
                return Silence(zeros, zeros if value.linear else (), found)
            # Rows of a table over their norm: activations in all but kind.
            known = self._known.get(id(value), Silence())
            return dataclasses.replace(known, depends=known.depends | found)
        return self._known.get(id(value), Silence())

    def walk(self, tape: Tape) -> None:
        """Fills in what is known of every value of a program."""
        for step in tape.steps:
            if step not in self._steps:
                continue
            name = step.eqn.primitive.name
            if name == "scan":
                self._scan(step)
            elif name in ("cond", "while"):
                for body in step.bodies:
                    self.walk(body)
                self._known.update(
                    zip(map(id, step.outs), self._branches(step), strict=True)
                )
            elif name == "shard_map":
                self._pieces(step)
            elif step.bodies:
                self.walk(step.bodies[0])
            else:
                for k, out in enumerate(step.outs):
                    if out in step.ins:  # it passed an annotation
                        continue
                    if self._count(out, range(len(out.dims))):
                        self._known[id(out)] = self._step(step, k)

    def _pieces(self, step: Step) -> None:
        """The body sees one device's piece of each array."""
        (body,) = step.bodies
        for piece, whole in zip(body.args, step.ins, strict=True):
            self._known[id(piece)] = self.of(whole)
        self.walk(body)
        for piece, whole in zip(body.outs, step.outs, strict=True):
            self._known[id(whole)] = self.of(piece)

    def _branches(self, step: Step) -> list[Silence]:
        """Of a conditional's results; loops of unknown length only depend."""
        found = []
        for k in range(len(step.outs)):
            if step.eqn.primitive.name == "while":
                found.append(Silence(depends=self._depends(step.ins)))
                continue
            ends = [self.of(body.outs[k]) for body in step.bodies]
            found.append(
                Silence(
                    all_of([e.zeros for e in ends]),
                    all_of([e.shares for e in ends]),
                    frozenset().union(*(e.depends for e in ends)),
                )
            )
        return found

    def _depends(self, values: Sequence[Value]) -> frozenset[Any]:
        return frozenset().union(*(self.of(v).depends for v in values))

    def _scan(self, step: Step) -> None:
        """Carried units are silent if they are at first, and after every round."""
        (body,) = step.bodies
        fixed, carried = step.eqn.params["num_consts"], step.eqn.params["num_carry"]
        for k, (inner, outer) in enumerate(zip(body.args, step.ins, strict=True)):
            if not fixed <= k < fixed + carried:
                self._known[id(inner)] = self.of(outer)
        inside = body.args[fixed : fixed + carried]
        guess = [self.of(v) for v in step.ins[fixed : fixed + carried]]
        # Few rounds: ways only become fewer and larger.
        for _ in range(8):
            self._known.update(zip(map(id, inside), guess, strict=True))
            self.walk(body)
            after = [
                Silence(
                    all_of([a.zeros, b.zeros]),
                    # What goes round and round isn't linear in anything.
                    a.shares if a.depends == b.depends == frozenset() else (),
                    a.depends | b.depends,
                )
                for a, b in zip(guess, map(self.of, body.outs), strict=False)
            ]
            if after == guess:
                break
            guess = after
        else:
            guess = [Silence(depends=g.depends) for g in guess]
            self._known.update(zip(map(id, inside), guess, strict=True))
            self.walk(body)
        outs = [*guess, *map(self.of, body.outs[carried:])]
        self._known.update(zip(map(id, step.outs), outs, strict=True))

    def _step(self, step: Step, k: int) -> Silence:
        name = step.eqn.primitive.name
        if name in ANY_OF:
            return self._product(step, step.outs[k])
        source = source_of(step, k)
        if name in ALL_OF:
            values = arrays_of(step, step.ins)
        elif source is None:
            return Silence(depends=self._depends(step.ins))
        else:
            values = [step.ins[source]]
        found = [self.of(v) for v in values]
        zeros = shares = ()
        if name in ALL_OF or carries_zeros(step):
            zeros = all_of([f.zeros for f in found])
        if name in _LINEAR or (name == "div" and not self.of(step.ins[1]).depends):
            shares = all_of([f.shares for f in found])
        return Silence(zeros, shares, self._depends(step.ins))

    def _product(self, step: Step, out: Value) -> Silence:
        kept = [(v, kept_dims(step, k)) for k, v in enumerate(step.ins[:2])]
        depends = frozenset().union(*(self.of(v, d).depends for v, d in kept))
        wanted = self._count(out, range(len(out.dims)))
        whole = [(v, self.of(v, d)) for v, d in kept if self._count(v, d) == wanted]
        zeros = any_of([known.zeros for _, known in whole])
        if not zeros:
            # An outer product of units with units: both sides have to be silent.
            sides = [self.of(v, d).zeros for v, d in kept if self._count(v, d)]
            return Silence(all_of(sides), (), depends)
        shares = []
        for value, known in whole:
            others = [self.of(v, d).depends for v, d in kept if v is not value]
            rest = frozenset().union(*others) if others else known.depends
            shares.append(tuple(way for way in known.shares if not way & rest))
        return Silence(zeros, any_of(shares), depends)


def kept_dims(step: Step, k: int) -> list[int]:
    """The axes of operand `k` that come out again; not those that are contracted."""
    value, params = step.ins[k], step.eqn.params
    gone: Sequence[int] = ()
    if step.eqn.primitive.name == "dot_general":
        gone = params["dimension_numbers"][0][k]
    elif step.eqn.primitive.name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        if k == 0:
            gone = () if params["feature_group_count"] > 1 else (numbers.lhs_spec[1],)
        else:
            gone = (numbers.rhs_spec[1],)
    return [d for d in range(len(value.dims)) if d not in gone]
