"""Programs inside programs: read the body at each call."""

from typing import Any

from ..events import Value
from ..reader import Reader, Rule, unknown_primitive


_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "fwd_jaxpr", "callee", "call")


def call(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Reads the called program in place; derivative rules don't matter here."""
    for name in _BODIES:
        body = eqn.params.get(name)
        if body is None:
            continue
        jaxpr = getattr(body, "jaxpr", body)
        consts = getattr(body, "consts", ())
        if len(jaxpr.invars) == len(values):
            return reader.run(jaxpr, consts, values)
    return unknown_primitive(reader, eqn, values)


def linear_solve(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Of the four programs only `solve` is run; the others are for derivatives."""
    counts, bodies = eqn.params["const_lengths"], eqn.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    consts = values[start : start + counts.solve]
    rest = values[sum(counts) :]
    return reader.run(bodies.solve.jaxpr, bodies.solve.consts, (*consts, *rest))


CALLS: dict[str, Rule] = {
    **dict.fromkeys(
        "jit pjit closed_call core_call call remat remat2 checkpoint remat_opt "
        "custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call "
        "custom_lin linear_call composite compute_on eval_jaxpr fused_call "
        "xla_metadata_call custom_partitioning".split(),
        call,
    ),
    "custom_linear_solve": linear_solve,
}
