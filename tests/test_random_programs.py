"""Random programs with known widths: all are found, none is invented, laws hold.

`python -m pytest tests/test_random_programs.py -m slow` looks at many more of them.
"""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

import growthnet as gn
from growthnet.testing import Case, preservation, Resize, symmetry

from .helpers import wiring
from .programs import FEATURES, Program, programs, TIME, WRAPPERS


X = jnp.zeros((TIME, FEATURES))


def groups(anatomy):
    """Per width, where it is, and whether it can change."""
    return {
        frozenset((m.path, m.axis) for m in w.members): w.growable
        for w in anatomy.all_widths
    }


def check_groups(program: Program):
    anatomy = gn.trace(program.net(), X, call=program.call())
    wanted = {
        frozenset(members): width not in program.rigid
        for width, members in program.members().items()
    }
    assert groups(anatomy) == wanted, anatomy


def check_coinciding(program: Program, alike: int):
    call = program.call()
    anatomy = gn.trace(program.net(), X, call=call)
    twin = gn.trace(program.net(alike=alike), X, call=call)
    assert wiring(twin) == wiring(anatomy)


def check_wrapped(program: Program, wrapper: str):
    plain = gn.trace(program.net(), X, call=program.call())
    call = program.call(WRAPPERS[wrapper])
    assert wiring(gn.trace(program.net(), X, call=call)) == wiring(plain)


def check_batched(program: Program):
    plain = gn.trace(program.net(), X, call=program.call())
    call = lambda p, xs: jax.vmap(program.call(), in_axes=(None, 0))(p, xs)
    batched = gn.trace(program.net(), jnp.stack([X, X]), call=call)
    assert wiring(batched) == wiring(plain)


def check_laws(program: Program, dtype: str):
    with jax.enable_x64(dtype == "float64"):
        net = program.net(dtype=dtype)
        case = Case(repr(program), net, (X.astype(dtype),), program.call())
        anatomy = gn.trace(net, *case.args, call=case.call)
        free = {w.name: w.size + 2 for w in anatomy.all_widths if w.growable}
        hypothesis.assume(free)
        symmetry(case, Resize({}))
        preservation(case, Resize(free))


few, many = hypothesis.settings(max_examples=8), hypothesis.settings(max_examples=150)


@few
@hypothesis.given(programs())
def test_the_widths_are_those_it_was_built_from(program):
    check_groups(program)


@few
@hypothesis.given(programs(), st.sampled_from([2, FEATURES, TIME]))
def test_sizes_that_coincide_change_nothing(program, alike):
    check_coinciding(program, alike)


@few
@hypothesis.given(programs(), st.sampled_from(sorted(WRAPPERS)))
def test_wrappers_change_nothing(program, wrapper):
    check_wrapped(program, wrapper)


@few
@hypothesis.given(programs())
def test_a_batch_changes_nothing(program):
    check_batched(program)


@few
@hypothesis.given(programs(), st.sampled_from(["float32", "float64"]))
def test_laws_hold(program, dtype):
    check_laws(program, dtype)


@pytest.mark.slow
@many
@hypothesis.given(st.data())
@pytest.mark.parametrize(
    "check",
    [check_groups, check_coinciding, check_wrapped, check_batched, check_laws],
)
def test_at_length(check, data):
    more = {
        check_coinciding: st.sampled_from([2, FEATURES, TIME]),
        check_wrapped: st.sampled_from(sorted(WRAPPERS)),
        check_laws: st.sampled_from(["float32", "float64"]),
    }
    check(data.draw(programs()), *([data.draw(more[check])] if check in more else []))
