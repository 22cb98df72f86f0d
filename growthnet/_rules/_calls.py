"""Programs inside programs: read the body at each call."""

from typing import Any

from .._events import Value
from .._reader import Reader, Rule, unknown_primitive


def call(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Reads the called program in place; derivative rules don't matter here."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = eqn.params.get(name)
        if body is None:
            continue
        jaxpr = getattr(body, "jaxpr", body)
        consts = getattr(body, "consts", ())
        if len(jaxpr.invars) == len(values):
            return reader.run(jaxpr, consts, values)
    return unknown_primitive(reader, eqn, values)


CALLS: dict[str, Rule] = dict.fromkeys(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call custom_lin".split(),
    call,
)
