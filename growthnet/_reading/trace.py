"""`trace`: read a network; `certify` then reads it again at other sizes."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from .._edits.initials import state_fields, with_initials
from .._edits.statics import Found, modules, retuned
from .._paths import array_leaves, map_arrays
from .._replay.replayed import Recording, Replayed
from .anatomy import Anatomy
from .asked import asked_calls, failure
from .certify import certified
from .facts import Facts
from .layout import resized, size_of
from .programs import abstract, Program, traced
from .read import read
from .reader import error_line, Reading
from .resolve import resolve
from .rules import RULES
from .settle import First, FIXED, what_failed


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

    @property
    def replayed(self) -> bool:
        """Are the calls traced programs instead of the network's own code?"""
        return isinstance(self.call, Replayed)

    def at(
        self,
        anatomy: Anatomy,
        sizes: Mapping[str, int],
        scaled: Mapping[tuple[str, str], float] | None = None,
    ) -> "Source":
        """The source of the network at other sizes; `scaled` are static numbers, by
        module path and field, with their factors."""
        return self.like(anatomy.resized(sizes), scaled)

    def like(
        self,
        after: Anatomy,
        scaled: Mapping[tuple[str, str], float] | None = None,
    ) -> "Source":
        """The source of the network that has this anatomy."""
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
        (call, _), *also = [(_moved(f, after), given) for f, given in self.calls]
        return dataclasses.replace(self, skeleton=skeleton, call=call, also=tuple(also))


def _moved(call: Callable[..., Any], after: Anatomy) -> Callable[..., Any]:
    return call.at(after) if isinstance(call, Replayed) else call


def fields_at(
    skeleton: Any, found: Sequence[Found], after: Anatomy
) -> dict[str, dict[str, Any]]:
    """The searched static fields with the values that they have in `after`."""
    by_id = {w.id: w.size for w in after.groups}
    known = dict(modules(skeleton)) if found else {}
    fields: dict[str, dict[str, Any]] = {}
    for path, field, index, layout in found:
        size = size_of(resized(layout, by_id))
        if index is None:
            value: Any = size
        else:
            value = list(fields.get(path, {}).get(field, getattr(known[path], field)))
            value[index] = size
            value = tuple(value)
        fields.setdefault(path, {})[field] = value
    return fields


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's garbage collector, which would walk all that a trace builds up
    again and again and find nothing: that is a fifth of the time of a large one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def trace(
    net: Any,
    *example_args: Any,
    call: Callable[..., Any] | None = None,
    also: Sequence[Any] = (),
    replay: bool = False,
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
    - `replay`: take the traced programs for the network, not its code. For code with
        sizes written into it, which works with no other: run what comes out of an edit
        by `edit.after.program()`. The programs' numbers stay as they are.

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
    first = _first_of(source, programs)
    shaped = [leaf for leaf in first.anatomy.leaves if leaf.shape]
    if shaped and not any(leaf.reached for leaf in shaped):
        raise ValueError(
            "the call doesn't use the network that it is given; use its first argument "
            "in place of a network from outside"
        )
    fields = state_fields(first.anatomy, source.skeleton)
    source = dataclasses.replace(source, found=fields)
    if replay:
        first = _read(_replay(source, first.anatomy))
    else:
        first = dataclasses.replace(first, source=source)
    return certified(first, _read)


def _like(old: Any, shape: tuple[int, ...]) -> Any:
    return old if old.shape == shape else jax.ShapeDtypeStruct(shape, old.dtype)


def _read(source: Source) -> First:
    """Reads a network once."""
    net = source.skeleton
    programs = [traced(net, call, args) for call, args in source.calls]
    return _first_of(source, programs)


def _first_of(source: Source, programs: Sequence[Program]) -> First:
    net = source.skeleton
    arrays = array_leaves(net)
    reading = _reading(net, programs)
    dtypes = [str(a.dtype) for a in arrays.values()]
    facts = Facts(reading)
    moving = frozenset[int]().union(*(program.moving for program in programs))
    anatomy = with_initials(resolve(facts, list(arrays), dtypes), net, moving)
    return First(source, anatomy, facts)


def misread(source: Source, anatomy: Anatomy) -> str:
    """Why the network's axes don't read as this anatomy says; empty if they do."""
    try:
        again = _read(source).anatomy
    except Exception as error:
        return what_failed(error)
    return "" if again.leaves == anatomy.leaves else FIXED


def _reading(net: Any, programs: Sequence[Program]) -> Reading:
    return read(programs, [a.shape for a in array_leaves(net).values()], RULES)


def record(source: Source) -> list[Recording]:
    """Every call as it is read, for replaying it."""
    net = source.skeleton
    programs = [traced(net, call, args) for call, args in source.calls]
    reading = _reading(net, programs)
    return [
        Recording(reading, tape, args, program.result)
        for tape, program, (_, args) in zip(
            reading.tapes, programs, source.calls, strict=True
        )
    ]


def _replay(source: Source, anatomy: Anatomy) -> Source:
    """The source with programs for its calls."""
    pairs = zip(record(source), source.calls, strict=True)
    calls = [(Replayed(r, anatomy, call), args) for r, (call, args) in pairs]
    (call, _), *also = calls
    return dataclasses.replace(source, call=call, also=tuple(also))
