"""Depth edits: a block comes in that starts as the identity, or one goes.

`plan_deepen` and `plan_remove_block` stand beside `plan` instead of inside it: the
places are sequences of layers, not widths, and the result has another structure, so
hardly an argument is shared. What they return is used as an `Edit` is.
"""

import dataclasses
import functools as ft
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import equinox as eqx
import jax.random as jr

from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.trace import trace
from .._reading.widths import Exactness
from .blocks import Block, copied, drawn_fan_in, given, squared
from .depth_edit import DepthEdit
from .drafts import Draft, drafted, Kind
from .likeness import bench
from .splice import sequences, Splice
from .verdicts import best, candidates


Fill = Literal["copy", "drawn"]


def plan_deepen(
    anatomy: Anatomy,
    at: str,
    block: Any = None,
    *,
    init: Fill = "copy",
    allow_drift: bool = False,
) -> DepthEdit:
    """Plans the insertion of a block that starts as the identity.

    Whether it does is verified, not assumed: the network and its deeper self are run
    with random parameters and inputs in float64, and must agree to rounding.

    **Arguments:**

    - `anatomy`: from `trace`.
    - `at`: the name that the new entry will have, such as `"layers[2]"`: the present
        `layers[2]` becomes `layers[3]`. One past the last appends. `gn.sites` lists
        names.
    - `block`: what to insert.
        - `None`: a copy of an entry nearby, made the identity. A residual block gets
            zeros in its last projection; a layer becomes the identity matrix, which is
            exact where its activation, applied twice, is what it is once (ReLU).
        - a name, such as `"layers[0]"` or `"layers[0:2]"`: copies of that entry, or of
            these.
        - an entry (a module, a pair of arrays): taken as it is. A list of entries, if
            entries aren't lists themselves.
        - a function `key -> entry`, which draws it.
    - `init`: a copy has the numbers of its model except where it has to be zero;
        `"drawn"` draws its weights and biases anew.
    - `allow_drift`: accept a block that changes the function.

    **Returns:** a `DepthEdit`.

    **Raises:** `ValueError` for an unknown place, a block that doesn't fit there, or
    one that isn't the identity (unless `allow_drift`).
    """
    if init not in ("copy", "drawn"):
        raise ValueError(f"init={init!r}; a block's init is 'copy' or 'drawn'")
    splice, entries = _place(anatomy, at, grows=True)
    verdict, reasons = best(anatomy, _options(anatomy, splice, entries, block))
    told = "".join(f"\n  {reason}" for reason in reasons)
    if verdict is None:
        raise ValueError(
            f"no block fits at {at}; around it are {_around(splice, entries)}. "
            f"Pass `block=` with one that takes and gives what flows there{told}"
        )
    if verdict.kind == "no" and not allow_drift:
        raise ValueError(
            f"a block at {at} would change what the network computes. Pass a residual "
            "`block=` whose last weights are zero, or allow_drift=True to insert this "
            f"one all the same{told}"
        )
    return _planned(anatomy, verdict.draft, init, *_promise(verdict.kind, verdict.why))


def _promise(kind: Kind, why: str) -> tuple[Exactness, str]:
    texts = {
        "residual": "its last projection is zero, so that it adds nothing",
        "identity": "its weight is the identity, and its activation changes nothing",
        "given": "it is the identity as it is",
    }
    return ("not preserving", why) if kind == "no" else ("exact", texts[kind])


def _planned(
    anatomy: Anatomy, draft: Draft, init: Fill, exactness: Exactness, why: str
) -> DepthEdit:
    block, source = draft.block, draft.source(anatomy.source)
    call, args = source.calls[0]
    after = trace(source.skeleton, *args, call=call, also=source.also)
    if block is not None and init == "drawn":
        copies = [p for p in block.parts if p.how == "copy" and p.inexact]
        drawn = [p.path for p in copies if drawn_fan_in(after, p.path)]
        block = block.filled(dict.fromkeys(drawn, "draw"))
        draft = dataclasses.replace(draft, block=block)
    return DepthEdit(anatomy, after, exactness, why, draft)


def plan_remove_block(anatomy: Anatomy, at: str, *, net: Any = None) -> DepthEdit:
    """Plans the removal of an entry of a sequence of layers.

    **Arguments:**

    - `anatomy`: from `trace`.
    - `at`: the entry, such as `"layers[2]"`, or several: `"layers[2:4]"`.
    - `net`: the network. With it, a block that is the identity is recognised (verified
        as in `plan_deepen`, with the network's own numbers) and its removal called
        exact; without it none is.

    **Returns:** a `DepthEdit`.

    **Raises:** `ValueError` for an unknown entry, and where what is left doesn't fit
    together.
    """
    splice, entries = _place(anatomy, at, grows=False)
    draft = drafted(anatomy, splice, None)
    if isinstance(draft, str):
        raise ValueError(
            f"{at} can't be removed: {draft}. Around it are "
            f"{_around(splice, entries)}; only a block that gives what it takes can go"
        )
    exactness, why = "not preserving", "what the block computed is lost"
    if net is not None:
        anatomy.check(net, "net")
        trial = bench(anatomy.source, lambda draw, wide: net)
        removed = lambda net: draft.apply(net, None, None, False)
        if trial.same(draft.source(anatomy.source), removed):
            exactness, why = "exact", "the block is the identity"
    return _planned(anatomy, draft, "copy", exactness, why)


_AT = re.compile(r"(?P<name>.*)\[(?P<first>\d+)(:(?P<end>\d+))?\]", re.DOTALL)


def _place(anatomy: Anatomy, at: Any, *, grows: bool) -> tuple[Splice, list[Any]]:
    """Where a name points to, and the entries there."""
    if not isinstance(anatomy, Anatomy) or anatomy.source is None:
        raise ValueError("a depth edit takes an anatomy from gn.trace(net, ...)")
    lists = {
        Splice(keys, len(node), 0).name: (keys, node)
        for keys, node in sequences(anatomy.source.skeleton)
        if array_leaves(node)
    }
    found = _AT.fullmatch(at) if isinstance(at, str) else None
    if found is None or found["name"] not in lists or grows and found["end"]:
        raise ValueError(_unknown(at, lists, grows))
    keys, node = lists[found["name"]]
    first, size = int(found["first"]), len(node)
    end = int(found["end"] or first + 1)
    if first > size - (not grows) or not grows and not first < end <= size:
        raise ValueError(_unknown(at, lists, grows))
    drop = 0 if grows else end - first
    return Splice(keys, size, first, drop), list(node)


def _unknown(at: Any, lists: dict[str, Any], grows: bool) -> str:
    last = lambda node: len(node) if grows else len(node) - 1
    known = ", ".join(
        f"{name}[0] to {name}[{last(node)}]" for name, (_, node) in lists.items()
    )
    what = "a block can come in at" if grows else "blocks that may go are"
    return (
        f"unknown place {at!r}; {what} {known or 'no place: it has no list of layers'}"
    )


def _around(splice: Splice, entries: Sequence[Any]) -> str:
    first, last = max(splice.index - 1, 0), splice.index + splice.drop + 1
    shapes = {
        splice.entry(first + i): ", ".join(
            f"{path or 'array'} {tuple(x.shape)}" for path, x in array_leaves(e).items()
        )
        for i, e in enumerate(entries[first:last])
    }
    return "; ".join(f"{name} ({text or 'no arrays'})" for name, text in shapes.items())


def _options(
    anatomy: Anatomy, splice: Splice, entries: list[Any], block: Any
) -> Iterator[tuple[Splice, Block, Kind]]:
    if block is None:
        yield from candidates(anatomy, splice, entries)
        return
    if isinstance(block, str):
        other, _ = _place(anatomy, block, grows=False)
        if other.keys != splice.keys:
            raise ValueError(
                f"block={block!r} isn't in {splice.name!r}; name an entry of the same "
                "list, or pass the block itself"
            )
        here = dataclasses.replace(splice, born=other.drop)
        model = copied(entries, here, other.index, other.index + other.drop)
        yield here, model, "residual"
        for square in squared(model, anatomy):
            yield here, square, "identity"
        return
    several = isinstance(block, list) and not any(isinstance(e, list) for e in entries)
    as_run = (lambda x: x) if several else lambda x: [x]
    if inspect.isfunction(block) or isinstance(block, ft.partial):
        make = lambda key: [block(key)]
        run = eqx.filter_eval_shape(make, jr.key(0))
        here = dataclasses.replace(splice, born=1)
        yield here, given(run, here, make), "given"
        return
    run = as_run(block)
    here = dataclasses.replace(splice, born=len(run))
    yield here, given(run, here), "given"


# --- applying


def deepen(
    net: Any,
    anatomy: Anatomy,
    at: str,
    block: Any = None,
    *,
    key: Any = None,
    init: Fill = "copy",
    allow_drift: bool = False,
) -> Any:
    """Inserts a block that starts as the identity: `plan_deepen(...)` applied.

    **Arguments:** as of `plan_deepen`; `key` seeds what is drawn.

    **Returns:** a new network that computes what it did, unless `allow_drift` lets it
    change.

    **Raises:** `ValueError`, as `plan_deepen`.

    !!! example

        ```python
        mlp = eqx.nn.MLP(4, 2, width_size=8, depth=2, key=jax.random.key(0))
        anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((4,), "float32"))
        deeper = gn.deepen(mlp, anatomy, at="layers[1]")
        deeper.depth  # 3
        ```
    """
    edit = plan_deepen(anatomy, at, block, init=init, allow_drift=allow_drift)
    return edit(net, key=key)


def remove_block(net: Any, anatomy: Anatomy, at: str) -> Any:
    """Removes an entry of a sequence of layers: `plan_remove_block(...)` applied.

    **Arguments:** as of `plan_remove_block`.

    **Returns:** a new network. Unless the block was the identity, it computes something
    else.

    **Raises:** `ValueError`, as `plan_remove_block`.
    """
    return plan_remove_block(anatomy, at)(net)
