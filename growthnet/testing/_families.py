"""Dense networks of many shapes, as blueprints: hidden sizes in, network out."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._modules import (
    Autoencoder,
    Concatenating,
    Counting,
    Experts,
    Factored,
    Fused,
    Normalised,
    PerUnit,
    Recycled,
    Residual,
    Sizes,
    TwoByTwo,
)


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """How to build one network at any hidden sizes.

    - `build`: from sizes by width name to a network, or `None` where no constructor
        gives these sizes. It is run abstractly: only shapes and static fields count.
    - `widths`: the widths that can grow, as `trace` must find them, with their sizes.
    - `inputs`: the shapes of the arguments of one call.
    - `call`: as `trace` takes it.
    """

    build: Callable[[Mapping[str, int]], Any]
    widths: Mapping[str, int]
    inputs: Sizes = ((3,),)
    call: Callable[..., Any] | None = None


def _key() -> Any:
    """Blueprints are built abstractly, so no seed ever matters."""
    return jr.key(0)


# --- eqx.nn.MLP


def _jitted(net: Any, x: Any) -> Any:
    return eqx.filter_jit(lambda net, x: net(x))(net, x)


def _checkpointed(net: Any, x: Any) -> Any:
    return eqx.filter_checkpoint(lambda net, x: net(x))(net, x)


def _batched(net: Any, xs: Any) -> Any:
    return jax.vmap(net)(xs)


_CALLS: dict[str, tuple[Callable[..., Any] | None, Sizes]] = {
    "plain": (None, (3,)),
    "jit": (_jitted, (3,)),
    "checkpoint": (_checkpointed, (3,)),
    "vmap": (_batched, (4, 3)),
}
_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "gelu": jnn.gelu,
    "relu": jnn.relu,
    "softplus": jnn.softplus,
    "tanh": jnp.tanh,
}


def mlp(
    units: int = 3,
    depth: int = 2,
    act: str = "relu",
    bias: bool = True,
    under: str = "plain",
) -> Blueprint:
    """`eqx.nn.MLP`, called plainly or under one of JAX's transformations. With a slope
    for every unit ("prelu") all its layers share one width."""
    call, shape = _CALLS[under]
    shared = act == "prelu"

    def build(sizes: Mapping[str, int]) -> Any:
        width, *others = set(sizes.values())
        if others:
            return None
        activation = PerUnit(jnp.zeros(())) if shared else _ACTIVATIONS[act]
        return eqx.nn.MLP(
            3,
            2,
            width,
            depth,
            activation=activation,
            use_bias=bias,
            use_final_bias=bias,
            key=_key(),
        )

    widths = {f"layers[{i}]": units for i in range(1 if shared else depth)}
    return Blueprint(build, widths, (shape,), call)


# --- networks that are no modules


def _first_layers(net: Any, x: Any) -> Any:
    return jnp.tanh(x @ net["w1"] + net["b1"]) @ net["w2"] + net["b2"]


def arrays(units: int = 3) -> Blueprint:
    """A dict of arrays."""

    def build(sizes: Mapping[str, int]) -> Any:
        n = sizes["w1"]
        return {
            "w1": jnp.zeros((3, n)),
            "b1": jnp.zeros(n),
            "w2": jnp.zeros((n, 2)),
            "b2": jnp.zeros(2),
        }

    return Blueprint(build, {"w1": units}, call=_first_layers)


def _through_pairs(net: Any, x: Any) -> Any:
    for weight, bias in net[:-1]:
        x = jnn.gelu(weight @ x + bias)
    weight, bias = net[-1]
    return weight @ x + bias


def pairs(units: int = 3, more: int = 2) -> Blueprint:
    """A list of `(weight, bias)`."""

    def build(sizes: Mapping[str, int]) -> Any:
        ends = [3, *sizes.values(), 2]
        steps = zip(ends[1:], ends[:-1], strict=True)
        return [(jnp.zeros((n, m)), jnp.zeros(n)) for n, m in steps]

    return Blueprint(build, {"[0]": units, "[1]": more}, call=_through_pairs)


# --- networks of Equinox layers


def sequential(units: int = 3) -> Blueprint:
    """Layers in a row, with a dropout that is switched off."""

    def build(sizes: Mapping[str, int]) -> Any:
        n = sizes["layers[0]"]
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, n, key=_key()),
                eqx.nn.Lambda(jnn.softplus),
                eqx.nn.Dropout(0.5, inference=True),
                eqx.nn.Linear(n, 2, key=_key()),
            ]
        )

    return Blueprint(build, {"layers[0]": units})


def layer_norm(units: int = 3) -> Blueprint:
    """A layer norm over the hidden width, which can't grow exactly."""

    def build(sizes: Mapping[str, int]) -> Any:
        n = sizes["layers[0]"]
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, n, key=_key()),
                eqx.nn.LayerNorm(n),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(n, 2, key=_key()),
            ]
        )

    return Blueprint(build, {"layers[0]": units})


def residual(units: int = 3, inner: int = 2) -> Blueprint:
    """Two blocks on a stream."""
    names = ("stem", "ups[0]", "ups[1]")
    return Blueprint(
        lambda s: Residual(s["stem"], (s["ups[0]"], s["ups[1]"]), key=_key()),
        dict(zip(names, (units, inner, 3), strict=True)),
    )


def concatenating(units: int = 3, more: int = 2) -> Blueprint:
    """Two layers that read everything before them."""
    return Blueprint(
        lambda s: Concatenating((s["layers[0]"], s["layers[1]"]), key=_key()),
        {"layers[0]": units, "layers[1]": more},
    )


def fused(units: int = 3) -> Blueprint:
    """A gated linear unit with one projection."""
    return Blueprint(lambda s: Fused(s["both"], key=_key()), {"both": units})


def two_by_two(units: int = 3, more: int = 2) -> Blueprint:
    """Two inputs, two outputs."""
    return Blueprint(
        lambda s: TwoByTwo(s["left"], s["trunk"], key=_key()),
        {"left": units, "trunk": more},
        ((3,), (4,)),
    )


def recycled(units: int = 3) -> Blueprint:
    """A layer applied twice."""
    return Blueprint(lambda s: Recycled(s["stem"], key=_key()), {"stem": units})


def autoencoder(units: int = 3) -> Blueprint:
    """A decoder tied to its encoder."""
    return Blueprint(lambda s: Autoencoder(s["weight"], key=_key()), {"weight": units})


def factored(units: int = 3, rank: int = 2, merged: bool = False) -> Blueprint:
    """A correction of low rank."""
    return Blueprint(
        lambda s: Factored(s["weight"], s["down"], merged, key=_key()),
        {"weight": units, "down": rank},
    )


def normalised(units: int = 3, epsilon: float = 1e-3) -> Blueprint:
    """Weight normalisation."""
    return Blueprint(
        lambda s: Normalised(s["direction"], epsilon, key=_key()),
        {"direction": units},
    )


def experts(units: int = 3, count: int = 2) -> Blueprint:
    """A mixture of experts."""
    return Blueprint(
        lambda s: Experts(s["choice"], s["up"], key=_key()),
        {"choice": count, "up": units},
    )


def counting(units: int = 3) -> Blueprint:
    """With an integer leaf."""
    return Blueprint(lambda s: Counting(s["inner"], key=_key()), {"inner": units})


Family = tuple[Callable[..., Blueprint], Mapping[str, tuple[Any, ...]]]
"""A blueprint, and the menu for each of its options, simplest first."""

_UNITS = (2, 3, 5)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mlp": (
            mlp,
            {
                "units": _UNITS,
                "depth": (1, 2, 3),
                "act": ("tanh", "relu", "gelu", "softplus", "prelu"),
                "bias": (True, False),
                "under": tuple(_CALLS),
            },
        ),
        "arrays": (arrays, {"units": _UNITS}),
        "pairs": (pairs, {"units": _UNITS, "more": (2, 5)}),
        "sequential": (sequential, {"units": _UNITS}),
        "layer_norm": (layer_norm, {"units": _UNITS}),
        "residual": (residual, {"units": _UNITS, "inner": (2, 5)}),
        "concatenating": (concatenating, {"units": _UNITS, "more": (2, 5)}),
        "fused": (fused, {"units": _UNITS}),
        "two_by_two": (two_by_two, {"units": _UNITS, "more": (2, 5)}),
        "recycled": (recycled, {"units": _UNITS}),
        "autoencoder": (autoencoder, {"units": _UNITS}),
        "factored": (factored, {"units": _UNITS, "rank": (1, 2)}),
        "normalised": (normalised, {"units": _UNITS}),
        "experts": (experts, {"units": _UNITS, "count": (2, 3)}),
        "counting": (counting, {"units": _UNITS}),
    }
)
