"""Numbers of operations as functions of sizes: sums of products, and of the largest of
several such."""

import collections
import dataclasses
import functools as ft
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Count:
    """A polynomial in sizes without negative coefficients, plus the largest of several
    counts, for any number of such.

    - `terms`: `(sizes, coefficient)` by number of the sizes, each as often as it is
        multiplied.
    - `most`: `(counts, times)`: the largest of these counts, so often.
    """

    terms: tuple[tuple[tuple[int, ...], float], ...] = ()
    most: tuple[tuple[tuple["Count", ...], float], ...] = ()

    @staticmethod
    def size(number: int) -> "Count":
        """A size itself."""
        return Count((((number,), 1.0),))

    def __add__(self, other: Any) -> "Count":
        other = as_count(other)
        terms = collections.Counter(dict(self.terms))
        terms.update(dict(other.terms))
        most = collections.Counter(dict(self.most))
        most.update(dict(other.most))
        return Count(tuple(sorted(terms.items())), tuple(most.items()))

    __radd__ = __add__

    def __mul__(self, other: Any) -> "Count":
        other = as_count(other)
        if other.most:
            self, other = other, self
        assert not other.most, "no equation multiplies two such"
        terms: dict[tuple[int, ...], float] = collections.defaultdict(float)
        for a, x in self.terms:
            for b, y in other.terms:
                terms[tuple(sorted((*a, *b)))] += x * y
        total = Count(tuple(sorted(terms.items())))
        for counts, times in self.most:
            both = tuple(count * other for count in counts)
            total = total + Count((), ((both, times),))
        return total

    __rmul__ = __mul__

    def at(self, sizes: Mapping[int, Any]) -> Any:
        """Its value; sizes may be real, traced, and arrays of one shape."""
        total: Any = 0.0
        for numbers, times in self.terms:
            total = total + math.prod((sizes[i] for i in numbers), start=times)
        for counts, times in self.most:
            total = total + times * ft.reduce(_larger, [c.at(sizes) for c in counts])
        return total


def as_count(value: Any) -> Count:
    """A number, or what is one already."""
    if isinstance(value, Count):
        return value
    return Count((((), float(value)),)) if value else Count()


def largest(values: Iterable[Any]) -> Any:
    """The largest of numbers and counts, at whatever sizes."""
    values = list(values)
    numbers = [v for v in values if not isinstance(v, Count)]
    counts = list(dict.fromkeys(v for v in values if isinstance(v, Count)))
    if not counts:
        return max(numbers)
    counts += [as_count(max(numbers))] if numbers else []
    left: list[Count] = []
    for i, count in enumerate(counts):
        others = (*left, *counts[i + 1 :])
        if not any(_covers(other, count) for other in others):
            left.append(count)
    if len(left) == 1:
        return left[0]
    return Count((), ((tuple(left), 1.0),))


def _covers(one: Count, other: Count) -> bool:
    """Is the one surely as large as the other, at sizes from 1 up? Every term of the
    other has one of its own that has the same factors and more."""
    if one.most or other.most:
        return False
    left = dict(one.terms)
    for numbers, times in other.terms:
        for larger in left:
            if _within(numbers, larger) and left[larger] >= times:
                left[larger] -= times
                break
        else:
            return False
    return True


def _within(numbers: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    return not collections.Counter(numbers) - collections.Counter(larger)


def _larger(a: Any, b: Any) -> Any:
    if isinstance(a, jax.Array) or isinstance(b, jax.Array):
        return jnp.maximum(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return max(a, b)


def real(size: Any) -> Any:
    """A size in floating point: products of whole numbers overflow in 32 bits."""
    if isinstance(size, jax.Array):
        whole = not jnp.issubdtype(size.dtype, jnp.inexact)
        return size.astype(float) if whole else size
    if isinstance(size, np.ndarray):
        return size.astype(float)
    return float(size)
