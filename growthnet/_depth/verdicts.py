"""Which block, inserted at a place, leaves the network as it was? Candidates are made
of the layers around, filled, and tried."""

import dataclasses
import functools as ft
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.trace import Source
from .blocks import Block, copied, squared
from .drafts import Draft, drafted, Kind, reading
from .likeness import Bench, made_up, random_bench
from .splice import Splice


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """A draft with its block filled, what kind of identity that is, or why none."""

    draft: Draft
    kind: Kind
    why: str = ""


def fan_ins(anatomy: Anatomy) -> tuple[tuple[str, int], ...]:
    """What is summed over by each weight."""
    return tuple(
        (leaf.path, math.prod(leaf.shape[a] for a in leaf.fan_in))
        for leaf in anatomy.leaves
        if leaf.fan_in
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A draft on the bench."""

    anatomy: Anatomy
    draft: Draft

    @ft.cached_property
    def bench(self) -> Bench:
        return random_bench(self.anatomy.source, fan_ins(self.anatomy))

    @ft.cached_property
    def source(self) -> Source:
        return self.draft.source(self.anatomy.source)

    def same(self, draft: Draft, *, noise: bool = False) -> bool:
        """Is the network as it was? What a draft draws or copies is made up for this;
        with `noise` all of it is."""
        assert draft.block is not None
        rng, fans = np.random.default_rng(7), dict(fan_ins(self.anatomy))
        fillings = []
        for part in draft.block.parts:
            free = part.how in ("copy", "draw") or noise
            if part.inexact and free:
                struct = jax.ShapeDtypeStruct(part.shape, part.dtype)
                value = made_up(rng, struct, fans.get(part.source), self.bench.wide)
                part = dataclasses.replace(part, how="given", value=value)
            fillings.append(part)
        make = None if noise else draft.block.make
        block = dataclasses.replace(draft.block, parts=tuple(fillings), make=make)
        filled = dataclasses.replace(draft, block=block)
        change = lambda net: filled.apply(net, None, jax.random.key(0), False)
        return self.bench.same(self.source, change)


def judged(anatomy: Anatomy, draft: Draft, kind: Kind) -> Verdict:
    """Looks for a filling of this kind that leaves the network's function alone."""
    trial = Trial(anatomy, draft)
    assert draft.block is not None
    if any(p.inexact for p in draft.block.parts) and trial.same(draft, noise=True):
        why = "whatever it holds, the outputs stay: nothing would be learned there"
        return Verdict(draft, "no", why)
    if kind == "residual":
        cover = _cover(trial, draft)
        if cover is None:
            why = "even with all its weights zero the block changes its input"
            return Verdict(draft, "no", f"{why}: it isn't residual")
        block = draft.block.filled(dict.fromkeys(cover, "zero"))
        return Verdict(dataclasses.replace(draft, block=block), "residual")
    for fill in (None, 1.0) if draft.rows else (None,):
        rows = tuple(dataclasses.replace(row, fill=fill) for row in draft.rows)
        variant = dataclasses.replace(draft, rows=rows)
        if trial.same(variant):
            return Verdict(variant, kind)
    why = (
        "the outputs change: the block isn't the identity there"
        if kind == "given"
        else "with the identity as weights the outputs change: the activation, applied "
        "twice, isn't what it is once"
    )
    return Verdict(draft, "no", f"{why} (checked in {trial.bench.dtype})")


def _cover(trial: Trial, draft: Draft) -> tuple[str, ...] | None:
    """The leaves of the block that have to be zero, as few as possible and as close to
    the output as possible: `None` if that doesn't help."""
    assert draft.block is not None
    block = draft.block
    inexact = {part.path for part in block.parts if part.inexact}
    order = [path for path in reading(trial.source).order if path in inexact]

    def silent(zeroed: Sequence[str]) -> bool:
        filled = block.filled(dict.fromkeys(zeroed, "zero"))
        return trial.same(dataclasses.replace(draft, block=filled))

    # From the last used on: what comes before may then hold anything, and a division
    # by a norm of something zero is met as late as possible.
    counts = sorted({min(2**k, len(order)) for k in range(len(order).bit_length() + 1)})
    found = next((n for n in counts if n and silent(order[-n:])), None)
    if found is None:
        return None
    zeroed = order[-found:]
    for path in tuple(zeroed):
        fewer = [p for p in zeroed if p != path]
        if fewer and silent(fewer):
            zeroed = fewer
    return tuple(zeroed)


# --- what to try


def candidates(
    anatomy: Anatomy, splice: Splice, entries: Sequence[Any]
) -> Iterator[tuple[Splice, Block, Kind]]:
    """Blocks made of the entries around a place, those that suit best first."""
    index, full = splice.index, [bool(array_leaves(e)) for e in entries]
    last = max((j for j in range(index) if full[j]), default=None)
    runs = []
    if last is not None and last + 1 < index:
        runs.append((last, index))  # a layer with the activations after it
    near = sorted(
        (j for j, f in enumerate(full) if f), key=lambda j: abs(j - index + 0.5)
    )
    seen = set()
    for j in near:
        mark = _signature(entries[j])
        if mark not in seen:
            runs.append((j, j + 1))
        seen.add(mark)
    for first, end in runs:
        here = dataclasses.replace(splice, born=end - first)
        block = copied(entries, here, first, end)
        yield here, block, "residual"
        if end == index:
            for square in squared(block, anatomy):
                yield here, square, "identity"


def _signature(entry: Any) -> Any:
    leaves, structure = jtu.tree_flatten(entry)
    return str(structure), str(leaves)


def best(
    anatomy: Anatomy, options: Iterator[tuple[Splice, Block, Kind]]
) -> tuple[Verdict | None, list[str]]:
    """The first option that is exact, else the first that reads, an identity before
    anything else; and what spoke against the others."""
    fallback, other, reasons = None, "", []
    for splice, block, kind in options:
        draft = drafted(anatomy, splice, block)
        if isinstance(draft, str):
            reasons.append(f"{block.what}: {draft}")
            continue
        verdict = judged(anatomy, draft, kind)
        if verdict.kind != "no":
            return verdict, reasons
        reasons.append(f"{block.what}: {verdict.why}")
        if fallback is None or (kind, other) == ("identity", "residual"):
            fallback, other = verdict, kind
    return fallback, reasons
