"""`growthnet.testing` as its users meet it: one line for a network of their own, and
strategies that can be read in a failure."""

import dataclasses
import re

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

import growthnet as gn
import growthnet.testing
from growthnet.testing import (
    Case,
    check_network,
    draw_inputs,
    inputs_for,
    LAWS,
    make_case,
    make_optimizer,
    networks,
    OPS,
    optimizers,
    preservation,
    Resize,
    resizes,
    tolerance,
)


def an_mlp(width=4, depth=2):
    return eqx.nn.MLP(3, 2, width, depth, activation=jnp.tanh, key=jr.key(0))


# --- check_network


def test_a_network_that_resizes_gets_a_report():
    report = check_network(an_mlp(), jnp.zeros(3), examples=2)
    assert len(report.resizes) == 2
    lines = str(report).splitlines()
    assert lines[0] == (
        "MLP: preservation, shrink_is_silence, round_trip, symmetry, truth hold for "
        "layers[0] (4), layers[1] (4)"
    )
    assert all("layers[0] 4 -> " in line for line in lines[1:])


def test_the_same_seed_checks_the_same_changes():
    check = lambda seed: check_network(an_mlp(), jnp.zeros(3), seed=seed, examples=1)
    assert check(0).resizes == check(0).resizes
    assert check(0).resizes != check(1).resizes


def test_a_report_tells_what_could_not_be_checked():
    net = eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 4, key=jr.key(0)),
            eqx.nn.LayerNorm(4),
            eqx.nn.Linear(4, 2, key=jr.key(1)),
        ]
    )
    report = check_network(net, jnp.zeros(3), examples=1)
    assert "layers[0] doesn't grow exactly: `reduce_sum` goes over" in str(report)


class Lookup(eqx.Module):
    """Integers come in, and a key; an array is shared by two layers."""

    table: jax.Array
    out: eqx.nn.Linear

    def __init__(self, units, *, key):
        self.table = jr.normal(key, (5, units))
        self.out = eqx.nn.Linear(units, 2, key=key)

    def __call__(self, onehot, count, *, key):
        noise = jr.normal(key, (2,))
        return self.out(onehot @ self.table) + noise * count.astype(noise.dtype)


def test_integers_and_keys_are_used_as_they_are():
    net = Lookup(3, key=jr.key(0))
    call = lambda net, onehot, count, key: net(onehot, count, key=key)
    args = jnp.zeros(5), jnp.asarray(2), jr.key(1)
    case = Case("lookup", net, args, call)
    _, counts, keys = draw_inputs(case, seed=0)
    assert np.unique(np.asarray(counts)).tolist() == [2]
    assert np.unique(np.asarray(jr.key_data(keys)), axis=0).tolist() == [[0, 1]]
    report = check_network(net, *args, call=call, examples=1)
    assert dict(report.anatomy.sizes) == {"table": 3}


class Stubborn(eqx.Module):
    """A size that the forward pass doesn't read, and that nobody has a rule for."""

    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    label: int = eqx.field(static=True)

    def __init__(self, units, *, key):
        first, last = jr.split(key)
        self.inner = eqx.nn.Linear(3, units, key=first)
        self.outer = eqx.nn.Linear(units, 2, key=last)
        self.label = 100 + units

    def __call__(self, x):
        return self.outer(jnp.tanh(self.inner(x)))


def test_a_stale_static_field_shows_against_the_constructor():
    net = Stubborn(3, key=jr.key(0))
    check_network(net, jnp.zeros(3), examples=1)
    build = lambda sizes: Stubborn(sizes["inner"], key=jr.key(0))
    with pytest.raises(
        AssertionError, match=r"'truth' doesn't hold for Stubborn: inner"
    ):
        check_network(net, jnp.zeros(3), build=build, examples=1)


def through(change):
    """A network of arrays whose hidden units go through something else as well."""
    rng = np.random.default_rng(0)
    shapes = {"first": (4, 3), "last": (2, 4)}
    net = {k: jnp.asarray(rng.standard_normal(s), "float32") for k, s in shapes.items()}
    call = lambda net, x: net["last"] @ change(jnp.tanh(net["first"] @ x))
    return net, jnp.zeros(3), call


@pytest.mark.parametrize(
    ("says", "change"),
    [
        (
            r"'preservation' doesn't hold for dict: first 4 -> 7 by zero_out: outputs "
            r"differ by \d\S+, allowed are \d\S+ \(float32\)",
            lambda h: jnp.abs(h) if h.size > 6 else h,
        ),
        (
            r"'shrink_is_silence' doesn't hold for dict: first 4 -> \d, keeping \[.*\] "
            r"of first: removing isn't closing them: outputs differ",
            lambda h: h + jr.normal(jr.key(0), h.shape, h.dtype),
        ),
    ],
    ids=["changes with its size", "noise depends on the shape"],
)
def test_a_network_that_cannot_be_resized_is_told_by_which_law(says, change):
    net, x, call = through(change)
    with pytest.raises(AssertionError, match=says):
        check_network(net, x, call=call)


def test_a_broken_operation_shows_in_a_users_network():
    ops = dataclasses.replace(OPS, gate=lambda net, anatomy, gates: net)
    says = (
        r"'shrink_is_silence' .* for MLP: layers\[0\] 4 -> \d.*: removing isn't gating"
    )
    with pytest.raises(AssertionError, match=says):
        check_network(an_mlp(), jnp.zeros(3), ops=ops)


def test_a_network_without_widths_is_refused():
    net = eqx.nn.Linear(3, 2, key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"Linear has no width that can change:\nno hid"
    ):
        check_network(net, jnp.zeros(3))


def test_descriptions_of_inputs_do_unless_they_are_integers():
    struct = jax.ShapeDtypeStruct
    check_network(an_mlp(), struct((3,), "float32"), examples=1)
    call = lambda net, i: net(jax.nn.one_hot(i, 3, dtype="float32"))
    case = Case("by index", an_mlp(), (struct((), "int32"),), call)
    with pytest.raises(ValueError, match=r"which integers make sense is unknown"):
        draw_inputs(case, 0)


# --- strategies


@hypothesis.given(networks())
def test_the_repr_of_a_case_makes_it_again(case):
    assert len(repr(case)) < 100
    again = eval(repr(case), {"make_case": make_case})
    assert jtu.tree_structure(again.net) == jtu.tree_structure(case.net)
    for x, y in zip(*map(jtu.tree_leaves, (again.net, case.net)), strict=True):
        assert not eqx.is_array(x) or np.array_equal(x, y)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.data(), st.sampled_from(["grow", "shrink", "any"]))
def test_resizes_change_widths_as_they_are_told(data, kind):
    case = data.draw(networks())
    resize = data.draw(resizes(case, kind=kind))
    assert eval(repr(resize), {"Resize": Resize}) == resize
    changed = {n: (case.widths[n], size) for n, size in resize.sizes.items()}
    assert changed and all(old != new > 0 for old, new in changed.values())
    assert kind != "grow" or all(old < new for old, new in changed.values())
    assert kind != "shrink" or all(old > new for old, new in changed.values())
    for name, units in resize.keep.items():
        old, new = changed[name]
        assert len(set(units)) == new and set(units) < set(range(old))


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.data())
def test_inputs_fit_the_call(data):
    case = data.draw(networks(kinds=["two_by_two", "mlp"]))
    batch = data.draw(inputs_for(case))
    assert [x.shape[1:] for x in batch] == [x.shape for x in case.args]
    assert all(x.dtype == y.dtype for x, y in zip(batch, case.args, strict=True))


@hypothesis.given(optimizers())
def test_an_optimizer_is_made_once(optimizer):
    assert eval(repr(optimizer), {"make_optimizer": make_optimizer}) is optimizer


def test_a_network_alone_does_not_tell_its_widths():
    net = an_mlp()
    with pytest.raises(ValueError, match=r"a MLP alone doesn't tell its widths: pass"):
        resizes(net)
    resizes(net, gn.trace(net, jnp.zeros(3)))


def test_a_change_that_no_width_can_make_is_refused():
    with pytest.raises(ValueError, match=r"no width can change by 'shrink':\nwidth"):
        resizes(Case("thin", an_mlp(1), (jnp.zeros(3),)), kind="shrink")


@pytest.mark.parametrize(
    ("says", "make"),
    [
        (r"unknown kind 'cnn'; there are mlp, arrays", lambda: make_case("cnn")),
        (r"unknown kind 'cnn'; there are", lambda: networks(kinds=["mlp", "cnn"])),
        (r"float64 is switched off", lambda: make_case("mlp", dtype="float64")),
        (r"unknown optimizer 'adm'; there are", lambda: make_optimizer("adm")),
    ],
)
def test_mistakes_are_named(says, make):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_change_names_widths_that_there_are():
    with pytest.raises(ValueError, match=r"unknown width 'w3'; this network has w1 "):
        preservation(make_case("arrays"), Resize({"w3": 4}))
    with pytest.raises(ValueError, match=r"names widths one by one, not as 'layers"):
        preservation(make_case("mlp"), Resize({"layers[*]": 4}))


# --- laws and tolerances


def test_laws_are_named_after_their_functions():
    assert all(law.__name__ == name for name, law in LAWS.items())
    with pytest.raises(TypeError, match="does not support item assignment"):
        LAWS["growth"] = preservation  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("law", LAWS)
def test_a_change_that_concerns_no_width_breaks_no_law(law):
    LAWS[law](make_case("arrays"), Resize({}))


@pytest.mark.parametrize("kind", ["mlp", "residual"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_law_sees_a_change_that_is_small_for_its_dtype(kind, dtype):
    relative = {"float32": 1e-3, "float64": 1e-8}[dtype]

    def slightly_off(edit, tree, *, key=None):
        return jtu.tree_map(
            lambda x: x * (1 + relative) if eqx.is_inexact_array(x) else x,
            OPS.apply(edit, tree, key=key),
        )

    with jax.enable_x64(dtype == "float64"):
        case = make_case(kind, dtype=dtype)
        name, size = next(iter(case.widths.items()))
        resize = Resize({name: size + 1})
        preservation(case, resize)
        with pytest.raises(AssertionError, match=rf"outputs differ by .* \({dtype}\)"):
            broken = dataclasses.replace(OPS, apply=slightly_off)
            preservation(case, resize, ops=broken)


def test_tolerances_follow_the_dtype_the_sums_and_the_size_of_results():
    base = tolerance("float32", terms=10, magnitude=1.0)
    assert 1e-6 < base < 1e-5
    assert tolerance("float32", terms=20, magnitude=1.0) == pytest.approx(2 * base)
    assert tolerance("float32", terms=10, magnitude=3.0) == pytest.approx(3 * base)
    assert tolerance("float32", terms=10, magnitude=1.0, noise=1.0) > 40
    assert tolerance("float64", terms=10, magnitude=2.0) == 2e-10
    assert tolerance("bfloat16", terms=1, magnitude=1.0) == 2**-5


def test_the_examples_of_the_manual_run():
    blocks = re.findall(
        r"```python\n(.*?)```", growthnet.testing.__doc__ or "", re.DOTALL
    )
    assert len(blocks) == 3
    case = make_case("mlp")
    scope = {
        "case": case,
        "dataclasses": dataclasses,
        "jax": jax,
        "jnp": jnp,
        "my_gate": lambda net, anatomy, gates: net,
        "MyModel": lambda key: eqx.nn.MLP(4, 2, 4, 1, key=key),
        "OPS": OPS,
        "resize": Resize({"layers[0]": 2}),
        "shrink_is_silence": LAWS["shrink_is_silence"],
    }
    exec(blocks[0], scope)
    scope["test_my_model_can_be_resized"]()
    exec(blocks[1], scope)
    hypothesis.settings(max_examples=2)(scope["test_growth_preserves"])()
    with pytest.raises(AssertionError, match="removing isn't gating them"):
        exec(blocks[2], scope)
