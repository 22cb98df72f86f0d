"""Linear equations between powers of new/old, solved one by one."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias


Unknown: TypeAlias = Any
"""A member that may be scaled, or `("eps", position)` of a small number."""

Form: TypeAlias = Mapping[Unknown, Fraction]
"""A power: the constant under `None`, plus multiples of unknowns."""

ZERO: Form = {}


def plus(a: Form, b: Form, times: Fraction | int = 1) -> Form:
    """`a + times * b`."""
    total = dict(a)
    for unknown, factor in b.items():
        total[unknown] = total.get(unknown, Fraction(0)) + times * factor
    return {u: f for u, f in total.items() if f}


def constant(power: Fraction | int) -> Form:
    return {None: Fraction(power)} if power else ZERO


class Equations:
    """Linear equations between powers, solved one by one."""

    def __init__(self):
        self._solved: dict[Unknown, Form] = {}

    def reduced(self, form: Form) -> Form:
        """The form without the unknowns that are solved."""
        for unknown in [u for u in form if u in self._solved]:
            factor = form[unknown]
            rest = {u: f for u, f in form.items() if u != unknown}
            form = plus(rest, self._solved[unknown], factor)
        return form

    def require(self, form: Form) -> bool:
        """Makes a form zero; says whether that is possible."""
        form = self.reduced(form)
        unknowns = [u for u in form if u is not None]
        if not unknowns:
            return not form
        chosen = max(unknowns, key=repr)
        answer = plus(ZERO, {u: f for u, f in form.items() if u != chosen}, -1)
        answer = {u: f / form[chosen] for u, f in answer.items()}
        self._solved[chosen] = answer
        for unknown, old in self._solved.items():
            if chosen in old:
                rest = {u: f for u, f in old.items() if u != chosen}
                self._solved[unknown] = plus(rest, answer, old[chosen])
        return True

    def solution(self) -> dict[Unknown, Fraction]:
        """The unknowns that aren't zero; what the equations leave free is."""
        constants = {u: f.get(None, Fraction(0)) for u, f in self._solved.items()}
        return {u: power for u, power in constants.items() if power}
