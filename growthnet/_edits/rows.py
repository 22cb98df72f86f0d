"""Appending rows to lookup tables and heads: a longer vocabulary, another class."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._reading.anatomy import Anatomy
from .._reading.trace import misread
from .._reading.widths import Width
from .edit import Edit, WidthChange
from .inits import pair_for, Rows


def plan_rows(
    anatomy: Anatomy, rows: Mapping[str, int], *, init: str = "drawn"
) -> Edit:
    """Plans to append rows to lookup tables (embeddings) and heads (outputs).

    The rows of a table have numbers, so they are never removed or moved, and `plan`
    leaves them alone. What is tied to the table grows with it: the head that makes an
    output of every row, and with it the network's output; `explain` says so. A head of
    its own weights, which no leaf reads, is appended to in the same way: a classifier
    gets another class.

    **Arguments:**

    - `anatomy`: from `trace`; `anatomy.tables` and `anatomy.heads` have the names.
    - `rows`: the new number of rows by name.
    - `init`: `"drawn"`: at random, at the scale of the old rows. `"mean"`: the mean of
        the old rows.

    **Returns:** an `Edit`, as `plan` does: call it on the network, and let it
    `transfer` the optimizer state. Old rows stay bit for bit.

    **Raises:** `ValueError` for an unknown name, fewer rows than there are, or a
    program that only works with the old number.

    !!! example

        ```python
        table = eqx.nn.Embedding(10, 4, key=jax.random.key(0))
        anatomy = gn.trace(table, jax.ShapeDtypeStruct((), "int32"))
        edit = gn.plan_rows(anatomy, {"weight": 12})
        edit(table, key=jax.random.key(1)).num_embeddings  # 12

        mlp = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
        anatomy = gn.trace(mlp, jax.ShapeDtypeStruct((4,), "float32"))
        edit = gn.plan_rows(anatomy, {"layers[1]": 3})
        edit(mlp, key=jax.random.key(1)).out_size  # 3
        ```
    """
    if init not in ("drawn", "mean"):
        raise ValueError(
            f"init={init!r}; new rows are 'drawn', or the 'mean' of the old"
        )
    changes, pairs = [], {}
    for name, new in rows.items():
        table = _table(anatomy, name)
        _check_rows(table, new)
        if new != table.size:
            kept = np.arange(table.size)
            changes.append(_change(table, int(new)))
            pairs[table.id] = pair_for(table.size, int(new), kept, "closed")
    after = anatomy.at({id: pair.produce.new for id, pair in pairs.items()})
    if anatomy.source is not None and changes:
        after = _certified(anatomy, after, changes)
    return Edit(anatomy, after, Rows(init), tuple(changes), pairs)


def append_rows(
    net: Any,
    anatomy: Anatomy,
    rows: Mapping[str, int],
    *,
    key: Any = None,
    init: str = "drawn",
) -> Any:
    """Appends rows to tables and heads: `plan_rows(...)` applied to the network.

    **Arguments:** as in `plan_rows`; `key` seeds the new rows.

    **Returns:** a new network.

    **Raises:** `ValueError`, as `plan_rows`.

    !!! example

        ```python
        longer = gn.append_rows(model, anatomy, {"embedding": 12}, key=key)
        ```
    """
    edit = plan_rows(anatomy, rows, init=init)
    anatomy.check(net, "the network", whole=True)
    return edit(net, key=key)


def _table(anatomy: Anatomy, name: str) -> Width:
    if name in anatomy.rows:
        return anatomy.rows[name]
    fixed = {f.name: f.reason for f in anatomy.fixed}
    if name in anatomy.widths:
        why = "is a hidden width, which `plan` resizes"
    elif name in fixed:
        why = f"is neither looked up by index nor a head: {fixed[name]}"
    else:
        why = "is unknown"
    raise ValueError(
        f"{name!r} {why}; rows are appended to lookup tables and heads. "
        f"Tables: {_listed(anatomy.all_tables)}; heads: {_listed(anatomy.all_heads)}"
    )


def _listed(axes: tuple[Width, ...]) -> str:
    return ", ".join(f"{axis.name} ({axis.size})" for axis in axes) or "none"


def _check_rows(table: Width, new: Any) -> None:
    whole = isinstance(new, int | np.integer) and not isinstance(new, bool)
    if not whole or new < table.size:
        raise ValueError(
            f"{new!r} rows for {table.name!r}, which has {table.size}; rows "
            "are appended, so the number is a whole one and no smaller"
        )


def _change(table: Width, new: int) -> WidthChange:
    kept = tuple(range(table.size))
    grows = next((r for r in table.reasons if "output" in r), "")
    why = f"the output grows with it: {grows}" if grows else ""
    why = table.silent.why or why
    exactness = table.silent.exactness
    return WidthChange(table.name, table.size, new, kept, exactness, why)


def _certified(anatomy: Anatomy, after: Anatomy, changes: list[WidthChange]) -> Anatomy:
    """The anatomy after the change with its source, if the programs read as it says."""
    source = anatomy.source.like(after)
    wrong = misread(source, after)
    if wrong:
        sizes = ", ".join(f"{c.name!r}: {c.new}" for c in changes)
        raise ValueError(f"the network doesn't work with the rows {sizes}: {wrong}")
    return dataclasses.replace(after, source=source)
