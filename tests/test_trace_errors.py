"""Bad input: what is said, and that it is said at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import growthnet as gn


# What users see; the tests' own checks of types come earlier.
pytestmark = pytest.mark.usefixtures("unchecked")

X = jax.ShapeDtypeStruct((3,), "float32")
MLP = eqx.nn.MLP(3, 2, 8, 1, key=jr.key(0))


def call(net, x):
    return net(x)


@pytest.mark.parametrize(
    ("net", "args", "options", "text"),
    [
        (
            None,
            (X,),
            {"call": call},
            "has no arrays; pass the network itself, not None",
        ),
        (eqx.nn.MLP, (X,), {}, "is the class MLP; give an instance"),
        (
            {"w": 0.5},
            (X,),
            {"call": lambda net, x: net["w"] * x},
            r"only Python numbers \('w'\); make them arrays",
        ),
        ({"w": jnp.ones(3)}, (X,), {}, "a dict can't be called; .* `call=lambda"),
        (MLP, (X,), {"call": 3}, "call=3 isn't a function"),
        (MLP, (), {}, "can't be called with these arguments: .*missing 1 required"),
        (MLP, (3,), {}, r"Argument 0 is 3, which isn't an array: .*ShapeDtypeStruct"),
        (MLP, ([0.5, 1.0, 2.0],), {}, r"Argument 0 is \[0.5, 1.0, 2.0\], which isn't"),
        (
            MLP,
            (jax.ShapeDtypeStruct((4,), "float32"),),
            {},
            "can't be called with these arguments.*same shape, got",
        ),
        (MLP, (X,), {"call": lambda net, x: None}, "returned None, which holds no"),
        (MLP, (X,), {"call": lambda net, x: 1.0}, "returned 1.0, which holds no array"),
        (MLP, (X,), {"call": lambda net, x: MLP(x)}, "doesn't use the network"),
        (MLP, (X,), {"also": call}, "also=<function.*; give a list of functions"),
        (MLP, (X,), {"also": [3]}, r"also\[0\]=3; give a function, or a pair"),
        (MLP, (X,), {"also": [(call, X)]}, r"also\[0\]=.*tuple of arguments"),
        (
            MLP,
            (X,),
            {"also": [call, (call, (jnp.ones(4),))]},
            r"also\[1\] can't be called with these arguments",
        ),
    ],
)
def test_trace(net, args, options, text):
    with pytest.raises(ValueError, match=text):
        gn.trace(net, *args, **options)


def test_a_failing_call_names_the_users_line():
    def wrong(net, x):
        return net(x[:2])

    with pytest.raises(ValueError, match=r"\(at test_trace_errors.py:\d+ \(wrong\)\)"):
        gn.trace(MLP, X, call=wrong)


def test_a_token_may_be_a_python_number():
    """Static arguments are passed through; a constant index is a constant index."""
    table = eqx.nn.Embedding(10, 4, key=jr.key(0))
    anatomy = gn.trace(table, 3)
    assert not anatomy.widths
    assert {f.reason for f in anatomy.fixed} == {"it is axis 0 of the output"}


class Counting(eqx.Module):
    first: eqx.nn.Linear
    count: eqx.nn.StateIndex

    def __init__(self):
        self.first = eqx.nn.Linear(3, 2, key=jr.key(0))
        self.count = eqx.nn.StateIndex(jnp.zeros(()))

    def __call__(self, x, state):
        return self.first(x), state.set(self.count, state.get(self.count) + 1)


def test_a_state_outside_the_network():
    model, state = eqx.nn.make_with_state(Counting)()
    with pytest.raises(ValueError, match=r"net\[0\]\(x, net\[1\]\)`"):
        gn.trace((model, state), X)
    with pytest.raises(ValueError, match=r"among the arguments; trace the whole netw"):
        gn.trace(model, X, state)
    with pytest.raises(ValueError, match=r"uses the eqx.nn.State 'state' from outside"):
        gn.trace(model, X, call=lambda model, x: model(x, state)[0])
    jax.tree.leaves(state)  # Nothing has consumed it.


def test_what_comes_back_must_be_the_networks():
    net = eqx.nn.make_with_state(Counting)()

    def back(what):
        return lambda net, x: (net[0](x, net[1])[0], gn.Aux(net=what(net, x)))

    with pytest.raises(ValueError, match="'gain' came back that the network doesn't"):
        gn.trace(net, X, call=back(lambda net, x: {"gain": x}))
    with pytest.raises(ValueError, match=r"came back with shape \(3,\); .*out_axes"):
        gn.trace({"a": net[0].first.bias}, X, call=lambda net, x: gn.Aux(net={"a": x}))
    stranger = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="batch")[1]
    with pytest.raises(ValueError, match="a State came back that fits 0 states"):
        gn.trace(net, X, call=back(lambda net, x: jax.tree.map(jnp.asarray, stranger)))


@pytest.fixture(scope="module")
def anatomy():
    return gn.trace(MLP, X)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"layer0": 9}, r"unknown width 'layer0'; this network has layers\[0\] \(8\)"),
        ({"layers[*]x": 9}, r"unknown width 'layers\[\*\]x'; this network has"),
        ({"layers[0]": 0}, r"size 0 for width 'layers\[0\]' \(now 8\); .* from 1 up"),
        ({"layers[0]": -3}, "size -3 for width .* a whole number from 1 up"),
        ({"layers[0]": 9.0}, "size 9.0 for width"),
        ({"layers[0]": "9"}, "size '9' for width"),
        ({"layers[0]": True}, "size True for width"),
        ({"layers[0]": jnp.asarray(9)}, "size Array.* for width"),
        (
            {"layers[1]": 3},
            r"'layers\[1\]' \(2\) can't change: .* axis 0 of the output",
        ),
        (
            {"layers[0].weight:1": 3},
            r"'layers\[0\].weight:1' \(3\) can't change: it is axis 0 of the input `x`",
        ),
        ([9], r"sizes=\[9\]; give a dict from width name to size"),
    ],
)
def test_sizes(anatomy, sizes, text):
    with pytest.raises(ValueError, match=text):
        gn.plan(anatomy, sizes)
    with pytest.raises(ValueError, match=text):
        gn.resize(MLP, anatomy, sizes, key=jr.key(0))


def test_a_network_without_a_hidden_width():
    linear = eqx.nn.Linear(3, 2, key=jr.key(0))
    anatomy = gn.trace(linear, X)
    with pytest.raises(ValueError, match="'w'; this network has no hidden width"):
        gn.plan(anatomy, {"w": 4})
    with pytest.raises(ValueError, match="no width matching .* no hidden width"):
        gn.Grower(Always(), optax.sgd(0.1)).init(linear, anatomy, key=jr.key(0))


class Always(gn.AbstractPolicy):
    every: int = eqx.field(static=True, default=1)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, None

    def step(self, trainable, memory, evidence, *, key):
        raise NotImplementedError


def test_a_rigid_width():
    net = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}

    def sorted_units(net, x):
        return jnp.sort(x @ net["a"]) @ net["b"]

    anatomy = gn.trace(net, X, call=sorted_units)
    text = (
        r"'a' \(8\) can't change: `sort` uses the order of its units, "
        r"at test_trace_errors.py:\d+ \(.*sorted_units\)"
    )
    with pytest.raises(ValueError, match=text):
        gn.plan(anatomy, {"a": 9})


class Fours(eqx.Module):
    """Its constructor wants a multiple of 4, wherever that is checked."""

    into: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self):
        self.into = eqx.nn.Linear(3, 8, key=jr.key(0))
        self.out = eqx.nn.Linear(8, 2, key=jr.key(1))

    def __check_init__(self):
        if self.into.weight.shape[0] % 4:
            raise ValueError("into must be a multiple of 4")

    def __call__(self, x):
        return self.out(jax.nn.relu(self.into(x)))


class FoursInTheCall(Fours):
    def __check_init__(self):
        pass

    def __call__(self, x):
        hidden = self.into(x)
        assert hidden.size % 4 == 0, "a multiple of 4"
        return self.out(jax.nn.relu(hidden))


def test_divisibility():
    anatomy = gn.trace(Fours(), X)
    text = r"the network itself refuses the sizes {'into': 10}: into must be a multiple"
    with pytest.raises(ValueError, match=text):
        gn.plan(anatomy, {"into": 10})
    wider = gn.resize(Fours(), anatomy, {"into": 12}, key=jr.key(0))
    assert wider.into.out_features == 12
    checked: Any = FoursInTheCall
    anatomy = gn.trace(checked(), X)
    text = (
        r"'into' \(8\) can't change: the program doesn't work with another size: "
        r"AssertionError: a multiple of n, at test_trace_errors.py:\d+ \(__call__\)"
    )
    with pytest.raises(ValueError, match=text):
        gn.plan(anatomy, {"into": 12})


def test_other_things_in_the_networks_place(anatomy):
    sizes = {"layers[0]": 9}
    shapes = jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
        ),
        MLP,
    )
    with pytest.raises(ValueError, match="plan takes an anatomy, not a MLP"):
        gn.plan(MLP, sizes)  # pyright: ignore[reportArgumentType]
    for other in (eqx.nn.MLP, None, {"w": 0.5}):
        with pytest.raises(ValueError, match="has no array 'layers.0..weight'"):
            gn.resize(other, anatomy, sizes, key=jr.key(0))
        with pytest.raises(ValueError, match="there are no arrays in the tree"):
            gn.plan(anatomy, sizes)(other, key=jr.key(0))
    deeper = eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0))
    with pytest.raises(ValueError, match=r"leaf 'layers\[1\].weight' has shape"):
        gn.resize(deeper, anatomy, sizes, key=jr.key(0))
    # Descriptions of arrays can be edited, but not computed with.
    grown = gn.resize(shapes, anatomy, sizes, key=jr.key(0))
    assert grown.layers[0].weight.shape == (9, 3)
    text = r"leaf 'layers\[0\].weight' of the network is a jax.ShapeDtypeStruct"
    with pytest.raises(ValueError, match=text):
        gn.gate(shapes, anatomy, {"layers[0]": jnp.ones(8)})
    with pytest.raises(ValueError, match=text):
        gn.open_units(
            gn.reserve(shapes, anatomy, sizes), {"layers[0]": 1}, key=jr.key(0)
        )
    with pytest.raises(ValueError, match=text):
        gn.Grower(Always(), optax.sgd(0.1)).init(shapes, anatomy, key=jr.key(0))
