"""Where blocks can come in: the named sites of a network."""

import dataclasses

from .._paths import array_leaves, is_array
from .._reading.anatomy import Anatomy
from .drafts import Kind
from .splice import sequences, Splice
from .verdicts import best, candidates


@dataclasses.dataclass(frozen=True)
class Site:
    """A place between two layers.

    - `name`: what `deepen(at=...)` wants; the new entry will have this name.
    - `kind`: which block is exact there. `"residual"`: a copy of `model` whose `cover`
        is zero; `"identity"`: a layer whose weight is the identity; `"no"`: none.
    - `model`: what the block would be, in words.
    - `cover`: the new leaves that have to be zero.
    - `why`: what spoke against, where there is none.
    """

    name: str
    kind: Kind
    model: str = ""
    cover: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        if self.kind == "no":
            return f"{self.name}: no exact block ({self.why})"
        zero = f", {', '.join(self.cover)} zero" if self.cover else ""
        return f"{self.name}: {self.kind} ({self.model}{zero})"


def sites(anatomy: Anatomy) -> tuple[Site, ...]:
    """Every place where a block could come in, and which block would start as the
    identity there.

    The network is read and run (with made-up numbers) at each place, so this takes a
    few compilations for each list of layers.

    **Arguments:** `anatomy` is from `trace`.

    **Returns:** the sites of every tuple and list of layers in the network, in order.

    **Raises:** `ValueError` for an anatomy that wasn't traced.

    !!! example

        ```python
        mlp = eqx.nn.MLP(4, 2, width_size=8, depth=2, key=jax.random.key(0))
        anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((4,), "float32"))
        [site.name for site in gn.sites(anatomy) if site.kind != "no"]
        # ["layers[1]", "layers[2]"]
        ```
    """
    if anatomy.source is None:
        raise ValueError(
            "sites are found by running the network: use gn.trace(net, ...)"
        )
    found = []
    for keys, node in sequences(anatomy.source.skeleton):
        if not array_leaves(node):
            continue
        places = [Splice(keys, len(node), index) for index in range(len(node) + 1)]
        here = [_site(anatomy, place, list(node)) for place in places]
        # A weight and its bias in a tuple are no list of layers.
        if not all(map(is_array, node)) or any(site.kind != "no" for site in here):
            found += here
    return tuple(found)


def _site(anatomy: Anatomy, splice: Splice, entries: list) -> Site:
    name = splice.entry(splice.index)
    verdict, reasons = best(anatomy, candidates(anatomy, splice, entries))
    if verdict is None or verdict.kind == "no":
        why = (
            verdict.why if verdict else next(iter(reasons), "there is nothing to copy")
        )
        return Site(name, "no", why=why)
    block = verdict.draft.block
    assert block is not None
    zero = (p.path for p in block.parts if p.how == "zero")
    cover = tuple(zero) if verdict.kind == "residual" else ()
    return Site(name, verdict.kind, block.what, cover)
