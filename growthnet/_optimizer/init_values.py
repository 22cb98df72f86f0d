"""What the programs of an optimizer do, read from their equations without a run.

- `init`: the value of any entry, in numpy. Running it costs 100 ms of compilation per
  new shape, reading it a few microseconds.
- `update`: with which power of its gradient each leaf of the state goes. Where an edit
  scales gradients (copies that share their consumers) the first moment scales by c, the
  second by c squared. Names don't tell: adam and adamax keep different things in the
  same `nu`, and a momentum behind rmsprop doesn't scale at all. So powers are carried
  through the equations, as one carries units of measurement through a formula.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core

from .state_links import (
    any_size,
    AnySize,
    cached,
    Case,
    Link,
    links_at,
    Params,
    Program,
    Shape,
    traced,
)


# --- the values of `init`


class Unreadable(Exception):
    """`init` does something that isn't evaluated here."""


@dataclasses.dataclass(frozen=True, eq=False)
class Init:
    """`optimizer.init(params)`, read instead of run."""

    function: Callable
    params: Params
    program: Program
    links: tuple[Link, ...]
    origin: AnySize | None

    @ft.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(map(self._sized, self.program.shapes))

    @ft.cached_property
    def _sizes(self) -> dict[Any, int]:
        symbols = {} if self.origin is None else self.origin.symbols
        return {s: self.params.shapes[i][axis] for s, (i, axis) in symbols.items()}

    def _sized(self, shape: Shape) -> Shape:
        try:
            return tuple(n if isinstance(n, int) else self._sizes[n] for n in shape)
        except KeyError:
            raise Unreadable(f"the shape {shape}") from None

    def value(self, k: int) -> np.ndarray:
        """The value of leaf `k`; most often a view of a single number."""
        wanted = self.program.closed.jaxpr.outvars[k : k + 1]
        try:
            (value,) = _evaluate(
                self.program.closed, self.params.leaves, wanted, self._sized
            )
        except Unreadable:
            value = np.asarray(self._run[k])
        return np.broadcast_to(value, self.shapes[k])

    @ft.cached_property
    def _run(self) -> list[Any]:
        params = self.params.treedef.unflatten(self.params.leaves)
        return jax.tree.leaves(jax.jit(self.function)(params))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The state, with the static fields that belong to these parameters."""
        own, origin = self.params.treedef, self.origin
        if origin is None or origin.params == own:
            return self.program.treedef.unflatten(leaves)
        if origin.outer is None:
            exact = self.params.case(self.function, exact=True)
            return traced(exact).treedef.unflatten(leaves)
        outer, inners = origin.outer
        rest = iter(leaves)
        take = lambda tree: tree.unflatten([next(rest) for _ in range(tree.num_leaves)])
        whole = lambda trees: own.unflatten([take(tree) for tree in trees])
        return outer.unflatten([next(rest) if t is None else whole(t) for t in inners])


def read_init(optimizer: Any, params: Any) -> Init:
    """Reads what `optimizer.init(params)` would give."""
    parts = Params(*jax.tree.flatten(params))
    plan = any_size(parts.case(optimizer.init, exact=False))
    if plan is not None:
        return Init(optimizer.init, parts, plan.program, plan.links, plan)
    exact = parts.case(optimizer.init, exact=True)
    return Init(optimizer.init, parts, traced(exact), links_at(exact), None)


_ROUNDED_ALIKE = {
    "add": np.add,
    "div": np.divide,
    "mul": np.multiply,
    "neg": np.negative,
    "sqrt": np.sqrt,
    "sub": np.subtract,
}
"""Operations on floats that numpy rounds exactly as XLA does."""


def _evaluate(
    closed: Any, inputs: Sequence[Any], wanted: Sequence[Any], sized: Callable
) -> list[np.ndarray]:
    """The values of some variables; nothing is computed that they don't need."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}

    def value(atom: Any) -> np.ndarray:
        if isinstance(atom, core.Literal):
            return np.asarray(atom.val, getattr(atom.aval, "dtype", None))
        if atom not in known:
            eqn = makers[atom]
            results = _apply(eqn, [value(x) for x in eqn.invars], sized)
            known.update(zip(eqn.outvars, results, strict=True))
        return np.asarray(known[atom])

    return [value(atom) for atom in wanted]


def _apply(eqn: Any, args: list[np.ndarray], sized: Callable) -> list[np.ndarray]:
    name, params, dtype = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.dtype
    match name:
        case "jit" | "pjit":
            inner = params["jaxpr"]
            return _evaluate(inner, args, inner.jaxpr.outvars, sized)
        case "copy" | "copy_p":
            return args
        case "convert_element_type":
            return [args[0].astype(dtype)]
        case "broadcast_in_dim":
            shape = sized(params["shape"])
            view = np.ones(len(shape), np.int64)
            view[list(params["broadcast_dimensions"])] = args[0].shape
            return [np.broadcast_to(args[0].reshape(view), shape)]
        case "reshape" | "squeeze":
            return [args[0].reshape(sized(eqn.outvars[0].aval.shape))]
    if name not in _ROUNDED_ALIKE or not np.issubdtype(dtype, np.floating):
        raise Unreadable(f"the primitive {name}")
    return [np.asarray(_ROUNDED_ALIKE[name](*args), dtype)]


# --- the powers of `update`


Power: TypeAlias = tuple[float, bool] | str
"""`(degree, odd)`: where the gradient is scaled by c, this is scaled by |c|**degree,
and by the sign of c as well if it is odd. Or a word:

- `"zero"`: nothing yet, or a constant that no gradient has reached;
- `"small"`: a constant that is there to keep a denominator from zero;
- `"value"`: goes as the parameter itself goes;
- `"mixed"`: none of these; `"tangled"` if the parameter has a part in it too.
"""

GRADIENT: Power = (1.0, True)
CONSTANT: Power = (0.0, False)
_STILL: tuple[Power, ...] = (CONSTANT, "zero", "small")


def _mixed(*powers: Power) -> Power:
    """Of anything else."""
    return "tangled" if {"value", "tangled"} & {*powers} else "mixed"


def _sum(*powers: Power) -> Power:
    """Of a sum, or of a choice."""
    kinds = set(powers) - {"zero"}
    kinds = kinds - {"small"} or kinds
    return _mixed(*powers) if len(kinds) > 1 else next(iter(kinds), "zero")


def _product(a: Power, b: Power, sign: int = 1) -> Power:
    """Of a product or (`sign=-1`) a quotient."""
    if a == "zero" or b == "zero" and sign > 0:
        return "zero"
    a, b = (CONSTANT if power in _STILL else power for power in (a, b))
    if b == CONSTANT:
        return a
    if a == CONSTANT and sign > 0:
        return b
    if isinstance(a, str) or isinstance(b, str):
        return _mixed(a, b)
    return a[0] + sign * b[0], a[1] != b[1]


def _raised(a: Power, exponent: float) -> Power:
    """Of a power or a root."""
    if a in ("zero", "small") and exponent > 0:
        return a
    if a in _STILL:
        return CONSTANT
    if isinstance(a, str) or a[1] and exponent % 1:
        return _mixed(a)
    return a[0] * exponent, a[1] and exponent % 2 == 1


def _even(a: Power) -> Power:
    """Of an absolute value."""
    return _mixed(a) if a == "value" else a if isinstance(a, str) else (a[0], False)


def _extreme(*powers: Power) -> Power:
    """Of a maximum, which a negative c would turn into a minimum."""
    met = _sum(*powers)
    odd = met == "value" or not isinstance(met, str) and met[1]
    return _mixed(met) if odd else met


def _sign(a: Power) -> Power:
    return _even(a) if isinstance(a, str) else (0.0, a[1])


def _power(a: Power, *, eqn: Any) -> Power:
    """Of `a ** b`."""
    exponent = eqn.invars[1]
    known = isinstance(exponent, core.Literal)
    return _raised(a, float(exponent.val)) if known else _mixed(a)


_SAME = (
    "broadcast_in_dim convert_element_type copy copy_p dynamic_slice expand_dims neg "
    "optimization_barrier real reduce_precision reduce_sum reshape rev slice squeeze "
    "stop_gradient transpose"
)
_BROADCAST = "add broadcast_in_dim clamp div max min mul select_n sub".split()
_RULES: dict[str, Callable[..., Power]] = {
    **dict.fromkeys(_SAME.split(), lambda a, *_: a),
    **dict.fromkeys("add add_any concatenate pad sub".split(), _sum),
    **dict.fromkeys("clamp max min reduce_max reduce_min".split(), _extreme),
    **dict.fromkeys("eq ge gt is_finite le lt ne".split(), lambda *_: CONSTANT),
    "abs": _even,
    "cbrt": lambda a: _raised(a, 1 / 3),
    "div": lambda a, b: _product(a, b, -1),
    "dynamic_update_slice": lambda a, b, *_: _sum(a, b),
    "mul": _product,
    "rsqrt": lambda a: _raised(a, -0.5),
    "scatter": lambda a, _, b: _sum(a, b),
    "select_n": lambda _, *cases: _sum(*cases),
    "sign": _sign,
    "sqrt": lambda a: _raised(a, 0.5),
    "square": lambda a: _raised(a, 2.0),
}


def _through(eqn: Any, ins: list[Power]) -> list[Power]:
    """The powers of an equation's results."""
    name, params = eqn.primitive.name, eqn.params
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if name == "cond":
        branches = [_walk(b.jaxpr, ins[1:]) for b in params["branches"]]
        return [_sum(*outs) for outs in zip(*branches, strict=True)]
    if inner is not None and name not in ("scan", "while"):
        return _walk(inner, ins)
    if name == "integer_pow":
        return [_raised(ins[0], float(params["y"]))]
    if name == "pow" and ins[0] not in _STILL:
        return [_power(ins[0], eqn=eqn)]
    return [_result(name, ins, eqn.invars, out.aval) for out in eqn.outvars]


def _result(name: str, ins: list[Power], args: Sequence[Any], out: Any) -> Power:
    shrinks = name.startswith(("reduce_", "arg")) or name == "dot_general"
    if shrinks and out.ndim == 0 and "zero" not in ins:
        # One number about a whole leaf hardly notices what happens to one unit.
        return CONSTANT
    sizes = (np.prod(arg.aval.shape) for arg in args)
    if name in _BROADCAST and any(
        power not in _STILL and size != np.prod(out.shape)
        for power, size in zip(ins, sizes, strict=True)
    ):
        # What was summed over some units and is given to others goes with neither.
        return _mixed(*ins)
    if name in _RULES:
        return _RULES[name](*ins)
    return CONSTANT if all(x in _STILL for x in ins) else _mixed(*ins)


def _literal(value: Any) -> Power:
    size = abs(np.asarray(value).item()) if np.ndim(value) == 0 else 1
    return "zero" if size == 0 else "small" if size <= 1e-3 else CONSTANT


def _walk(jaxpr: Any, ins: Sequence[Power]) -> list[Power]:
    known: dict[Any, Power] = dict.fromkeys(jaxpr.constvars, CONSTANT)
    known.update(zip(jaxpr.invars, ins, strict=True))
    read = lambda x: _literal(x.val) if isinstance(x, core.Literal) else known[x]
    for eqn in jaxpr.eqns:
        outs = _through(eqn, [read(x) for x in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(x) for x in jaxpr.outvars]


@dataclasses.dataclass(frozen=True)
class _UpdateCase:
    """A key of the cache of powers."""

    case: Case
    links: tuple[Link, ...]
    shapes: Any = dataclasses.field(compare=False)
    state: Any = dataclasses.field(compare=False)


def _trace_update(key: _UpdateCase) -> Any:
    params = key.case.structs(key.shapes)
    # Line searches ask for the loss. Which one doesn't matter: only the operations on
    # what comes out are read.
    loss = lambda p, *_, **__: sum((x * x).sum() for x in jax.tree.leaves(p))
    update = key.case.function
    plain = lambda g, s, p: update(g, s, p)[1]
    asking = lambda g, s, p: update(g, s, p, value=loss(p), grad=g, value_fn=loss)[1]
    for call in (plain, asking):
        try:
            return jax.make_jaxpr(call)(params, key.state, params).jaxpr
        except Exception:
            # It needs what only a training step can give; nothing is known then.
            continue
    return None


@cached
def _read(key: _UpdateCase) -> tuple[Power, ...]:
    links, count = key.links, len(key.shapes)
    jaxpr = _trace_update(key)
    if jaxpr is None or len(jaxpr.outvars) != len(links):
        return ("tangled",) * len(links)
    fixed: dict[int, Power] = {
        k: "value" if link.kind == "copy" else CONSTANT
        for k, link in enumerate(links)
        if link.kind == "copy" or link.param is None
    }
    powers = [fixed.get(k, "zero") for k in range(len(links))]
    walk = lambda: _walk(jaxpr, [GRADIENT] * count + powers + ["value"] * count)
    again: set[int] = set()
    for _ in range(8):
        outs = walk()
        again = {k for k, p in enumerate(powers) if k not in fixed and outs[k] != p}
        # A leaf that was first seen through another, unsettled one starts again.
        for k in again:
            powers[k] = outs[k] if powers[k] == "zero" else "zero"
        if not again:
            break
    for _ in range(2):
        # What doesn't settle is a mixture; of what, shows when it is taken for one.
        for k in again:
            powers[k] = _mixed(powers[k])
        outs = walk()
        for k in again:
            powers[k] = _mixed(outs[k])
    return tuple(CONSTANT if p in _STILL else p for p in powers)


def read_powers(optimizer: Any, init: Init, opt_state: Any) -> tuple[Power, ...]:
    """The power for each leaf of a state; copies of parameters are `"value"`."""
    structs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x)),
        opt_state,
    )
    case = init.params.case(optimizer.update, exact=False)
    return _read(_UpdateCase(case, init.links, init.params.shapes, structs))
