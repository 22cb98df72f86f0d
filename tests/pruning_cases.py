"""What tests of pruning look at: evidence about a network, and networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import growthnet as gn
from growthnet._evidence.look import Look
from growthnet._policies.growing import replaced


class Sees(gn.NoGrowth):
    """Has a turn, and so room and evidence."""

    def step(self, trainable, memory, evidence, *, key):
        del evidence, key
        return gn.Decision(), trainable, memory, {}


def evidence_of(net, loss, batch, needs, capacity, use):
    """A function of the evidence about a network in a larger capacity."""
    grower = gn.Grower(Sees(needs=frozenset(needs)), optax.sgd(0.0), capacity=capacity)
    look = grower.look = Look(loss, batch)
    call = lambda net, x: jax.vmap(net)(x)
    growing, state = grower.init(net, gn.trace(net, batch[0], call=call), key=jr.key(0))

    @eqx.filter_jit
    def see(growing, state, batch):
        return use(look.first(grower, growing, state, batch))

    return see(growing, replaced(state, step=jnp.asarray(1)), batch)


def square(net, batch, key):
    del key
    return jnp.mean(jnp.sum((jax.vmap(net)(batch[0]) - batch[1]) ** 2, axis=-1))


class Convolutions(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, padding=1):
        keys = jr.split(jr.key(2), 3)
        self.first = eqx.nn.Conv2d(2, 4, 3, padding=padding, key=keys[0])
        self.second = eqx.nn.Conv2d(4, 3, 2, stride=2, key=keys[1])
        side = 2 if padding else 1
        self.out = eqx.nn.Linear(3 * side**2, 2, key=keys[2])

    def __call__(self, x):
        h = jax.nn.relu(self.first(x))
        return self.out(jnp.tanh(self.second(h)).reshape(-1))
