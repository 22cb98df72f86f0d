"""How much room a run starts with, and what a run compiles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._policies.capacities import Capacities
from growthnet._replay.flops import flops
from growthnet._runs.first_room import make_first_room
from growthnet_policies import GradientSizeWeight

from .helpers import counting_compiles, lenient


X = jr.normal(jr.key(0), (50, 4))
Y = jnp.sin(X.sum(1, keepdims=True))


def loss(net, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


def mlp(width):
    return eqx.nn.MLP(4, 1, width, 1, activation=jnp.tanh, key=jr.key(0))


def made(net, steps, policy=None, x=X, y=Y, loss=loss):
    capacities = Capacities(None, None)
    policy = GradientSizeWeight() if policy is None else policy
    parts = (gn.trace(net, x[0]), net, loss, (x, y), steps, jr.key(0))
    make_first_room(capacities, policy, *parts)
    return capacities


def rung(net, steps, x=X, y=Y):
    return made(net, steps, x=x, y=y).buckets.smallest


def counted(function, *args):
    return flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_operations_are_those_of_the_program():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    dot = 2 * 3 * 5 * 7
    assert counted(jnp.matmul, a, b) == dot
    assert counted(jnp.tanh, a) == 15
    assert counted(lambda a: a.sum(), a) == 15
    image, kernel = jnp.ones((2, 3, 9, 9)), jnp.ones((4, 3, 3, 3))
    conv = lambda x, k: jax.lax.conv(x, k, (1, 1), "VALID")
    once = 2 * (2 * 4 * 7 * 7) * (3 * 3 * 3)
    assert counted(conv, image, kernel) == once
    assert flops(jax.make_jaxpr(conv)(image, kernel).jaxpr, 16.0) == 16 * once


def test_operations_that_make_nothing_cost_what_they_read():
    def told(a):
        jax.debug.print("{a}", a=a)
        return jnp.tanh(a)

    assert counted(told, jnp.ones((3, 5))) == 30
    assert counted(lambda: jax.debug.print("here")) == 0


def test_operations_in_loops_and_branches():
    a, b = jnp.ones((3, 3)), jnp.ones((3, 3))
    dot = 2 * 3 * 3 * 3
    step = lambda carry, _: (carry @ b, None)
    assert counted(lambda a: jax.lax.scan(step, a, None, length=6)[0], a) == 6 * dot
    assert counted(jax.jit(lambda a: a @ b), a) == dot
    choose = lambda a: jax.lax.cond(True, lambda a: a @ b, lambda a: a, a)
    assert dot <= counted(choose, a) < dot + 9
    loop = lambda a: jax.lax.while_loop(lambda a: a[0, 0] < 0, lambda a: a @ b, a)
    assert counted(loop, a) == np.inf


def test_a_loss_that_prints_has_room_too(capfd):
    def prints(net, batch, key):
        jax.debug.print("seen")
        return loss(net, batch, key)

    run = gn.fit(
        mlp(4),
        prints,
        (X, Y),
        optimizer=optax.sgd(0.1),
        policy=GradientSizeWeight(target=8),
        steps=2,
        key=jr.key(0),
    )
    jax.effects_barrier()
    assert run.anatomy.widths["layers[0]"].size == 4 and "seen" in capfd.readouterr()[0]


def test_room_is_made_where_it_is_cheap():
    rungs = [rung(mlp(8), steps) for steps in (100, 2 * 10**5, 10**7, 10**9)]
    assert rungs == sorted(rungs, reverse=True)
    assert rungs[0] == 128 and 16 <= rungs[1] < 128 and rungs[-1] == 8
    wide = jnp.ones((100_000, 4))
    assert rung(mlp(8), 10**4, wide, wide[:, :1]) == 8
    # What it would cost isn't even counted.
    never = lambda net, batch, key: pytest.fail("traced")
    assert made(mlp(8), 10**13, loss=never).buckets == gn.Buckets()


def run(**options):
    return gn.fit(
        mlp(3),
        loss,
        (X, Y),
        optimizer=lenient(optax.adam(1e-2)),
        policy=GradientSizeWeight(target=9, rate=0.1, learning_rate=0.1, every=5),
        key=jr.key(1),
        **{"steps": 200, **options},
    )


def test_a_small_network_grows_in_one_program():
    few, many = run(), run(buckets=gn.Buckets())
    assert few.sizes == many.sizes == {"layers[0]": 9}
    assert few.history.ticks[-1].traces == 1
    assert many.history.ticks[-1].traces == 3, "at 4, 8 and 16 units"
    assert eqx.tree_equal(few.net, many.net, rtol=1e-3, atol=1e-4)


def test_few_programs_stand_beside_those_of_the_capacities():
    run()
    with counting_compiles() as compiled:
        history = run(buckets=gn.Buckets(), steps=201).history
    # The windows, the final gates; all else is done without compiling.
    assert len(compiled) <= history.ticks[-1].traces + 4
