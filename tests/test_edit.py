"""Edits: what they write, what they refuse, what they say."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import growthnet as gn


X = jr.normal(jr.key(9), (16, 3))


@pytest.fixture
def mlp():
    return eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0))


@pytest.fixture
def anatomy(mlp):
    return gn.trace(mlp, X[0])


def outputs(net):
    return jax.vmap(net)(X)


@pytest.mark.parametrize(
    "init",
    [
        "zero_out",
        "clone",
        gn.Clone("equal"),
        gn.Clone("equal", noise=0.1),
        gn.Clone(sources=(3, 5)),
        jax.nn.initializers.he_normal(),
    ],
)
def test_exact_inits_preserve_the_function(mlp, anatomy, init):
    edit = gn.plan(anatomy, {"layers[0]": 13, "layers[1]": 10}, init=init)
    assert edit.exactness == "exact"
    assert np.allclose(outputs(edit(mlp, key=jr.key(1))), outputs(mlp), atol=1e-5)


def test_the_result_is_what_a_constructor_builds(mlp, anatomy):
    edit = gn.plan(anatomy, {"layers[*]": 12})
    grown = edit(mlp, key=jr.key(1))
    built = eqx.nn.MLP(3, 2, 12, 2, key=jr.key(0))
    assert repr(grown) == repr(built)
    assert jax.tree.structure(grown) == jax.tree.structure(built)
    assert edit.after == gn.trace(grown, X[0])


def test_survivors_and_their_order_are_chosen_by_keep(mlp, anatomy):
    keep = {"layers[0]": [7, 2, 0]}
    small = gn.resize(mlp, anatomy, {"layers[0]": 3}, keep=keep)
    assert (small.layers[0].weight == mlp.layers[0].weight[jnp.array([7, 2, 0])]).all()
    assert (
        small.layers[1].weight == mlp.layers[1].weight[:, jnp.array([7, 2, 0])]
    ).all()
    first = gn.resize(mlp, anatomy, {"layers[0]": 3})
    assert (first.layers[0].weight == mlp.layers[0].weight[:3]).all()


def test_trees_shaped_like_the_network_follow(mlp, anatomy):
    edit = gn.plan(anatomy, {"layers[0]": 12})
    key = jr.key(1)
    average = jax.tree.map(lambda a: a * 0.5, eqx.filter(mlp, eqx.is_array))
    moved = edit(average, key=key)
    assert moved.layers[0].weight.shape == (12, 3)
    assert (moved.layers[0].weight[:8] == mlp.layers[0].weight * 0.5).all()


def test_newborns_depend_on_the_key_alone(mlp, anatomy):
    wide = gn.plan(anatomy, {"layers[0]": 12})
    wider = gn.plan(anatomy, {"layers[0]": 20, "layers[1]": 9})
    a, b = wide(mlp, key=jr.key(1)), wider(mlp, key=jr.key(1))
    # Not on the size of anything: the first newborns are the same numbers.
    assert (a.layers[0].weight == b.layers[0].weight[:12]).all()
    c = wide(mlp, key=jr.key(2))
    assert (a.layers[0].weight[8:] != c.layers[0].weight[8:]).all()
    limit = 1 / np.sqrt(3)
    born = np.asarray(b.layers[0].weight[8:])
    assert np.abs(born).max() <= limit and born.std() > 0.3 * limit


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_never_change(anatomy, mlp, dtype):
    low = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_array(a) else a, mlp)
    read = gn.trace(low, X[0].astype(dtype))
    for init in ("zero_out", gn.Clone(noise=0.1)):
        grown = gn.resize(low, read, {"*": 11}, key=jr.key(0), init=init)
        kinds = {str(a.dtype) for a in jax.tree.leaves(eqx.filter(grown, eqx.is_array))}
        assert kinds == {dtype}


def test_explain(anatomy):
    text = gn.plan(anatomy, {"layers[0]": 13, "layers[1]": 10}).explain()
    assert "layers[0]: 8 -> 13, 5 born by zero_out: exact" in text
    assert "parameters: 122 -> 214" in text
    assert "width_size = 8 (layers have 13, 10)" in text
    shrink = gn.plan(anatomy, {"layers[0]": 5}).explain()
    assert "3 removed: not preserving (what the removed units said is lost)" in shrink
    equal = gn.plan(anatomy, {"layers[0]": 9}, init=gn.Clone("equal")).explain()
    assert "they never separate" in equal


def test_short_forms(anatomy):
    edit = gn.plan(anatomy, {"layers[0]": 13})
    assert repr(edit) == "Edit(layers[0] 8 -> 13: exact)"
    assert repr(anatomy) == "Anatomy(layers[0] 8, layers[1] 8)"


def test_inverse(mlp, anatomy):
    for init in ("zero_out", "clone"):
        edit = gn.plan(anatomy, {"layers[*]": 13}, init=init)
        back = edit.inverse()(edit(mlp, key=jr.key(0)))
        assert eqx.tree_equal(back, mlp, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="lost or reordered units"):
        gn.plan(anatomy, {"layers[0]": 3}).inverse()


BAD = [
    ({"foo": 3}, {}, r"unknown width 'foo'; this network has layers\[0\] \(8\)"),
    ({"layers[2]": 3}, {}, "can't change: it is axis 0 of the output"),
    ({"layers[0]": 0}, {}, "a size is a whole number from 1 up"),
    ({"layers[0]": -4}, {}, "a size is a whole number from 1 up"),
    ({"layers[0]": 2.5}, {}, "a size is a whole number from 1 up"),
    ({"layers[0]": True}, {}, "a size is a whole number from 1 up"),
    (8, {}, "give a dict from width name to size"),
    ({"layers[0]": 9}, {"init": "zeros"}, "unknown init 'zeros'; use one of zero_out"),
    ({"layers[0]": 9}, {"init": 3}, "use a name, a `Clone` or a function"),
    ({"layers[0]": 9}, {"init": "drawn"}, "exact behind a gate at 0"),
    ({"layers[0]": 3}, {"keep": {"layers[0]": [0, 0, 1]}}, "distinct whole numbers"),
    ({"layers[0]": 3}, {"keep": {"layers[0]": [0, 8]}}, r"at most 3 of 0\.\.7 fit"),
    ({"layers[0]": 3}, {"keep": {"layers[1]": [0]}}, "give its size"),
    ({"layers[0]": 9}, {"keep": {"layers[0]": [0]}}, "replacing 7 of its units"),
]


@pytest.mark.parametrize("sizes, options, text", BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_plans_are_refused_at_once(anatomy, sizes, options, text):
    with pytest.raises(ValueError, match=text):
        gn.plan(anatomy, sizes, **options)


@pytest.mark.usefixtures("unchecked")
def test_bad_applications_are_refused(mlp, anatomy):
    edit = gn.plan(anatomy, {"layers[0]": 9})
    with pytest.raises(ValueError, match="pass `key=`"):
        edit(mlp)
    with pytest.raises(ValueError, match=r"leaf 'layers\[0\].weight' has shape \(9, 3"):
        edit(edit(mlp, key=jr.key(0)), key=jr.key(0))
    with pytest.raises(ValueError, match="has a leaf 'w' that the traced network"):
        edit({"w": X}, key=jr.key(0))
    wrong = gn.plan(anatomy, {"layers[0]": 9}, init=lambda key, shape, dtype: X)
    with pytest.raises(ValueError, match="the init function gave an array of shape"):
        wrong(mlp, key=jr.key(0))
    with pytest.raises(ValueError, match="split is 'unequal' or 'equal'"):
        gn.Clone("half")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="noise is a number from 0 up"):
        gn.Clone(noise=-1.0)


class Checked(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __check_init__(self):
        if int(self.first.out_features) > 10:
            raise ValueError("a Checked is at most 10 wide")

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def test_invariants_of_modules_are_checked():
    keys = jr.split(jr.key(0))
    net = Checked(eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1]))
    anatomy = gn.trace(net, X[0])
    assert gn.resize(net, anatomy, {"first": 10}, key=keys[0]).first.out_features == 10
    with pytest.raises(ValueError, match="a Checked is at most 10 wide"):
        gn.resize(net, anatomy, {"first": 11}, key=keys[0])


class Table(eqx.Module):
    rows: jax.Array
    count: int = eqx.field(static=True)

    def __call__(self, x, *, key=None):
        del key
        return self.rows.T @ jnp.tanh(self.rows @ x)


def test_statics_rules_can_be_registered():
    net = eqx.nn.Sequential([Table(X[:4, :3], 4)])
    with pytest.raises(ValueError, match="has a statics rule already"):
        gn.register_statics(eqx.nn.Linear, lambda old, new: {})
    gn.register_statics(Table, lambda old, new: {"count": new.rows.shape[0]})
    small = gn.resize(net, gn.trace(net, X[0]), {"layers[0]": 2})
    assert small.layers[0].count == 2


@pytest.mark.parametrize("copies", range(2, 12))
def test_no_two_copies_get_the_same_share(mlp, copies):
    net = eqx.tree_at(lambda m: m.layers[1].weight, mlp, jnp.ones((8, 8)))
    clone = gn.Clone(sources=(3,))
    grown = gn.resize(
        net, gn.trace(net, X[0]), {"layers[0]": 7 + copies}, init=clone, key=jr.key(0)
    )
    shares = np.asarray(grown.layers[1].weight[0, [3, *range(8, 7 + copies)]])
    assert np.isclose(shares.sum(), 1, atol=1e-5)
    assert np.diff(np.sort(shares)).min() > 0.05


def test_numpy_leaves_stay_numpy_and_keep_64_bits():
    rng = np.random.default_rng(0)
    net = {"i": rng.standard_normal((4, 3)), "o": rng.standard_normal((4, 2))}
    call = lambda n, x: jnp.tanh(n["i"] @ x) @ n["o"]  # noqa: E731
    with jax.enable_x64(True):
        anatomy = gn.trace(net, np.ones(3), call=call)
        grown = gn.resize(net, anatomy, {"i": 6}, key=jr.key(0))
    assert all(isinstance(a, np.ndarray) for a in grown.values())
    assert (grown["i"][:4] == net["i"]).all() and grown["i"].dtype == np.float64


@pytest.mark.usefixtures("unchecked")
def test_first_mistakes_are_answered(mlp, anatomy):
    with pytest.raises(ValueError, match="plan takes an anatomy, not a MLP"):
        gn.plan(mlp, {"layers[0]": 9})
    edit = gn.plan(anatomy, {"layers[0]": 9})
    with pytest.raises(ValueError, match="runs in numpy, not under jit or vmap"):
        eqx.filter_jit(lambda m: edit(m, key=jr.key(0)))(mlp)
    chosen = np.isin(np.arange(8), [1, 5])
    small = gn.resize(mlp, anatomy, {"layers[0]": 2}, keep={"layers[0]": chosen})
    assert (small.layers[0].weight == mlp.layers[0].weight[chosen]).all()
