"""What a depth edit inserts: a run of entries without numbers, and where those come
from."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._edits.draws import key_words, limit_table, uniform
from .._edits.statics import modules, retuned, unowned_ints
from .._paths import array_leaves, container_of, is_array, named_leaves
from .._reading.anatomy import Anatomy
from .._reading.programs import abstract
from .splice import Splice


How = Literal["copy", "draw", "zero", "eye", "given"]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One array of the inserted entries.

    - `path`: its name in the new network.
    - `source`: the leaf of the old network whose place it has in a copied entry; empty
        if there is none.
    - `how`: where its numbers come from. `"eye"` is the identity between the axes
        `eye` (out, in), at the centre of all others.
    - `value`: given numbers.
    """

    path: str
    source: str
    shape: tuple[int, ...]
    dtype: Any
    how: How
    eye: tuple[int, int] = (0, 1)
    value: Any = None

    @property
    def inexact(self) -> bool:
        return bool(jnp.issubdtype(self.dtype, jnp.inexact))

    def __str__(self) -> str:
        said = {
            "copy": f"copied from {self.source}",
            "draw": "drawn",
            "zero": "zero",
            "eye": "the identity",
            "given": "as given",
        }
        return f"{self.path} {self.shape}: {said[self.how]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Entries to insert. `entries` hold `jax.ShapeDtypeStruct`s, `parts` says in leaf
    order how these are filled; `make(key)` builds the whole, if the user says how."""

    what: str
    entries: tuple[Any, ...]
    parts: tuple[Part, ...]
    make: Callable[[Any], Any] | None = None

    def filled(self, how: Mapping[str, How]) -> "Block":
        """The same with other fillings, by path."""
        parts = (
            dataclasses.replace(p, how=how[p.path]) if p.path in how else p
            for p in self.parts
        )
        return dataclasses.replace(self, parts=tuple(parts))

    @property
    def draws(self) -> bool:
        """Does it need a key?"""
        return self.make is not None or any(p.how == "draw" for p in self.parts)

    def build(self, tree: Any, values: Sequence[Any], holds: "Holds") -> list[Any]:
        """The entries with these values, or without the leaves that `tree` lacks."""
        rest = iter(zip(self.parts, values, strict=True))
        built = []
        for entry in self.entries:
            leaves, structure = jtu.tree_flatten(entry)
            filled = []
            for leaf in leaves:
                part, value = next(rest) if is_array(leaf) else (None, leaf)
                filled.append(value if holds(part, leaf) else None)
            built.append(structure.unflatten(filled))
        return built


class Holds:
    """Does a tree shaped like the network hold leaves such as this one? Gradients lack
    integers and functions, for instance. Where the block is a copy, the tree's own
    entry decides, else the rest of the tree does."""

    def __init__(self, skeleton: Any, tree: Any):
        own = _leaves_with_none(skeleton, tree)
        self._arrays = {path for path, _, there in own if there}
        self._kinds = {_leaf_kind(leaf) for _, leaf, there in own if there}
        self._known = {_leaf_kind(leaf) for _, leaf, _ in own}

    def __call__(self, part: Part | None, leaf: Any) -> bool:
        if part is not None and part.source:
            return part.source in self._arrays
        kind = _leaf_kind(leaf)
        return kind in self._kinds or (kind == "inexact" and kind not in self._known)


def _leaf_kind(leaf: Any) -> str:
    if not is_array(leaf):
        return "static"
    return "inexact" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "array"


def _leaves_with_none(skeleton: Any, tree: Any) -> list[tuple[str, Any, bool]]:
    """Each leaf of the network with its name, and whether the tree has it."""
    there = {name for name, _ in named_leaves(tree)}
    return [(name, leaf, name in there) for name, leaf in named_leaves(skeleton)]


# --- blocks to try


def copied(entries: Sequence[Any], splice: Splice, first: int, last: int) -> Block:
    """Copies of the entries `first` to `last`."""
    run = entries[first:last]
    where = splice.entry(first) if last - first == 1 else _span(splice, first, last)
    sources = [splice.entry(i) for i in range(first, last)]
    return Block(f"a copy of {where}", tuple(run), _parts(run, splice, sources))


def _span(splice: Splice, first: int, last: int) -> str:
    return f"{splice.name}[{first}:{last}]"


def _parts(
    run: Sequence[Any], splice: Splice, sources: Sequence[str]
) -> tuple[Part, ...]:
    parts = []
    for i, entry in enumerate(run):
        new = splice.entry(splice.index + i)
        for path, leaf in array_leaves(entry).items():
            source = _below(sources[i], path) if sources else ""
            how = "copy" if source else "given"
            parts.append(
                Part(_below(new, path), source, tuple(leaf.shape), leaf.dtype, how)
            )
    return tuple(parts)


def _below(path: str, rest: str) -> str:
    return path + rest if rest.startswith("[") or not rest else f"{path}.{rest}"


def given(run: Sequence[Any], splice: Splice, make: Any = None) -> Block:
    """A block of the user's: entries with their numbers, or a function of a key."""
    parts = _parts(run, splice, ())
    leaves = [x for entry in run for x in array_leaves(entry).values()]
    if make is None:
        parts = tuple(
            dataclasses.replace(part, value=leaf)
            for part, leaf in zip(parts, leaves, strict=True)
        )
    return Block("the given block", tuple(map(abstract, run)), parts, make)


def squared(block: Block, anatomy: Anatomy) -> Iterator[Block]:
    """The block with its one weight square and the identity, its biases zero: per axis
    that may be the one to contract."""
    fan_in = {leaf.path: leaf.fan_in for leaf in anatomy.leaves}
    weights = [p for p in block.parts if len(p.shape) > 1 and fan_in.get(p.source)]
    if len(weights) != 1 or not all(part.inexact for part in block.parts):
        return
    (weight,) = weights
    outs = [a for a in range(len(weight.shape)) if a not in fan_in[weight.source]]
    if len(outs) != 1:
        return
    for axis in fan_in[weight.source]:
        shape = list(weight.shape)
        shape[axis] = shape[outs[0]]
        parts = tuple(
            dataclasses.replace(p, shape=tuple(shape), how="eye", eye=(outs[0], axis))
            if p is weight
            else dataclasses.replace(p, how="zero")
            for p in block.parts
        )
        entries = _reshaped(block.entries, parts)
        if entries is not None:
            text = block.what.replace("a copy of", "the identity, shaped like")
            yield dataclasses.replace(block, what=text, entries=entries, parts=parts)


def _reshaped(entries: Sequence[Any], parts: Sequence[Part]) -> tuple[Any, ...] | None:
    """The entries with arrays of these shapes and static fields that tell so, or `None`
    if it isn't known which fields would have to change."""
    rest, built = iter(parts), []
    for entry in entries:
        leaves, structure = jtu.tree_flatten(entry)
        shapes = [next(rest).shape if is_array(x) else None for x in leaves]
        if all(s is None or s == x.shape for s, x in zip(shapes, leaves, strict=True)):
            built.append(entry)
            continue
        new = [
            x if s is None else jax.ShapeDtypeStruct(s, x.dtype)
            for s, x in zip(shapes, leaves, strict=True)
        ]
        sizes = {n for x in leaves if is_array(x) for n in x.shape}
        for _, module in modules(entry):
            if sizes & {n for *_, n in unowned_ints(module)}:
                return None
        built.append(retuned(entry, structure.unflatten(new), {}))
    return tuple(built)


# --- numbers


def values(
    block: Block, tree: Any, after: Anatomy | None, key: Any, zeros: bool
) -> list[Any]:
    """The numbers of each part, for a tree shaped like the network: as numpy arrays of
    the tree's dtypes, or descriptions where the tree holds descriptions. `after` tells
    how large what is drawn should be."""
    arrays = array_leaves(tree)
    ready: list[Any] = [part.value for part in block.parts]
    described = any(isinstance(x, jax.ShapeDtypeStruct) for x in arrays.values())
    if block.make is not None and not (zeros or described):
        run = block.make(key)
        ready = [x for entry in run for x in array_leaves(entry).values()]
        for part, x in zip(block.parts, ready, strict=True):
            if tuple(x.shape) != part.shape:
                raise ValueError(
                    f"the block's function gave {x.shape} for {part.path}, but "
                    f"{part.shape} when it was planned; it must always give the same"
                )
    draws = any(part.how == "draw" for part in block.parts) and not zeros
    words = np.asarray(key_words(key)) if draws and not described else None
    out = []
    for part, value in zip(block.parts, ready, strict=True):
        like = arrays.get(part.source)
        dtype = part.dtype if like is None else like.dtype
        if described:
            out.append(jax.ShapeDtypeStruct(part.shape, dtype))
        elif zeros and part.inexact:
            out.append(np.zeros(part.shape, dtype))
        elif part.how == "copy":
            out.append(like)
        elif part.how == "given":
            out.append(value)
        else:
            out.append(_numbers(part, after, words).astype(dtype))
    return out


def _numbers(part: Part, after: Anatomy | None, words: Any) -> np.ndarray:
    if part.how == "zero":
        return np.zeros(part.shape)
    if part.how == "eye":
        return identity(part.shape, *part.eye)
    assert after is not None
    leaf = next(leaf for leaf in after.leaves if leaf.path == part.path)
    fan_in = drawn_fan_in(after, part.path)
    assert fan_in is not None
    return uniform(words, leaf, np) * limit_table(fan_in)[fan_in]


def identity(shape: Sequence[int], out: int, into: int) -> np.ndarray:
    """1 where the axes `out` and `into` agree, at the centre of all other axes."""
    array = np.zeros(tuple(shape))
    at: list[Any] = [size // 2 for size in shape]
    at[out] = at[into] = np.arange(shape[out])
    array[tuple(at)] = 1
    return array


def drawn_fan_in(anatomy: Anatomy, path: str) -> int | None:
    """The fan-in that sets the range of a draw, of the leaf itself or of the weight
    beside it; `None` for what isn't drawn (gains, tables, counters)."""
    leaves = {leaf.path: leaf for leaf in anatomy.leaves}
    leaf = leaves.get(path)
    if leaf is None:
        return None
    if leaf.scale or leaf.initial is not None:
        return None
    if not leaf.fan_in and len(leaf.shape) == 1:
        around = container_of(path)
        beside = (x for x in anatomy.leaves if container_of(x.path) == around)
        leaf = next((x for x in beside if x.fan_in), leaf)
    return math.prod(leaf.shape[a] for a in leaf.fan_in) if leaf.fan_in else None


def keeps_state(run: Sequence[Any]) -> bool:
    """Is there a layer among these that keeps its state in an `eqx.nn.State`? That one
    belongs to the layers that it was made with."""
    is_index = lambda x: isinstance(x, eqx.nn.StateIndex)
    return any(map(is_index, jtu.tree_leaves(list(run), is_leaf=is_index)))
