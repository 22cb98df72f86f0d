"""Entry by entry: axes of full size are the same axis; axes of size 1 broadcast."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._exactness.silence import ZERO_TO_ZERO
from ..events import combined, Kind, Origin, Role, Value
from ..reader import Reader, Rule, spots
from .domains import note_partial, signs
from .moves import through


_OTHER_UNARY = set(
    "acos acosh cos cosh digamma erf_inv erfc exp exp2 "
    "bessel_i0e bessel_i1e bessel_i0 bessel_i1 is_finite lgamma log logistic not "
    "population_count clz rsqrt".split()
)
_SCALING = set("mul div pow rem atan2 complex nextafter".split())
_COMBINING = set(
    "add add_any sub max min and or xor eq ne lt le gt ge lt_to le_to eq_to "
    "shift_left shift_right_logical shift_right_arithmetic select_n clamp "
    "igamma igammac igamma_grad_a polygamma regularized_incomplete_beta zeta "
    "random_gamma_grad mulhi select_if_vmap threefry2x32 threefry4x32 philox2x32 "
    "philox4x32".split()
)


def elementwise(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Unifies the axes of full size and notes what leaves do to activations."""
    name = eqn.primitive.name
    shape = reader.out()
    dims = tuple(_join(reader, values, d, n) for d, n in enumerate(shape))
    kind = combined(values)
    product = values if name == "mul" and len(values) == 2 else None
    if kind == Kind.ACT:
        _note_roles(reader, name, values)
        note_partial(reader, name, eqn, values)
        sign = signs(name, eqn, values)
        result = Value(
            dims,
            kind,
            positive=sign == "positive",
            nonnegative=sign is not None,
            product=product,
        )
    else:
        masked = name == "select_n" and _is_mask(values[0])
        if masked:
            for d in range(len(values[0].dims)):
                reader.touch(values[0], d, Role.SCALE)
        origins = joined_origins(values[masked:])
        result = Value(
            dims,
            kind,
            origins,
            _fold(name, values),
            _zeroable(name, values),
            _linear(name, values),
            product=product,
        )
        _note_singular(reader, name, values)
    return [result] * len(eqn.outvars)


def _is_mask(value: Value) -> bool:
    """Is this a leaf of booleans, moved about at most? It isn't trained, and what it
    masks goes linearly with what is trained."""
    return value.kind == Kind.PARAM and value.linear and bool(value.origins)


def _note_roles(reader: Reader, name: str, values: Sequence[Value]) -> None:
    """What leaves do to activations; rows of a leaf that only meet other leaves are the
    activations."""
    role = Role.SCALE if name in _SCALING else Role.OFFSET
    highest = max(v.kind for v in values)
    for value in values:
        if value.kind == Kind.ROWS == highest:
            reader.absorb(value)
        elif value.kind in (Kind.PARAM, Kind.ROWS):
            for d in range(len(value.dims)):
                reader.touch(value, d, role)


def _join(reader: Reader, values: Sequence[Value], d: int, n: int):
    full = [v.dims[d] for v in values if v.dims and v.dims[d].size == n]
    if not full:
        return reader.dims((n,))[0]
    for other in full[1:]:
        reader.solver.unify(full[0], other)
    return full[0]


def joined_origins(values: Sequence[Value]) -> tuple[Origin, ...]:
    """The origins of a function of several values of leaves, each once."""
    found: dict[tuple, Origin] = {}
    for value in values:
        for origin in value.origins:
            key = (origin.leaf, origin.axis, origin.along, origin.grid.tobytes())
            found.setdefault(key, origin)
    return tuple(found.values())


def _zeroable(name: str, values: Sequence[Value]) -> bool:
    leaves = [v for v in values if v.kind >= Kind.PARAM]
    if not leaves:
        return False
    if name in ZERO_TO_ZERO:
        return leaves[0].zeroable
    if name == "mul":
        return all(v.zeroable for v in leaves)
    if name == "div":
        return values[0].kind >= Kind.PARAM and values[0].zeroable
    if name == "select_n":
        return zero_with_leaves(values[1:])
    return name in _SUMS and zero_with_leaves(values)


_SUMS = set("add add_any sub max min".split())


def zero_with_leaves(values: Sequence[Value]) -> bool:
    """Are all of several values zero where the leaves are?"""
    return all(v.zeroable or v.literal == 0 for v in values)


_LINEAR = set(
    "add add_any sub neg convert_element_type copy copy_p name real imag "
    "stop_gradient".split()
)


def _linear(name: str, values: Sequence[Value]) -> bool:
    leaves = [v for v in values if v.kind >= Kind.PARAM]
    if not all(v.linear for v in leaves):
        return False
    if name == "mul":
        return len(leaves) <= 1
    if name == "div":
        return len(leaves) == 0 or leaves == [values[0]]
    if name == "select_n":
        return values[0].kind == Kind.CONST or _is_mask(values[0])
    return not leaves or name in _LINEAR


def _note_singular(reader: Reader, name: str, values: Sequence[Value]) -> None:
    """A closed unit's leaves are zero. Where something is divided by a function of
    leaves that is zero there (a norm without an epsilon), that isn't a number."""
    divisor = {"div": 1, "rsqrt": 0, "log": 0}.get(name)
    if divisor is None:
        return
    value = values[divisor]
    if value.kind >= Kind.PARAM and value.zeroable:
        for dim in range(len(value.dims)):
            if spots(value, dim):
                why = f"`{name}` by what is 0 for a closed unit"
                reader.reduce(value, dim, why, "singular")


_FOLDS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "min": min,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
    "convert_element_type": lambda a: a,
    "select_n": lambda which, *cases: cases[int(which)],
}


def _fold(name: str, values: Sequence[Value]) -> Any:
    """Known scalars stay known, so that constant indices are seen as constant."""
    literals = [v.literal for v in values]
    if name not in _FOLDS or any(x is None for x in literals):
        return None
    return np.asarray(_FOLDS[name](*literals)).item()


def unchanged(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Each result is the argument at its place: barriers, annotations, transfers."""
    del reader
    return list(values[: len(eqn.outvars)])


def second(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    del reader, eqn
    return values[1]


def bitcast(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Any:
    """To a type of another size an axis comes or goes at the end."""
    (value,) = values
    shape = reader.out()
    if shape == value.shape:
        return elementwise(reader, eqn, values)
    both = range(min(len(shape), len(value.dims)))
    why = "`bitcast_convert_type` takes numbers apart"
    return through(reader, value, {d: d for d in both}, shape, why)


def made(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Arrays that hold no numbers of anybody's."""
    del values
    return [Value(reader.dims(v.aval.shape), Kind.CONST) for v in eqn.outvars]


def zeros_like(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> Value:
    del reader, eqn
    return Value(values[0].dims, Kind.CONST, literal=0)


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(ZERO_TO_ZERO | _OTHER_UNARY | _SCALING | _COMBINING, elementwise),
    **dict.fromkeys(
        "optimization_barrier device_put sharding_constraint layout_constraint reshard "
        "shard_alike stage add_dependency with_memory_space_constraint "
        "xla_metadata_value "
        # Equinox's
        "nontraceable nondifferentiable_backward nonbatchable announce_jaxpr".split(),
        unchanged,
    ),
    "tie": second,
    "bitcast_convert_type": bitcast,
    **dict.fromkeys("empty empty2".split(), made),
    "zeros_like": zeros_like,
}
