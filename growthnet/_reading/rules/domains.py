"""Functions that aren't finite everywhere.

A newborn's activation is any number, and a closed unit's is f(0). Its consumers are
zero, but zero times infinity isn't a number, nor is it in the gradient. So a width that
goes through a logarithm, a root or a quotient is only safe where the argument is known
to be above zero, as in `x / (1 + abs(x))`.
"""

from collections.abc import Sequence
from typing import Any

from ..events import Kind, Value
from ..reader import Reader


_PARTIAL = {
    **dict.fromkeys("sqrt rsqrt log cbrt digamma lgamma".split(), 0),
    **dict.fromkeys("acos asin acosh atanh erf_inv".split(), 0),
    **dict.fromkeys("div rem atan2".split(), 1),
    "pow": 0,
}
# Nothing makes these safe: they are bounded on both sides.
_NEVER = {"acos", "asin", "acosh", "atanh", "erf_inv"}


def note_partial(reader: Reader, name: str, eqn: Any, values: Sequence[Value]) -> None:
    """Notes the units that go into a function that needn't be finite there."""
    if name == "integer_pow" and eqn.params["y"] < 0:
        at = 0
    elif name in _PARTIAL:
        at = _PARTIAL[name]
    else:
        return
    value = values[at]
    if value.kind < Kind.ROWS or (value.positive and name not in _NEVER):
        return
    for dim in range(len(value.dims)):
        why = f"`{name}` needn't be finite for new or closed units"
        reader.reduce(value, dim, why, "undefined")


def signs(name: str, eqn: Any, values: Sequence[Value]) -> str | None:
    """`"positive"`, `"not negative"`, or `None` where neither is known."""
    known = [_sign(v) for v in values]
    if name in ("exp", "exp2", "logistic"):
        return "positive"
    if name in ("abs", "square") or name == "integer_pow" and eqn.params["y"] % 2 == 0:
        return "positive" if known[0] == "positive" else "not negative"
    if name == "max" and any(known):
        return "positive" if "positive" in known else "not negative"
    if name in ("add", "mul", "div", "min") and all(known):
        one = name == "add" and "positive" in known
        both = known == ["positive", "positive"]
        return "positive" if one or both else "not negative"
    if name == "select_n" and all(known[1:]):
        return "positive" if set(known[1:]) == {"positive"} else "not negative"
    if name in ("sqrt", "convert_element_type", "stop_gradient", "copy"):
        return known[0]
    return None


def _sign(value: Value) -> str | None:
    if value.positive:
        return "positive"
    if value.literal is None or isinstance(value.literal, bool):
        return "not negative" if value.nonnegative else None
    if value.literal != value.literal:
        return "positive"  # The program's own NaN has nothing to do with units.
    return (
        "positive"
        if value.literal > 0
        else "not negative"
        if value.literal == 0
        else None
    )
