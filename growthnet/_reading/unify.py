"""Finding layouts: axes as unknowns, equalities between them, one solver.

A `Node` stands for one axis of one value while a program is read. Learning that two
axes are equal, that one is a product, or that one is a run of segments refines nodes in
place. When the whole program has been read, `Solver.layout` freezes every node.

What can't be aligned (a reshape of `4*3` into `6*2`, an axis combined with a shifted
copy of itself) is never guessed: both sides become rigid with the reason.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from .layout import Atom, Layout, Prod, Sum


class Node:
    """One axis. Its `form` is `None` while nothing is known of its inside."""

    __slots__ = ("form", "size")

    def __init__(self, size: int):
        self.size = size
        self.form: Node | _Prod | _Sum | None = None


@dataclasses.dataclass(frozen=True)
class _Prod:
    parts: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class _Sum:
    parts: tuple[Node, ...]


class Unalignable(Exception):
    """Two layouts can't be made equal; the text says why."""


class Solver:
    """Union-find over nodes with products and sums.

    `on_rigid(node, reason)` is called for every node that turns out not to be
    understood; the caller keeps the reasons, since nodes may be refined later.
    """

    budget = 500
    deepest = 40  # An honest layout at least halves with every second level.

    def __init__(self, on_rigid: Callable[[Node, str], None]):
        self._on_rigid = on_rigid
        self._steps = 0
        self._depth = 0

    # --- looking

    def find(self, node: Node) -> Node:
        """The representative of everything known to equal `node`."""
        root = node
        while isinstance(root.form, Node):
            root = root.form
        while isinstance(node.form, Node):
            node.form, node = root, node.form
        return root

    def factors(self, node: Node) -> list[Node]:
        """Flattened factors; `[node]` where it is none."""
        return self._flat(node, _Prod)

    def segments(self, node: Node) -> list[Node]:
        """Flattened segments; `[node]` where it has none."""
        return self._flat(node, _Sum)

    def _flat(self, node: Node, form: type[_Prod] | type[_Sum]) -> list[Node]:
        # A loop, not a recursion: cutting slice after slice from one axis, as an
        # unrolled program does, nests a thousand deep.
        flat, waiting = [], [node]
        while waiting:
            node = self.find(waiting.pop())
            if isinstance(node.form, form):
                waiting += reversed(node.form.parts)
            else:
                flat.append(node)
        return flat

    def layout(self, node: Node, identify: Callable[[Node], int]) -> Layout:
        """The frozen layout of a node; `identify` numbers the atoms."""
        node = self.find(node)
        if node.form is None:
            return Atom(identify(node), node.size)
        if isinstance(node.form, _Prod):
            factors = self.factors(node)
            return Prod(tuple(self.layout(f, identify) for f in factors))
        return Sum(tuple(self.layout(s, identify) for s in self.segments(node)))

    def parts(self, node: Node) -> list[Node]:
        """The factors or the segments of a node; none of an atom."""
        node = self.find(node)
        if node.form is None:
            return []
        return (
            self.factors(node) if isinstance(node.form, _Prod) else self.segments(node)
        )

    def atoms(self, node: Node) -> list[Node]:
        """The unrefined nodes inside a node, each once, left to right."""
        parts = self.parts(node)
        if not parts:
            return [self.find(node)]
        return list(dict.fromkeys(a for p in parts for a in self.atoms(p)))

    # --- building

    def prod(self, nodes: Sequence[Node]) -> Node:
        """The product axis. Factors of size 1 carry no index and are dropped; as a
        width they are lost for good, so they become rigid. So does everything in an
        empty product."""
        factors = [g for n in nodes for g in self.factors(n)]
        size = math.prod(g.size for g in factors)
        kept = []
        for node in factors:
            if node.size == 1 or size == 0:
                reason = f"an axis of size {node.size} is lost in a reshape"
                self._on_rigid(node, reason)
            else:
                kept.append(node)
        if not kept:
            return self._made(size)
        if len(kept) == 1:
            return kept[0]
        product = Node(size)
        product.form = _Prod(tuple(kept))
        return product

    def sum(self, nodes: Sequence[Node]) -> Node:
        """The concatenated axis; empty segments are dropped, and rigid."""
        segments = [t for n in nodes for t in self.segments(n)]
        if len(segments) == 1:
            return segments[0]
        kept = []
        for node in segments:
            if node.size == 0:
                self._on_rigid(node, "an empty axis is lost in a concatenation")
            else:
                kept.append(node)
        if not kept:
            return self._made(0)
        if len(kept) == 1:
            return kept[0]
        total = Node(sum(n.size for n in kept))
        total.form = _Sum(tuple(kept))
        return total

    def _made(self, size: int) -> Node:
        """An axis of no units: no width can stand behind it, whatever it meets."""
        node = Node(size)
        self._on_rigid(node, f"an axis of size {size} is made anew by the program")
        return node

    # --- refining (each may raise Unalignable)

    def split_prod(self, node: Node, outer: int) -> tuple[Node, Node]:
        """Sees `node` as `outer x inner`."""
        node = self.find(node)
        if node.size == 0:
            raise Unalignable("an empty axis is reshaped")
        if node.size % outer:
            raise Unalignable(f"an axis of {node.size} isn't a multiple of {outer}")
        inner = node.size // outer
        if outer == 1:
            return self._made(1), node
        if inner == 1:
            return node, self._made(1)
        if node.form is None:
            a, b = Node(outer), Node(inner)
            node.form = _Prod((a, b))
            return a, b
        if isinstance(node.form, _Prod):
            return self._split_factors(self.factors(node), outer)
        return self._split_segments_as_prod(node, inner)

    def _split_factors(self, factors: list[Node], outer: int) -> tuple[Node, Node]:
        left: list[Node] = []
        wanted = outer
        for i, factor in enumerate(factors):
            if outer == 1:
                return self.prod(left), self.prod(factors[i:])
            if outer % factor.size == 0:
                left.append(factor)
                outer //= factor.size
            elif factor.size % outer == 0:
                a, b = self.split_prod(factor, outer)
                return self.prod([*left, a]), self.prod([b, *factors[i + 1 :]])
            else:
                break
        inner = math.prod(f.size for f in factors) // wanted
        raise Unalignable(
            f"a reshape mixes {_sizes(factors, '*')} into {wanted}*{inner}"
        )

    def _split_segments_as_prod(self, node: Node, inner: int) -> tuple[Node, Node]:
        """`h+h+h` seen as `3 x h`, or `a+b+a+b` as `2 x (a+b)`: the outer axis is a
        run of pieces."""
        segments = self.segments(node)
        outers, common = [], Node(inner)
        row: list[Node] = []
        for segment in segments:
            row.append(segment)
            rows, rest = divmod(sum(s.size for s in row), inner)
            if rows == 0:
                continue
            if rest or (rows > 1 and len(row) > 1):
                raise Unalignable(
                    f"segments {_sizes(segments, '+')} don't make rows of {inner}"
                )
            a, b = self.split_prod(self.sum(row), rows)
            self._align(b, common)
            outers.append(a)
            row = []
        return self.sum(outers), common

    def split_sum(self, node: Node, first: int) -> tuple[Node, Node]:
        """Sees `node` as its first `first` indices, then the rest."""
        if not 0 < first < node.size:
            raise AssertionError("split_sum cuts strictly inside")
        parts = self._cut(node, first)
        for part in parts:
            if part.size == 1:
                self._on_rigid(part, "one index is cut out by a constant")
        return parts

    def _cut(self, node: Node, first: int) -> tuple[Node, Node]:
        """`split_sum` where two axes meet: no constant of the program is behind it."""
        node = self.find(node)
        if node.form is None:
            a, b = Node(first), Node(node.size - first)
            node.form = _Sum((a, b))
            return a, b
        if isinstance(node.form, _Sum):
            left: list[Node] = []
            segments = self.segments(node)
            for i, segment in enumerate(segments):
                if first == 0:
                    return self.sum(left), self.sum(segments[i:])
                if segment.size <= first:
                    left.append(segment)
                    first -= segment.size
                else:
                    a, b = self._cut(segment, first)
                    return self.sum([*left, a]), self.sum([b, *segments[i + 1 :]])
            raise AssertionError("segments don't add up")
        head, *rest = self.factors(node)
        inner = node.size // head.size
        if first % inner:
            raise Unalignable(f"a cut at {first} falls inside a row of {inner}")
        a, b = self._cut(head, first // inner)
        return self.prod([a, *rest]), self.prod([b, *rest])

    # --- equating

    def unify(self, a: Node, b: Node) -> bool:
        """Makes two axes equal, or both rigid with the reason."""
        self._steps = self._depth = 0
        try:
            self._align(a, b)
        except Unalignable as reason:
            self._on_rigid(a, str(reason))
            self._on_rigid(b, str(reason))
            return False
        return True

    def guarded(self, node: Node, refine: Callable[[], list[Node]]) -> list[Node]:
        """Runs a refinement of `node`; where it fails, `node` is rigid and the result
        is empty."""
        self._steps = self._depth = 0
        try:
            return refine()
        except Unalignable as reason:
            self._on_rigid(node, str(reason))
            return []

    def _align(self, a: Node, b: Node) -> None:
        self._steps += 1
        self._depth += 1
        if self._steps > self.budget or self._depth > self.deepest:
            raise Unalignable("combined with a shifted or regrouped copy of itself")
        self._merge(a, b)
        self._depth -= 1

    def _merge(self, a: Node, b: Node) -> None:
        a, b = self.find(a), self.find(b)
        if a is b:
            return
        if a.size != b.size:
            raise Unalignable(f"axes of {a.size} and {b.size} are combined")
        if a.form is None:
            a.form = b
            return
        if b.form is None:
            b.form = a
            return
        if isinstance(a.form, _Prod) and isinstance(b.form, _Prod):
            self._align_parts(a, b, self.factors, self.split_prod)
        elif isinstance(a.form, _Sum) and isinstance(b.form, _Sum):
            self._align_parts(a, b, self.segments, self._cut)
        else:
            product, run = (a, b) if isinstance(a.form, _Prod) else (b, a)
            # Taken apart before the split, which may refine these factors too.
            outer, *rest = self.factors(product)
            x, y = self.split_prod(run, outer.size)
            self._align(outer, x)
            self._align(self.prod(rest), y)
            # `outer` now is a run of pieces: the run's own form says it better.
            a, b = run, product
        a, b = self.find(a), self.find(b)
        if a is not b:
            b.form = a

    def _align_parts(
        self,
        a: Node,
        b: Node,
        parts: Callable[[Node], list[Node]],
        cut: Callable[[Node, int], tuple[Node, Node]],
    ) -> None:
        """Pairs up factors or segments from the left; the longer one is cut."""
        left, right = parts(a), parts(b)
        while left and right:
            a, b = left.pop(0), right.pop(0)
            small = min(a.size, b.size)
            if a.size > small:
                a, rest = cut(a, small)
                left = [*parts(rest), *left]
            elif b.size > small:
                b, rest = cut(b, small)
                right = [*parts(rest), *right]
            self._align(a, b)


def _sizes(nodes: Sequence[Node], sign: str) -> str:
    return sign.join(str(node.size) for node in nodes)
