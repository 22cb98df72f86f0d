"""That it keeps growthnet's rules, is found by name, and does what it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from growthnet_plateau import Plateau

import growthnet as gn
from growthnet.testing import parametrize_with_checks


@parametrize_with_checks([Plateau(every=4, patience=1)])
def test_it_keeps_the_rules(check):
    check()


def test_it_is_found_by_name():
    assert gn.load_policy("plateau") is Plateau


def test_it_grows_when_nothing_improves():
    x = jnp.linspace(-1, 1, 32)[:, None]
    loss = lambda net, batch, key: jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)
    run = gn.fit(
        eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0)),
        loss,
        (x, jnp.sin(3 * x)),
        optimizer=optax.sgd(0.0),  # Nothing is learnt, so it stalls at once.
        policy=Plateau(every=5, patience=2, maximum=7),
        steps=40,
        valid=(x, jnp.sin(3 * x)),
        key=jax.random.key(1),
    )
    assert [event.new for event in run.history.events] == [6, 7]
