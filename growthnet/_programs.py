"""Programs to read: a call of the network, traced abstractly."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jexc
import jax.tree_util as jtu

from ._aux import returned
from ._paths import array_leaves, is_array, join, key_names


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A traced call. Its first inputs are the network's leaves.

    - `inputs`: names of the other inputs, for the reasons that users see.
    - `returned`: per output, the leaves that it is a new value of.
    - `moving`: leaves whose new value isn't the old one. They hold what calls left
        there, so in this program they are data rather than weights.
    """

    closed: Any
    inputs: tuple[str, ...]
    returned: tuple[tuple[int, ...], ...]
    moving: frozenset[int]

    def new_values(self, outputs: Sequence[Any]) -> list[tuple[int, Any]]:
        """Which leaves come back with which of the outputs."""
        pairs = zip(outputs, self.returned, strict=True)
        return [(leaf, output) for output, leaves in pairs for leaf in leaves]


def traced(net: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> Program:
    """The program of `call(net, *args)`; arrays may be descriptions of arrays."""
    net_leaves, net_def = jtu.tree_flatten(net)
    arg_leaves, arg_def = jtu.tree_flatten(args)
    net_at = [i for i, leaf in enumerate(net_leaves) if is_array(leaf)]
    arg_at = [i for i, leaf in enumerate(arg_leaves) if is_array(leaf)]
    index = {name: i for i, name in enumerate(array_leaves(net))}
    owners: list[tuple[int, ...]] = []

    def flat(net_arrays: Sequence[Any], arg_arrays: Sequence[Any]) -> list[Any]:
        net_all, arg_all = list(net_leaves), list(arg_leaves)
        for i, array in zip(net_at, net_arrays, strict=True):
            net_all[i] = array
        for i, array in zip(arg_at, arg_arrays, strict=True):
            arg_all[i] = array
        # Built anew, so that an Equinox `State` in it is the call's to consume.
        mine = jtu.tree_unflatten(net_def, net_all)
        result = returned(net, call(mine, *jtu.tree_unflatten(arg_def, arg_all)))
        owners[:] = [tuple(index[name] for name in names) for names, _ in result]
        return [array for _, array in result]

    # A new function each time: `make_jaxpr` caches by function, and the skeleton that
    # this one closes over would otherwise be ignored.
    closed = jax.make_jaxpr(flat)(
        [net_leaves[i] for i in net_at], [arg_leaves[i] for i in arg_at]
    )
    same = _passed_on(closed.jaxpr) if any(owners) else [None] * len(owners)
    moving = {leaf for of, i in zip(owners, same, strict=True) for leaf in {*of} - {i}}
    names = _argument_names(net, call, args)
    return Program(closed, tuple(names), tuple(owners), frozenset(moving))


def _passed_on(jaxpr: Any) -> list[int | None]:
    """For each output, the input that it is, as it came in."""
    known = {var: i for i, var in enumerate(jaxpr.invars)}

    def look(atom: Any) -> int | None:
        return None if isinstance(atom, jexc.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        body = getattr(body, "jaxpr", body)
        if body is None or len(body.invars) != len(eqn.invars):
            continue
        if len(body.outvars) != len(eqn.outvars):
            continue
        inner = [] if eqn.primitive.name in ("scan", "while") else _passed_on(body)
        for var, i in zip(eqn.outvars, inner, strict=False):
            source = None if i is None else look(eqn.invars[i])
            if source is not None:
                known[var] = source
    return [look(var) for var in jaxpr.outvars]


def _argument_names(net: Any, call: Callable, args: tuple[Any, ...]) -> list[str]:
    """`x`, or `batch[0]`, as far as the call's signature tells."""
    try:
        parameters = list(inspect.signature(call).parameters)[1:]
        if call is call_it:
            method = type(net).__call__
            parameters = list(inspect.signature(method).parameters)[1:]
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i, arg in enumerate(args):
        name = parameters[i] if i < len(parameters) else f"argument {i}"
        for path, leaf in jtu.tree_flatten_with_path(arg)[0]:
            if is_array(leaf):
                names.append(f"`{name}{join(key_names(path))}`")
    return names


def call_it(net: Any, *args: Any) -> Any:
    """The default call."""
    return net(*args)


def abstract(tree: Any) -> Any:
    """The tree with descriptions of its arrays."""

    def describe(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jtu.tree_map(describe, tree)
