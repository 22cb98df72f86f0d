"""Runs to save, kill and resume: networks of three libraries, optimizers whose states
have different forms, policies in the program and on the host."""

import json
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flax import nnx

import growthnet as gn
import growthnet.flax as gf
from growthnet._checkpoints.checkpoints import whole
from growthnet._checkpoints.saved import Saved
from growthnet_policies import GradientSizeWeight, NestedSize

from .helpers import lenient


X = jr.normal(jr.key(0), (24, 4))
Y = jnp.sin(X @ jnp.ones((4, 2)))
IMAGES = X.reshape(24, 1, 2, 2)


def _normal(*shape: int) -> Any:
    return np.random.default_rng(shape).normal(size=shape).astype("float32") / 2


# --- policies


class Ages(gn.AbstractPolicy):
    """Grows while it is young, then closes the oldest unit; remembers every unit's age
    and trains a number of its own."""

    until: int = eqx.field(static=True, default=20)
    every: int = eqx.field(static=True, default=5)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))
    optimizer: optax.GradientTransformation = lenient(optax.adam(0.1))

    def init(self, anatomy: gn.Anatomy, *, key: Any) -> tuple[Any, Any]:
        del key
        ages = {
            name: gn.PerUnit(jnp.zeros(width.size, jnp.int32), name)
            for name, width in anatomy.widths.items()
        }
        return jnp.zeros(()), (ages, jnp.zeros(()))

    def penalty(self, trainable: Any, net: Any, cost: Any) -> Any:
        return 1e-3 * (trainable - 1.0) ** 2

    def step(self, trainable, memory, evidence, *, key):
        ages, total = memory
        grows = evidence.step <= self.until
        changes, older = {}, {}
        for name, mask in evidence.open.items():
            age = jnp.where(mask, ages[name].array + 1, 0)
            oldest = jnp.arange(mask.size) == jnp.argmax(age)
            keep = mask & (grows | ~oldest)
            add = jnp.where(grows, jr.randint(key, (), 0, 3), 0)
            changes[name] = gn.Change(keep, add)
            older[name] = gn.PerUnit(age, name)
        memory = (older, total + evidence.loss)
        return gn.Decision(changes), trainable, memory, {}


class HostSteps(gn.AbstractPolicy):
    """Decides in numpy, now and then."""

    on_host = True

    every: int = eqx.field(static=True, default=5)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        add, init = (2, "drawn") if evidence.step == 5 else (0, "zero_out")
        changes = {}
        for name, mask in evidence.open.items():
            keep = np.array(mask)
            keep[np.flatnonzero(keep)[-1]] &= evidence.step != 30
            changes[name] = gn.Change(jnp.asarray(keep), add, init)
        return gn.Decision(changes), trainable, memory, {}


# --- networks


class Conv(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self):
        self.conv = eqx.nn.Conv2d(1, 3, 2, padding=1, key=jr.key(0))
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="ema")
        self.last = eqx.nn.Linear(27, 2, key=jr.key(1))

    def __call__(self, image, state):
        x, state = self.norm(self.conv(image), state)
        return self.last(jax.nn.relu(x).reshape(-1)), state


def _conv_loss(net, batch, key):
    del key
    model, state = net
    images = batch[0].reshape(-1, 1, 2, 2)
    call = jax.vmap(model, (0, None), (0, None), axis_name="batch")
    out, state = call(images, state)
    return jnp.mean((out - batch[1]) ** 2), gn.Aux(net=(None, state))


class Normed(nnx.Module):
    """Running statistics, and a random stream that calls move on."""

    def __init__(self, *, rngs):
        self.into = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.25, rngs=rngs)
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(jnp.tanh(self.norm(self.into(x)))))


def _nnx_loss(net, batch, key):
    del key
    return jnp.mean((net(batch[0]) - batch[1]) ** 2), gn.Aux(net=net)


class Dense(nn.Module):
    features: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train=False):
        for size in self.features:
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(size)(x))
            x = jnp.tanh(x)
        return nn.Dense(2)(x)


def _linen_loss(net, batch, key):
    del key
    out, aux = net(batch[0], train=True, mutable=["batch_stats"])
    return jnp.mean((out - batch[1]) ** 2), aux


def _mlp_loss(net, batch, key):
    noisy = batch[0] + 0.01 * jr.normal(key, batch[0].shape)
    return jnp.mean((jax.vmap(net)(noisy) - batch[1]) ** 2)


def _dict_loss(net, batch, key):
    del key
    hidden = jnp.tanh(batch[0].astype(net["w"].dtype) @ net["w"])
    out = (hidden @ net["v"]).astype(jnp.float32)
    return jnp.mean((out - batch[1]) ** 2)


def _by_rank(params: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "other", params)


BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]


def case(name: str) -> dict[str, Any]:
    """The arguments of `fit` by name."""
    schedule = optax.warmup_cosine_decay_schedule(1e-3, 1e-2, 10, 60)
    arrays = {"data": (X, Y), "batch_size": 8}
    match name:
        case "mlp":
            return {
                "net": eqx.nn.MLP(4, 2, 3, 1, activation=jnp.tanh, key=jr.key(0)),
                "loss": _mlp_loss,
                "optimizer": optax.adam(1e-2),
                "policy": Ages(),
                **arrays,
            }
        case "conv":
            return {
                "net": eqx.nn.make_with_state(Conv)(),
                "loss": _conv_loss,
                "optimizer": optax.chain(
                    optax.clip_by_global_norm(1.0), optax.adamw(schedule)
                ),
                "policy": NestedSize(until=20, every=5, candidates=4, extra=2),
                "valid": (X[:8], Y[:8]),
                "predict": lambda net, batch: jax.vmap(
                    eqx.nn.inference_mode(net[0]), (0, None), axis_name="batch"
                )(batch[0].reshape(-1, 1, 2, 2), net[1])[0],
                **arrays,
            }
        case "nnx":
            return {
                "net": Normed(rngs=nnx.Rngs(0)),
                "loss": _nnx_loss,
                "optimizer": optax.multi_transform(
                    {"matrix": optax.adam(1e-2), "other": optax.sgd(1e-2, 0.9)},
                    _by_rank,
                ),
                "policy": GradientSizeWeight(
                    7, rate=0.1, learning_rate=0.2, every=5, gate="linear"
                ),
                "data": BATCHES,
            }
        case "linen":
            return {
                "net": gf.Linen(Dense, {"features": (3,)}, X, key=jr.key(0)),
                "loss": _linen_loss,
                "optimizer": optax.adamw(schedule),
                "policy": HostSteps(),
                "buckets": gn.Buckets(ratio=1),
                "data": BATCHES,
            }
        case "bfloat16":
            cut = lambda *shape: jnp.asarray(_normal(*shape), jnp.bfloat16)
            return {
                "net": {"w": cut(4, 3), "v": cut(3, 2), "none": jnp.zeros((0, 2))},
                "loss": _dict_loss,
                "optimizer": optax.sgd(1e-2, momentum=0.9),
                "policy": Ages(),
                **arrays,
            }
    raise ValueError(name)


NAMES = ("mlp", "conv", "nnx", "linen", "bfloat16")


def fit(name: str, **options: Any) -> gn.Run:
    """The run of a case."""
    given = {"steps": 40, "key": jr.key(1), "buckets": gn.Buckets(ratio=4)}
    given = {**given, **case(name), **options}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return gn.fit(given.pop("net"), given.pop("loss"), given.pop("data"), **given)


def content(run: gn.Run) -> dict[str, Any]:
    """All of a run but its times."""
    return content_of(whole(run))


def content_of(saved: Saved) -> dict[str, Any]:
    """All of a saved run but its times: bytes by name, the record, the history.

    How many programs had been traced is known at the end of a call of many ticks, so of
    the ticks only the last is asked.
    """
    arrays = {n: (str(x.dtype), x.shape, x.tobytes()) for n, x in saved.arrays.items()}
    del arrays["history"]
    record = {**saved.record, "written": None}
    if record["position"] is not None:
        record["position"] = {**record["position"], "seconds": None}
    lines = [json.loads(line) for line in saved.history.lines()]
    for line in lines:
        line.pop("seconds", None)
        line.pop("traces", None)
    # In a file tuples are lists.
    return {"arrays": arrays, "record": json.loads(json.dumps(record)), "log": lines}
