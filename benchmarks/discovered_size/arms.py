"""The arms: found by `NestedSize`, grown at plateaus, pruned, swept.

All of them have the same steps, the same optimizer and the same data, and the same time
to find their size.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import growthnet as gn
from growthnet_policies import NestedSize

from .tasks import forward, loss, Student, TRAIN, VALID


CAPACITY = 64
EVERY = 100
RATE = 1e-2
SEARCH = 0.6


def adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, steps))


def scores(net: Any, batch: Any) -> dict[str, Any]:
    return {k: loss(net, batch[k]) for k in ("train", "valid", "test", "clean")}


class Plateau(gn.AbstractPolicy):
    """Grows all widths by `factor` when the held-out loss has stopped improving for
    `patience` decisions, until a growth no longer brings `gain`."""

    until: int
    patience: int = eqx.field(static=True, default=5)
    factor: float = 1.5
    gain: float = 0.1
    every: int = eqx.field(static=True, default=EVERY)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"valid_loss"}))
    optimizer: None = None

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> Any:
        zero = jnp.zeros((), jnp.int32)
        return None, {"best": jnp.inf, "before": jnp.inf, "wait": zero, "done": False}

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> Any:
        now, best = evidence.valid_loss, memory["best"]
        better = now < 0.99 * best
        wait = jnp.where(better, 0, memory["wait"] + 1)
        best = jnp.minimum(best, now)
        flat = (wait >= self.patience) & (evidence.step < self.until) & ~memory["done"]
        useless = flat & (best > (1 - self.gain) * memory["before"])
        grows = flat & ~useless
        changes = {}
        for name, mask in evidence.open.items():
            units = jnp.sum(mask)
            more = jnp.ceil(self.factor * units.astype(float)).astype(units.dtype)
            more = jnp.minimum(more, mask.size) - units
            changes[name] = gn.Change(mask, jnp.where(grows, more, 0))
        memory = {
            "best": best,
            "before": jnp.where(grows, best, memory["before"]),
            "wait": jnp.where(grows, 0, wait),
            "done": memory["done"] | useless,
        }
        return gn.Decision(changes), trainable, memory, {}


def grown(policy: Any, start: tuple[int, ...], steps: int, batch: Any, keys: Any):
    """Runs of `gn.grow`, one per member of the batch, in one program."""

    def one(batch: Any, key: Any) -> Any:
        run = gn.grow(
            Student(start, key=key),
            loss,
            batch["train"],
            valid=batch["valid"],
            optimizer=adam(steps),
            policy=policy,
            steps=steps,
            key=key,
            capacity=CAPACITY,
        )
        names = sorted(run.sizes)
        found = jnp.stack([run.sizes[n] for n in names])
        path = jnp.stack([run.reports.sizes[n] for n in names])
        before = jnp.stack([run.reports.old_sizes[n] for n in names])
        return scores(run.growing.view(), batch) | {
            "found": found,
            "path": path,
            "before": before,
            "overflowed": run.overflowed,
        }

    return jax.device_get(jax.jit(jax.vmap(one))(batch, keys))


def nested(start: tuple[int, ...], steps: int, batch: Any, keys: Any, **changes: Any):
    policy = NestedSize(int(SEARCH * steps), maximum=CAPACITY, every=EVERY, **changes)
    return grown(policy, start, steps, batch, keys)


def plateau(start: tuple[int, ...], steps: int, batch: Any, keys: Any, **changes: Any):
    return grown(Plateau(int(SEARCH * steps), **changes), start, steps, batch, keys)


def swept(widths: tuple[int, ...], steps: int, batch: Any, keys: Any):
    """Static networks of one size."""

    def one(batch: Any, key: Any) -> Any:
        net: Any = Student(widths, key=key)
        optimizer = adam(steps)

        def step(_: Any, carry: Any) -> Any:
            net, state = carry
            grads = jax.grad(loss)(net, batch["train"])
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(net, updates), state

        carry = (net, optimizer.init(net))
        return scores(jax.lax.fori_loop(0, steps, step, carry)[0], batch)

    return jax.device_get(jax.jit(jax.vmap(one))(batch, keys))


def pruned(
    start: tuple[int, ...],
    steps: int,
    batch: Any,
    keys: Any,
    tolerance: float = 0.1,
    share: float = 0.08,
    warm: float = 0.3,
):
    """Greedy pruning with mean compensation. After a warm-up, at every decision at
    which the retrained network's held-out loss is within `tolerance` of the best since
    then, a `share` of the units goes: one after the other, each time the one whose loss
    hurts least on held-out data, its mean added to the next layer's bias."""
    optimizer = adam(steps)
    first, last = int(warm * steps) // EVERY, int(SEARCH * steps) // EVERY

    def one(batch: Any, key: Any) -> Any:
        net: Any = Student(start, key=key)
        masks = [jnp.ones(w, bool) for w in start]

        def step(_: Any, carry: Any) -> Any:
            net, state, masks = carry
            grads = jax.grad(loss)(net, batch["train"])
            updates, state = optimizer.update(grads, state)
            net = optax.apply_updates(net, updates)
            return _masked(net, masks), state, masks

        def tick(carry: Any, i: Any) -> Any:
            net, state, masks, best = carry
            carry = jax.lax.fori_loop(0, EVERY, step, (net, state, masks))
            net, state, masks = carry
            now = loss(net, batch["valid"])
            best = jnp.where(i > first, jnp.minimum(best, now), now)
            good = (i >= first) & (i < last) & (now <= (1 + tolerance) * best)
            units = jnp.concatenate(masks).sum()
            quota = jnp.where(good, jnp.ceil(share * units), 0).astype(jnp.int32)
            cut = lambda _, c: _without_one(c[0], c[1], batch)
            net, masks = jax.lax.fori_loop(0, quota, cut, (net, masks))
            return (net, state, masks, best), jnp.stack([m.sum() for m in masks])

        carry = (net, optimizer.init(net), masks, jnp.inf)
        (net, _, masks, _), path = jax.lax.scan(tick, carry, jnp.arange(steps // EVERY))
        before = jnp.concatenate([jnp.array([start]), path[:-1]])
        found = jnp.stack([m.sum() for m in masks])
        return scores(net, batch) | {
            "found": found,
            "path": path.T,
            "before": before.T,
        }

    return jax.device_get(jax.jit(jax.vmap(one))(batch, keys))


def _masked(net: Any, masks: Any) -> Any:
    for i, mask in enumerate(masks):
        weight = net.layers[i + 1].weight * mask.astype(float)
        net = eqx.tree_at(lambda n, i=i: n.layers[i + 1].weight, net, weight)
    return net


def _without_one(net: Any, masks: Any, batch: Any) -> Any:
    """The network without the unit whose loss hurts least on held-out data."""
    x = batch["train"][0]
    means = []
    for layer in net.layers[:-1]:
        x = jnp.tanh(jax.vmap(layer)(x))
        means.append(jnp.mean(x, 0))
    owner = jnp.concatenate([jnp.full(m.size, i) for i, m in enumerate(masks)])
    place = jnp.concatenate([jnp.arange(m.size) for m in masks])

    def without(layer: Any, unit: Any) -> Any:
        smaller, after = net, []
        for i, (mask, mean) in enumerate(zip(masks, means, strict=True)):
            goes = (jnp.arange(mask.size) == unit) & (i == layer)
            change = net.layers[i + 1].weight @ jnp.where(goes, mean, 0.0)
            where = lambda n, i=i: n.layers[i + 1].bias
            smaller = eqx.tree_at(where, smaller, where(smaller) + change)
            after.append(mask & ~goes)
        return _masked(smaller, after), after

    def tried(layer: Any, unit: Any) -> Any:
        return loss(without(layer, unit)[0], batch["valid"])

    there = jnp.concatenate([m & (m.sum() > 1) for m in masks])
    losses = jnp.where(there, jax.vmap(tried)(owner, place), jnp.inf)
    worst = jnp.argmin(losses)
    return without(owner[worst], place[worst])


def flops(arm: str, result: Any, steps: int, at_buckets: bool) -> Any:
    """Executed FLOPs of every member: training, held-out losses, probes.

    `at_buckets`: at the capacities that `fit` would give (a member alone); else at the
    capacity of the population.
    """
    before, path = result["before"].astype(int), result["path"].astype(int)
    capacity = bucketed(before) if at_buckets else 0 * before + CAPACITY
    widths = [capacity[:, i].astype(float) for i in range(capacity.shape[1])]
    one = forward(widths)
    total = EVERY * 3 * TRAIN * one + VALID * one
    ticks = one.shape[1]
    searching = (jnp.arange(ticks) < int(SEARCH * steps) // EVERY + 1)[None]
    events = (before != path).any(1)
    if arm == "nested":
        total = total + searching * 16 * len(widths) * VALID * one
    if arm == "pruned":
        removed = (before - path).sum(1)
        total = total + removed * (TRAIN + sum(widths) * VALID) * one
    else:
        total = total + events * 2 * TRAIN * one
    return total.sum(1)


def bucketed(sizes: Any, most: int = CAPACITY) -> Any:
    """The capacities that `fit` gives, by size before each tick (the last axis)."""
    buckets = gn.Buckets()
    capacity = sizes.copy()
    for run in capacity.reshape(-1, sizes.shape[-1]):
        now = min(most, buckets.capacity(int(run[0]) + 1))
        for t, units in enumerate(run):
            now = max(now, min(most, buckets.capacity(int(units))))
            now = min(most, buckets.lowered(now, int(units)))
            run[t] = now
    return capacity
