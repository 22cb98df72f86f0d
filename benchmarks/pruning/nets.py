"""Many networks of one size at once: trained, pruned, measured. Their arrays have a
first axis of networks."""

import functools as ft
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from growthnet_policies import Pruning

from .settings import BATCH, KEPT, Task, WIDTH


def network(task: Task, width: int, key: Any) -> eqx.nn.MLP:
    return eqx.nn.MLP(task.inputs, 10, width, 2, activation=jax.nn.relu, key=key)


def loss(net: Any, batch: Any, key: Any = None) -> Any:
    del key
    x, y = batch
    scores = jax.vmap(net)(x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()


class Nets:
    """What can be done with networks of a task."""

    def __init__(self, task: Task):
        self.task, self.pool = task, task.pool()
        net = network(task, WIDTH, jr.key(0))
        self.anatomy = gn.trace(net, self.pool[0][0])
        self._looks: dict[str, Any] = {}

    def first(self, width: int, keys: Any) -> Any:
        """New networks."""
        make = lambda key: eqx.filter(
            network(self.task, width, jr.fold_in(key, 0)), eqx.is_array
        )
        return jax.jit(jax.vmap(make))(keys)

    def trained(
        self, width: int, arrays: Any, keys: Any, rates: Any, steps: int
    ) -> Any:
        """The networks after so many steps; the order of examples is that of `keys`."""
        return self._train(width, arrays, keys, jnp.asarray(rates), steps, self.pool)

    @ft.partial(jax.jit, static_argnums=(0, 1))
    def _train(self, width, arrays, keys, rates, steps, pool) -> Any:
        x, y = pool
        rest = eqx.filter(network(self.task, width, jr.key(0)), eqx.is_array, True)

        def one(arrays: Any, key: Any, rate: Any) -> Any:
            optimizer, own = optax.adam(rate), self.task.rows(key)[0]
            value = lambda arrays, batch: loss(eqx.combine(arrays, rest), batch)

            def step(i: Any, carry: Any) -> Any:
                arrays, state = carry
                draw = jr.fold_in(jr.fold_in(key, 1), i)
                rows = own[jr.randint(draw, (BATCH,), 0, len(own))]
                slopes = jax.grad(value)(arrays, (x[rows], y[rows]))
                updates, state = optimizer.update(slopes, state, arrays)
                return optax.apply_updates(arrays, updates), state

            first = arrays, optimizer.init(arrays)
            return jax.lax.fori_loop(0, steps, step, first)[0]

        return jax.vmap(one)(arrays, keys, rates)

    def accuracies(self, width: int, arrays: Any, keys: Any, *, test: bool) -> Any:
        """In percent, on held-out or test examples."""
        return np.asarray(self._tell(width, arrays, keys, test, self.pool), float)

    @ft.partial(jax.jit, static_argnums=(0, 1, 4))
    def _tell(self, width, arrays, keys, test, pool) -> Any:
        x, y = pool
        rest = eqx.filter(network(self.task, width, jr.key(0)), eqx.is_array, True)

        def one(given: Any) -> Any:
            arrays, key = given
            rows = self.task.rows(key)[2 if test else 1]
            said = jax.vmap(eqx.combine(arrays, rest))(x[rows])
            return 100 * jnp.mean(jnp.argmax(said, axis=-1) == y[rows])

        return jax.lax.map(one, (arrays, keys))

    def pruned(self, arm: str, arrays: Any, keys: Any) -> list[Any]:
        """The networks by number of units kept: ordinary ones of that size."""
        by_size: list[list[Any]] = [[] for _ in KEPT]
        look = self._looks.setdefault(arm, self._looking(arm))
        for i, key in enumerate(keys):
            own = jax.tree.map(lambda a, i=i: a[i], arrays)
            for same, run in zip(
                by_size, look(own, key, self.pool).runs(), strict=True
            ):
                same.append(eqx.filter(run.net, eqx.is_array))
        return [stacked(own) for own in by_size]

    def _looking(self, arm: str) -> Any:
        score, removal = arm.split()
        rest = eqx.filter(network(self.task, WIDTH, jr.key(0)), eqx.is_array, True)

        def one(ratio: Any, arrays: Any, data: Any, key: Any) -> Any:
            return gn.grow(
                eqx.combine(arrays, rest), loss, data, anatomy=self.anatomy,
                optimizer=optax.set_to_zero(), steps=1, key=key, capacity=WIDTH,
                policy=Pruning(score, ratio=ratio, start=1, every=1, removal=removal),
            )  # fmt: skip

        @jax.jit
        def look(arrays: Any, key: Any, pool: Any) -> Any:
            rows = self.task.rows(key)[0][: self.task.look]
            data = tuple(part[rows] for part in pool)
            ratios = 1 - jnp.asarray(KEPT) / WIDTH
            over = jax.vmap(one, in_axes=(0, None, None, None))
            return over(ratios, arrays, data, jr.fold_in(key, 2))

        return look

    def flops(self, width: int) -> int:
        """Of one example in training: forward, and twice that backward."""
        sizes = dict.fromkeys(self.anatomy.sizes, width)
        return 3 * round(float(self.anatomy.flops(sizes)))

    def params(self, width: int) -> int:
        sizes = dict.fromkeys(self.anatomy.sizes, width)
        return round(float(self.anatomy.params(sizes)))

    def equal_steps(self, width: int) -> int:
        """As many as all that a pruned network costs pays for. Its look is counted as a
        gradient of every example looked at."""
        task, large = self.task, self.flops(WIDTH)
        spent = (task.steps * BATCH + task.look) * large
        return task.more + round(spent / (BATCH * self.flops(width)))


def stacked(nets: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
