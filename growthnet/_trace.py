"""`trace`: read a network; `_certify` then reads it again at other sizes."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.tree_util as jtu

from ._anatomy import Anatomy
from ._certify import certified, First
from ._facts import Facts
from ._paths import array_leaves, is_array, join, key_names, map_arrays
from ._reader import error_line, read
from ._resolve import resolve
from ._rules import RULES
from ._statics import Found, modules, retuned


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a fresh trace needs: the network without its numbers, the call, its
    arguments; and which static fields were found to follow which width."""

    skeleton: Any
    call: Callable[..., Any]
    args: tuple[Any, ...]
    found: tuple[Found, ...] = ()

    def at(
        self,
        anatomy: Anatomy,
        sizes: Mapping[str, int],
        scaled: Mapping[tuple[str, str], float] | None = None,
    ) -> "Source":
        """The source of the network at other sizes; `scaled` are static numbers, by
        module path and field, with their factors."""
        after = anatomy.resized(sizes)
        arrays = {
            leaf.path: _like(old, leaf.shape)
            for leaf, old in zip(
                after.leaves, array_leaves(self.skeleton).values(), strict=True
            )
        }
        new = map_arrays(self.skeleton, arrays)
        fields = fields_at(self.skeleton, self.found, after)
        known = dict(modules(self.skeleton)) if scaled else {}
        for (path, field), factor in (scaled or {}).items():
            fields.setdefault(path, {})[field] = getattr(known[path], field) * factor
        skeleton = retuned(self.skeleton, new, fields)
        return dataclasses.replace(self, skeleton=skeleton)


def fields_at(
    skeleton: Any, found: Sequence[Found], after: Anatomy
) -> dict[str, dict[str, Any]]:
    """The searched static fields with the values that they have in `after`."""
    by_id = {w.id: w.size for w in after.all_widths}
    known = dict(modules(skeleton)) if found else {}
    fields: dict[str, dict[str, Any]] = {}
    for path, field, index, id in found:
        if index is None:
            value: Any = by_id[id]
        else:
            value = list(fields.get(path, {}).get(field, getattr(known[path], field)))
            value[index] = by_id[id]
            value = tuple(value)
        fields.setdefault(path, {})[field] = value
    return fields


def trace(
    net: Any, *example_args: Any, call: Callable[..., Any] | None = None
) -> Anatomy:
    """Reads a network and finds every hidden width in it.

    Nothing is computed and nothing is changed: the call is traced abstractly.

    **Arguments:**

    - `net`: any pytree of arrays: an Equinox module, a dict of arrays, a tuple of them.
        Arrays may be `jax.ShapeDtypeStruct`s.
    - `example_args`: what the network is called with; arrays or `ShapeDtypeStruct`s,
        anything else is passed through as it is.
    - `call`: `call(net, *example_args)`; by default `net(*example_args)`.

    **Returns:** an `Anatomy`. `print` it for a table.

    **Raises:** `ValueError` if the network has no arrays, or can't be called so.

    !!! example

        ```python
        mlp = eqx.nn.MLP(4, 2, width_size=8, depth=2, key=jax.random.key(0))
        anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((4,), "float32"))
        anatomy.widths["layers[0]"].size  # 8
        ```

    The method is that of dependency graphs for pruning (Fang et al., DepGraph, CVPR
    2023), on jaxprs instead of autograd graphs.
    """
    if call is None:
        if not callable(net):
            raise ValueError(
                f"a {type(net).__name__} can't be called; say how to with "
                "`call=lambda net, x: ...`"
            )
        call = _call_it
    if not array_leaves(net):
        raise ValueError("the network has no arrays; pass the network itself, not None")
    source = Source(_abstract(net), call, tuple(map(_abstract, example_args)))
    try:
        first = _read(source)
    except Exception as error:
        where = f" (at {error_line(error)})" if error_line(error) else ""
        raise ValueError(
            f"the network can't be called with these arguments{where}: {error}"
        ) from error
    return certified(first, _read)


def _call_it(net: Any, *args: Any) -> Any:
    return net(*args)


def _abstract(tree: Any) -> Any:
    def describe(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jtu.tree_map(describe, tree)


def _like(old: Any, shape: tuple[int, ...]) -> Any:
    return old if old.shape == shape else jax.ShapeDtypeStruct(shape, old.dtype)


def _read(source: Source) -> First:
    """Reads a network once."""
    net_leaves, net_def = jtu.tree_flatten(source.skeleton)
    arg_leaves, arg_def = jtu.tree_flatten(source.args)
    net_at = [i for i, leaf in enumerate(net_leaves) if is_array(leaf)]
    arg_at = [i for i, leaf in enumerate(arg_leaves) if is_array(leaf)]

    def flat(net_arrays: Sequence[Any], arg_arrays: Sequence[Any]) -> list[Any]:
        net_all, arg_all = list(net_leaves), list(arg_leaves)
        for i, array in zip(net_at, net_arrays, strict=True):
            net_all[i] = array
        for i, array in zip(arg_at, arg_arrays, strict=True):
            arg_all[i] = array
        net = jtu.tree_unflatten(net_def, net_all)
        result = source.call(net, *jtu.tree_unflatten(arg_def, arg_all))
        return [leaf for leaf in jtu.tree_leaves(result) if is_array(leaf)]

    # A new function each time: `make_jaxpr` caches by function, and the skeleton that
    # this one closes over would otherwise be ignored.
    closed = jax.make_jaxpr(flat)(
        [net_leaves[i] for i in net_at], [arg_leaves[i] for i in arg_at]
    )
    names = _argument_names(source)
    reading = read(closed, len(net_at), RULES, names)
    arrays = array_leaves(source.skeleton)
    dtypes = [str(a.dtype) for a in arrays.values()]
    facts = Facts(reading)
    return First(source, resolve(facts, list(arrays), dtypes), facts)


def _argument_names(source: Source) -> list[str]:
    """`x`, or `batch[0]`, as far as the call's signature tells."""
    try:
        parameters = list(inspect.signature(source.call).parameters)[1:]
        if source.call is _call_it:
            parameters = list(inspect.signature(type(source.skeleton)).parameters)
            call = type(source.skeleton).__call__
            parameters = list(inspect.signature(call).parameters)[1:]
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i, arg in enumerate(source.args):
        name = parameters[i] if i < len(parameters) else f"argument {i}"
        for path, leaf in jtu.tree_flatten_with_path(arg)[0]:
            if is_array(leaf):
                names.append(f"`{name}{join(key_names(path))}`")
    return names
