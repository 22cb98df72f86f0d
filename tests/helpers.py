"""What several tests need."""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

import growthnet as gn


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
