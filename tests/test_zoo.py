"""Every law on every width of every model of the zoo.

`python -m pytest tests/test_zoo.py -m slow` holds all of it, CI a sample.
"""

import functools as ft
import itertools as it
from typing import Any

import jax
import pytest

import growthnet as gn
from growthnet.testing import LAWS, Resize

from .zoo import case_of, MODELS


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Models of the zoo are ordinary code; it needn't be strict about promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@ft.cache
def anatomy_of(name, dtype="float32", twin=False):
    case = case_of(name, dtype=dtype, twin=twin)
    return gn.trace(case.net, *case.args, call=case.call)


every_model = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.skip(entry.waits)] * bool(entry.waits))
        for name, entry in MODELS.items()
    ],
)
both_precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


# --- what is found


def exact_inits(anatomy, width):
    """How this width can grow exactly, as the zoo writes it down."""

    def exact(init, size):
        try:
            return gn.plan(anatomy, {width.name: size}, init=init).exactness == "exact"
        except ValueError:
            return False

    more, twice = width.size + 1, 2 * width.size
    found = {init for init in ("zero_out", "clone") if exact(init, more)}
    if "clone" not in found and exact("clone", twice):
        found.add("clone x2")
    return found


def told(width, anatomy):
    if not width.growable:
        return f"{width.size}, rigid: {'; '.join(width.reasons)}"
    inits = ", ".join(sorted(exact_inits(anatomy, width)))
    return f"{width.size}, exact by [{inits}], gateable: {width.gateable}"


def wished(wanted):
    if wanted.rigid:
        return f"{wanted.size}, rigid: {wanted.rigid}"
    inits = ", ".join(sorted(wanted.exact))
    return f"{wanted.size}, exact by [{inits}], gateable: {wanted.gateable}"


@every_model
def test_a_model_has_the_widths_that_are_written_down(name):
    anatomy = anatomy_of(name)
    wanted = MODELS[name].at().widths
    found = {w.name: told(w, anatomy) for w in anatomy.all_widths}
    # Of a reason only a part is written down.
    for key, what in wanted.items():
        if what.rigid and what.rigid in found.get(key, ""):
            found[key] = wished(what)
    assert found == {key: wished(what) for key, what in wanted.items()}, anatomy


def wiring(anatomy):
    """Everything about the widths but their sizes."""
    return [
        (
            w.name,
            w.growable,
            w.gateable,
            w.cover,
            exact_inits(anatomy, w),
            [(m.path, m.axis, m.roles) for m in w.members],
        )
        for w in anatomy.all_widths
    ]


@every_model
def test_sizes_that_coincide_change_nothing(name):
    anatomy, twin = (anatomy_of(name, twin=twin) for twin in (False, True))
    wanted = MODELS[name].at(twin=True).widths
    assert twin.sizes == {key: what.size for key, what in wanted.items()}
    assert wiring(twin) == wiring(anatomy)


# --- what happens to it


def growing(anatomy):
    """Every width alone; where only equally many copies are exact, twice its size."""
    for width in anatomy.all_widths:
        if width.growable:
            yield Resize({width.name: width.size + 2})
            if "clone x2" in exact_inits(anatomy, width):
                yield Resize({width.name: 2 * width.size})


def shrinking(anatomy):
    """Every width alone; the first unit goes."""
    for width in anatomy.all_widths:
        if width.growable and width.size > 1:
            keep = range(1, width.size)
            yield Resize({width.name: width.size - 1}, {width.name: tuple(keep)})


def changing(anatomy):
    """All widths at once: every other one shrinks, but not to one: a trace can't tell
    one group, head or piece from none."""
    old = {w.name: w.size for w in anatomy.all_widths if w.growable}
    yield Resize(
        {
            name: size - 1 if i % 2 and size > 2 else size + 2
            for i, (name, size) in enumerate(old.items())
        }
    )


CHANGES: dict[str, Any] = {
    "preservation": growing,
    "alive_newborns": growing,
    "shrink_is_silence": shrinking,
    "round_trip": growing,
    "symmetry": changing,
    "truth": changing,
    "optimizer_follows": changing,
}


# The first of each kind, under one law each, in turn.
SAMPLE = list(zip(MODELS, it.cycle(LAWS)))


@pytest.mark.parametrize(("name", "law"), SAMPLE)
def test_sample(name, law):
    hold(law, name, "float32", only=0)


def hold(law, name, dtype, *, only=None):
    """Holds one model against one law; with `only`, one of its changes."""
    if MODELS[name].waits:
        pytest.skip(MODELS[name].waits)
    if law == "alive_newborns" and not MODELS[name].at().differentiable:
        pytest.skip("no gradient through a while loop")
    with jax.enable_x64(dtype == "float64"):
        case = case_of(name, dtype=dtype)
        resizes = list(CHANGES[law](anatomy_of(name, dtype)))
        for resize in resizes if only is None else [resizes[only % len(resizes)]]:
            LAWS[law](case, resize)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@both_precisions
@every_model
def test_law(name, dtype, law):
    hold(law, name, dtype)
