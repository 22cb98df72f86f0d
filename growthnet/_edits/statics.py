"""Static fields that must tell the truth after a resize.

An Equinox layer keeps its sizes as static fields beside its arrays. Three ways to mend
them, in this order: a rule per layer class (`register_statics`); fields found by
search while tracing, accepted only because the network read the same afterwards; and
for fields with no single true value any more, saying so.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax.tree_util as jtu

from .._libraries.kinds import is_box, node_kind, with_fields
from .._paths import array_leaves, is_array, join, key_part
from .._reading.layout import Layout
from .layer_statics import LAYERS


StaticsRule: TypeAlias = Callable[[Any, Any], Mapping[str, Any]]
"""`(old module, new module) -> fields to set`: the new one has its new arrays."""

Found: TypeAlias = tuple[str, str, int | None, Layout]
"""A field found by search: module path, field, index in a tuple, and the layout (a
width, or heads x head_dim) whose size it is."""

_RULES: dict[type, StaticsRule] = {}


def register_statics(cls: type, rule: StaticsRule) -> None:
    """Teaches growthnet which static fields of a layer class follow its arrays.

    **Arguments:**

    - `cls`: the layer class; subclasses inherit the rule.
    - `rule`: `rule(old, new)` gets the module before the resize and the module with its
        new arrays (its static fields still old), and returns `{field: value}`.

    **Raises:** `ValueError` if the class has a rule already.

    !!! example

        ```python
        class Lookup(eqx.Module):
            table: jax.Array
            rows: int = eqx.field(static=True)

        gn.register_statics(Lookup, lambda old, new: {"rows": new.table.shape[0]})
        ```
    """
    if cls in _RULES:
        raise ValueError(f"{cls.__name__} has a statics rule already")
    _RULES[cls] = rule


def axes_rule(**fields: tuple[str, int]) -> StaticsRule:
    """A rule for fields that equal one axis of one array each."""

    def rule(old: Any, new: Any) -> dict[str, Any]:
        updates = {}
        for field, (array, axis) in fields.items():
            before, after = _shape(old, array), _shape(new, array)
            if before and after and isinstance(getattr(old, field), int):
                if getattr(old, field) == before[axis]:
                    updates[field] = after[axis]
        return updates

    return rule


def _shape(module: Any, field: str) -> tuple[int, ...] | None:
    value = getattr(module, field, None)
    leaf: Any = next(iter(jtu.tree_leaves(value)), None) if is_box(value) else value
    return tuple(leaf.shape) if is_array(leaf) else None


def retuned(
    old: Any, new: Any, found: Mapping[str, Mapping[str, Any]], *, check: bool = False
) -> Any:
    """The new tree with mended static fields.

    **Arguments:**

    - `old`, `new`: trees of one structure; `new` holds the new arrays.
    - `found`: fields to set by module path, from the search.
    - `check`: run `__check_init__` of every module that isn't what it was.
    """
    result = _retuned(old, new, found, "")
    if check:
        check_changed(old, result)
    return result


def check_changed(old: Any, new: Any) -> None:
    """A module that is built without its constructor still owes its invariants.

    **Raises:** what the module's `__check_init__` raises.
    """
    before = dict(modules(old))
    for path, module in modules(new):
        pairs = zip(jtu.tree_leaves(before[path]), jtu.tree_leaves(module), strict=True)
        if any(a is not b for a, b in pairs):
            check_invariants(module)


def check_invariants(module: Any) -> None:
    """What the constructor would have checked."""
    for cls in type(module).__mro__:
        if "__check_init__" in cls.__dict__:
            cls.__check_init__(module)


def _retuned(old: Any, new: Any, found: Mapping[str, Any], path: str) -> Any:
    if isinstance(new, eqx.nn.Shared):
        return _retuned_shared(old, new, found, path)
    before, after = _children(old, path), _children(new, path)
    mended = {
        name: _retuned(before[name][1], value, found, where)
        for name, (where, value) in after.items()
    }
    changed = {name: x for name, x in mended.items() if x is not after[name][1]}
    kind = node_kind(type(new))
    if kind.replaced is None:
        if not changed:
            return new
        if isinstance(new, dict):
            return mended
        named = hasattr(new, "_fields")
        return type(new)(*mended.values()) if named else type(new)(mended.values())
    new = with_fields(new, changed)
    if kind.alike is not None:
        new = kind.alike(old, new)
    return with_true_fields(old, new, found.get(path, {}))


def _retuned_shared(old: Any, new: Any, found: Mapping[str, Any], path: str) -> Any:
    """A layer that shares another's array has none of its own: its fields are mended
    with the array in its place."""
    child = f"{path}.pytree" if path else "pytree"
    if not array_leaves(new):
        return new
    full_old, full_new = eqx.filter_eval_shape(old), eqx.filter_eval_shape(new)
    mended = _retuned(full_old, full_new, found, child)
    leaves = jtu.tree_leaves(new.pytree)
    structure = jtu.tree_structure(mended)
    if structure.num_leaves != len(leaves):  # It shares more than single arrays.
        return new
    return with_fields(new, {"pytree": jtu.tree_unflatten(structure, leaves)})


def with_true_fields(old: Any, new: Any, found: Mapping[str, Any]) -> Any:
    """One module with the fields that `found` and its rule tell."""
    # The rule comes last: it may need what was found (`in_channels` is a kernel's axis
    # times `groups`).
    new = with_fields(new, _changed(new, found))
    return with_fields(new, _changed(new, _rule(old, new)))


def _changed(module: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if getattr(module, k) != v}


def _children(tree: Any, path: str) -> dict[Any, tuple[str, Any]]:
    """What a module or container holds, by field, index or key, with its path."""
    fields = node_kind(type(tree)).fields
    if fields is not None:
        # A list of another library keeps its items as attributes "0", "1", ...
        parts = fields(tree).items()
        return {k: (join((path, f"[{k}]" if k.isdigit() else k)), x) for k, x in parts}
    if isinstance(tree, tuple | list):
        return {i: (join((path, f"[{i}]")), x) for i, x in enumerate(tree)}
    if isinstance(tree, dict):
        return {k: (join((path, key_part(k))), x) for k, x in tree.items()}
    return {}


def _rule(old: Any, new: Any) -> Mapping[str, Any]:
    for cls in type(new).__mro__:
        if cls in _RULES:
            try:
                return _RULES[cls](old, new)
            except AttributeError:
                if _lacks_arrays(new):  # As in gradients, or with a shared array.
                    return {}
                raise
    return {}


def _lacks_arrays(module: Any) -> bool:
    return any(
        type(x).__name__ == "SharedNode" or x is None or is_box(x) and _emptied(x)
        for x in _fields(module).values()
    )


def _emptied(box: Any) -> bool:
    return not jtu.tree_leaves(box)


def modules(tree: Any, path: str = ""):
    """Every module inside a tree with its path."""
    if node_kind(type(tree)).fields is not None:
        yield path, tree
    for where, child in _children(tree, path).values():
        yield from modules(child, where)


def fitting(tree: Any, anatomy: Any, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of widths, with those that a constructor inside the tree sets together."""
    sizes = dict(sizes)
    for path, module in modules(tree):
        fit = node_kind(type(module)).fitting
        if fit is not None:
            sizes = fit(module, path, anatomy, sizes)
    return sizes


def has_factory(tree: Any) -> bool:
    """Is there a constructor inside the tree that may set several widths together?"""
    return any(node_kind(type(module)).fitting for _, module in modules(tree))


def _fields(module: Any) -> dict[str, Any]:
    fields = node_kind(type(module)).fields
    return {} if fields is None else fields(module)


def unowned_ints(module: Any):
    """`(field, index, value)` of a module's integer fields and tuples of integers, but
    for those that a rule looks after."""
    owned = _rule(module, module)
    for name, value in _fields(module).items():
        if name in owned:
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, None, value
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, int) and not isinstance(item, bool):
                    yield name, i, item


def static_floats(module: Any):
    """`(field, value)` of a module's fields that hold a Python float."""
    for name, value in _fields(module).items():
        if isinstance(value, float):
            yield name, value


def _mlp(old: Any, new: Any) -> dict[str, Any]:
    """`width_size` has a true value only while all hidden layers agree."""
    hidden = set(_hidden(new))
    return {
        "in_size": new.layers[0].in_features,
        "out_size": new.layers[-1].out_features,
        "width_size": hidden.pop() if len(hidden) == 1 else new.width_size,
        "depth": new.depth if new.scan else len(new.layers) - 1,
    }


def _hidden(mlp: eqx.nn.MLP) -> list[int]:
    """Its hidden sizes, also where a weight is wrapped into what makes it; none in a
    tree of a network's other leaves."""
    sizes = []
    for layer in mlp.layers[:-1]:
        for array, axis in ((layer.weight, -2), (layer.bias, -1)):
            if array is not None and is_array(array):
                sizes.append(array.shape[axis])
                break
    return sizes


def _unequal_layers(module: Any) -> dict[str, str]:
    hidden = _hidden(module)
    if len(set(hidden)) < 2:
        return {}
    return {"width_size": f"layers have {', '.join(map(str, hidden))}"}


_UNTRUE: dict[type, Callable[[Any], Mapping[str, str]]] = {eqx.nn.MLP: _unequal_layers}


def register_untrue(cls: type, tell: Callable[[Any], Mapping[str, str]]) -> None:
    """Teaches growthnet which fields of a class may have no one true value any more:
    `tell(module)` says why, by field."""
    _UNTRUE[cls] = tell


def untrue_fields(tree: Any) -> list[str]:
    """Fields that no longer have one true value, as `path.field = value (why)`."""
    return [
        f"{join((path, field))} = {getattr(module, field)} ({why})"
        for path, module in modules(tree)
        for cls, tell in _UNTRUE.items()
        if isinstance(module, cls)
        for field, why in tell(module).items()
    ]


def _norm(old: Any, new: Any) -> dict[str, Any]:
    for name in ("weight", "bias"):
        if getattr(new, name, None) is not None:
            return {"shape": tuple(getattr(new, name).shape[-len(new.shape) :])}
    return {}


_RULES.update(LAYERS)
register_statics(
    eqx.nn.Linear,
    axes_rule(in_features=("weight", -1), out_features=("weight", -2)),
)
register_statics(eqx.nn.MLP, _mlp)
register_statics(eqx.nn.BatchNorm, axes_rule(input_size=("weight", -1)))
register_statics(eqx.nn.LayerNorm, _norm)
register_statics(eqx.nn.RMSNorm, _norm)
