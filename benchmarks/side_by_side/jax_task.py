"""The network and the loss of the JAX arms: what a user would write for any of them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from .tasks import first_weights


def network(task: str, size: int) -> eqx.nn.MLP:
    first, first_bias, last, last_bias = first_weights(task, size)
    net = eqx.nn.MLP(
        first.shape[1], last.shape[0], size, 1, activation=jnp.tanh, key=jr.key(0)
    )
    arrays = [jnp.asarray(a) for a in (first, first_bias, last, last_bias)]
    return eqx.tree_at(leaves, net, arrays)


def leaves(net: Any) -> list[Any]:
    return [
        net.layers[0].weight,
        net.layers[0].bias,
        net.layers[1].weight,
        net.layers[1].bias,
    ]


def squared_error(net: Any, batch: Any, key: Any = None) -> Any:
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def cross_entropy(net: Any, batch: Any, key: Any = None) -> Any:
    x, y = batch
    logits = jax.vmap(net)(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def loss_of(task: str) -> Any:
    return squared_error if task == "waves" else cross_entropy
