"""A unit becomes two: on which widths that is exact, and what the two are.

A unit's parameters are what makes it: all its rows but those of what reads it (these
are shared out between its copies) and of numbers that aren't trained (running means).
"""

from typing import Any

import jax.numpy as jnp

import growthnet as gn

from ._newborns import arrays_of


Rows = dict[str, Any]
"""By leaf path, `[capacity, entries]`, as in `gn.Candidates`."""


def check_splits(policy: Any, anatomy: gn.Anatomy, width: gn.Width) -> None:
    """**Raises:** `ValueError` naming the policy, for a width whose units can't be
    shared out exactly between copies."""
    both = sorted(readers(width) & {m.path for m in made_by(width)})
    why = f"{both[0]!r} both makes and reads them" if both else ""
    refuse(policy, width, "split", why_not_copied(anatomy, width) or why)


def why_not_copied(anatomy: gn.Anatomy, width: gn.Width) -> str:
    """Why a copy of a unit changes the function; empty where it needn't."""
    recipe = width.copied
    if recipe.exactness != "exact":
        return recipe.why
    if recipe.scales or recipe.epsilons or recipe.fields or recipe.whole:
        return "what has to be scaled depends on how many units there are"
    masks = [m.path for m in width.members if anatomy.leaves[m.leaf].mask]
    return f"a newborn doesn't have its original's mask ({masks})" if masks else ""


def refuse(policy: Any, width: gn.Width, what: str, why: str) -> None:
    """**Raises:** `ValueError` naming policy and width, if there is a reason."""
    if why:
        raise ValueError(
            f"{type(policy).__name__} can't {what} units of {width.name!r}: {why}; "
            "leave the width out (`widths=`)"
        )


def readers(width: gn.Width) -> set[str]:
    """Paths of the leaves that copies of a unit share out."""
    return {width.members[i].path for i in width.copied.cover}


def made_by(width: gn.Width) -> list[Any]:
    """The members that make the units."""
    return [m for i, m in enumerate(width.members) if i not in width.copied.cover]


def rows_now(evidence: gn.Evidence, name: str) -> Rows:
    """All rows of the units that there are."""
    masks = {leaf.path for leaf in evidence.anatomy.leaves if leaf.mask}
    arrays = {p: a for p, a in arrays_of(evidence).items() if p not in masks}
    return evidence.candidates[name].rows(arrays)


def parameters(evidence: gn.Evidence, name: str, rows: Rows) -> Rows:
    """Those of the rows that are parameters of the units."""
    read = readers(evidence.anatomy.widths[name])
    still = {leaf.path for leaf in evidence.anatomy.leaves if leaf.initial is not None}
    return {p: r for p, r in rows.items() if p not in read | still}


def there(evidence: gn.Evidence, name: str, rows: Rows) -> Rows:
    """Which entries exist: not those that belong to closed units of other widths."""
    others = {n: mask for n, mask in evidence.open.items() if n != name}
    masks = gn.entry_masks(evidence.anatomy, others)
    shapes = {leaf.path: leaf.shape for leaf in evidence.anatomy.leaves}
    whole = {p: jnp.broadcast_to(masks.get(p, True), shapes[p]) for p in rows}
    return evidence.candidates[name].rows(whole)


def halves(width: gn.Width, rows: Rows, apart: Rows) -> tuple[Rows, Rows]:
    """The two that units become: half as loud each, and moved apart."""
    read = readers(width)

    def half(sign: int) -> Rows:
        return {
            p: r / 2 if p in read else r + sign * apart[p] if p in apart else r
            for p, r in rows.items()
        }

    return half(1), half(-1)


def taken(
    candidates: gn.Candidates,
    now: Rows,
    moved: Rows,
    born: Rows,
    order: Any,
    births: Any,
) -> gn.Change:
    """The change that takes the first `births` of an order.

    **Arguments:**

    - `now`, `moved`: the units that there are, and what they become if they are split.
    - `born`: what is born: by slot, the other halves of these; after them, new units.
    - `order`: indices into `born`, as many as may be taken at most.
    """
    chosen = (jnp.arange(order.size) < births)[:, None]
    after = {}
    for p, rows in now.items():
        ours = jnp.where(chosen, moved[p][order], rows[order])
        after[p] = rows.at[order].set(ours, mode="drop")  # New units move nobody.
    return candidates.change({p: born[p][order] for p in now}, births, after)


def side_by_side(rows: Rows) -> Any:
    """All rows of a unit in one: `[capacity, entries]`, sorted by path as in a tree."""
    return jnp.concatenate([rows[path] for path in sorted(rows)], axis=1)


def apart_again(values: Any, like: Rows) -> Rows:
    """Rows by path, as in `like`, from rows side by side."""
    found, start = {}, 0
    for path in sorted(like):
        stop = start + like[path].shape[1]
        found[path] = values[:, start:stop].astype(like[path].dtype)
        start = stop
    return found


def of_the_best(gains: dict[str, Any], births: dict[str, Any]) -> dict[str, Any]:
    """Births in the width that gains most, and nowhere else: where a leaf lies between
    two widths, a copy on one side would have to know of the other's."""
    best = jnp.argmax(jnp.stack(list(gains.values())))
    return {n: jnp.where(best == i, births[n], 0) for i, n in enumerate(births)}
