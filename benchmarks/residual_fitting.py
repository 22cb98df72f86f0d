"""Residual fitting beside its controls, on three tasks and on noise.

    python -m benchmarks.residual_fitting [--seeds 10] [--tasks digits regression clone]
        [--batches 8]

Tasks, all new for every seed (data, split, first weights):

- `digits`: scikit-learn's 8 x 8 digits; 800 training, 400 held-out, 597 test examples.
- `regression`: a teacher of 12 tanh units on 4 inputs, noise of 0.3 times the signal's
    size; 1,024 training, 1,024 held-out, 2,048 test examples.
- `clone`: a pendulum is swung up by a hand-written expert; its torque is learned from
    states on its ways (behaviour cloning; 40, 24 and 16 ways of 64 states). The score
    is the cost of 200 steps with the clone in its place.
- `noise`: the same inputs as `regression`, outputs that have nothing to do with them.

Arms, one hidden tanh layer each, Adam, equal steps; the rate is the best of three on
held-out data of other seeds (`frozen` and `silent` have that of `residual`, `ensemble`
that of `small`):

- `small`: 4 units. `large`: 48 units.
- `residual`: from 4 units, `ResidualFitting`. `frozen`: the same with `freeze=True`.
- `final`: static, at the size that `residual` ends with on that seed.
- `silent`: as many units at the same steps as `residual`, but silent ones.
- `ensemble`: the mean of small networks with as many units together.

FLOPs are those of the open units: training, and for `residual` all that is done to look
(residuals of 20 orders, probes, their trials, the stopping error), per run.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.datasets import load_digits

import growthnet as gn
from benchmarks.intervals import interval
from growthnet_policies import ResidualFitting


START, UNITS, LARGE = 4, 4, 48
STEPS, EVERY, BATCH = 6_000, 500, 64
MOST = START + UNITS * (STEPS // EVERY // 2)  # Every second look at most.
RATES = (1e-3, 3e-3, 1e-2)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`data(key)` is `(train, valid, test)`; `score(outputs, test, net)` is told beside
    the loss. `batches`: how many of the last batches probes are trained on."""

    inputs: int
    outputs: int
    data: Callable[[Any], tuple[Any, Any, Any]]
    loss: Callable[[Any, Any], Any]
    score: Callable[[Any, Any, Any], Any]
    what: str
    batches: int = 8


def squared(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs - y) ** 2)


def digits() -> Task:
    known = load_digits()
    x, y = jnp.asarray(known.data / 16, jnp.float32), jnp.asarray(known.target)

    def data(key: Any) -> tuple[Any, Any, Any]:
        order = jr.permutation(key, len(y))
        parts = order[:800], order[800:1200], order[1200:]
        train, valid, test = [(x[rows], y[rows]) for rows in parts]
        return train, valid, test

    def loss(outputs: Any, y: Any) -> Any:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
        return jnp.mean(each)

    wrong = lambda outputs, test, net: jnp.mean(jnp.argmax(outputs, 1) != test[1])
    return Task(64, 10, data, loss, wrong, "test error")


def regression(*, noise_only: bool = False) -> Task:
    def data(key: Any) -> tuple[Any, Any, Any]:
        keys = jr.split(key, 5)
        weights, out = jr.normal(keys[0], (12, 4)), jr.normal(keys[1], (1, 12))
        x = jr.normal(keys[2], (4_096, 4))
        clean = jnp.tanh(x @ weights.T + jr.normal(keys[3], (12,))) @ out.T
        clean = (clean - jnp.mean(clean)) / jnp.std(clean)
        noise = jr.normal(keys[4], clean.shape)
        y = noise if noise_only else clean + 0.3 * noise
        parts = slice(0, 1_024), slice(1_024, 2_048), slice(2_048, None)
        train, valid, test = [(x[rows], y[rows]) for rows in parts]
        return train, valid, (*test, clean[parts[2]])

    clean = lambda outputs, test, net: squared(outputs, test[2])
    return Task(4, 1, data, squared, clean, "noise-free loss")


# --- a pendulum: state (angle from above, speed), torque at most 2


def expert(state: Any) -> Any:
    angle, speed = state
    energy = 0.5 * speed**2 + 10 * (jnp.cos(angle) - 1)
    swing = jnp.clip(-0.6 * speed * energy, -2, 2)
    near = jnp.clip(-20 * angle - 4 * speed, -2, 2)
    return jnp.where((jnp.abs(angle) < 0.3) & (jnp.abs(speed) < 2), near, swing)


def seen(state: Any) -> Any:
    angle, speed = state
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / 4])


def ways(control: Callable[[Any], Any], key: Any, count: int, noise: float) -> Any:
    """States and costs of 200 steps from many starts: `[count, 200, 2]`, `[count]`."""

    def step(state: Any, key: Any) -> tuple[Any, tuple[Any, Any]]:
        angle, speed = state
        torque = jnp.clip(control(state), -2, 2)
        given = torque + noise * jr.normal(key)
        speed = speed + 0.05 * (10 * jnp.sin(angle) + 3 * given)
        angle = (angle + 0.05 * speed + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * speed**2 + 1e-3 * torque**2
        return jnp.stack([angle, speed]), (state, cost)

    def one(key: Any) -> Any:
        first, rest = jr.split(key)
        state = jr.uniform(first, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])
        _, (states, costs) = jax.lax.scan(step, state, jr.split(rest, 200))
        return states, jnp.mean(costs)

    return jax.vmap(one)(jr.split(key, count))


def clone() -> Task:
    def data(key: Any) -> tuple[Any, Any, Any]:
        states, _ = ways(expert, key, 80, 0.5)
        every = jr.split(jr.fold_in(key, 1), 80)
        pick = lambda states, key: jr.permutation(key, states[:100])[:64]
        states = jax.vmap(pick)(states, every)  # Parted by ways, not by states.

        def part(ways: Any) -> Any:
            flat = ways.reshape(-1, 2)
            return jax.vmap(seen)(flat), jax.vmap(expert)(flat)[:, None]

        return part(states[:40]), part(states[40:64]), part(states[64:])

    def cost(outputs: Any, test: Any, net: Any) -> Any:
        control = lambda state: net(seen(state))[0]
        return jnp.mean(ways(control, jr.key(1), 32, 0.0)[1])

    return Task(3, 1, data, squared, cost, "cost of driving")


TASKS = {
    "digits": digits,
    "regression": regression,
    "clone": clone,
    "noise": lambda: regression(noise_only=True),
}


# --- runs


class Silent(gn.AbstractPolicy):
    """So many silent units at each turn."""

    births: Any
    every: int = eqx.field(static=True, default=EVERY)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def step(
        self, trainable: Any, memory: Any, evidence: gn.Evidence, *, key: Any
    ) -> tuple[gn.Decision, Any, Any, dict[str, Any]]:
        del key
        ((name, mask),) = evidence.open.items()
        born = self.births[evidence.step // self.every - 1]
        return gn.Decision({name: gn.Change(mask, born)}), trainable, memory, {}


class Seen(eqx.Module):
    """Of each run: losses, score, and its size tick by tick."""

    valid: Any
    test: Any
    score: Any
    sizes: Any


Policy = Callable[[Any], gn.AbstractPolicy]


def static(own: Any) -> gn.AbstractPolicy:
    del own
    return gn.NoGrowth(every=EVERY)


def growing(task: Task, freeze: bool) -> Policy:
    return lambda own: ResidualFitting(
        UNITS, every=EVERY, batches=task.batches, until=MOST, freeze=freeze
    )


def grown(task: Task, policy: Any, width: int, data: Any, keys: Any, rate: Any) -> Any:
    """One run; `keys` are those of the first weights and of the run."""
    net = eqx.nn.MLP(
        task.inputs, task.outputs, width, 1, activation=jnp.tanh, key=keys[0]
    )
    return gn.grow(
        net, lambda net, batch, key: task.loss(jax.vmap(net)(batch[0]), batch[1]),
        data[0], valid=data[1], optimizer=optax.adam(rate), policy=policy, steps=STEPS,
        key=keys[1], batch_size=BATCH, capacity=max(width, MOST), overflow="hold",
    )  # fmt: skip


def looked_at(task: Task, net: Any, data: Any, sizes: Any) -> Seen:
    _, valid, test = data
    outputs = jax.vmap(net)(test[0])
    held_out = task.loss(jax.vmap(net)(valid[0]), valid[1])
    loss, score = task.loss(outputs, test[1]), task.score(outputs, test, net)
    return Seen(held_out, loss, score, jnp.broadcast_to(sizes, (STEPS // EVERY,)))


def program(task: Task, policy: Policy, width: int) -> Callable[..., Seen]:
    """Runs of an arm, as a function of keys, rates and the policy's own numbers."""

    def one(key: Any, rate: Any, own: Any) -> Seen:
        keys = jr.split(key, 3)
        data = task.data(keys[0])
        run = grown(task, policy(own), width, data, keys[1:], rate)
        sizes = jnp.asarray(list(run.reports.sizes.values()) or [width])
        return looked_at(task, run.growing.view(), data, sizes.reshape(-1))

    return host(one)


def host(one: Callable[..., Seen]) -> Callable[..., Seen]:
    every = jax.jit(jax.vmap(one))
    return lambda *args: jax.tree.map(np.asarray, every(*args))


def tuned(task: Task, policy: Policy, width: int, keys: Any) -> tuple[Seen, float]:
    """Runs at the rate that is best on the held-out data of three other seeds."""
    runs, others = program(task, policy, width), jr.split(jr.key(99), 3)
    losses = []
    for rate in RATES:
        again = jnp.arange(len(keys)) % len(others)  # As many: the same program.
        tries = runs(others[again], jnp.full(len(keys), rate), None)
        losses.append(tries.valid[: len(others)].mean())
    rate = RATES[int(np.nanargmin(losses))]
    return runs(keys, jnp.full(len(keys), rate), None), rate


def by_size(task: Task, keys: Any, sizes: np.ndarray) -> tuple[Seen, float]:
    """Static runs, each of a size of its own; the rate is tuned at the median."""
    middle = int(np.sort(sizes)[len(sizes) // 2])
    there, rate = tuned(task, static, middle, keys)
    runs = [jax.tree.map(lambda leaf, i=i: leaf[i], there) for i in range(len(keys))]
    for size in set(sizes.tolist()) - {middle}:
        all_ = program(task, static, size)(keys, jnp.full(len(keys), rate), None)
        for i in np.flatnonzero(sizes == size):
            runs[i] = jax.tree.map(lambda leaf, i=i: leaf[i], all_)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs), rate


def ensemble(task: Task, keys: Any, sizes: np.ndarray, rate: float) -> Seen:
    """Means of small networks that have as many units together."""
    most = int(max(sizes)) // START

    def one(key: Any, count: Any) -> Seen:
        keys = jr.split(key, 3)
        data = task.data(keys[0])
        member = lambda keys: grown(task, static(None), START, data, keys, rate)
        every = jax.vmap(lambda k: jr.split(k, 2))(jr.split(keys[1], most))
        nets = eqx.filter_vmap(lambda keys: member(keys).growing.view())(every)
        parts = (jnp.arange(most) < count) / count

        def mean(x: Any) -> Any:
            outputs = eqx.filter_vmap(lambda net: net(x))(nets)
            return parts @ outputs

        return looked_at(task, mean, data, count * START)

    return host(one)(keys, jnp.asarray(sizes // START))


def arms(task: Task, keys: Any) -> dict[str, tuple[Seen, float]]:
    """Every arm's runs, and its rate."""
    found = {
        "small": tuned(task, static, START, keys),
        "large": tuned(task, static, LARGE, keys),
        "residual": tuned(task, growing(task, False), START, keys),
    }
    sizes, rate = found["residual"][0].sizes, found["residual"][1]
    final = sizes[:, -1]
    if (final == START).all():
        return found
    births = np.diff(sizes, axis=1, prepend=START)
    for name, policy in (("frozen", growing(task, True)), ("silent", Silent)):
        runs = program(task, policy, START)
        found[name] = runs(keys, jnp.full(len(keys), rate), births), rate
    found["final"] = by_size(task, keys, final)
    small = found["small"][1]
    found["ensemble"] = ensemble(task, keys, final, small), small
    return found


# --- what is told


def work(task: Task, sizes: np.ndarray, looks: bool) -> float:
    """Mean executed FLOPs of a run, in units of 1e9: an example costs 2 per parameter
    forward and 4 backward."""
    ends = task.inputs + task.outputs
    params = lambda width: width * (ends + 1) + task.outputs
    before = np.concatenate([np.full((len(sizes), 1), START), sizes[:, :-1]], axis=1)
    before = before if looks else sizes
    total = 6 * EVERY * BATCH * params(before)
    if looks:
        probes, examples = 20, task.batches * BATCH
        total = total + 6 * probes * examples * params(before)  # residuals
        total = total + 6 * 20 * probes * examples * UNITS * ends  # 20 steps of probes
        tries = 2 * probes * 13 * HELD_OUT[task.inputs] / 4
        total = total + tries * params(before + UNITS)
    return float(total.sum(axis=1).mean() / 1e9)


HELD_OUT = {64: 400, 4: 1_024, 3: 1_536}
"""Held-out examples, by inputs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batches", type=int, default=8)
    given = parser.parse_args()
    keys = jr.split(jr.key(0), given.seeds)
    for name in given.tasks:
        began = time.perf_counter()
        task = dataclasses.replace(TASKS[name](), batches=given.batches)
        found = arms(task, keys)
        own = found["residual"][0]
        print(f"\n{name}\n\n| arm | rate | units | test loss | less residual |", end="")
        print(f" {task.what} | GFLOPs |\n|---|---|---|---|---|---|---|")
        for arm, (runs, rate) in found.items():
            looks = arm in ("residual", "frozen")
            cells = [
                arm, f"{rate:g}", f"{runs.sizes[:, -1].mean():.3g}",
                interval(runs.test, ".3g"), interval(runs.test - own.test, ".3g"),
                interval(runs.score, ".3g"), f"{work(task, runs.sizes, looks):.3g}",
            ]  # fmt: skip
            print("| " + " | ".join(cells) + " |")
        print(f"\nunits by tick, a row for each seed: {own.sizes.astype(int).tolist()}")
        print(f"runs that grew: {np.mean(own.sizes[:, -1] > START):.2f}", end="; ")
        print(f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
