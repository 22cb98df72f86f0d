"""Static fields that must tell the truth after a resize.

An Equinox layer keeps its sizes as static fields beside its arrays. Three ways to mend
them, in this order: a rule per layer class (`register_statics`); fields found by
search while tracing, accepted only because the network read the same afterwards; and
for fields with no single true value any more, saying so.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax.tree_util as jtu

from ._layer_statics import LAYERS
from ._layout import Layout
from ._paths import array_leaves, is_array


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
            before, after = getattr(old, array, None), getattr(new, array, None)
            if before is None or after is None or not is_array(before):
                continue  # A tree without it, or a layer that shares it.
            if not isinstance(getattr(old, field), int):
                continue
            if getattr(old, field) == before.shape[axis]:
                updates[field] = after.shape[axis]
        return updates

    return rule


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
    if isinstance(new, eqx.Module):
        updates = {}
        for field in dataclasses.fields(new):
            if not hasattr(new, field.name):
                continue
            value = getattr(new, field.name)
            child = f"{path}.{field.name}" if path else field.name
            mended = _retuned(getattr(old, field.name), value, found, child)
            if mended is not value:
                updates[field.name] = mended
        return with_true_fields(old, _with_fields(new, updates), found.get(path, {}))
    if isinstance(new, tuple | list):
        parts = [
            _retuned(a, b, found, f"{path}[{i}]")
            for i, (a, b) in enumerate(zip(old, new, strict=True))
        ]
        if all(a is b for a, b in zip(parts, new, strict=True)):
            return new
        return type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)
    if isinstance(new, dict):
        parts = {
            k: _retuned(old[k], v, found, f"{path}.{k}" if path else str(k))
            for k, v in new.items()
        }
        return new if all(parts[k] is v for k, v in new.items()) else parts
    return new


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
    return _with_fields(new, {"pytree": jtu.tree_unflatten(structure, leaves)})


def with_true_fields(old: Any, new: Any, found: Mapping[str, Any]) -> Any:
    """One module with the fields that `found` and its rule tell."""
    # The rule comes last: it may need what was found (`in_channels` is a kernel's axis
    # times `groups`).
    new = _with_fields(new, _changed(new, found))
    return _with_fields(new, _changed(new, _rule(old, new)))


def _changed(module: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if getattr(module, k) != v}


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
    values = [getattr(module, f.name, None) for f in dataclasses.fields(module)]
    return any(x is None or type(x).__name__ == "SharedNode" for x in values)


def owned_fields(module: Any) -> frozenset[str]:
    """The fields that a rule of the module's class, or of a base of it, answers for."""
    return frozenset(_rule(module, module))


def _with_fields(module: Any, updates: Mapping[str, Any]) -> Any:
    """A copy with other fields. Neither `tree_at` (static fields aren't leaves) nor
    `dataclasses.replace` (custom `__init__`) can do this, so it is built by hand."""
    if not updates:
        return module
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        if hasattr(module, field.name):
            value = updates.get(field.name, getattr(module, field.name))
            object.__setattr__(copy, field.name, value)
    return copy


def modules(tree: Any, path: str = ""):
    """Every Equinox module inside a tree with its path."""
    if isinstance(tree, eqx.Module):
        yield path, tree
        children = {
            f.name: getattr(tree, f.name)
            for f in dataclasses.fields(tree)
            if hasattr(tree, f.name)
        }
        for name, child in children.items():
            yield from modules(child, f"{path}.{name}" if path else name)
    elif isinstance(tree, tuple | list):
        for i, child in enumerate(tree):
            yield from modules(child, f"{path}[{i}]")
    elif isinstance(tree, dict):
        for k, child in tree.items():
            yield from modules(child, f"{path}.{k}" if path else str(k))


def unowned_ints(module: Any):
    """`(field, index, value)` of a module's integer fields and tuples of integers, but
    for those that a rule looks after."""
    owned = _rule(module, module)
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if field.name in owned:
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            yield field.name, None, value
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, int) and not isinstance(item, bool):
                    yield field.name, i, item


def static_floats(module: Any):
    """`(field, value)` of a module's fields that hold a Python float."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if isinstance(value, float):
            yield field.name, value


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
            if is_array(array):
                sizes.append(array.shape[axis])
                break
    return sizes


def untrue_fields(tree: Any) -> list[str]:
    """Fields that no longer have one true value, as `path.field = value (why)`."""
    found = []
    for path, module in modules(tree):
        if isinstance(module, eqx.nn.MLP):
            hidden = _hidden(module)
            if len(set(hidden)) > 1:
                name = f"{path}.width_size" if path else "width_size"
                sizes = ", ".join(map(str, hidden))
                found.append(f"{name} = {module.width_size} (layers have {sizes})")
    return found


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
