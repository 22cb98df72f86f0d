"""How a program's values scale when a width grows, in powers of new/old.

Growing a width changes more than shapes: a mean divides by another number, `1/sqrt(d)`
is another constant, and where units are copied every sum over them doubles. Each of
these multiplies a value by a power of `new/old`. `Degrees` carries these powers through
the program, as one carries units of measurement through a formula. Where a value that
scales meets one that doesn't (in a sum, in an exponential, at the output), growth isn't
exact, unless some leaves make up for it: their own power is an unknown, and every such
meeting is a linear equation for it.

So the square root that a wider query needs, the gain of an RMSNorm over more features
(and its epsilon), and the half of what enters a tied head are found, not listed.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .._reading.events import Kind, Value
from .equations import constant, Equations, Form, plus, Unknown, ZERO
from .silence import arrays_of, fills, nothing, source_of, UnitSilence
from .tape import Step, Tape


SMALL = 1e-2
"""Up to this, a number that is added may be an epsilon."""


class Inexact(Exception):
    """The powers don't agree, whatever the leaves are scaled by."""


_MOVES = set(
    "transpose squeeze broadcast_in_dim reshape slice split unstack tile gather "
    "dynamic_slice rev expand_dims".split()
)
_SAME = _MOVES | set(
    "abs conj convert_element_type copy copy_p imag neg optimization_barrier real "
    "reduce_precision sharding_constraint stop_gradient device_put name reduce_max "
    "reduce_min cumsum cummax cummin reduce_window_sum reduce_window_max "
    "reduce_window_min sort top_k psum pmax pmin psum_invariant".split()
)
_EQUAL = set(
    "add add_any sub max min concatenate stack pad dynamic_update_slice scatter "
    "scatter-add select_n clamp rem".split()
)
_ONLY_ORDER = set(
    "sign argmax argmin eq ne lt le gt ge is_finite eq_to lt_to le_to".split()
)
_ROOTS = {"sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3)}


def blanks(tapes: Iterable[Tape]) -> frozenset[int]:
    """Values that are zero or infinite whatever the width: any power fits them."""
    walk = Degrees(
        lambda value, dims: 0,
        lambda value, dims: 0,
        lambda value, dims: frozenset(),
        UnitSilence(lambda value, dims: 0, lambda value, dims: frozenset(), ()),
        {},
        copies=False,
        sharers=frozenset(),
        unknowns=frozenset(),
    )
    walk.solve(tapes)
    return frozenset(i for i, form in walk._known.items() if form is None)


class Degrees:
    """One walk for one width.

    **Arguments:**

    - `count`, `members`: as `UnitSilence` takes them, the latter also for leaves whose
        zeros don't come through.
    - `degree`: the power of the width's size that the entries along some axes go with;
        `None` if with none, as where units stand beside others.
    - `silence`: what is known of the width's silent values.
    - `powers`: the power of each number of the program that depends on the width's
        size, by the identity of its value; `None` where it isn't a power.
    - `copies`: are units copied (every sum over them grows), or are new ones silent?
    - `sharers`: members whose copies share, so that their sums stay.
    - `unknowns`: members that may be scaled.
    - `blanks`, `steps`: values that any power fits, and the steps in which the width
        occurs; with these, only such steps are looked at, and what follows on them.
    """

    def __init__(
        self,
        count: Callable[[Value, Sequence[int]], int],
        degree: Callable[[Value, Sequence[int]], int | None],
        members: Callable[[Value, Sequence[int]], frozenset[Any]],
        silence: UnitSilence,
        powers: Mapping[int, Fraction | None],
        *,
        copies: bool,
        sharers: frozenset[Any],
        unknowns: frozenset[Any],
        blanks: Iterable[int] = (),
        steps: Container[Step] | None = None,
    ):
        self._count, self._degree = count, degree
        self._members, self._silence = members, silence
        self._powers, self._copies = powers, copies
        self._sharers, self._unknowns = sharers, unknowns
        self._steps = steps
        self._known: dict[int, Form | None] = dict.fromkeys(blanks)
        self.equations = Equations()

    def solve(self, tapes: Iterable[Tape]) -> dict[Unknown, Fraction]:
        """The powers by which members (and epsilons) have to be scaled.

        **Raises:** `Inexact` if there are none.
        """
        for tape in tapes:
            self._walk(tape)
            for value in tape.outs:
                self._require_still(value)
        return self.equations.solution()

    # --- values

    def form(self, value: Value) -> Form | None:
        """The power of a value; `None` for zeros and infinities, which fit any."""
        if id(value) in self._powers:
            power = self._powers[id(value)]
            if power is None:
                raise Inexact("a number depends on the size")
            return constant(power)
        if id(value) in self._known:
            return self._known[id(value)]
        if value.literal is not None:
            infinite = isinstance(value.literal, float) and not np.isfinite(
                value.literal
            )
            return None if nothing(value) or infinite else ZERO
        if value.kind in (Kind.PARAM, Kind.ROWS):
            return self._leaf(value)
        return ZERO

    def _differs(self, value: Value, dims: Sequence[int] | None = None) -> bool:
        """Do the copies in this value differ, since shares went into it?"""
        return bool(self._silence.of(value, dims).depends & self._sharers)

    def _raw(self, value: Value) -> bool:
        """Is this a leaf, or a part of one, and no function of it?"""
        made = id(value) in self._known or id(value) in self._powers
        return not made and value.kind in (Kind.PARAM, Kind.ROWS)

    def _leaf(self, value: Value) -> Form:
        """The unknown of a leaf's part that was moved about; a whole leaf with several
        members that may be scaled waits until it is taken apart."""
        dims = range(len(value.dims))
        if not self._count(value, dims):
            return ZERO
        found = self._members(value, dims) & self._unknowns
        return {next(iter(found)): Fraction(1)} if len(found) == 1 else ZERO

    def _require_still(self, value: Value) -> None:
        form = self.form(value)
        if form and not self.equations.require(form):
            raise Inexact("its result would be scaled")

    def _agree(self, values: Iterable[Value]) -> Form | None:
        """The common power of values that meet."""
        forms = [f for f in map(self.form, values) if f is not None]
        for other in forms[1:]:
            if not self.equations.require(plus(forms[0], other, -1)):
                raise Inexact("values that scale meet others that don't")
        return forms[0] if forms else None

    # --- programs

    def _walk(self, tape: Tape) -> None:
        for step in tape.steps:
            if not step.bodies and self._idle(step):
                continue
            name = step.eqn.primitive.name
            if name == "scan":
                self._scan(step)
            elif name == "while":
                for body in step.bodies:
                    self._walk(body)
                for value in (*step.ins, *step.bodies[0].outs):
                    self._require_still(value)
            elif name == "cond":
                self._require_still(step.ins[0])
                for body in step.bodies:
                    self._walk(body)
                for k, out in enumerate(step.outs):
                    self._known[id(out)] = self._agree(b.outs[k] for b in step.bodies)
            elif name == "shard_map":
                self._pieces(step)
            elif step.bodies:
                self._walk(step.bodies[0])
            else:
                # A leaf that is only moved about is looked up where it is used: a
                # part of it may be scaled where the whole isn't.
                moved = name in _MOVES and self._raw(step.ins[0])
                if not moved and any(out not in step.ins for out in step.outs):
                    forms = self._step(step)
                    self._known.update(zip(map(id, step.outs), forms, strict=True))

    def _pieces(self, step: Step) -> None:
        """The body sees one device's piece of each array."""
        (body,) = step.bodies
        for piece, whole in zip(body.args, step.ins, strict=True):
            if not self._raw(whole):
                self._known[id(piece)] = self.form(whole)
        self._walk(body)
        for piece, whole in zip(body.outs, step.outs, strict=True):
            self._known[id(whole)] = self.form(piece)

    def _idle(self, step: Step) -> bool:
        """Does nothing here have the width's units, or scale? Then nothing will."""
        if self._steps is None or step in self._steps:
            return False
        known, powers = self._known, self._powers
        for value in step.ins:
            if known.get(id(value)) or id(value) in powers:
                return False
        return True

    def _scan(self, step: Step) -> None:
        (body,) = step.bodies
        fixed, carried = step.eqn.params["num_consts"], step.eqn.params["num_carry"]
        for k, (inner, outer) in enumerate(zip(body.args, step.ins, strict=True)):
            if k >= fixed and not (k >= fixed + carried and self._raw(outer)):
                self._known[id(inner)] = self.form(outer)
        inside = body.args[fixed : fixed + carried]
        # Twice, since what starts as zeros takes its power from the first round.
        for _ in range(2):
            self._walk(body)
            for value, after in zip(inside, body.outs, strict=False):
                self._known[id(value)] = self._agree([value, after])
        outs = [*inside, *body.outs[carried:]]
        for value, source in zip(step.outs, outs, strict=True):
            self._known[id(value)] = self.form(source)

    def _step(self, step: Step) -> list[Form | None]:
        name, ins, params = step.eqn.primitive.name, step.ins, step.eqn.params
        outs = len(step.outs)
        positions = [int(a) for a in params.get("axes", ()) if not isinstance(a, str)]
        if positions and name in ("psum", "pmax", "pmin"):
            # What a `vmap` with an axis name left of a collective.
            name = {"psum": "reduce_sum"}.get(name, f"reduce_{name[1:]}")
        if name == "gather" and fills(params):
            self._require_still(ins[0])
        if name.startswith("reduce_") and name != "reduce_sum":
            if any(self._differs(v) and self._count(v, positions) for v in ins):
                raise Inexact("copies that differ are compared")
        if name in _SAME:
            sources = [source_of(step, k) for k in range(outs)]
            return [ZERO if s is None else self.form(ins[s]) for s in sources]
        if name == "reduce_sum":
            return [self._summed(v, positions) for v in ins[:outs]]
        if name in _EQUAL:
            return [self._met(step)] * outs
        if name in _ONLY_ORDER:
            self._met(step)
            return [ZERO] * outs
        if name in ("mul", "div"):
            return [self._product(ins, -1 if name == "div" else 1)]
        if name in ("dot_general", "conv_general_dilated"):
            product = self._product(ins, 1)
            gain = constant(self._gain(step)) if self._copies else ZERO
            return [None if product is None else plus(product, gain)]
        power = self._exponent(step)
        form = self.form(ins[0]) if power is not None else None
        if power is not None:
            return [None if form is None else plus(ZERO, form, power)]
        for value in ins:
            self._require_still(value)
        return [ZERO] * outs

    def _exponent(self, step: Step) -> Fraction | None:
        name = step.eqn.primitive.name
        if name in _ROOTS:
            return _ROOTS[name]
        if name in ("square", "integer_pow"):
            return Fraction(step.eqn.params.get("y", 2))
        if name == "pow" and isinstance(step.ins[1].literal, int | float):
            return Fraction(step.ins[1].literal).limit_denominator(64)
        return None

    def _met(self, step: Step) -> Form | None:
        values = arrays_of(step, step.ins)
        if step.eqn.primitive.name in ("add", "max"):
            for value in values:
                if _is_small(value) and id(value) not in self._powers:
                    self._known[id(value)] = {("eps", id(value)): Fraction(1)}
        return self._agree(values)

    def _product(self, ins: Sequence[Value], sign: int) -> Form | None:
        a, b = (self.form(v) for v in ins[:2])
        return None if a is None or b is None else plus(a, b, sign)

    def _summed(self, value: Value, axes: Sequence[int]) -> Form | None:
        form, units = self.form(value), self._count(value, axes)
        if form is None or not self._copies or not units:
            return form
        if self._differs(value):
            # The shares of a unit's copies sum to one.
            if units > 1 or not self._shared(value, None):
                raise Inexact("copies that differ are summed")
            return form
        return plus(form, constant(self._sums(value, axes)))

    def _sums(self, value: Value, axes: Sequence[int]) -> int:
        """How often more terms are summed over these axes, as a power."""
        degree = self._degree(value, axes)
        if degree is None:
            raise Inexact("copies are summed with others that aren't copied")
        return degree

    def _gain(self, step: Step) -> int:
        """How many sums over copies a contraction holds that nobody shares out."""
        lhs, rhs = step.ins[:2]
        if step.eqn.primitive.name == "dot_general":
            left, right = step.eqn.params["dimension_numbers"][0]
        else:
            numbers = step.eqn.params["dimension_numbers"]
            left, right = (numbers.lhs_spec[1],), (numbers.rhs_spec[1],)
        gain = 0
        for i, j in zip(left, right, strict=True):
            if not self._count(rhs, [j]):
                continue
            uneven = [
                (v, [d]) for v, d in ((lhs, i), (rhs, j)) if self._differs(v, [d])
            ]
            if not uneven:
                gain += self._sums(rhs, [j])
            elif len(uneven) > 1 or not self._shared(*uneven[0]):
                raise Inexact("copies that differ are summed")
        return gain

    def _shared(self, value: Value, dims: Sequence[int] | None) -> bool:
        """Is this value, copy by copy, a share of what it was?"""
        known = self._silence.of(value, dims)
        return (known.depends & self._sharers) in known.shares


def _is_small(value: Value) -> bool:
    literal = value.literal
    return isinstance(literal, float) and 0 < literal <= SMALL
