"""A network in growth and the state beside it: the two things that a loop carries."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._capacity.capacity import compacting, Openings
from .._capacity.gates import silence
from .._devices.places import mesh_of, on_mesh, pinned, Places, places_of
from .._devices.shards import multiples
from .._edits.edit import Edit
from .._reading.anatomy import Anatomy
from .policy import AbstractPolicy, Decision


class Growing(eqx.Module):
    """A network in growth: what gradients are taken with respect to.

    Callable like the network itself; `view` gives the gated network for other uses, and
    `compact` the ordinary network that it stands for.

    - `net`: the network's arrays at capacity.
    - `trainable`: the policy's own trainables.
    - `open`: which units exist, `bool[capacity]` by width.
    - `places`: where the run's arrays are, if they are on a mesh.
    """

    net: Any
    trainable: Any
    open: Openings
    policy: AbstractPolicy
    anatomy: Anatomy
    places: Places | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the gated network as it is outside training."""
        return self.view()(*args, **kwargs)

    def gates(self, *, key: Any = None, train: bool = False) -> dict[str, Any]:
        """The policy's gates, 0 for closed units: `[capacity]` by width."""
        policy = stopped(self.policy)
        managed = self.anatomy.only(self.open) if self.open else self.anatomy
        named = policy.gates(self.trainable, managed, key=key, train=train)
        return {
            name: masked(named[name], mask) if name in named else mask
            for name, mask in self.open.items()
        }

    def view(self, *, key: Any = None, train: bool = False) -> Any:
        """The network with its gates multiplied in (same structure, same shapes)."""
        return silence(self.net, self.anatomy, self.gates(key=key, train=train))

    def compact(self) -> Any:
        """The ordinary network at its real sizes: gates folded in, closed units and
        units whose gate is 0 dropped, but for as many as a mesh needs to divide a
        width."""
        net, gates = _seen(self)
        edit = _compacting(self, gates)
        return net if edit is None else edit(net)


def own_rates(growing: Growing, memory: Any) -> dict[str, Any]:
    """The policy's factors of updates, by leaf path.

    **Raises:** `ValueError` naming the policy, for a leaf that doesn't exist or a shape
    that isn't its.
    """
    named = growing.policy.rates(memory, growing.anatomy, growing.open)
    shapes = {leaf.path: leaf.shape for leaf in growing.anatomy.leaves}
    for path, rate in named.items():
        fits = path in shapes and len(jnp.shape(rate)) <= len(shapes[path])
        pairs = zip(jnp.shape(rate)[::-1], shapes.get(path, ())[::-1], strict=False)
        if not fits or any(a not in (1, b) for a, b in pairs):
            raise ValueError(
                f"{type(growing.policy).__name__}.rates: {path!r} has shape "
                f"{jnp.shape(rate)}; the leaves are {shapes}"
            )
    return {path: jnp.asarray(rate) for path, rate in named.items()}


def masked(gates: Any, mask: Any) -> Any:
    return jnp.where(mask, gates, jnp.zeros((), gates.dtype))


@eqx.filter_jit
def _seen(growing: Growing) -> tuple[Any, dict[str, Any]]:
    """The gated network and its gates: one program instead of one per operation."""
    return growing.view(), growing.gates()


def compact_edit(growing: Growing) -> Edit | None:
    """The edit that keeps just the units that are open and not silent."""
    return _compacting(growing, _seen(growing)[1])


def _compacting(growing: Growing, gates: dict[str, Any]) -> Edit | None:
    loud = {name: np.asarray(gate) != 0 for name, gate in gates.items()}
    if not loud:
        return None
    # A width keeps at least one unit, be it silent.
    loud = {n: m if m.any() else np.arange(m.size) == 0 for n, m in loud.items()}
    return compacting(growing.anatomy, loud, multiples(growing.anatomy, growing.net))


class GrowerState(eqx.Module):
    """Everything of a run that isn't the network: pass it along, don't look inside.

    - `step`: training steps so far.
    - `waiting`: a decision is waiting for room; `decision` is it.
    - `roomy`: some width could do with a lower capacity.
    - `held`: capacities stay as they are; what doesn't fit of a decision isn't done.
    """

    opt_state: Any
    policy_opt_state: Any
    memory: Any
    key: Any
    step: jax.Array
    waiting: jax.Array
    roomy: jax.Array
    held: jax.Array
    decision: Decision


def stopped(module: Any) -> Any:
    """Hyper-parameters are constants of the objective: no gradient goes there."""
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, module
    )


def as_arrays(tree: Any) -> Any:
    """Python numbers as arrays, so that they can change in a program."""
    return jax.tree.map(
        lambda x: on_device(x) if isinstance(x, bool | int | float) else x, tree
    )


def on_device(x: Any) -> jax.Array:
    """A number or a numpy array as an array of JAX. `jnp.asarray` compiles a program
    for every new shape; this doesn't."""
    return jax.device_put(np.asarray(x))


def placed(x: Any) -> Any:
    """What an edit made in numpy as an array of JAX; anything else as it is."""
    return on_device(x) if isinstance(x, np.ndarray) else x


def stacked(trees: Sequence[Any]) -> tuple[Any, Any]:
    """Trees of one structure as one, with a new first axis: its arrays, and the rest
    (that of the first tree)."""
    arrays = [eqx.filter(tree, eqx.is_array) for tree in trees]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    return stack, eqx.filter(trees[0], eqx.is_array, inverse=True)


def data_key(key: Any) -> Any:
    """What the order of the examples is drawn with, from the key of the run."""
    return jr.fold_in(key, 6)


def strong(tree: Any) -> Any:
    """The tree without weak types: they get lost in training, and a program is traced
    anew where one is."""
    return jax.tree.map(
        lambda leaf: (
            jax.lax.convert_element_type(leaf, leaf.dtype)
            if getattr(leaf, "weak_type", False)
            else leaf
        ),
        tree,
    )


def settled(growing: Growing, state: GrowerState) -> tuple[Growing, GrowerState]:
    """A run for programs to take: its numbers strong, all of it on the mesh that the
    network is on, its places noted."""
    run = on_mesh(strong((growing, state)), mesh_of(growing.net))
    return replaced(run[0], places=places_of(run)), run[1]


def in_place(growing: Growing, state: GrowerState) -> tuple[Growing, GrowerState]:
    """At the end of a program: the run where it was."""
    return pinned((growing, state), growing.places)


def applied(tree: Any, updates: Any) -> Any:
    """The tree with updates added, in its own dtypes: optimizers with finer moments
    than the network has make finer updates."""

    def add(update: Any, leaf: Any) -> Any:
        if update is None:
            return leaf
        with jax.numpy_dtype_promotion("standard"):
            return (leaf + update).astype(leaf.dtype)

    return jax.tree.map(add, updates, tree, is_leaf=lambda x: x is None)


def inexact(tree: Any) -> Any:
    """The trainable numbers of a policy's trainables."""
    return eqx.filter(tree, eqx.is_inexact_array)


def replaced(module: Any, **fields: Any) -> Any:
    """A copy of a module with other fields; statics may change too."""
    copy = object.__new__(type(module))
    for name in module.__dataclass_fields__:
        object.__setattr__(copy, name, fields.get(name, getattr(module, name)))
    return copy


def cond_pair(predicate: Any, function: Callable, growing: Growing, state: Any) -> Any:
    """`lax.cond` over module pairs; the function must keep their structure."""
    dynamic, static = eqx.partition((growing, state), eqx.is_array)

    def run(dynamic: Any) -> Any:
        result = function(*eqx.combine(dynamic, static))
        return eqx.filter(result, eqx.is_array)

    result = jax.lax.cond(predicate, run, lambda d: d, dynamic)
    return eqx.combine(result, static)
