"""`trace`: read a network, then read it again at other sizes.

The second reading is what makes the anatomy trustworthy. The network is rebuilt
abstractly with every growable width a little larger; if it then reads as the layouts
predict, no size was hard-coded on the way. Numbers of the program that changed with it
(the d of `1/sqrt(d)`, the n of a mean) are baked into the function's values: growing
such a width can't be exact.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.tree_util as jtu

from ._anatomy import Anatomy, Width
from ._paths import array_leaves, is_array, join, key_names, map_arrays
from ._reader import error_line, read
from ._resolve import resolve, with_gateable
from ._rules import RULES
from ._rules._text import PrimitiveError
from ._statics import Found, modules, owned_fields, retuned, static_ints


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a fresh trace needs: the network without its numbers, the call, its
    arguments; and which static fields were found to follow which width."""

    skeleton: Any
    call: Callable[..., Any]
    args: tuple[Any, ...]
    found: tuple[Found, ...] = ()

    def at(self, anatomy: Anatomy, sizes: Mapping[str, int]) -> "Source":
        """The source of the network at other sizes."""
        after = anatomy.resized(sizes)
        arrays = {
            leaf.path: _like(old, leaf.shape)
            for leaf, old in zip(
                after.leaves, array_leaves(self.skeleton).values(), strict=True
            )
        }
        new = map_arrays(self.skeleton, arrays)
        skeleton = retuned(
            self.skeleton, new, fields_at(self.skeleton, self.found, after)
        )
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
        first, numbers = _read(source)
    except PrimitiveError:
        raise
    except Exception as error:
        where = f" (at {error_line(error)})" if error_line(error) else ""
        raise ValueError(
            f"the network can't be called with these arguments{where}: {error}"
        ) from error
    return _certified(first, source, numbers)


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


def _read(source: Source) -> tuple[Anatomy, list[tuple[str, float, str]]]:
    """One reading of a network: its anatomy and the numbers in the program."""
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
    anatomy = resolve(reading, list(arrays), dtypes)
    return anatomy, list(reading.numbers)


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


# --- the second reading


def _certified(
    anatomy: Anatomy, source: Source, numbers: list[tuple[str, float, str]]
) -> Anatomy:
    """Reads again with every width larger; where that fails, width by width."""
    names = [w.name for w in anatomy.all_widths if w.growable]
    if not names:
        return dataclasses.replace(anatomy, source=source)
    everything = _probe(anatomy, source, names)
    if isinstance(everything, list) and everything == numbers:
        return dataclasses.replace(anatomy, source=source)
    widths = []
    for width in anatomy.all_widths:
        if width.growable:
            source, width = _certified_width(anatomy, source, numbers, width)
        widths.append(width)
    return dataclasses.replace(anatomy, all_widths=tuple(widths), source=source)


def _certified_width(
    anatomy: Anatomy,
    source: Source,
    numbers: list[tuple[str, float, str]],
    width: Width,
) -> tuple[Source, Width]:
    result = _probe(anatomy, source, [width.name])
    if isinstance(result, str):
        found = _search(anatomy, source, width)
        if found is None:
            reason = f"the program doesn't work with another size: {result}"
            stuck = dataclasses.replace(
                width, growable=False, reasons=(*width.reasons, reason)
            )
            return source, with_gateable(stuck)
        source = dataclasses.replace(source, found=(*source.found, *found))
        result = _probe(anatomy, source, [width.name])
        assert not isinstance(result, str)
    drift = _baked(numbers, result)
    if drift:
        texts = tuple(dict.fromkeys((*width.drift, *drift)))
        width = with_gateable(dataclasses.replace(width, drift=texts))
    return source, width


def _probe(
    anatomy: Anatomy, source: Source, names: Sequence[str]
) -> list[tuple[str, float, str]] | str:
    """The numbers of the program with these widths larger, or why it doesn't read."""
    # More than doubled, and each by another step: a size that the code computes from
    # others (`n // 2`, `n // 16`) can't come out right by chance.
    sizes = {n: 2 * anatomy.widths[n].size + 1 + 3 * i for i, n in enumerate(names)}
    try:
        again, numbers = _read(source.at(anatomy, sizes))
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0][:200]
        # Without its numbers, which are those of the second reading.
        text = f"{type(error).__name__}: {re.sub(r'[0-9]+', 'n', text)}"
        line = error_line(error)
        return f"{text}, at {line}" if line else text
    if again != anatomy.resized(sizes):
        return "a size is fixed in the code (the axes don't come out as they should)"
    return numbers


def _baked(
    before: Sequence[tuple[str, float, str]], after: Sequence[tuple[str, float, str]]
) -> list[str]:
    """Numbers that changed with the size."""
    if len(before) != len(after):
        return ["the program itself changes with the size"]
    return [
        f"a number depends on the size: in `{name}`, at {line}"
        for (name, x, line), (_, y, _) in zip(before, after, strict=True)
        if x != y
    ]


def _search(anatomy: Anatomy, source: Source, width: Width) -> list[Found] | None:
    """Static integers that follow this width: all that equal its size, then each.

    Accepted only where the network then reads as predicted, so a field that equals the
    size by chance (the number of spatial dimensions, a kernel size) is put back.
    """
    candidates: list[Found] = [
        (path, field, index, width.id)
        for path, module in modules(source.skeleton)
        for field, index, value in static_ints(module)
        if value == width.size and field not in owned_fields(module)
    ]
    attempts = [candidates, *([c] for c in candidates)]
    for attempt in attempts:
        if not attempt:
            continue
        trial = dataclasses.replace(source, found=(*source.found, *attempt))
        if not isinstance(_probe(anatomy, trial, [width.name]), str):
            return attempt
    return None
