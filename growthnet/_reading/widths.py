"""What `trace` learned about one leaf and one width."""

import dataclasses
from typing import Literal

from .layout import Layout, Place


Exactness = Literal["exact", "approximate", "not preserving"]
Gateable = Literal["any", "binary", "no"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the network. `layouts` has one entry per axis; `fan_in` names the
    axes that are contracted with what comes in (none for a bias), `stacks` those that
    run over stacked layers; `scale` says that it multiplies what comes in. `initial` is
    what new entries hold where they are never drawn (running statistics); `reached`
    says whether a traced call uses the leaf at all."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    layouts: tuple[Layout, ...]
    fan_in: tuple[int, ...] = ()
    stacks: tuple[int, ...] = ()
    scale: bool = False
    initial: float | None = None
    reached: bool = True

    @property
    def mask(self) -> bool:
        """Is it a mask? A newborn has that of another unit, whatever else it is."""
        return self.dtype == "bool"

    @property
    def inexact(self) -> bool:
        """Does it hold real or complex numbers?"""
        return self.dtype.startswith(("float", "bfloat", "complex"))


@dataclasses.dataclass(frozen=True)
class Member:
    """One axis of one leaf in a width.

    `place` says where the width stands in the axis's layout; `span` is the range of
    indices that holds it; `roles` what it does there (producer, consumer, offset,
    scale, factor, lookup, stack).
    """

    leaf: int
    path: str
    axis: int
    place: Place
    span: tuple[int, int]
    roles: tuple[str, ...]

    def __str__(self) -> str:
        roles = "+".join(self.roles) or "member"
        return f"{self.path} axis {self.axis} [{self.span[0]}:{self.span[1]}] {roles}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a width grows by one family of inits.

    - `exactness`: does the function stay? If not, `why`.
    - `cover`: indices into the width's members: what silent growth zeroes, and what
        copies share out.
    - `scales`: members whose entries are multiplied by `(new / old) ** power`, as
        `(index, power)`: what makes up for a mean over more units, or for a
        `1 / sqrt(d)` of the program.
    - `fields`: static numbers that are scaled so (the epsilon of a norm), as
        `(module path, field, power)`.
    - `whole`: exact only if every unit is copied equally often.
    - `drift`: what goes with the width's size or looks at its units together, whether
        or not something makes up for it.
    """

    exactness: Exactness = "not preserving"
    why: str = ""
    cover: tuple[int, ...] = ()
    scales: tuple[tuple[int, float], ...] = ()
    epsilons: tuple[tuple[int, float], ...] = ()
    fields: tuple[tuple[str, str, float], ...] = ()
    whole: bool = False
    drift: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Width:
    """One hidden dimension: all members that share the same units.

    - `growable`: can units be added and removed? If not, `reasons` say why.
    - `gateable`: may a gate multiply the cover? `"any"` number in [0, 1]; `"binary"`
        (a leaf of the cover is used twice, so a gate would enter squared); `"no"`.
    - `silent`, `copied`: how it grows by silent newborns (`zero_out`) and by copies
        (`clone`).
    - `ordered`: are its units layers, one after another? Then they keep their order.
    """

    name: str
    id: int
    size: int
    growable: bool
    gateable: Gateable
    reasons: tuple[str, ...]
    members: tuple[Member, ...]
    silent: Recipe = Recipe()
    copied: Recipe = Recipe()
    ordered: bool = False

    @property
    def cover(self) -> tuple[int, ...]:
        """Indices into `members`: zeroing these makes new units silent."""
        return self.silent.cover

    @property
    def drift(self) -> tuple[str, ...]:
        """Why silent growth would change the function (empty: it doesn't)."""
        return () if self.silent.exactness == "exact" else self.silent.drift

    @property
    def ungateable(self) -> tuple[str, ...]:
        """Why units can't be turned down or closed, where `gateable` is `"no"`."""
        return (*self.reasons, *self.silent.drift)

    def recipe(self, init: str) -> Recipe:
        """The recipe that an init follows."""
        return self.copied if init == "clone" else self.silent

    def exactness(self, init: str) -> tuple[Exactness, str]:
        """Whether growing this width by `init` leaves the function as it is, and why
        it doesn't where it doesn't."""
        recipe = self.recipe(init)
        if recipe.exactness == "not preserving":
            return recipe.exactness, recipe.why
        if init == "closed" and self.gateable == "no":
            return "not preserving", "; ".join(self.ungateable)
        if init == "drawn":
            return "not preserving", "newborns are random: exact behind a gate at 0"
        if init in ("zero_out", "clone", "closed"):
            return recipe.exactness, recipe.why
        return "not preserving", "a function's newborns aren't known to be silent"
