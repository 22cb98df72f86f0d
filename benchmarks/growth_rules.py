"""Growth rules on a teacher and its student: what one newborn is worth.

The task of the GradMax paper (Evci et al., 2022): a teacher of 10-10-10 units without
biases, weights uniform in [-1, 1], 1000 normal examples, mean squared error. A student
starts with 5 hidden units and gets a random one every 200 steps of plain gradient
descent (rate 0.1). Once it has `width` units, the rule under test makes the next one,
and 499 more steps follow (rate 0.05). All arms share teacher, data, first weights and
everything up to the birth. The activation function is relu with slope 1 at 0.

    python -m benchmarks.growth_rules [--seeds 50]

- loss: mean over the 499 steps.
- gain: norm of the gradient at the newborn's weights, at its birth.

Arms: `random` is silent with random outgoing weights of the norm that GradMax's have.
"""

import argparse
import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn
from growthnet_policies import GradMax


EVERY, AFTER, WIDTHS = 200, 499, (5, 6, 7, 8)


def relu(x: Any) -> Any:
    return jnp.where(x >= 0, x, 0.0)


def forward(net: dict[str, Any], x: Any) -> Any:
    return relu(x @ net["hidden"].T) @ net["out"].T


def loss(net: dict[str, Any], batch: Any, key: Any) -> Any:
    del key
    x, y = batch
    return jnp.mean((forward(net, x) - y) ** 2)


def task(key: Any) -> tuple[Any, Any]:
    keys = jr.split(key, 3)
    uniform = ft.partial(jr.uniform, minval=-1.0, maxval=1.0)
    teacher = {"hidden": uniform(keys[0], (10, 10)), "out": uniform(keys[1], (10, 10))}
    x = jr.normal(keys[2], (1000, 10))
    return x, forward(teacher, x)


def student(key: Any) -> dict[str, Any]:
    hidden, out = jr.split(key)
    limit = np.sqrt(6 / 15)  # Glorot's, as in the source.
    uniform = ft.partial(jr.uniform, minval=-limit, maxval=limit)
    return {"hidden": uniform(hidden, (5, 10)), "out": uniform(out, (10, 5))}


class OneShot(gn.AbstractPolicy):
    """Random silent units up to `width`, then one of `rule`'s; its gain is kept."""

    rule: gn.AbstractPolicy | None
    width: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True)
    every: int = eqx.field(static=True, default=EVERY)
    optimizer: None = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[None, Any]:
        del anatomy, key
        return None, jnp.zeros(())

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        mask = evidence.open["hidden"]
        (producer,) = evidence.units["hidden"].producers
        (consumer,) = evidence.units["hidden"].consumers
        out = evidence.network["out"]
        size = jnp.mean(jnp.linalg.norm(out, axis=0), where=mask)
        random = jr.normal(key, out.shape)
        random = size * random / jnp.linalg.norm(random, axis=0, keepdims=True)
        values = {"hidden": jnp.zeros_like(evidence.network["hidden"]), "out": random}
        units, last = jnp.sum(mask), self.width
        if self.rule is not None:
            decided = self.rule.step(None, None, evidence, key=key)[0]
            own = decided.widths["hidden"].values
            values = {p: jnp.where(units == last, own[p], values[p]) for p in values}
        slot = jnp.argmin(mask)
        moment = producer.inputs.T @ consumer.cotangents
        gain = jnp.linalg.norm(moment @ values["out"][:, slot])
        births = jnp.where(units <= last, 1, 0)
        memory = jnp.where(units == last, gain, memory)
        change = gn.Change(mask, births, values=values)
        return gn.Decision({"hidden": change}), trainable, memory, {}


def arm(rule: gn.AbstractPolicy | None, width: int, keys: Any) -> tuple[Any, Any]:
    """Loss and gain of every seed."""
    kinds = {"network", "producer_inputs", "output_cotangents"}
    kinds |= set() if rule is None else rule.needs
    birth = EVERY * (width - 4)

    def one(key: Any) -> tuple[Any, Any]:
        data = task(jr.fold_in(key, 0))
        rate = lambda step: jnp.where(step < birth, 0.1, 0.05)
        grown = gn.grow(
            student(jr.fold_in(key, 1)),
            loss,
            data,
            optimizer=optax.sgd(rate),
            policy=OneShot(rule, width, frozenset(kinds)),
            steps=birth + AFTER,
            key=key,
            capacity=16,
            predict=lambda net, batch: forward(net, batch[0]),
        )
        reports = grown.reports
        late = jnp.where(reports.step > birth, reports.count, 0)
        total = jnp.sum(late * jnp.where(late > 0, reports.loss, 0))
        return total / jnp.sum(late), grown.state.memory

    losses, gains = jax.jit(jax.vmap(one))(keys)
    return np.asarray(losses, float), np.asarray(gains, float)


def interval(values: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """The ratio of means, with a paired 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(values), (10_000, len(values)))
    ratios = values[picks].mean(axis=1) / others[picks].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return values.mean() / others.mean(), low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    keys = jr.split(jr.key(0), parser.parse_args().seeds)
    rules = {"GradMax": GradMax(1, epsilon=0.0)}
    print(
        "| width | rule | loss | random | ratio (95 %) | gain | random | ratio (95 %) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for width in WIDTHS:
        losses, gains = arm(None, width, keys)
        for name, rule in rules.items():
            own, own_gain = arm(rule, width, keys)
            a, b = interval(own, losses), interval(own_gain, gains)
            ratios = ["{:.3f} ({:.3f}, {:.3f})".format(*ratio) for ratio in (a, b)]
            print(
                f"| {width} | {name} | {own.mean():.4f} | {losses.mean():.4f} "
                f"| {ratios[0]} | {own_gain.mean():.4f} | {gains.mean():.4f} "
                f"| {ratios[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
