"""Programs to read: a call of the network, traced abstractly."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jexc
import jax.tree_util as jtu

from .._paths import array_leaves, is_array, join, key_names, map_arrays
from .aux import returned


@dataclasses.dataclass(frozen=True)
class Output:
    """The array that a program gives as its output number `index`."""

    index: int


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A traced call. Its first inputs are the network's leaves.

    - `inputs`: names of the other inputs, for the reasons that users see.
    - `returned`: per output, the leaves that it is a new value of.
    - `result`: what the call gave, with an `Output` in place of every array.
    - `moving`: leaves whose new value isn't the old one. They hold what calls left
        there, so in this program they are data rather than weights.
    - `used`: inputs that something is done with.
    """

    closed: Any
    inputs: tuple[str, ...]
    returned: tuple[tuple[int, ...], ...]
    result: Any
    moving: frozenset[int]
    used: frozenset[int]

    def new_values(self, outputs: Sequence[Any]) -> list[tuple[int, Any]]:
        """Which leaves come back with which of the outputs."""
        pairs = zip(outputs, self.returned, strict=True)
        return [(leaf, output) for output, leaves in pairs for leaf in leaves]


def traced(net: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> Program:
    """The program of `call(net, *args)`; arrays may be descriptions of arrays."""
    leaves = array_leaves(net)
    arg_leaves, arg_def = jtu.tree_flatten(args)
    arg_at = [i for i, leaf in enumerate(arg_leaves) if is_array(leaf)]
    index = {name: i for i, name in enumerate(leaves)}
    owners: list[tuple[int, ...]] = []
    outline: list[Any] = []

    def flat(net_arrays: Sequence[Any], arg_arrays: Sequence[Any]) -> list[Any]:
        arg_all = list(arg_leaves)
        for i, array in zip(arg_at, arg_arrays, strict=True):
            arg_all[i] = array
        # Built anew, so that an Equinox `State` in it is the call's to consume, and
        # NNX variables the call's to write to.
        mine = map_arrays(net, dict(zip(leaves, net_arrays, strict=True)))
        given = call(mine, *jtu.tree_unflatten(arg_def, arg_all))
        result = returned(net, given)
        if not result:
            raise ValueError(
                f"the call returned {given!r}, which holds no array; return what the "
                "network computes"
            )
        owners[:] = [tuple(index[name] for name in names) for names, _ in result]
        places = {id(array): Output(i) for i, (_, array) in enumerate(result)}
        outline[:] = [jtu.tree_map(lambda x: places.get(id(x), x), given)]
        return [array for _, array in result]

    # A new function each time: `make_jaxpr` caches by function, and the skeleton that
    # this one closes over would otherwise be ignored.
    closed = jax.make_jaxpr(flat)(
        list(leaves.values()), [arg_leaves[i] for i in arg_at]
    )
    used, same = _flow(closed.jaxpr)
    moving = {leaf for of, i in zip(owners, same, strict=True) for leaf in {*of} - {i}}
    shown = {i for of, i in zip(owners, same, strict=True) if not of and i is not None}
    names = _argument_names(net, call, args)
    return Program(
        closed,
        tuple(names),
        tuple(owners),
        outline[0],
        frozenset(moving),
        frozenset(used | moving | shown),
    )


def _flow(jaxpr: Any) -> tuple[set[int], list[int | None]]:
    """Which inputs are used; and for each output, which input it is, unchanged."""
    known = {var: i for i, var in enumerate(jaxpr.invars)}
    used: set[int] = set()

    def look(atom: Any) -> int | None:
        return None if isinstance(atom, jexc.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        body = _called(eqn)
        inner, same = (range(len(eqn.invars)), []) if body is None else _flow(body)
        used |= {i for j in inner if (i := look(eqn.invars[j])) is not None}
        for var, j in zip(eqn.outvars, same, strict=False):
            source = None if j is None else look(eqn.invars[j])
            if source is not None:
                known[var] = source
    return used, [look(var) for var in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """The program that an equation runs once (not a loop's body), if it does."""
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    body = getattr(body, "jaxpr", body)
    if body is None or eqn.primitive.name in ("scan", "while"):
        return None
    fits = (len(body.invars), len(body.outvars)) == (len(eqn.invars), len(eqn.outvars))
    return body if fits else None


def _argument_names(net: Any, call: Callable, args: tuple[Any, ...]) -> list[str]:
    """`x`, or `batch[0]`, as far as the call's signature tells."""
    try:
        # A call that passes everything on names nothing.
        parameters = _positional(call)[1:] or _positional(type(net).__call__)[1:]
    except (AttributeError, TypeError, ValueError):
        parameters = []
    names = []
    for i, arg in enumerate(args):
        name = parameters[i] if i < len(parameters) else f"argument {i}"
        for path, leaf in jtu.tree_flatten_with_path(arg)[0]:
            if is_array(leaf):
                names.append(f"`{name}{join(key_names(path))}`")
    return names


def _positional(function: Callable) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def abstract(tree: Any) -> Any:
    """The tree with descriptions of its arrays."""

    describe = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    arrays = array_leaves(tree).items()
    return map_arrays(tree, {name: describe(leaf) for name, leaf in arrays})
