"""`trace`: read a network, then read it again at other sizes.

The second reading is what makes the anatomy trustworthy. The network is rebuilt
abstractly with every growable width a little larger; if it then reads as the layouts
predict, no size was hard-coded on the way. Numbers of the program that changed with it
(the d of `1/sqrt(d)`, the n of a mean) are baked into the function's values: growing
such a width can't be exact.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ._anatomy import Anatomy, Width
from ._asked import asked_calls, failure
from ._initials import with_initials
from ._paths import array_leaves, map_arrays
from ._programs import abstract, Program, traced
from ._read import read
from ._reader import error_line
from ._resolve import resolve, with_gateable
from ._rules import RULES
from ._statics import Found, modules, owned_fields, retuned, static_ints


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a fresh trace needs: the network without its numbers, the call, its
    arguments; which static fields were found to follow which width; and other calls of
    the same network."""

    skeleton: Any
    call: Callable[..., Any]
    args: tuple[Any, ...]
    found: tuple[Found, ...] = ()
    also: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = ()

    @property
    def calls(self) -> tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...]:
        """Every call that is read, with its arguments."""
        return ((self.call, self.args), *self.also)

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
    net: Any,
    *example_args: Any,
    call: Callable[..., Any] | None = None,
    also: Sequence[Any] = (),
) -> Anatomy:
    """Reads a network and finds every hidden width in it.

    Nothing is computed and nothing is changed: the call is traced abstractly.

    **Arguments:**

    - `net`: any pytree of arrays: an Equinox module, a dict of arrays, a tuple of them.
        Arrays may be `jax.ShapeDtypeStruct`s. The network is the whole tree: a model
        with state is `(model, state)`.
    - `example_args`: what the network is called with; arrays or `ShapeDtypeStruct`s,
        anything else is passed through as it is.
    - `call`: `call(net, *example_args)`; by default `net(*example_args)`.
    - `also`: other calls of the same network, each a function or a pair of a function
        and a tuple of arguments (by default `example_args`): inference beside training,
        the decoder of an autoencoder. One anatomy comes from all of them: a width is
        what *all* of them let change, and what one of them takes or returns is fixed.

    **Returns:** an `Anatomy`. `print` it for a table. `anatomy.warnings` names the
    leaves that no call reaches; they keep their shape.

    **Raises:** `ValueError` if the network has no arrays, or can't be called so.

    !!! example

        ```python
        mlp = eqx.nn.MLP(4, 2, width_size=8, depth=2, key=jax.random.key(0))
        anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((4,), "float32"))
        anatomy.widths["layers[0]"].size  # 8
        ```

    **What a call returns** is the network's interface and keeps its shape, except for
    what is recognised as a new value of the network's own leaves: an `eqx.nn.State`
    anywhere in the result, and everything in a `growthnet.Aux(net=...)`, which holds
    the network or a part of it. A call that returns its new running statistics is
    therefore traced as it stands. A `State` that is given is never consumed.

    !!! example

        ```python
        def train(net, x):
            model, state = net
            batched = jax.vmap(model, (0, None), (0, None), axis_name="batch")
            return batched(x, state)

        def predict(net, x):
            return train(eqx.nn.inference_mode(net), x)[0]

        anatomy = gn.trace((model, state), x, call=train, also=[predict])
        ```

    The method is that of dependency graphs for pruning (Fang et al., DepGraph, CVPR
    2023), on jaxprs instead of autograd graphs.
    """
    calls = asked_calls(net, example_args, call, also)
    (call, args), *others = [(f, abstract(given)) for f, given in calls]
    source = Source(abstract(net), call, args, also=tuple(others))
    programs = []
    for number, (function, given) in enumerate(source.calls):
        try:
            programs.append(traced(source.skeleton, function, given))
        except Exception as error:
            text = failure(error, calls, number, error_line(error))
            raise ValueError(text) from error
    first, numbers = _anatomy_of(source.skeleton, programs)
    if not any(leaf.reached for leaf in first.leaves if leaf.shape):
        raise ValueError(
            "the call doesn't use the network that it is given; use its first argument "
            "in place of a network from outside"
        )
    return _certified(first, source, numbers)


def _like(old: Any, shape: tuple[int, ...]) -> Any:
    return old if old.shape == shape else jax.ShapeDtypeStruct(shape, old.dtype)


def _read(source: Source) -> tuple[Anatomy, list[tuple[str, float, str]]]:
    """One reading of a network: its anatomy and the numbers in its programs."""
    net = source.skeleton
    return _anatomy_of(net, [traced(net, call, args) for call, args in source.calls])


def _anatomy_of(
    net: Any, programs: Sequence[Program]
) -> tuple[Anatomy, list[tuple[str, float, str]]]:
    arrays = array_leaves(net)
    reading = read(programs, [a.shape for a in arrays.values()], RULES)
    dtypes = [str(a.dtype) for a in arrays.values()]
    moving = frozenset[int]().union(*(program.moving for program in programs))
    anatomy = with_initials(resolve(reading, list(arrays), dtypes), net, moving)
    return anatomy, list(reading.numbers)


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
