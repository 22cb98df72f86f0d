"""The laws of depth edits, and broken edits that they catch."""

import dataclasses
import functools as ft
import re
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._paths import array_leaves
from growthnet.testing._measure import differing_leaf

from .depth_cases import FAMILIES, Family, shaken


@dataclasses.dataclass(frozen=True)
class Deeper:
    """A network, and an edit that makes it deeper."""

    family: Family
    width: int
    depth: int
    at: str
    net: Any
    edit: Any

    @ft.cached_property
    def result(self):
        return self.edit(self.net, key=jr.key(7))

    @property
    def index(self):
        return int(re.findall(r"\d+", self.at)[-1])

    def inputs(self, count=6):
        dtype = next(iter(array_leaves(self.net).values())).dtype
        shape = (count, *self.family.inputs(self.width))
        return jnp.asarray(np.random.default_rng(5).normal(size=shape).astype(dtype))

    def outputs(self, net):
        return forward(self.family)(net, self.inputs())


@ft.cache
def forward(family):
    call = family.call or (lambda net, x: net(x))
    return eqx.filter_jit(jax.vmap(call, (None, 0)))


@ft.cache
def gradients(family):
    def loss(net, x, target):
        return jnp.sum((forward(family)(net, x) - target) ** 2)

    return eqx.filter_jit(eqx.filter_grad(loss))


@ft.cache
def planned(name, width, depth, at, init, dtype):
    family = FAMILIES[name]
    net = shaken(family.make(width, depth, jr.key(0)), 0, dtype)
    shape = jax.ShapeDtypeStruct(family.inputs(width), dtype)
    anatomy = gn.trace(net, shape, call=family.call)
    return net, gn.plan_deepen(anatomy, at, init=init)


def deeper(name, width=4, depth=2, place=0, init="copy", *, seed=0, dtype="float32"):
    family = FAMILIES[name]
    at = family.at(depth)[place]
    net, edit = planned(name, width, depth, at, init, dtype)
    return Deeper(family, width, depth, at, shaken(net, seed, dtype), edit)


CASES = [
    ("mlp", 4, 2, 0, "copy"),
    ("mlp", 6, 1, 0, "drawn"),
    ("mlp without biases", 4, 2, 1, "copy"),
    ("mlp with learned slopes", 4, 2, 1, "copy"),
    ("sequential", 4, 1, 0, "copy"),
    ("sequential", 4, 2, 1, "drawn"),
    ("pairs", 4, 2, 0, "copy"),
    ("dicts", 4, 2, 1, "drawn"),
    ("residual", 6, 1, 0, "drawn"),
    ("residual", 4, 2, 1, "copy"),
    ("scaled", 4, 2, 2, "drawn"),
    ("attention", 4, 1, 1, "drawn"),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
seeds = hypothesis.given(seed=st.integers(0, 2**16))
pytestmark = pytest.mark.slow
few = hypothesis.settings(max_examples=4)


# --- the laws, as functions of a case, so that broken edits can be tried


def preservation(case):
    """Law 1."""
    assert case.edit.exactness == "exact"
    before = np.asarray(case.outputs(case.net))
    after = np.asarray(case.outputs(case.result))
    assert np.isfinite(before).all() and np.abs(before).max() > 1e-3
    eps = 1e-10 if before.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(after, before, rtol=0, atol=eps * np.abs(before).max())


def alive(case):
    """Law 2: some new leaf has gradient at once, all of them after a step."""
    target = np.random.default_rng(6).normal(size=case.outputs(case.net).shape)
    args = case.inputs(), jnp.asarray(target.astype(np.float32))
    born = {leaf.path for leaf in case.edit.after.leaves} - case.edit.origins.keys()
    first = gradients(case.family)(case.result, *args)
    sizes = {p: np.abs(g).max() for p, g in array_leaves(first).items() if p in born}
    assert sizes.keys() == born and max(sizes.values()) > 0
    stepped = eqx.apply_updates(case.result, jax.tree.map(lambda g: -0.01 * g, first))
    second = array_leaves(gradients(case.family)(stepped, *args))
    assert {path for path in born if not np.abs(second[path]).max() > 0} == set()


def round_trip(case):
    """Law 4, bit for bit."""
    undone = case.edit.inverse()
    assert undone.after == case.edit.before and undone.before == case.edit.after
    assert differing_leaf(case.net, undone(case.result)) == ""
    born = case.edit.draft.splice.born
    at = f"{case.at[:-1]}:{case.index + born}]"
    removal = gn.plan_remove_block(case.edit.after, at)
    assert removal.after == case.edit.before
    assert differing_leaf(case.net, removal(case.result)) == ""


def truth(case):
    """Law 6."""
    shape = jax.ShapeDtypeStruct(case.family.inputs(case.width), jnp.float32)
    assert gn.trace(case.result, shape, call=case.family.call) == case.edit.after
    built = shaken(case.family.make(case.width, case.depth + 1, jr.key(1)), 1)
    assert jtu.tree_structure(built) == jtu.tree_structure(case.result)
    assert eqx.tree_pformat(built) == eqx.tree_pformat(case.result)


def shifted(case, path):
    """The path of an old leaf in the deeper network, as one reads it off the names."""
    name, index = case.at[: case.at.rindex("[")], case.index
    found = re.fullmatch(re.escape(name) + r"\[(\d+)\](.*)", path)
    if not found or int(found[1]) < index:
        return path
    return f"{name}[{int(found[1]) + case.edit.draft.splice.born}]{found[2]}"


def naming(case):
    """Old widths are found under their new names: with the same weights in them."""
    old, new = array_leaves(case.net), array_leaves(case.result)
    for width in case.edit.before.all_widths:
        name = case.edit.renames.get(width.name, width.name)
        producer = next(m for m in width.members if "producer" in m.roles)
        members = case.edit.after.widths[name].members
        twin = next(m for m in members if "producer" in m.roles)
        assert twin.path == shifted(case, producer.path)
        assert (new[twin.path] == old[producer.path]).all()
    assert all(a != b for a, b in case.edit.renames.items())


def by_rank(params):
    return jtu.tree_map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "adamw with a schedule": lambda: optax.adamw(optax.cosine_decay_schedule(0.1, 50)),
    "clipped momentum": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)
    ),
    "adagrad": lambda: optax.adagrad(0.1, initial_accumulator_value=0.3),
    "partition": lambda: optax.partition(
        {"matrix": optax.adam(1e-2), "vector": optax.sgd(0.1, momentum=0.9)}, by_rank
    ),
    "masked": lambda: optax.chain(
        optax.masked(optax.trace(0.9), lambda p: jtu.tree_map(lambda x: x.ndim > 1, p)),
        optax.scale_by_adam(),
    ),
    "schedule free": lambda: optax.contrib.schedule_free_adamw(1e-2),
    "novograd": lambda: optax.novograd(1e-2),
    "lbfgs": lambda: optax.lbfgs(1e-2, memory_size=3, linesearch=None),
}


def optimizer_follows(case, name):
    """Law 7. Here stands its own account of where the leaves go: by their names."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        optimizer = OPTIMIZERS[name]()
        params = eqx.filter(case.net, eqx.is_inexact_array)
        params2 = eqx.filter(case.result, eqx.is_inexact_array)
        rng = np.random.default_rng(8)
        draw = lambda x: jnp.asarray(rng.normal(size=x.shape).astype(x.dtype))
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(2):
            state = update(jax.tree.map(draw, params), state, params)[1]
        moved, report = case.edit.transfer(
            optimizer, state, params, params2, report=True
        )
        fresh = jax.jit(optimizer.init)(params2)
        assert jax.tree.structure(moved) == jax.tree.structure(fresh)
        _state_moved(case, params, state, moved, fresh)
        assert {row.action for row in report.rows} <= {"kept", "born", "moved", "gone"}
        updates, _ = update(jax.tree.map(draw, params2), moved, params2)
        assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


def _state_moved(case, params, state, moved, fresh):
    named = lambda tree: {tuple(p): x for p, x in jtu.tree_flatten_with_path(tree)[0]}
    old, new, init = map(named, (state, moved, fresh))
    told = lambda path: gn._paths.join(gn._paths.key_names(path))
    names = {told(path): tuple(path) for path in named(params)}
    ends = {shifted(case, name): path for name, path in names.items()}
    rows = {row.path: row for row in case.edit.draft.rows}
    news = {tuple(p) for p in named(eqx.filter(case.result, eqx.is_inexact_array))}
    for path, x in new.items():
        own = next((path[i:] for i in range(len(path)) if path[i:] in news), ())
        end = told(own)
        if own and end not in ends:
            assert (np.asarray(x) == np.asarray(init[path])).all(), told(path)
        elif own:
            was = np.asarray(old[(*path[: -len(own)], *ends[end])])
            if end in rows and was.ndim:
                at = rows[end].index
                assert (np.asarray(x)[at] == np.asarray(init[path])[at]).all()
                x = np.delete(np.asarray(x), at, axis=0)
            assert np.asarray(x).tobytes() == was.tobytes(), told(path)
        else:
            assert np.asarray(x).tobytes() == np.asarray(old[path]).tobytes()


# --- they hold


@pytest.mark.parametrize("law", [preservation, alive])
@every_case
@seeds
@few
def test_law_for_any_numbers(law, case, seed):
    law(deeper(*case, seed=seed))


@pytest.mark.parametrize("law", [round_trip, truth, naming])
@every_case
def test_law(law, case):
    law(deeper(*case))


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_preservation_in_double_precision(name):
    with jax.enable_x64(True):
        case = deeper(name, dtype="float64")
        assert {str(x.dtype) for x in array_leaves(case.result).values()} == {"float64"}
        preservation(case)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp with learned slopes", "residual"])
def test_the_optimizer_follows(name, optimizer):
    optimizer_follows(deeper(name, place=1), optimizer)


# --- and they notice


def broken_draft(case, **changes):
    draft = dataclasses.replace(case.edit.draft, **changes)
    return dataclasses.replace(case, edit=dataclasses.replace(case.edit, draft=draft))


def forgets_the_cover(case):
    block = case.edit.draft.block
    spoken = dict.fromkeys((p.path for p in block.parts if p.how == "zero"), "copy")
    return broken_draft(case, block=block.filled(spoken))


def zeroes_everything(case):
    block = case.edit.draft.block
    silent = dict.fromkeys((p.path for p in block.parts), "zero")
    return broken_draft(case, block=block.filled(silent))


def takes_out_the_next_one(case):
    class Wrong(gn.DepthEdit):
        def inverse(self):
            undo = super().inverse()
            splice = dataclasses.replace(undo.draft.splice, index=case.index + 1)
            draft = dataclasses.replace(undo.draft, splice=splice)
            return dataclasses.replace(undo, draft=draft)

    fields = {f.name: getattr(case.edit, f.name) for f in dataclasses.fields(case.edit)}
    return dataclasses.replace(case, edit=Wrong(**fields))


def forgets_the_depth(case):
    return broken_draft(case, fields={})


def appends_to_the_state(case):
    """The state of the block goes last, so that later layers get another's moments."""

    class Wrong(gn.DepthEdit):
        def transfer(self, *args, **options):
            splice = dataclasses.replace(
                self.draft.splice, index=self.draft.splice.size
            )
            draft = dataclasses.replace(self.draft, splice=splice)
            right = dataclasses.replace(self, draft=draft)
            return gn.DepthEdit.transfer(right, *args, **options)

    fields = {f.name: getattr(case.edit, f.name) for f in dataclasses.fields(case.edit)}
    return dataclasses.replace(case, edit=Wrong(**fields))


def keeps_the_names(case):
    class Wrong(gn.DepthEdit):
        @property
        def renames(self):
            return {}

    fields = {f.name: getattr(case.edit, f.name) for f in dataclasses.fields(case.edit)}
    return dataclasses.replace(case, edit=Wrong(**fields))


MUTANTS = [
    (preservation, forgets_the_cover),
    (alive, zeroes_everything),
    (round_trip, takes_out_the_next_one),
    (truth, forgets_the_depth),
    (naming, keeps_the_names),
    (lambda case: optimizer_follows(case, "adam"), appends_to_the_state),
]


@pytest.mark.parametrize("law, mutate", MUTANTS, ids=lambda f: f.__name__)
def test_mutant_is_caught(law, mutate):
    case = deeper("residual", place=1)
    law(case)
    with pytest.raises(AssertionError, match="."):
        law(mutate(case))
