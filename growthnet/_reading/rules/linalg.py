"""Matrices as wholes: their two axes are rigid, the axes of a stack of them are not."""

from typing import Any

from ..events import combined, Value
from ..reader import Reader, Rule


# How many axes of the first argument belong to one matrix or vector.
_CORE = {
    **dict.fromkeys(
        "cholesky cholesky_update eig eigh geqp3 geqrf hessenberg householder_product "
        "lu ormqr qr schur svd symmetric_product triangular_solve tridiagonal".split(),
        2,
    ),
    "tridiagonal_solve": 1,
    "lu_pivots_to_permutation": 1,
}


def decomposition(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """All arguments and results are stacked along the same leading axes."""
    name = eqn.primitive.name
    why = f"`{name}` takes the matrix as a whole"
    stack = values[0].dims[: len(values[0].dims) - _CORE[name]]
    kind = combined(values)
    for value in values:
        for shared, node in zip(stack, value.dims, strict=False):
            reader.solver.unify(shared, node)
        for node in value.dims[len(stack) :]:
            reader.rigid(node, why)
        reader.absorb(value)
    results = []
    for var in eqn.outvars:
        core = reader.dims(var.aval.shape[len(stack) :])
        for node in core:
            reader.rigid(node, why)
        # What stacks of leaves become is no longer followed to its leaves.
        results.append(Value((*stack, *core), kind))
    return results


LINALG: dict[str, Rule] = dict.fromkeys(_CORE, decomposition)
