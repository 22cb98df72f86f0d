"""Networks with state: what a call brings back, running statistics, several calls."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import growthnet as gn


@pytest.fixture(autouse=True)
def standard_promotion():
    """Equinox's BatchNorm mixes floats with its integer counter."""
    with jax.numpy_dtype_promotion("standard"):
        yield


X = jr.normal(jr.key(0), (16, 3))


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, width, mode, key):
        a, b = jr.split(key)
        self.first = eqx.nn.Linear(3, width, key=a)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode=mode)
        self.last = eqx.nn.Linear(width, 2, key=b)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(x)), state


def normed(mode="batch", width=4, seed=0):
    return eqx.nn.make_with_state(Normed)(width, mode, jr.key(seed))


def train(net, x):
    model, state = net
    batched = jax.vmap(model, (0, None), (0, None), axis_name="batch")
    return batched(x, state)


def predict(net, x):
    return train(eqx.nn.inference_mode(net), x)[0]


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("call", [train, predict])
def test_state_that_comes_back_is_the_networks_own(mode, call):
    anatomy = gn.trace(normed(mode), X, call=call)
    width = anatomy.widths["[0].first"]
    assert (width.size, width.gateable, len(anatomy.widths)) == (4, "any", 1)
    assert [(m.path, m.axis) for m in width.members] == [
        ("[0].first.weight", 0),
        ("[0].first.bias", 0),
        ("[0].norm.weight", 0),
        ("[0].norm.bias", 0),
        ("[0].last.weight", 1),
        (f"[1].norm.{mode}_state_index[0]", 0),
        (f"[1].norm.{mode}_state_index[1]", 0),
    ]
    assert [width.members[i].path for i in width.cover] == ["[0].last.weight"]
    assert {f.name for f in anatomy.fixed} == {"[0].first.weight:1", "[0].last"}


@pytest.mark.parametrize("part", ["whole", "state", "with None", "jitted"])
def test_aux_brings_leaves_back(part):
    def call(net, x):
        out, state = train(net, x)
        back = {"whole": (net[0], state), "state": state, "with None": (None, state)}
        return out, gn.Aux(net=back[part], metrics={"mean": jnp.mean(out)})

    net = normed()
    expected = gn.trace(net, X, call=train)
    if part == "jitted":
        part = "whole"
        found = gn.trace(net, X, call=lambda net, x: eqx.filter_jit(call)(net, x))
    else:
        found = gn.trace(net, X, call=call)
    assert found.all_widths == expected.all_widths


def trained(net, steps=3):
    """The network after some training-mode calls: statistics that aren't initial."""
    for i in range(steps):
        _, state = train(net, X + i)
        net = (net[0], state)
    return net


def statistics(net, mode="batch"):
    index = getattr(net[0].norm, f"{mode}_state_index")
    return net[1].get(index)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("calls", [[train], [predict], [train, predict]])
def test_survivors_keep_their_statistics_and_newborns_start_anew(mode, calls):
    net = trained(normed(mode))
    anatomy = gn.trace(net, X, call=calls[0], also=calls[1:])
    edit = gn.plan(anatomy, {"[0].first": 7})
    wide = edit(net, key=jr.key(1))
    old, new = statistics(net, mode), statistics(wide, mode)
    for a, b, start in zip(old, new, (0.0, 1.0), strict=True):
        assert (b[:4] == a).all() and (b[4:] == start).all()
    assert (wide[0].norm.weight[4:] == 1).all()
    assert (wide[0].norm.bias[4:] == 0).all()
    assert wide[0].norm.input_size == wide[0].first.out_features == 7
    assert jnp.allclose(predict(wide, X), predict(net, X), atol=1e-6)
    # The copy of the state is the call's to consume, `wide` is used again below.
    assert jnp.allclose(train(fresh(wide), X)[0], train(fresh(net), X)[0], atol=1e-5)
    assert edit.after == gn.trace(wide, X, call=calls[0], also=calls[1:])
    kept = [2, 0, 5]
    narrow = gn.resize(wide, edit.after, {"[0].first": 3}, keep={"[0].first": kept})
    for a, b in zip(statistics(wide, mode), statistics(narrow, mode), strict=True):
        assert (b == a[jnp.array(kept)]).all()
    built = eqx.nn.make_with_state(Normed)(7, mode, jr.key(0))
    assert jax.tree.structure(built) == jax.tree.structure(wide)


def fresh(net):
    return jax.tree.map(lambda leaf: leaf, net)


class Memory(eqx.Module):
    """A recurrent cell that keeps its last activation in the state."""

    into: eqx.nn.Linear
    back: eqx.nn.Linear
    last: eqx.nn.StateIndex
    out: eqx.nn.Linear

    def __init__(self, width, key):
        a, b, c = jr.split(key, 3)
        self.into = eqx.nn.Linear(3, width, key=a)
        self.back = eqx.nn.Linear(width, width, use_bias=False, key=b)
        self.last = eqx.nn.StateIndex(jnp.zeros(width))
        self.out = eqx.nn.Linear(width, 2, key=c)

    def __call__(self, x, state):
        h = jnp.tanh(self.into(x) + self.back(state.get(self.last)))
        return self.out(h), state.set(self.last, h)


def remember(net, x):
    return net[0](x, net[1])


@pytest.mark.parametrize("init", ["zero_out", "clone"])
def test_memory_is_data_so_growth_stays_exact_call_after_call(init):
    net = eqx.nn.make_with_state(Memory)(4, jr.key(0))
    anatomy = gn.trace(net, X[0], call=remember)
    width = anatomy.widths["[0].into"]
    assert [width.members[i].path for i in width.cover] == [
        "[0].back.weight",
        "[0].out.weight",
    ]
    assert [str(m) for m in width.members][-1] == "[1].last axis 0 [0:4] member"
    wide = gn.resize(net, anatomy, {"[0].into": 6}, init=init, key=jr.key(1))
    for x in X:
        (a, state), (b, wide_state) = remember(net, x), remember(wide, x)
        assert jnp.allclose(a, b, atol=1e-6)
        net, wide = (net[0], state), (wide[0], wide_state)


def test_a_state_is_the_users_to_consume():
    net = eqx.nn.make_with_state(Memory)(4, jr.key(0))
    anatomy = gn.trace(net, X[0], call=remember, also=[remember])
    edit = gn.plan(anatomy, {"[0].into": 6})
    edit(net, key=jr.key(0))
    gn.reserve(net, anatomy, {"[0].into": 8})
    gn.gate(net, anatomy, {"[0].into": jnp.ones(4)})

    def loss(net, batch, key):
        del key
        out, state = remember(net, batch[0][0])
        return jnp.mean((out - batch[1][0]) ** 2), gn.Aux(net=(None, state))

    def predict(net, batch):
        return remember(net, batch[0][0])[0]

    run = fit(net, steps=11, loss=loss, predict=predict, anatomy=anatomy)
    assert run.sizes == {"[0].into": 7}
    remember(run.net, X[0])
    remember(net, X[0])
    with pytest.raises(ValueError, match="old state"):
        remember(net, X[0])  # One call, its own, has consumed it.


Y = jnp.sin(X @ jnp.ones((3, 2)))


class Grow(gn.AbstractPolicy):
    """Three units at the tenth step."""

    every: int = eqx.field(static=True, default=10)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"loss"}))
    optimizer: None = None

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, jnp.zeros((), jnp.int32)

    def step(self, trainable, memory, evidence, *, key):
        del key
        births = jnp.where(memory == 0, 3, 0)
        changes = {n: gn.Change(mask, births) for n, mask in evidence.open.items()}
        return gn.Decision(changes), trainable, memory + 1, {}


def loss(net, batch, key):
    del key
    out, state = train(net, batch[0])
    return jnp.mean((out - batch[1]) ** 2), gn.Aux(net=(None, state))


def fit(net, *, steps, loss=loss, **options):
    given = {"optimizer": optax.sgd(1e-2), "policy": Grow(), "key": jr.key(1)}
    return gn.fit(net, loss, (X, Y), steps=steps, **{**given, **options})


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("buckets", [gn.Buckets(), gn.Buckets(ratio=1)])
def test_running_statistics_move_and_follow_growth(mode, buckets):
    net = normed(mode)

    def call(net, batch):
        return predict(net, batch[0])

    run = fit(net, steps=10, predict=call, buckets=buckets)
    assert run.sizes == {"[0].first": 7}
    mean, variance = statistics(run.net, mode)
    assert (mean[4:] == 0).all() and (variance[4:] == 1).all()
    assert (run.growing.open["[0].first"].sum()) == 7
    # The same training without growth: survivors' statistics are the same numbers.
    still = fit(net, steps=10, policy=gn.NoGrowth())
    for a, b in zip(statistics(still.net, mode), (mean, variance), strict=True):
        assert jnp.allclose(b[:4], a, rtol=1e-5) and not (a == 0).any()
    longer = fit(net, steps=30, predict=call, buckets=buckets)
    mean, variance = statistics(longer.net, mode)
    assert (mean[4:] != 0).all() and (variance[4:] != 1).all()
    assert jnp.isfinite(predict(longer.net, X)).all()
    assert longer.history.ticks[-1].loss < longer.history.ticks[0].loss
    again = gn.trace(longer.net, X, call=predict)
    assert again.sizes == longer.anatomy.sizes


def test_closed_slots_hold_initial_statistics():
    run = fit(normed(), steps=9)
    mean, variance = run.growing.net[1].get(run.growing.net[0].norm.batch_state_index)
    closed = ~run.growing.open["[0].first"]
    assert closed.any()
    assert (mean[closed] == 0).all() and (variance[closed] == 1).all()
    assert (mean[~closed] != 0).all()


class Autoencoder(eqx.Module):
    into: eqx.nn.MLP
    out: eqx.nn.MLP
    average: jax.Array

    def __init__(self):
        self.into = eqx.nn.MLP(3, 4, 8, 1, key=jr.key(0))
        self.out = eqx.nn.MLP(4, 3, 8, 1, key=jr.key(1))
        self.average = jnp.zeros((4, 8))

    def encode(self, x):
        return self.into(x)

    def decode(self, code):
        return self.out(code)

    def __call__(self, x):
        return self.decode(self.encode(x))


def test_one_anatomy_of_several_calls():
    net = Autoencoder()
    alone = gn.trace(net, X[0], call=Autoencoder.encode)
    assert alone.sizes == {"into.layers[0]": 8}
    left = ["out.layers[0].weight", "out.layers[0].bias"]
    left += ["out.layers[1].weight", "out.layers[1].bias", "average"]
    assert alone.warnings == tuple(f"the trace doesn't reach {p}" for p in left)
    both = gn.trace(
        net, X[0], call=Autoencoder.encode, also=[(Autoencoder.decode, (jnp.ones(4),))]
    )
    assert both.sizes == {"into.layers[0]": 8, "out.layers[0]": 8}
    assert both.warnings == ("the trace doesn't reach average",)
    fixed = {f.name: f.reason for f in both.fixed}
    assert fixed["into.layers[1]"] == "it is axis 0 of the output"
    code = "it is axis 0 of the input `code` of `also[0]`"
    assert fixed["out.layers[0].weight:1"] == code
    # In the whole program the code is hidden; the decoder's own call fixes it again.
    whole = gn.trace(net, X[0])
    assert whole.sizes["into.layers[1]"] == 4
    again = gn.trace(net, X[0], also=[(Autoencoder.decode, (jnp.ones(4),))])
    assert again.sizes == both.sizes
    assert gn.trace(net, X[0], also=[Autoencoder.__call__]) == whole


def test_a_leaf_that_no_call_reaches_keeps_its_shape_and_is_named():
    net = Autoencoder()
    edit = gn.plan(gn.trace(net, X[0]), {"out.layers[0]": 10})
    text = "the trace doesn't reach average: it keeps its shape (4, 8), though out."
    assert text in edit.explain()
    assert edit(net, key=jr.key(0)).average.shape == (4, 8)
    assert "average" not in gn.plan(edit.before, {"into.layers[1]": 5}).explain()[:200]
    reaching = gn.trace(
        net, X[0], also=[lambda net, x: net.average @ net.into.layers[0](x)]
    )
    assert not reaching.warnings
    grown = gn.resize(net, reaching, {"into.layers[0]": 10}, key=jr.key(0))
    assert grown.average.shape == (4, 10)


def test_reached_means_used():
    """Passing a leaf on unused, even through a jitted function, isn't using it."""

    @jax.jit
    def pair(w, unused, x):
        return w @ x, unused

    net = {"w": jnp.ones((2, 3)), "unused": jnp.ones(7), "one": jnp.ones((1, 1))}

    def call(net, x):
        y, unused = pair(net["w"], net["unused"], x)
        return y * net["one"][0], gn.Aux(net={"unused": unused})

    anatomy = gn.trace(net, X[0], call=call)
    assert anatomy.warnings == ("the trace doesn't reach unused",)


def test_spectral_norm():
    class Normed(eqx.Module):
        first: eqx.nn.SpectralNorm
        last: eqx.nn.SpectralNorm

        def __init__(self):
            a, b = jr.split(jr.key(0))
            first, last = eqx.nn.Linear(3, 4, key=a), eqx.nn.Linear(4, 2, key=b)
            self.first = eqx.nn.SpectralNorm(first, "weight", key=a)
            self.last = eqx.nn.SpectralNorm(last, "weight", key=b)

        def __call__(self, x, state):
            x, state = self.first(x, state)
            return self.last(jax.nn.relu(x), state)

    net = eqx.nn.make_with_state(Normed)()
    for mode in (net, eqx.nn.inference_mode(net)):
        anatomy = gn.trace(mode, X[0], call=remember)
        wide = gn.resize(mode, anatomy, {"[0].first.layer": 6}, key=jr.key(1))
        narrow = fresh(mode)
        for x in X:
            (a, state), (b, wide_state) = remember(narrow, x), remember(wide, x)
            assert jnp.allclose(a, b, atol=1e-6)
            narrow, wide = (narrow[0], state), (wide[0], wide_state)
    # Copies would share what the norm of a weight is made of.
    with pytest.raises(ValueError, match="would change what the network computes"):
        gn.plan(anatomy, {"[0].first.layer": 6}, init="clone")


class ConvNormed(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, width=4, affine=True):
        self.conv = eqx.nn.Conv2d(1, width, 3, key=jr.key(0))
        self.norm = eqx.nn.BatchNorm(
            width, "batch", mode="batch", channelwise_affine=affine
        )
        self.last = eqx.nn.Linear(width * 4, 2, key=jr.key(1))

    def __call__(self, image, state):
        x, state = self.norm(self.conv(image), state)
        return self.last(jax.nn.relu(x).reshape(-1)), state


IMAGES = jr.normal(jr.key(0), (8, 1, 4, 4))


@pytest.mark.parametrize("affine", [True, False])
def test_convolution_and_batch_norm(affine):
    net = eqx.nn.make_with_state(ConvNormed)(affine=affine)
    net = (net[0], train(net, IMAGES)[1])
    anatomy = gn.trace(net, IMAGES, call=train, also=[predict])
    assert (anatomy.sizes, anatomy.warnings) == ({"[0].conv": 4}, ())
    wide = gn.resize(net, anatomy, {"[0].conv": 6}, key=jr.key(1))
    assert jnp.allclose(predict(wide, IMAGES), predict(net, IMAGES), atol=1e-5)
    assert jnp.allclose(train(wide, IMAGES)[0], train(net, IMAGES)[0], atol=1e-5)
    assert wide[0].norm.input_size == wide[0].conv.out_channels == 6
    built = eqx.nn.make_with_state(ConvNormed)(6, affine)
    assert jax.tree.structure(built) == jax.tree.structure(wide)


def in_training(net, x):
    return train(net, x)[0]


@pytest.mark.parametrize(
    ("net", "x", "call"),
    [
        (normed("batch"), X, predict),
        (normed("ema"), X, in_training),
        (eqx.nn.make_with_state(ConvNormed)(), IMAGES, in_training),
    ],
)
def test_the_laws_hold_for_networks_with_state(net, x, call):
    def build(sizes):
        (width,) = sizes.values()
        if isinstance(net[0], ConvNormed):
            return eqx.nn.make_with_state(ConvNormed)(width)
        return normed(net[0].norm.mode, width)

    gn.testing.check_network(
        (net[0], train(net, x)[1]), x, call=call, build=build, examples=2
    )


class Whiten(eqx.Module):
    log_scale: jax.Array
    moments: eqx.nn.StateIndex

    def __init__(self, size):
        self.log_scale = jnp.full(size, -1.0)
        self.moments = eqx.nn.StateIndex((jnp.zeros(size), jnp.full(size, 2.0)))

    def __call__(self, x, state):
        mean, spread = state.get(self.moments)
        y = (x - mean) * jnp.exp(self.log_scale) / (1 + jnp.abs(spread))
        moments = (0.9 * mean + 0.1 * x, 0.9 * spread + 0.1 * jnp.abs(x - mean))
        return y, state.set(self.moments, moments)


class Whitened(eqx.Module):
    first: eqx.nn.Linear
    whiten: Whiten
    last: eqx.nn.Linear

    def __init__(self, kind):
        self.first = eqx.nn.Linear(3, 4, key=jr.key(0))
        self.whiten = kind(4)
        self.last = eqx.nn.Linear(4, 2, key=jr.key(1))

    def __call__(self, x, state):
        x, state = self.whiten(self.first(x), state)
        return self.last(x), state


def test_initial_values_of_ones_own_layer():
    class Known(Whiten):
        pass

    class Mistaken(Whiten):
        pass

    gn.register_initials(Known, log_scale=-1.0, moments=(0.0, 2.0))
    net = eqx.nn.make_with_state(Whitened)(Known)
    anatomy = gn.trace(net, X[0], call=remember)
    wide, state = gn.resize(net, anatomy, {"[0].first": 6}, key=jr.key(1))
    mean, spread = state.get(wide.whiten.moments)
    assert (mean[4:] == 0).all() and (spread[4:] == 2).all()
    assert (wide.whiten.log_scale[4:] == -1).all()
    with pytest.raises(ValueError, match="Known has its initial values already"):
        gn.register_initials(Known, log_scale=0.0)
    gn.register_initials(Mistaken, moments=0.0)
    text = "Mistaken.moments holds 2 arrays, but 1 initial values are registered"
    with pytest.raises(ValueError, match=text):
        gn.trace(eqx.nn.make_with_state(Whitened)(Mistaken), X[0], call=remember)
