"""Flax NNX: calls that bring their state back, what is trained, `nnx.Optimizer`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu
from flax import nnx

from .._edits.edit import Edit
from .._paths import array_leaves, fresh, map_arrays, named_leaves
from .._reading.aux import Aux


def call(
    method: str | Callable[..., Any] | None = None, *, train: bool | None = None
) -> Callable[..., tuple[Any, Aux]]:
    """A pure call of an NNX module, which writes its state (running statistics, counts
    of random streams) in place when it is called plainly.

    **Arguments:**

    - `method`: the name of a method, or a function `(module, *args)`; by default the
        module itself is called.
    - `train`: `True` calls it as after `module.train()`, `False` as after
        `module.eval()`; by default as it stands.

    **Returns:** a function `(module, *args) -> (output, growthnet.Aux(net=module2))`.
    The module that it is given stays as it is; `module2` has the new state. It is what
    `growthnet.trace` does with an NNX module by default, and what a loss can use.

    !!! example

        ```python
        import growthnet.flax

        train = growthnet.flax.call(train=True)
        predict = growthnet.flax.call(train=False)
        anatomy = gn.trace(module, x, call=train, also=[predict])


        def loss(net, batch, key):
            x, y = batch
            output, aux = train(net, x)
            return jnp.mean((output - y) ** 2), aux
        ```
    """

    def run(module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Aux]:
        own = fresh(module)
        if train is not None:
            for part in jtu.tree_leaves(own, is_leaf=_is_module):
                if _is_module(part):
                    part.train() if train else part.eval()
        if method is None:
            output = own(*args, **kwargs)
        elif isinstance(method, str):
            output = getattr(own, method)(*args, **kwargs)
        else:
            output = method(own, *args, **kwargs)
        known = array_leaves(module)
        new = {name: x for name, x in array_leaves(own).items() if name in known}
        return output, Aux(net=map_arrays(module, new))

    return run


def _is_module(node: Any) -> bool:
    return isinstance(node, nnx.Module)


def trainable(net: Any, wrt: Any = nnx.Param) -> Any:
    """Which leaves a filter of NNX picks, for the argument `trainable` of
    `growthnet.fit` and `growthnet.Grower`.

    **Arguments:**

    - `net`: an NNX module.
    - `wrt`: any NNX filter: a type of variables, a function of path and value,
        `nnx.Any(...)`, ...

    **Returns:** the tree of booleans.

    !!! example

        ```python
        gn.fit(module, ..., trainable=growthnet.flax.trainable(module, nnx.LoRAParam))
        ```
    """
    picked = {name for name, _ in named_leaves(nnx.state(net, wrt))}
    marks = [name in picked for name, _ in named_leaves(net)]
    return jtu.tree_unflatten(jtu.tree_structure(net), marks)


def transfer(
    edit: Edit, optimizer: nnx.Optimizer, module: Any, *, report: bool = False
) -> Any:
    """Moves an `nnx.Optimizer` along with its module.

    **Arguments:**

    - `edit`: the edit that made the module.
    - `optimizer`: the optimizer of the module before the edit; it stays as it is.
    - `module`: the module after the edit.
    - `report`: also return what happened to every leaf of the state.

    **Returns:** a new `nnx.Optimizer` with the same step count, whose
    `update(module, grads)` goes on. Entries that the edit leaves alone keep their
    values bit for bit, newborn entries hold what the optax `init` gives; see
    `Edit.transfer`.

    **Raises:** `ValueError` if module or optimizer don't fit the edit.

    !!! example

        ```python
        edit = gn.plan(anatomy, {"linear1": 32})
        module2 = edit(module, key=key)
        optimizer2 = growthnet.flax.transfer(edit, optimizer, module2)
        ```
    """
    if not isinstance(optimizer, nnx.Optimizer):
        raise ValueError(
            f"optimizer is a {type(optimizer).__name__}; this moves an nnx.Optimizer, "
            "`edit.transfer` moves an optax state"
        )
    new = _pure(module, optimizer)
    shapes = {leaf.path: leaf.shape for leaf in edit.before.leaves}
    old = map_arrays(
        new,
        {
            name: jax.ShapeDtypeStruct(shapes.get(name, x.shape), x.dtype)
            for name, x in array_leaves(new).items()
        },
    )
    state, what = edit.transfer(
        optimizer.tx, nnx.as_pure(optimizer.opt_state), old, new, report=True
    )
    made = jax.eval_shape(
        lambda m: nnx.Optimizer(m, optimizer.tx, wrt=optimizer.wrt).opt_state, module
    )
    leaves = jtu.tree_leaves(state)
    result = jtu.tree_map(lambda x: x, optimizer)
    result.opt_state = nnx.data(jtu.tree_unflatten(jtu.tree_structure(made), leaves))
    if isinstance(result, nnx.ModelAndOptimizer):
        result.model = module
    return (result, what) if report else result


def _pure(module: Any, optimizer: nnx.Optimizer) -> Any:
    """The parameters as the optimizer inside sees them: plain arrays."""
    return nnx.as_pure(nnx.state(module, optimizer.wrt, graph=optimizer.graph))
