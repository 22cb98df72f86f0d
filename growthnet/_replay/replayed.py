"""A network as the program that was traced, at sizes of one's choice."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
from jax.core import Tracer

from .._exactness.tape import Tape
from .._paths import is_array, join, key_names
from .._reading.anatomy import Anatomy
from .._reading.events import Contraction, Kind
from .._reading.facts import Facts, located
from .._reading.layout import occurrences, resized
from .._reading.programs import Output
from .._reading.reader import Reading
from .replay import Replay, Shapes
from .replay_derivatives import matches


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """A program as it was read, and how to call it.

    - `args`: what went in, with descriptions in place of arrays.
    - `result`: what came out, with an `Output` in place of every array.
    """

    reading: Reading
    tape: Tape
    args: Any
    result: Any

    @property
    def dtypes(self) -> list[Any]:
        """Of the leaves, then of the arguments."""
        return [var.aval.dtype for var in self.tape.jaxpr.invars]


class Replayed:
    """A network as the program that was traced: `program(net, *args)` gives what the
    traced call would, and runs none of the network's code.

    Made by `Anatomy.program`. `sizes` are the sizes that it runs at.
    """

    def __init__(
        self,
        recording: Recording,
        anatomy: Anatomy,
        call: Callable[..., Any],
        twin: Recording | None = None,
        renewed: "Callable[[Anatomy], Replayed] | None" = None,
    ):
        self._history, self._anatomy = recording, anatomy
        self._renewed = renewed
        self._twin = twin or recording
        self._call = self.__wrapped__ = call  # So that `inspect` names the arguments.
        self._shapes = shapes_at(recording, anatomy)
        if twin is not None:
            _learn(self._shapes, recording.tape, twin.tape)
        self._compiled = jax.jit(self._run)

    @property
    def sizes(self) -> dict[str, int]:
        return self._anatomy.sizes

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"Replayed({sizes})"

    @property
    def renewable(self) -> bool:
        """Does code give the program's numbers at other sizes?"""
        return self._renewed is not None

    def at(self, anatomy: Anatomy) -> "Replayed":
        """The same program at the sizes of another anatomy; with the numbers that it
        was traced with where no code gives new ones."""
        if self._renewed is not None:
            return self._renewed(anatomy)
        return Replayed(self._history, anatomy, self._call)

    def __call__(self, net: Any, *args: Any) -> Any:
        """What the traced call gives for this network.

        **Arguments:**

        - `net`: the network, or any tree with its leaf paths, at the program's sizes.
        - `args`: as they were traced: the same shapes, dtypes and other values.

        **Raises:** `ValueError` for a leaf or an argument that isn't as it was traced.
        """
        dtypes = self._history.dtypes
        count = len(self._anatomy.leaves)
        arrays = _arrays(self._anatomy, net, dtypes[:count])
        inputs = _inputs(self._history.args, args, dtypes[count:])
        # An eager call would compile equation by equation.
        traced = any(isinstance(x, Tracer) for x in (*arrays, *inputs))
        results = (self._run if traced else self._compiled)(arrays, inputs)
        leaves, treedef = jtu.tree_flatten(self._twin.result)
        return treedef.unflatten(
            [results[x.index] if isinstance(x, Output) else x for x in leaves]
        )

    def sums(self) -> Iterator[tuple[int, int, int, str]]:
        """Where activations are summed over axes of other sizes than were traced, as
        `(atom, size then, size now, what and where)`."""
        for fact in Facts(self._history.reading).atoms:
            new = self._shapes.sizes.get(fact.id, fact.size)
            if new == fact.size:
                continue
            for sum_ in (*fact.reductions, *fact.contractions):
                what = ""
                if isinstance(sum_, Contraction):
                    if all(v.kind == Kind.ACT for v in sum_.values):
                        what = "activations are contracted with activations"
                elif sum_.how not in ("undefined", "singular"):
                    what = sum_.what
                if what:
                    yield fact.id, fact.size, new, located(what, sum_.line)

    def check(self) -> None:
        """Replays abstractly.

        **Raises:** `ValueError` where an equation can't be bound at these sizes.
        """
        arrays = [
            jax.ShapeDtypeStruct(leaf.shape, dtype)
            for leaf, dtype in zip(
                self._anatomy.leaves, self._history.dtypes, strict=False
            )
        ]
        inputs = [x for x in jtu.tree_leaves(self._history.args) if is_array(x)]
        jax.eval_shape(self._run, arrays, inputs)

    def _run(self, arrays: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        replay = Replay(self._shapes)
        tapes = self._history.tape, self._twin.tape
        return replay.run(*tapes, [*arrays, *inputs])


def shapes_at(recording: Recording, anatomy: Anatomy) -> Shapes:
    """The recorded program's axes, its leaves at the sizes of an anatomy."""
    reading = recording.reading
    shapes = Shapes(reading.solver, {}, {})
    for nodes, leaf in zip(reading.leaves, anatomy.leaves, strict=True):
        for node, new in zip(nodes, leaf.layouts, strict=True):
            # In leaf order, so that atoms are numbered as they are in the anatomy.
            old = shapes.layout(node)
            atoms = zip(occurrences(old), occurrences(new), strict=False)
            found = {a.id: b.size for (_, a), (_, b) in atoms}
            if any(shapes.sizes.setdefault(i, n) != n for i, n in found.items()):
                raise ValueError(_changed(leaf.path))
            if resized(old, found) != new:
                raise ValueError(_changed(leaf.path))
    return shapes


def _changed(path: str) -> str:
    return (
        f"leaf {path!r} doesn't read as this anatomy says: the network's code gives "
        "another program than when it was traced; trace it again"
    )


# --- the twin


def _learn(shapes: Shapes, tape: Tape, twin: Tape) -> None:
    """Takes from the twin the sizes of axes that no leaf has.

    **Raises:** `ValueError` where the twin isn't the same program at the new sizes.
    """
    if not matches(tape, twin):
        raise ValueError("the network's code makes another program at these sizes")
    pairs = list(_values(tape, twin))
    for value, shape in pairs:
        for node, size in zip(value.dims, shape, strict=True):
            shapes.learn(node, size)
    for value, shape in pairs:
        if shapes.of(value) != shape:
            raise ValueError(
                "the network's code makes an array of shape "
                f"{shape} where the layouts say {shapes.of(value)}"
            )


def _values(tape: Tape, twin: Tape):
    """Every value with the shape that it has in the twin."""
    for a, b in zip(tape.steps, twin.steps, strict=True):
        for x, y in zip((*a.ins, *a.outs), (*b.ins, *b.outs), strict=True):
            yield x, y.shape
        for inner in zip(a.bodies, b.bodies, strict=True):
            yield from _values(*inner)


# --- what it is called with


def _arrays(anatomy: Anatomy, net: Any, dtypes: Sequence[Any]) -> list[Any]:
    arrays = anatomy.check(net, "the network")
    for leaf, dtype in zip(anatomy.leaves, dtypes, strict=True):
        if leaf.path not in arrays:
            raise ValueError(f"the network has no leaf {leaf.path!r}")
        given = jax.typeof(arrays[leaf.path]).dtype
        if given != dtype:
            raise ValueError(
                f"leaf {leaf.path!r} is {given}, but {dtype} was traced; cast it, or "
                "trace the network as it is"
            )
    return [arrays[leaf.path] for leaf in anatomy.leaves]


def _inputs(traced: Any, args: Any, dtypes: Sequence[Any]) -> list[Any]:
    known, treedef = jtu.tree_flatten_with_path(traced)
    given, other = jtu.tree_flatten(args)
    if treedef != other:
        raise ValueError(
            f"the program was traced with arguments like {treedef}, not {other}"
        )
    expected = iter(dtypes)
    for (path, old), new in zip(known, given, strict=True):
        name = f"argument {join(key_names(path))}"
        if is_array(old):
            wanted = f"{next(expected)}{list(old.shape)}"
            is_ = type(new).__name__
            if is_array(new):
                is_ = f"{jax.typeof(new).dtype}{list(new.shape)}"
            if is_ != wanted:
                raise ValueError(
                    f"{name} is {is_}, but {wanted} was traced; use `jax.vmap` for a "
                    "batch, or trace with an argument like this one"
                )
        elif new is not old and not (type(new) is type(old) and new == old):
            raise ValueError(
                f"{name} is {new!r}, but {old!r} was traced and is part of the program"
            )
    arrays = zip(given, known, strict=True)
    return [new for new, (_, old) in arrays if is_array(old)]
