"""Laws about the tree itself: round trip, truth."""

from typing import Any

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._edits.edit import Edit
from .._edits.inits import Clone
from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .._reading.programs import abstract
from ._laws import small_noise
from ._measure import (
    broken,
    clonable,
    differing_leaf,
    resized_case,
    told,
    tolerance,
)
from ._networks import Case
from ._ops import OPS, Ops, read
from ._resizes import Resize


LEAVING_SURVIVORS_ALONE: dict[str, Any] = {
    "zero_out": "zero_out",
    "drawn": "drawn",
    "closed": "closed",
    "a function": small_noise,
}


def round_trip(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 4. Where an init leaves survivors alone, dropping the newborns gives back the
    network bit for bit; to rounding where some members are scaled to make up for the
    size. The inverse of `clone` merges the copies, to rounding.

    Looks at the widths that `resize` grows.
    """
    anatomy = read(case, ops)
    grown = resize.grown(anatomy)
    if not grown:
        return
    back = {name: anatomy.widths[name].size for name in grown}
    key = jr.key(resize.seed)
    for name, init in LEAVING_SURVIVORS_ALONE.items():
        edit = ops.plan(anatomy, grown, init=init, allow_drift=True)
        net = ops.apply(edit, case.net, key=key)
        undone = {
            "its inverse": ops.inverse(edit),
            "dropping the newborns": ops.plan(edit.after, back),
        }
        scaled = any(anatomy.widths[n].silent.scales for n in grown)
        for how, undo in undone.items():
            what = f"{told(anatomy, grown)} by {name}, then {how}: "
            if scaled:
                _same_to_rounding(case, edit, ops.apply(undo, net), what)
                continue
            difference = differing_leaf(case.net, ops.apply(undo, net))
            if difference:
                raise broken("round_trip", case, what + difference)
    shared = clonable(anatomy, grown)
    for init in (Clone(), Clone(split="equal", noise=0.1)):
        if shared:
            edit = ops.plan(anatomy, shared, init=init, allow_drift=True)
            net = ops.apply(edit, case.net, key=key)
            merged = ops.apply(ops.inverse(edit), net)
            what = f"{told(anatomy, shared)} by {init}, then its inverse: "
            _same_to_rounding(case, edit, merged, what)


def _same_to_rounding(case: Case, edit: Edit, merged: Any, what: str) -> None:
    old, new = array_leaves(case.net), array_leaves(merged)
    terms = max((change.new for change in edit.changes), default=1)
    for path, leaf in old.items():
        if not jtu.tree_leaves(eqx.filter(leaf, eqx.is_inexact_array)):
            continue
        x, y = (np.asarray(a[path]).astype(np.float64) for a in (old, new))
        magnitude = float(np.max(np.abs(x), initial=0))
        allowed = tolerance(leaf.dtype, terms=terms, magnitude=magnitude)
        off = float(np.max(np.abs(x - y), initial=0)) if x.shape == y.shape else np.inf
        if not off <= allowed:
            text = (
                f"{what}{path} differs by {off:.3g}, allowed are {allowed:.3g} "
                f"({leaf.dtype})"
            )
            raise broken("round_trip", case, text)


def truth(case: Case, resize: Resize, *, ops: Ops = OPS) -> None:
    """Law 6. Shapes, dtypes and static fields of the result are right: it reads as the
    edit said it would, and where a constructor can build these sizes, its structure and
    repr are the constructor's. What has no true value any more is explained.
    """
    anatomy = read(case, ops)
    edit = ops.plan(
        anatomy, resize.sizes, keep=_keep(anatomy, resize), allow_drift=True
    )
    net = ops.apply(edit, case.net, key=jr.key(resize.seed))
    what = told(anatomy, resize.sizes)
    sizes = {**anatomy.sizes, **resize.sizes}
    if edit.after.sizes != sizes:
        text = f"{what}: the edit says {edit.after.sizes} comes out, asked was {sizes}"
        raise broken("truth", case, text)
    _true_arrays(case, edit, net, what)
    _true_statics(case, sizes, net, what)
    _explained(case, edit, net, what)
    result = resized_case(case, net, edit.after)
    try:
        again = read(result, ops)
    except Exception as error:
        text = f"{what}: the result can't be traced: {error}"
        raise broken("truth", case, text) from error
    if again != edit.after:
        text = f"{what}: the result reads as\n{again}\nand not as\n{edit.after}"
        raise broken("truth", case, text)


def _keep(anatomy: Anatomy, resize: Resize) -> dict[str, np.ndarray]:
    return {name: resize.survivors(anatomy, name) for name in resize.sizes}


def _true_arrays(case: Case, edit: Edit, net: Any, what: str) -> None:
    before, after = array_leaves(case.net), array_leaves(net)
    shapes = {leaf.path: leaf.shape for leaf in edit.after.leaves}
    if after.keys() != before.keys():
        text = f"{what}: the result has the leaves {list(after)}, not {list(before)}"
        raise broken("truth", case, text)
    for path, leaf in after.items():
        expected = (shapes[path], before[path].dtype)
        if (leaf.shape, leaf.dtype) != expected:
            text = (
                f"{what}: {path} is {leaf.dtype}{leaf.shape}, and should be "
                f"{expected[1]}{expected[0]}"
            )
            raise broken("truth", case, text)


def _true_statics(case: Case, sizes: dict[str, int], net: Any, what: str) -> None:
    built = None if case.build is None else case.build(sizes)
    if built is None:
        return
    # Without numbers, which some libraries print of small arrays.
    net, built = abstract(net), abstract(built)
    for name, of in (("structure", jtu.tree_structure), ("repr", eqx.tree_pformat)):
        if of(net) != of(built):
            text = (
                f"{what}: the {name} isn't the constructor's. It is\n{of(net)}\n"
                f"and not\n{of(built)}"
            )
            raise broken("truth", case, text)


def _explained(case: Case, edit: Edit, net: Any, what: str) -> None:
    """`width_size` of an MLP is one number, and can't be true of unequal layers."""
    is_mlp = lambda node: isinstance(node, eqx.nn.MLP)
    for node in jtu.tree_leaves(net, is_leaf=is_mlp):
        if is_mlp(node) and len({x.weight.shape[0] for x in node.layers[:-1]}) > 1:
            if "width_size" not in edit.explain():
                text = f"{what}: `explain` doesn't say that width_size isn't true"
                raise broken("truth", case, text)
