"""`register_primitive`: kernels that growthnet can't look into, described by a text."""

from collections.abc import Callable
from typing import Any

from .events import Value
from .reader import Reader, Rule, unknown_primitive
from .rules import OPAQUE, RULES
from .rules.text import apply_spec, parse, PrimitiveError


Chooser = Callable[[Any], str | None]

_registered: dict[str, list[str | Chooser]] = {}
_otherwise: dict[str, Rule] = {}


def register_primitive(name: str, rule: str | Chooser) -> Callable[[], None]:
    """Teaches growthnet how the axes of a kernel go together.

    For Pallas kernels, foreign functions, and primitives of your own.

    **Arguments:**

    - `name`: the primitive's name, such as `"pallas_call"` or `"ffi_call"`; the reason
        of a width that can't change names it.
    - `rule`: a text with one word per axis, inputs before the arrow. Equal words are
        the same axis. A word that several inputs share and no output has is summed
        away, so that weights consume it; a word of one input alone is reduced. `word!`
        is an axis that the kernel also computes over (a norm, a softmax): it can grow,
        but not exactly. `_` is an axis that nobody may change, `1` an axis of size 1, a
        leading `...` stands for any axes in front.

        Or a function from the equation to such a text, for primitives that many kernels
        share: it may look at `equation.params`, and returns `None` for a kernel that it
        doesn't know. Functions are asked in turn, the latest first.

    **Returns:** a function that takes the registration back.

    **Raises:** `ValueError` for a malformed text, and for a primitive that growthnet
    understands already. A rule that doesn't fit a call (another number of arrays,
    another rank) raises when a network with this call is traced.

    What growth is exact depends on the text, so it should say all that the kernel
    computes over.

    !!! example

        ```python
        gn.register_primitive("my_matmul", "b i, i o -> b o")


        def ours(equation):
            if equation.params["name"] == "fused_mlp":
                return "b i, i h, h, h o -> b o"


        gn.register_primitive("pallas_call", ours)
        ```
    """
    if isinstance(rule, str):
        parse(rule)
    known = _registered.get(name, [])
    if not known and name in RULES and name not in OPAQUE:
        raise ValueError(
            f"growthnet understands `{name}` already; register the primitive that is "
            "named in the reason of a width that can't change"
        )
    if isinstance(rule, str):
        for other in known:
            if isinstance(other, str):
                raise ValueError(
                    f"`{name}` has the rule {other!r} already; take it back first, by "
                    "calling what its registration returned"
                )
    if not known:
        _otherwise[name] = RULES.get(name, unknown_primitive)
        RULES[name] = _consult
    _registered[name] = [*known, rule]

    def undo() -> None:
        rest = [r for r in _registered.get(name, ()) if r is not rule]
        if rest:
            _registered[name] = rest
        elif _registered.pop(name, None):
            _restore(name, _otherwise.pop(name))

    return undo


def _restore(name: str, before: Rule) -> None:
    if before is unknown_primitive:
        del RULES[name]
    else:
        RULES[name] = before


def _consult(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Any:
    """Functions first, the latest foremost; then the text, which fits every call."""
    name = eqn.primitive.name
    latest = reversed(_registered[name])
    for rule in sorted(latest, key=lambda r: isinstance(r, str)):
        text = rule if isinstance(rule, str) else rule(eqn)
        if text is None:
            continue
        if not isinstance(text, str):
            raise PrimitiveError(
                f"the rule of `{name}` gave {text!r}; it returns a text such as "
                "'b i, i o -> b o', or None for a kernel that isn't its own"
            )
        return apply_spec(parse(text), reader, eqn, values)
    return _otherwise[name](reader, eqn, values)
