"""What `trace` is asked: refused at once where it can't be meant so."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.tree_util as jtu

from .._libraries.kinds import node_kind
from .._paths import array_leaves, is_array, is_state, named_leaves


Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of the network, and its other arguments."""


def default_call(net: Any) -> Callable[..., Any]:
    """How a network is called if nothing is said."""
    return node_kind(type(net)).call or _plainly


def _plainly(net: Any, *args: Any) -> Any:
    return net(*args)


def asked_calls(
    net: Any, args: tuple[Any, ...], call: Any, also: Any
) -> tuple[Call, ...]:
    """The calls that `trace` is to read.

    **Raises:** `ValueError` for what is no network, no call, or leaves out the state.
    """
    _check_network(net)
    if call is None:
        if not callable(net):
            has_state = isinstance(net, tuple) and len(net) == 2 and is_state(net[1])
            how = "net[0](x, net[1])" if has_state else "..."
            raise ValueError(
                f"a {type(net).__name__} can't be called; say how to with "
                f"`call=lambda net, x: {how}`"
            )
        call = default_call(net)
    if not callable(call):
        raise ValueError(
            f"call={call!r} isn't a function; give one, such as `lambda net, x: net(x)`"
        )
    calls = ((call, args), *_others(also, args))
    for function, given in calls:
        _check_state(function, given)
    return calls


def _check_network(net: Any) -> None:
    if isinstance(net, type):
        raise ValueError(
            f"the network is the class {net.__name__}; give an instance of it"
        )
    if array_leaves(net):
        return
    numbers = [n for n, leaf in named_leaves(net) if isinstance(leaf, int | float)]
    if numbers:
        raise ValueError(
            f"the network has no arrays, only Python numbers ({numbers[0]!r}); make "
            "them arrays with `jax.tree.map(jnp.asarray, net)`"
        )
    raise ValueError("the network has no arrays; pass the network itself, not None")


def _others(also: Any, args: tuple[Any, ...]) -> list[Call]:
    if not isinstance(also, Sequence):
        raise ValueError(
            f"also={also!r}; give a list of functions, or of pairs of a function and a "
            "tuple of arguments"
        )
    calls = []
    for i, other in enumerate(also):
        function, given = other if _is_pair(other) else (other, args)
        if not callable(function) or not isinstance(given, tuple):
            raise ValueError(
                f"also[{i}]={other!r}; give a function, or a pair of a function and a "
                "tuple of arguments"
            )
        calls.append((function, given))
    return calls


def _is_pair(other: Any) -> bool:
    return isinstance(other, tuple) and len(other) == 2


def _check_state(call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """A state outside the network would keep its shape, and be consumed."""
    whole = "trace the whole network: gn.trace((model, state), x, call=lambda net, x: "
    if any(map(is_state, jtu.tree_leaves(args, is_leaf=is_state))):
        raise ValueError(
            f"an eqx.nn.State is among the arguments; {whole}net[0](x, net[1]))"
        )
    try:
        seen = inspect.getclosurevars(call)
    except (TypeError, ValueError):
        return
    for name, value in {**seen.globals, **seen.nonlocals}.items():
        if is_state(value):
            raise ValueError(
                f"the call uses the eqx.nn.State {name!r} from outside; {whole}...)"
            )


def failure(error: Exception, calls: Sequence[Call], number: int, line: str) -> str:
    """Why a call of the network failed, and what may be the matter."""
    which = f"also[{number - 1}]" if number else "the network"
    text = f"{which} can't be called with these arguments"
    text += f" (at {line}): {error}" if line else f": {error}"
    for i, arg in enumerate(calls[number][1]):
        plain = [x for x in jax.tree.leaves(arg) if isinstance(x, int | float)]
        if plain and not any(map(is_array, jax.tree.leaves(arg))):
            return (
                f"{text}. Argument {i} is {arg!r}, which isn't an array: give "
                "jnp.asarray(...), or jax.ShapeDtypeStruct(shape, dtype)"
            )
    return text
