"""Every law on every width of every model of the zoo.

`python -m pytest tests/test_zoo.py -m slow` holds all of it, CI a sample.
"""

import dataclasses
import functools as ft
import itertools as it
from typing import Any

import jax
import jax.random as jr
import pytest

import growthnet as gn
from growthnet.testing import LAWS, Resize
from growthnet.testing._measure import outputs, Reference

from .helpers import wiring
from .zoo import case_of, MODELS


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Models of the zoo are ordinary code; it needn't be strict about promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def few_programs(request):
    """A process can't hold the programs of all models: XLA crashes after some thousand.
    What is compiled for one model is of no use to the next."""
    _turn_to(request.node.callspec.params["name"])


@ft.lru_cache(maxsize=1)
def _turn_to(name):
    jax.clear_caches()


@ft.cache
def anatomy_of(name, dtype="float32", twin=False):
    case = case_of(name, dtype=dtype, twin=twin)
    return gn.trace(case.net, *case.args, call=case.call)


every_model = pytest.mark.parametrize("name", MODELS)
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


def ways(anatomy):
    return [exact_inits(anatomy, w) for w in anatomy.all_widths]


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


def check_coinciding(name):
    anatomy, twin = (anatomy_of(name, twin=twin) for twin in (False, True))
    wanted = MODELS[name].at(twin=True).widths
    assert twin.sizes == {key: what.size for key, what in wanted.items()}
    assert wiring(twin) == wiring(anatomy)
    assert ways(twin) == ways(anatomy)


@pytest.mark.parametrize("name", list(MODELS)[::6])
def test_sizes_that_coincide_change_nothing(name):
    check_coinciding(name)


@pytest.mark.slow
@every_model
def test_sizes_that_coincide_never_change_anything(name):
    check_coinciding(name)


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


def widening(anatomy):
    """All widths at once, by one unit or two."""
    old = {w.name: w.size for w in anatomy.all_widths if w.growable}
    yield Resize({name: size + 1 + i % 2 for i, (name, size) in enumerate(old.items())})


CHANGES: dict[str, Any] = {
    "preservation": growing,
    "alive_newborns": growing,
    "shrink_is_silence": shrinking,
    "round_trip": growing,
    "symmetry": changing,
    "truth": changing,
    "optimizer_follows": changing,
    "opening_is_resizing": widening,
    "same_training": widening,
}


def growable(anatomy):
    return {w.name: w.growable for w in anatomy.all_widths}


def hold(law, name, dtype="float32", *, program=False, only=None):
    """Holds one model against one law, through its own code or through the program that
    was traced, which has the same widths; with `only`, one of its changes."""
    if (
        law in ("alive_newborns", "same_training")
        and not MODELS[name].at().differentiable
    ):
        pytest.skip("no gradient through a while loop")
    with jax.enable_x64(dtype == "float64"):
        case, anatomy = case_of(name, dtype=dtype), anatomy_of(name, dtype)
        if program:
            call = anatomy.program()
            case = dataclasses.replace(case, name=f"{name}, replayed", call=call)
            found = gn.trace(case.net, *case.args, call=call)
            assert growable(found) == growable(anatomy)
            anatomy = found
        resizes = list(CHANGES[law](anatomy))
        for resize in resizes if only is None else [resizes[only % len(resizes)]]:
            LAWS[law](case, resize)


# One law for each model, and so several models for each law.
SAMPLE = list(zip(MODELS, it.cycle(LAWS)))


@pytest.mark.parametrize(("name", "law"), SAMPLE[::4])
def test_sample(name, law):
    hold(law, name, only=0)


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("instance_norm", "alive_newborns"),  # scales with axes of one were born 0
        ("rms_norm_stream", "alive_newborns"),  # zeros on both sides of a norm
        ("layer_norm", "preservation"),  # noise went to another cover
    ],
)
def test_law_where_it_was_broken(name, law):
    hold(law, name)


@pytest.mark.parametrize(("name", "law"), SAMPLE[1::20])
def test_sample_of_programs(name, law):
    hold(law, name, program=True, only=0)


def check_program(name, dtype):
    """The traced program gives what the edited network gives, by its own code."""
    with jax.enable_x64(dtype == "float64"):
        case, anatomy = case_of(name, dtype=dtype), anatomy_of(name, dtype)
        (resize,) = changing(anatomy)
        edit = gn.plan(anatomy, resize.sizes, allow_drift=True)
        net = edit(case.net, key=jr.key(0))
        resized = dataclasses.replace(case, net=net)
        reference = Reference(resized, edit.after, 0)
        replayed = dataclasses.replace(resized, call=edit.after.program())
        values = outputs(replayed, net, reference.batch)
        reference.compare_values("replay", values, edit.after, "the traced program")


@pytest.mark.parametrize("name", list(MODELS)[::12])
def test_the_traced_program_is_the_network(name):
    check_program(name, "float32")


@pytest.mark.slow
@both_precisions
@every_model
def test_every_traced_program_is_the_network(name, dtype):
    check_program(name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("program", [False, True], ids=["module", "program"])
@both_precisions
@every_model
def test_law(name, dtype, program, law):
    hold(law, name, dtype, program=program)
