"""Flax Linen: variables together with the function that builds a module for them.

Linen writes sizes into modules, not into variables, so new shapes need a new module. A
`Linen` network knows how to get one, and so its sizes behave like the static fields of
any other module.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.tree_util as jtu

from .._edits.statics import register_statics
from .._paths import array_leaves, map_arrays
from .._reading.aux import Aux
from .factory import Factory, fitting, initials, Sizes, sizes_for
from .kinds import Kind, register_kind


class _Collection:
    """A collection that isn't trained (`batch_stats`, `cache`, ...)."""

    def __init__(self, value: Any):
        self.value = value


def _flat_collection(box: _Collection) -> tuple[Any, None]:
    return ((jtu.GetAttrKey("value"), box.value),), None


jtu.register_pytree_with_keys(
    _Collection, _flat_collection, lambda _, children: _Collection(*children)
)
register_kind(_Collection, Kind(box=True, learns=False))


class Linen:
    """A Linen network that can be traced, resized and trained like any other: a pytree
    of variables that knows how to build its module.

    **Arguments:**

    - `make`: `make(**sizes)`, a Linen module. A width can change if an argument of
        `make` changes it; widths that one argument sets change together.
    - `sizes`: the arguments of `make` that are sizes: whole numbers, or tuples of them.
    - `args`, `kwargs`: what the module's `init` takes beside its key; only shapes
        count.
    - `variables`: the variables, if you have them. Otherwise they are initialised with
        `key`.

    **Attributes:** `module` and `variables`, as Linen wants them, and `sizes`. Called,
    it is `module.apply(variables, ...)`; with `mutable=[...]` it returns the output and
    a `growthnet.Aux` whose `net` has the new variables.

    **Raises:** `ValueError` if the variables aren't those of `make(**sizes)`.

    !!! example

        ```python
        def make(hidden):
            return nn.Sequential([nn.Dense(hidden), nn.relu, nn.Dense(2)])

        net = growthnet.flax.Linen(make, {"hidden": 8}, x, key=jax.random.key(0))
        anatomy = gn.trace(net, x)
        net2 = gn.resize(net, anatomy, {"params.layers_0": 32}, key=jax.random.key(1))
        net2.sizes  # {"hidden": 32}
        net2.module.apply(net2.variables, x)
        ```
    """

    def __init__(
        self,
        make: Callable[..., Any],
        sizes: Mapping[str, Sizes],
        *args: Any,
        key: Any = None,
        variables: Any = None,
        **kwargs: Any,
    ):
        if (key is None) == (variables is None):
            raise ValueError("give `variables`, or a `key` to initialise them with")
        factory = Factory.of(make, sizes, args, kwargs)
        if variables is None:
            init = jax.jit(lambda key: make(**sizes).init(key, *args, **kwargs))
            variables = init(key)
        self._factory = factory
        self._sizes = tuple(sizes.items())
        self._collections = {
            name: value if name == "params" else _Collection(value)
            for name, value in sorted(variables.items())
        }
        expected = factory.shapes(self._sizes)
        for name, array in array_leaves(self).items():
            if tuple(array.shape) != expected.get(name):
                raise ValueError(
                    f"variables has {name!r} with shape {tuple(array.shape)}; "
                    f"make(**{dict(sizes)}) has it with {expected.get(name)}"
                )

    @property
    def sizes(self) -> dict[str, Sizes]:
        """The arguments of `make`, as they are now."""
        return dict(self._sizes)

    @property
    def module(self) -> Any:
        """The Linen module for these variables."""
        return self._factory.make(**self.sizes)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables, for `module.apply`."""
        return {
            name: x.value if isinstance(x, _Collection) else x
            for name, x in self._collections.items()
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`module.apply(variables, *args, **kwargs)`."""
        result = self.module.apply(self.variables, *args, **kwargs)
        if not kwargs.get("mutable"):
            return result
        output, changed = result
        known = array_leaves(self)
        new = {k: x for k, x in array_leaves(dict(changed)).items() if k in known}
        return output, Aux(net=map_arrays(self, new))

    def moves(self, anatomy: Any) -> dict[str, tuple[str, ...]]:
        """Which widths each argument of `make` sets, by argument; `features[0]` is an
        entry of a tuple.

        **Arguments:** the anatomy of this network.
        """
        found = self._factory.moves(self._sizes, anatomy, "")
        return {name: tuple(slopes) for name, slopes in found.items()}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self._sizes)
        return f"Linen({getattr(self._factory.make, '__name__', 'make')}, {sizes})"


# --- as a pytree, and as the core sees it


def _flat(net: Linen) -> tuple[Any, Any]:
    children = [(jtu.DictKey(name), x) for name, x in net._collections.items()]
    return children, (tuple(net._collections), net._factory, net._sizes)


def _made(aux: Any, children: Any) -> Linen:
    names, factory, sizes = aux
    net = object.__new__(Linen)
    net._factory, net._sizes = factory, sizes
    net._collections = dict(zip(names, children, strict=True))
    return net


def _replaced(net: Linen, updates: Mapping[str, Any]) -> Linen:
    copy = object.__new__(Linen)
    copy._factory = net._factory
    copy._sizes = tuple({**net.sizes, **updates.get("sizes", {})}.items())
    own = {name: x for name, x in updates.items() if name != "sizes"}
    copy._collections = {**net._collections, **own}
    return copy


def _rule(old: Linen, new: Linen) -> dict[str, Any]:
    shapes = {name: tuple(x.shape) for name, x in array_leaves(new).items()}
    return {"sizes": dict(sizes_for(old._factory, old._sizes, shapes))}


def _fitting(
    net: Linen, path: str, anatomy: Any, sizes: Mapping[str, int]
) -> dict[str, int]:
    return fitting(net._factory, net._sizes, path, anatomy, sizes)


def register_linen() -> None:
    """Linen networks, as the core sees them."""
    jtu.register_pytree_with_keys(Linen, _flat, _made)
    fields = lambda net: dict(net._collections)
    first = lambda net: initials(net._factory)
    register_kind(
        Linen,
        Kind(
            fields=fields,
            replaced=_replaced,
            fitting=_fitting,
            initials=first,
            learns=True,
        ),
    )
    register_statics(Linen, _rule)
