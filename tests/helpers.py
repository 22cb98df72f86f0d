"""What several tests need."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from jaxtyping import Array

import growthnet as gn


def normal(*shape: int) -> Array:
    """Numbers that depend on nothing but the shape, in JAX's default dtype."""
    return jr.normal(jr.key(sum(shape)), shape)


def small_normal(*shape: int) -> Array:
    """Such numbers, half as large, in float32 whatever the default, and without a
    compilation for every shape."""
    rng = np.random.default_rng(list(shape))
    return jnp.asarray(0.5 * rng.standard_normal(shape).astype(np.float32))


def sizes(anatomy: gn.Anatomy) -> dict[str, int]:
    """The widths that can grow."""
    return {w.name: w.size for w in anatomy.all_widths if w.growable}


def roles(anatomy: gn.Anatomy, name: str) -> dict[str, set[Any]]:
    """What each member does in a width."""
    width = anatomy.widths[name]
    return {f"{m.path}:{m.axis}": set(m.roles) for m in width.members}


def cover(anatomy: gn.Anatomy, name: str) -> set[str]:
    """The members whose zeros make new units silent."""
    width = anatomy.widths[name]
    return {f"{width.members[i].path}:{width.members[i].axis}" for i in width.cover}


def wiring(anatomy: gn.Anatomy) -> list[Any]:
    """Everything about the widths but their sizes."""
    return [
        (
            w.name,
            w.growable,
            w.gateable,
            w.cover,
            [w.exactness(init)[0] for init in ("zero_out", "clone")],
            [(m.path, m.axis, m.place, m.roles) for m in w.members],
        )
        for w in anatomy.all_widths
    ]


class Grow(gn.AbstractPolicy):
    """Two units at every turn."""

    every: int = eqx.field(static=True, default=5)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def init(self, anatomy, *, key):
        return None, None

    def step(self, trainable, memory, evidence, *, key):
        changes = {n: gn.Change(m, 2) for n, m in evidence.open.items()}
        return gn.Decision(changes), trainable, memory, {}


def lenient(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer with JAX's standard promotion inside its update: optax mixes
    Python floats with integer counts, while everything of ours runs under `strict`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def check_resizes(
    net: Any, *args: Any, call: Any = None, but: tuple[str, ...] = ()
) -> None:
    """Permutes the units of every width that can change, then grows those that can grow
    exactly; neither may change the outputs, and the result reads as was planned.

    Two compilations where `growthnet.testing.check_network` needs a dozen. In 64 bits.
    `but` names widths that can't grow exactly: all others must.
    """
    assert jax.config.read("jax_enable_x64")
    anatomy = gn.trace(net, *args, call=call)
    old = {w.name: w.size for w in anatomy.all_widths if w.growable}
    exact = {
        name: size + 2 + i
        for i, (name, size) in enumerate(old.items())
        if anatomy.widths[name].exactness("zero_out")[0] == "exact"
    }
    assert set(old) - set(exact) == set(but)
    rng = np.random.default_rng(0)
    orders = {name: np.roll(rng.permutation(n), 1) for name, n in old.items()}
    edits = [gn.plan(anatomy, old, keep=orders)]
    if exact:
        edits.append(gn.plan(anatomy, exact))
    run = eqx.filter_jit(call or (lambda net, *args: net(*args)))
    expected = jtu.tree_leaves(run(net, *args))
    for edit in edits:
        changed = edit(net, key=jr.key(1))
        assert gn.trace(changed, *args, call=call) == edit.after
        for a, b in zip(expected, jtu.tree_leaves(run(changed, *args)), strict=True):
            off = np.abs(np.asarray(a) - np.asarray(b)).max()
            assert off <= 1e-10 * max(1.0, np.abs(a).max()), f"off by {off}: {edit}"


def at_rest(net, loss, data, policy, steps, **options) -> gn.Run:
    """What a policy makes of a network that nothing trains."""
    return gn.fit(
        net, loss, data, optimizer=optax.sgd(0.0), policy=policy, steps=steps,
        key=jr.key(1), **options,
    )  # fmt: skip


@contextlib.contextmanager
def counting_compiles():
    """A list with an entry for every program that is compiled meanwhile."""
    compiled = []

    def heard(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
