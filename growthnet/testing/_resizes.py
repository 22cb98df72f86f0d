"""Changes of size to test with: a `Resize` is one, `resizes` draws them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import hypothesis.strategies as st
import numpy as np

from .._edits.statics import fitting, has_factory
from .._reading.anatomy import Anatomy
from .._reading.layout import Layout, occurrences, Prod, Sum
from .._reading.widths import Width
from ._modules import Sizes
from ._networks import Case
from ._ops import OPS, read


Kind = Literal["any", "grow", "shrink"]

_MENU = (1, 2, 4, 7)
"""New sizes of small widths: few, since every new shape is compiled."""


@dataclasses.dataclass(frozen=True)
class Resize:
    """New sizes for some widths.

    - `sizes`: by width name.
    - `keep`: the survivors of widths that shrink, by width name; by default the first.
    - `seed`: of newborns, inputs and whatever else a law draws.
    """

    sizes: Mapping[str, int]
    keep: Mapping[str, Sizes] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        keep = {name: tuple(map(int, k)) for name, k in self.keep.items()}
        object.__setattr__(self, "sizes", dict(self.sizes))
        object.__setattr__(self, "keep", keep)

    def grown(self, anatomy: Anatomy) -> dict[str, int]:
        """The part of it that grows."""
        old = self._old(anatomy)
        return {name: size for name, size in self.sizes.items() if size > old[name]}

    def shrunk(self, anatomy: Anatomy) -> dict[str, int]:
        """The part of it that shrinks."""
        old = self._old(anatomy)
        return {name: size for name, size in self.sizes.items() if size < old[name]}

    def _old(self, anatomy: Anatomy) -> dict[str, int]:
        for name in self.sizes:
            if anatomy.match(name) != (name,):
                raise ValueError(f"a `Resize` names widths one by one, not as {name!r}")
        return anatomy.sizes

    def survivors(self, anatomy: Anatomy, name: str) -> np.ndarray:
        """Which units of a width stay, in order."""
        size = min(self._old(anatomy)[name], self.sizes[name])
        return np.asarray(self.keep.get(name, range(size)), np.int64)


def targets(old: int, kind: Kind) -> tuple[int, ...]:
    """Sizes that a width of size `old` may be given."""
    larger = tuple(n for n in _MENU if n > old) or (old + 1, old + 3)
    smaller = tuple(n for n in _MENU if n < old <= 7) or (max(1, old // 2), old - 1)
    smaller = tuple(n for n in smaller if 0 < n < old)
    return {"grow": larger, "shrink": smaller, "any": larger + smaller}[kind]


def menu_of(anatomy: Anatomy, width: Width, kind: Kind) -> Sizes:
    """Sizes that a width may be given. One unit in a product of widths (one head, one
    group) is one too few: no trace of the result could tell that it is there."""
    menu = targets(width.size, kind)
    layouts = (anatomy.leaves[m.leaf].layouts[m.axis] for m in width.members)
    factor = any(_multiplied(layout, width.id) for layout in layouts)
    return tuple(n for n in menu if n > 1 or not factor)


def _multiplied(layout: Layout, id: int) -> bool:
    match layout:
        case Prod(factors=factors):
            inside = [atom.id for f in factors for _, atom in occurrences(f)]
            return id in inside
        case Sum(segments=segments):
            return any(_multiplied(s, id) for s in segments)
    return False


def resizes(
    case_or_net: Any, anatomy: Anatomy | None = None, *, kind: Kind = "any"
) -> st.SearchStrategy[Resize]:
    """A strategy for changes of the widths that can grow.

    **Arguments:**

    - `case_or_net`: a `Case`, or a network together with its `anatomy`.
    - `kind`: `"grow"`, `"shrink"`, or `"any"`: some widths grow while others shrink.
        Widths that shrink sometimes choose their survivors.

    **Raises:** `ValueError` for a network without an anatomy, and if no width can
    change so.
    """
    if anatomy is None:
        if not isinstance(case_or_net, Case):
            raise ValueError(
                f"a {type(case_or_net).__name__} alone doesn't tell its widths: pass "
                "`resizes(net, growthnet.trace(net, ...))`, or a `Case`"
            )
        anatomy = read(case_or_net, OPS)
    old = {w.name: w.size for w in anatomy.all_widths if w.growable}
    menus = {w.name: menu_of(anatomy, w, kind) for w in anatomy.all_widths}
    menus = {name: menu for name, menu in menus.items() if menu and name in old}
    if not menus:
        raise ValueError(f"no width can change by {kind!r}:\n{anatomy}")
    # Looked at here, since run-time type checks roll dice, which strategies mustn't.
    free = _together(anatomy, old) is None
    return _resizes(anatomy, menus, free)


@st.composite
def _resizes(
    draw: Callable[..., Any], anatomy: Anatomy, menus: Mapping[str, Sizes], free: bool
) -> Resize:
    old = anatomy.sizes
    names = draw(
        st.lists(st.sampled_from(sorted(menus)), min_size=1, unique=True).map(sorted)
    )
    sizes = {name: draw(st.sampled_from(menus[name])) for name in names}
    sizes = sizes if free else _together(anatomy, sizes) or sizes
    keep = {
        name: tuple(draw(st.permutations(range(old[name])))[:size])
        for name, size in sizes.items()
        if size < old[name] and draw(st.booleans())
    }
    return Resize(sizes, keep, draw(st.integers(0, 2**16)))


def sample_resize(anatomy: Anatomy, rng: np.random.Generator) -> Resize:
    """One of these changes, from a generator: all widths that can grow, at random."""
    sizes, keep = {}, {}
    for width in anatomy.all_widths:
        if width.growable:
            size = int(rng.choice(menu_of(anatomy, width, "any")))
            sizes[width.name] = size
            if size < width.size:
                keep[width.name] = rng.permutation(width.size)[:size]
    fit = _together(anatomy, sizes) or sizes
    keep = keep if fit == sizes else {}
    return Resize(fit, keep, int(rng.integers(2**16)))


def _together(anatomy: Anatomy, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """Sizes that the network can be built at, if a factory sets several at once."""
    if anatomy.source is None or not has_factory(anatomy.source.skeleton):
        return None
    return fitting(anatomy.source.skeleton, anatomy, sizes)
