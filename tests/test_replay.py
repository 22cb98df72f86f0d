"""`anatomy.program`: the traced program at other sizes, against the network's own code
and against code written for these sizes."""

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._reading.rules import RULES
from growthnet._replay.replay_derivatives import DERIVATIVES
from growthnet._replay.replay_rules import as_it_is, PARAMETERS, PROGRAMS
from growthnet.testing import Case, FAMILIES, LAWS, make_case, Resize

from .helpers import lenient


def floats(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def same(found, expected, rtol=1e-6):
    """Equal structures; entries up to rounding."""
    assert jtu.tree_structure(found) == jtu.tree_structure(expected)
    pairs = zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True)
    for a, b in pairs:
        scale = np.max(np.abs(b), initial=1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


def energy(result):
    return sum(
        (x.astype("float32") ** 2).sum()
        for x in jtu.tree_leaves(result)
        if eqx.is_inexact_array(x)
    )


def results_and_slopes(call, net, *args):
    """What a call gives, and the gradient of a function of it."""

    def loss(net):
        result = call(net, *args)
        return energy(result), result

    (_, result), slope = eqx.filter_value_and_grad(loss, has_aux=True)(net)
    return result, slope


# --- networks whose code works at any size


def mixed(anatomy):
    """Some widths larger, some smaller."""
    growable = [w for w in anatomy.all_widths if w.growable]
    return {
        w.name: w.size + 2 if i % 2 == 0 else max(1, w.size - 1)
        for i, w in enumerate(growable)
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_program_is_the_network(kind):
    case = make_case(kind)
    call = case.call or (lambda net, *args: net(*args))
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    edit = gn.plan(anatomy, mixed(anatomy), init="drawn", allow_drift=True)
    after = edit(case.net, key=jr.key(1))
    programs = [
        (anatomy.program(), case.net),
        (anatomy.program(mixed(anatomy)), after),
    ]

    @eqx.filter_jit
    def all_of_them(pairs, args):
        return [
            (results_and_slopes(p, net, *args), results_and_slopes(call, net, *args))
            for p, net in pairs
        ]

    for found, expected in all_of_them(programs, case.args):
        same(found, expected)


def test_numbers_come_from_the_code_at_the_new_sizes():
    """A mean divides by a number, a norm counts entries with an array of ones."""

    def call(p, x):
        h = x @ p["w"]
        count = jnp.ones_like(h).sum()
        scale = np.full(h.shape, 1 / h.size, h.dtype)
        return (h * scale / jnp.sqrt(count) + h.mean()) @ p["v"]

    net = {"w": floats(0, 3, 4), "v": floats(1, 4, 2)}
    wide = {"w": floats(0, 3, 7), "v": floats(1, 7, 2)}
    x = floats(2, 3)
    anatomy = gn.trace(net, x, call=call)
    same(anatomy.program({"w": 7})(wide, x), call(wide, x))
    same(anatomy.program({"w": 2})(small(wide, 2), x), call(small(wide, 2), x))


def small(net, n):
    return {"w": net["w"][:, :n], "v": net["v"][:n]}


def test_another_program_at_other_sizes_is_refused():
    def call(p, x):
        h = x @ p["w"]
        return (h if h.size in (4, 9) else jnp.tanh(h)) @ p["v"]

    net = {"w": floats(0, 3, 4), "v": floats(1, 4, 2)}
    anatomy = gn.trace(net, floats(2, 3), call=call)
    with pytest.raises(ValueError, match="makes another program at these sizes"):
        anatomy.program({"w": 5})
    program = anatomy.program({"w": 5}, allow_drift=True)
    wide = {"w": floats(0, 3, 5), "v": floats(1, 5, 2)}
    same(program(wide, floats(2, 3)), floats(2, 3) @ wide["w"] @ wide["v"])


def test_code_that_fails_at_the_sizes_is_refused():
    def call(p, x):
        if p["w"].shape[1] == 5:
            raise RuntimeError("five is right out")
        return x @ p["w"] @ p["v"]

    net = {"w": floats(0, 3, 4), "v": floats(1, 4, 2)}
    anatomy = gn.trace(net, floats(2, 3), call=call)
    said = (
        r"numbers .* can't be read.*: five is right out, at test_replay.py:\d+ \(call\)"
    )
    with pytest.raises(ValueError, match=said):
        anatomy.program({"w": 5})


# --- networks with sizes written into their code

ROUND = jax.custom_jvp(lambda x: jnp.round(x))
ROUND.defjvp(lambda primals, tangents: (jnp.round(*primals), 2 * tangents[0]))


@jax.custom_vjp
def clipped(x, scale, shift):
    return x * scale + shift.astype(x.dtype)


clipped.defvjp(
    lambda x, scale, shift: (clipped(x, scale, shift), (x, scale)),
    lambda kept, dy: (jnp.clip(dy, -1, 1) * kept[1], (dy * kept[0]).sum(), None),
)


def _cut(n):
    def call(p, x):
        h = x @ p["w"]
        a, b, c = h[:n], h[n : 2 * n], jnp.split(h, [2 * n])[1]
        return jnp.concatenate([b + jnp.zeros(n), c, a * 2]) @ p["v"]

    return {"w": (3, 3 * n), "v": (3 * n, 2)}, call


def _heads(n):
    def call(p, x):
        q, k, v = (a.reshape(3, n, 2) for a in jnp.split(x @ p["w"], 3, axis=-1))
        scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / np.sqrt(2))
        return jnp.einsum("hts,shd->thd", scores, v).reshape(3, n * 2) @ p["v"]

    return {"w": (3, 6 * n), "v": (2 * n, 2)}, call


def _copies(n):
    def call(p, x):
        h = jnp.stack([x @ p["w"], jnp.ones(n), jnp.full(n, 0.5)])
        h = jnp.pad(jnp.tile(h, (1, 2)), ((1, 0), (0, 0)))
        h = jnp.repeat(h.sum(0).reshape(2, n), 2, axis=0)
        return (h.reshape(4 * n) * np.full(4 * n, 0.25, "float32")) @ p["v"]

    return {"w": (3, n), "v": (4 * n, 2)}, call


def _calls(n):
    @jax.jit
    def layer(h, w):
        return jax.nn.gelu(h.reshape(n)) @ w

    def call(p, x):
        h = jax.vmap(lambda x: layer(x, p["u"]))(jnp.stack([x @ p["w"], x @ p["w"]]))
        policy = jax.checkpoint_policies.dots_saveable
        block = jax.checkpoint(lambda h: layer(h, p["u"]) + h, policy=policy)
        return block(h[1].reshape(n)) @ p["v"]

    return {"w": (3, n), "u": (n, n), "v": (n, 2)}, call


def _derivatives(n):
    def call(p, x):
        h = jax.nn.relu((x @ p["w"] * jnp.zeros(n)).reshape(n))  # at 0 throughout
        h = ROUND(h + x @ p["w"]) + jax.nn.softplus(x @ p["w"])
        shift = (x[0] > 0).astype("int32")
        return clipped(h, p["s"], shift).reshape(n) @ p["v"]

    return {"w": (3, n), "s": (), "v": (n, 2)}, call


def _positions(n):
    def call(p, x):
        h = jnp.stack([x @ p["w"], jnp.tanh(x @ p["w"]), -x @ p["w"]])
        h = jnp.sort(h, axis=0) + jnp.cumsum(h, axis=0) + h[::-1]
        best = jnp.argmax(h.reshape(3, n), axis=0)
        return (h.max(0) + best.astype(h.dtype) + jnp.zeros((n,))) @ p["v"]

    return {"w": (3, n), "v": (n, 2)}, call


def _images(n):
    def conv(x, kernel, **options):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)

    def call(p, x):
        h = conv(jnp.outer(x, x).reshape(1, 1, 3, 3), p["w"])
        h = conv(h, p["deep"], feature_group_count=n).reshape(1, 2 * n, 3, 3)
        h = jax.lax.reduce_window(
            h, -np.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "VALID"
        )
        return h.reshape(8 * n) @ p["v"]

    shapes = {"w": (n, 1, 2, 2), "deep": (2 * n, 1, 3, 3), "v": (8 * n, 2)}
    return shapes, call


def _lookup(n):
    def call(p, x):
        rows = p["w"][jnp.argsort(x)[:2]].reshape(2, 2 * n)
        second = jax.lax.dynamic_slice(rows, (0, n), (2, n))
        first = jax.lax.dynamic_slice(rows, (jnp.argmax(x) // 3, 0), (1, 2 * n))
        both = jnp.zeros((2, n)).at[jnp.argmin(x) // 2].set(first[0, :n]) + second
        both = both.at[0].add(rows[1, n:]).reshape(2 * n)
        both = jax.lax.dynamic_update_slice(both, both[:n] * 2, (n,))
        return both.at[n:].add(both[:n]).at[:n].multiply(jnp.full(n, 3.0)) @ p["v"]

    return {"w": (3, 2 * n), "v": (2 * n, 2)}, call


def _loops(n):
    def call(p, x):
        def step(h, x):
            h = jnp.tanh(x * p["w"][0] + h @ p["u"]) + jnp.zeros(n)
            return h, 2 * h

        h, all_h = jax.lax.scan(step, jnp.zeros(n), x)
        h = jax.lax.fori_loop(0, 2, lambda i, h: h + all_h[i] * jnp.ones(n), h)
        h = jax.lax.cond(x[0] > 0, lambda h: h + jnp.ones(n), lambda h: -h, h)
        return h @ p["v"]

    return {"w": (1, n), "u": (n, n), "v": (n, 2)}, call


def _depth(n):
    def call(p, x):
        def layer(h, leaves):
            w, u = leaves
            return h + jnp.tanh(h @ w) @ u, h.sum()

        body = jax.checkpoint(layer)
        h, sums = jax.lax.scan(body, x, (p["w"], p["u"]), length=n)
        return h + (sums + jnp.ones(n)).sum()

    return {"w": (n, 3, 2), "u": (n, 2, 3)}, call


def _noise(n):
    def call(p, x):
        kept = jr.bernoulli(jr.key(0), 0.5, (n,))
        noise = jr.normal(jr.split(jr.key(1))[0], (2, n))
        return jnp.where(kept, x @ p["w"], 0.0) @ p["v"] + (noise @ p["v"]).sum(0)

    return {"w": (3, n), "v": (n, 2)}, call


MENU = {
    f.__name__[1:]: f
    for f in (
        _cut,
        _heads,
        _copies,
        _calls,
        _derivatives,
        _positions,
        _images,
        _lookup,
        _loops,
        _depth,
        _noise,
    )
}


@pytest.mark.parametrize("which", MENU)
def test_sizes_in_the_code(which):
    """The program of code for 4 units runs as the code for 6, or 3, would."""
    shapes, call = MENU[which](4)
    x = floats(9, 3, 3) if which == "heads" else floats(9, 3)
    net = {name: floats(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    anatomy = gn.trace(net, x, call=call, replay=True)
    assert anatomy.source.replayed
    fours = [w.name for w in anatomy.all_widths if w.growable and w.size == 4]
    assert fours
    for new in (6, 3):
        shapes, code = MENU[which](new)
        other = {n: floats(i, *s) for i, (n, s) in enumerate(shapes.items())}
        program = anatomy.program(dict.fromkeys(fours, new), allow_drift=True)

        @jax.jit
        def both(net, program=program, code=code):
            return results_and_slopes(program, net, x), results_and_slopes(code, net, x)

        same(*both(other))


# --- networks that only ever run as programs


def hard(p, x):
    """Two hidden layers: the code knows their sizes, 4 and 6."""
    h = jnp.tanh(x @ p["w1"] + p["b1"].reshape(4))
    h = (h @ p["w2"]).reshape(6) + jnp.zeros(6, x.dtype)
    return jax.nn.relu(h) @ p["w3"] + p["b3"]


def hard_net(dtype="float32"):
    shapes = {"w1": (3, 4), "b1": (4,), "w2": (4, 6), "w3": (6, 2), "b3": (2,)}
    shapes = enumerate(shapes.items())
    return {name: floats(i, *s, dtype=dtype) for i, (name, s) in shapes}


def test_the_code_alone_is_rigid():
    anatomy = gn.trace(hard_net(), floats(9, 3), call=hard)
    assert [w.growable for w in anatomy.all_widths] == [False, False]
    with pytest.raises(ValueError, match="doesn't work with another size"):
        anatomy.program({"w1": 5})
    same(anatomy.program()(hard_net(), floats(9, 3)), hard(hard_net(), floats(9, 3)))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-10)])
def test_grown_twice_and_trained(dtype, rtol):
    """The function stays, the anatomy is a fresh one's, the optimizer goes along."""
    with jax.enable_x64(dtype == "float64"):
        net, x = hard_net(dtype), floats(9, 3, dtype=dtype)
        anatomy = gn.trace(net, x, call=hard, replay=True)
        expected, optimizer = hard(net, x), lenient(optax.adam(1e-2))
        state = optimizer.init(net)
        for sizes in ({"w1": 7, "w2": 9}, {"w1": 8}):
            edit = gn.plan(anatomy, sizes)
            assert edit.exactness == "exact"
            grown = edit(net, key=jr.key(0))
            program = edit.after.program()
            same(program(grown, x), expected, rtol)
            assert gn.trace(grown, x, call=program) == edit.after
            state = edit.transfer(optimizer, state, net, grown)
            assert jtu.tree_structure(state) == jtu.tree_structure(
                optimizer.init(grown)
            )

            @jax.jit
            def train(net, state, program=program):
                slope = jax.grad(lambda net: (program(net, x) ** 2).sum())(net)
                updates, state = optimizer.update(slope, state, net)
                net = optax.apply_updates(net, updates)
                return net, state, program(net, x)

            net, state, expected = train(grown, state)
            anatomy = edit.after
        assert anatomy.sizes == {"w1": 8, "w2": 9}


def test_shrinking_leaves_what_the_survivors_say():
    net, x = hard_net(), floats(9, 3)
    anatomy = gn.trace(net, x, call=hard, replay=True)
    edit = gn.plan(anatomy, {"w1": 2, "w2": 3}, keep={"w1": [3, 1], "w2": [0, 2, 5]})
    small, silent = edit(net), dict(net)
    silent["w2"] = net["w2"].at[np.array([0, 2])].set(0.0)
    silent["w3"] = net["w3"].at[np.array([1, 3, 4])].set(0.0)
    same(edit.after.program()(small, x), hard(silent, x))
    again = edit.after.program({"w1": 4})
    back = gn.resize(small, edit.after, {"w1": 4}, key=jr.key(0))
    same(again(back, x), hard(silent, x))


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_the_laws_hold_for_a_program(law):
    net, x = hard_net(), floats(9, 3)
    anatomy = gn.trace(net, x, call=hard, replay=True)
    case = Case("hard", net, (x,), anatomy.program(any_size=True), anatomy.sizes)
    change = {"w1": 2, "w2": 5} if law == "shrink_is_silence" else {"w1": 6, "w2": 7}
    LAWS[law](case, Resize(change))


def test_a_linen_network_with_its_sizes_in_the_code():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, ids):
            table = nn.Embed(5, 8)
            x = table(ids)
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)(y, y)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(6)(x)))
            return table.attend(x)

    model, ids = Block(), jnp.arange(3)
    shapes = jax.eval_shape(model.init, jr.key(0), ids)
    leaves, treedef = jtu.tree_flatten(shapes)
    net = treedef.unflatten([floats(i, *x.shape) for i, x in enumerate(leaves)])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert not any(
            w.growable for w in gn.trace(net, ids, call=model.apply).all_widths
        )
        anatomy = gn.trace(net, ids, call=model.apply, replay=True)
        expected = model.apply(net, ids)
    assert sorted(anatomy.sizes.values()) == [2, 4, 4, 6, 8]
    for width in anatomy.all_widths:
        edit = gn.plan(anatomy, {width.name: width.size + 3})
        assert edit.exactness == "exact"
        if any("query" in m.path for m in width.members) and width.size != 2:
            # A mean over the stream, 1/sqrt(d) of the queries: numbers that stay.
            with pytest.raises(ValueError, match="may depend on that size"):
                edit.after.program()
    free = [w for w in anatomy.all_widths if w.size in (2, 6) or "value" in w.name]
    edit = gn.plan(anatomy, {w.name: w.size + 3 for w in free})
    grown = edit(net, key=jr.key(1))
    same(edit.after.program()(grown, ids), expected)


def test_numbers_of_a_program_stay():
    """A mean that the code doesn't follow: refused, or taken as it was traced."""

    def call(p, x):
        h = (x @ p["w"]).reshape(4)
        return (h - h.mean()) @ p["v"]

    net = {"w": floats(0, 3, 4), "v": floats(1, 4, 2)}
    x = floats(2, 3)
    anatomy = gn.trace(net, x, call=call, replay=True)
    refused = r"'w' 6 would keep the numbers .* traced with at 4.*reduce_sum.*test_re"
    with pytest.raises(ValueError, match=refused):
        anatomy.program({"w": 6})
    after = gn.plan(anatomy, {"w": 6}, allow_drift=True).after
    with pytest.raises(ValueError, match=refused):
        after.program()
    wide = {"w": floats(0, 3, 6), "v": floats(1, 6, 2)}
    h = x @ wide["w"]
    same(after.program(allow_drift=True)(wide, x), (h - h.sum() / 4) @ wide["v"])


# --- what can't be run


# Programs inside that carry others, for other devices or for derivatives.
REFUSED = set(
    "custom_vmap_call custom_lin linear_call composite compute_on fused_call shard_map "
    "xla_metadata_call custom_partitioning custom_linear_solve dim_as_value".split()
)


def test_what_is_read_can_be_replayed():
    """Every primitive with a rule has one here too, or is known to have none."""
    opaque = {n for n, rule in RULES.items() if rule.__module__.endswith(".opaque")}
    tables = {*PARAMETERS, *DERIVATIVES, *PROGRAMS}
    read = {name for name in RULES if name not in opaque and not as_it_is(name)}
    assert read - tables <= REFUSED


def test_an_equation_without_a_rule(monkeypatch):
    anatomy = gn.trace(hard_net(), floats(9, 3), call=hard, replay=True)
    monkeypatch.delitem(PARAMETERS, "broadcast_in_dim")
    said = "`broadcast_in_dim`: replay has no rule for it, at test_replay.py:"
    with pytest.raises(ValueError, match=said):
        anatomy.program({"w2": 5})
    anatomy.program({"w2": 6, "w1": 5})  # Nothing to change there, no rule needed.
    rigid = gn.trace(hard_net(), floats(9, 3), call=hard, replay=True)
    assert "replay has no rule" in rigid.widths["w2"].reasons[0]
    assert rigid.widths["w1"].growable


def test_a_wrong_shape_is_noticed(monkeypatch):
    anatomy = gn.trace(hard_net(), floats(9, 3), call=hard, replay=True)
    monkeypatch.setitem(PARAMETERS, "broadcast_in_dim", lambda *_: {"shape": (1,)})
    with pytest.raises(
        ValueError, match=r"gives \(1,\) of float32 where .* say \(7,\)"
    ):
        anatomy.program({"w2": 7})


def test_a_derivative_that_closes_over_values():
    """JAX can't differentiate this once it is traced; nor can a program."""

    def call(p, x):
        fixed = jax.lax.stop_gradient(p["fixed"])
        scaled = jax.custom_vjp(lambda h: h * fixed)
        scaled.defvjp(lambda h: (scaled(h), None), lambda _, dy: (3 * dy * fixed,))
        return scaled(x @ p["w"]) @ p["v"]

    shapes = {"w": (3, 4), "fixed": (4,), "v": (4, 2)}
    net = {name: floats(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    x = floats(9, 3)
    anatomy = gn.trace(net, x, call=call)
    wide = gn.resize(net, anatomy, {"w": 6}, key=jr.key(0))
    program = anatomy.program({"w": 6})
    same(program(wide, x), call(wide, x))
    said = (
        r"`custom_vjp_call`: its derivative closes over a value .*, at test_replay.py"
    )
    with pytest.raises(ValueError, match=said):
        jax.grad(lambda net: program(net, x).sum())(wide)


def test_bad_input():
    net, x = hard_net(), floats(9, 3)
    anatomy = gn.trace(net, x, call=hard, replay=True)
    program = anatomy.program()
    for sizes, said in (
        ({"w5": 3}, r"unknown width 'w5'.*w1 \(4\)"),
        ({"w1": 0}, "whole number from 1 up"),
    ):
        with pytest.raises(ValueError, match=said):
            anatomy.program(sizes)
    for args, said in (
        (({**net, "w1": net["w1"][:, :3]}, x), "leaf 'w1' has shape"),
        (({"w1": net["w1"]}, x), "has no leaf 'b1'"),
        (({**net, "b3": np.arange(2)}, x), "leaf 'b3' is int32, but float32"),
        (
            (net, x[None]),
            r"float32\[1, 3\], but float32\[3\] was traced; use `jax.vmap",
        ),
        ((net, 1.0), r"\[0\] is float, but"),
        ((net,), "traced with arguments like"),
    ):
        with pytest.raises(ValueError, match=said):
            program(*args)
    alone = anatomy.resized({})
    with pytest.raises(ValueError, match="doesn't know its network"):
        alone.program()


def test_other_arguments_are_part_of_the_program():
    def call(p, x, how, *, flip=False):
        return getattr(jnp, how)(x @ p["w"]) @ p["v"]

    net, x = {"w": floats(0, 3, 4), "v": floats(1, 4, 2)}, floats(2, 3)
    program = gn.trace(net, x, "tanh", call=call).program()
    same(program(net, x, "tanh"), call(net, x, "tanh"))
    with pytest.raises(ValueError, match="is 'sin', but 'tanh' was traced"):
        program(net, x, "sin")


# --- any size


def test_sizes_from_shapes():
    net, x = hard_net(), floats(9, 3)
    anatomy = gn.trace(net, x, call=hard, replay=True)
    program = anatomy.program(any_size=True)
    for sizes in ({"w1": 7}, {"w1": 2, "w2": 3}):
        other = gn.resize(net, anatomy, sizes, key=jr.key(0))
        assert program.at(other).sizes == {**anatomy.sizes, **sizes}
        same(program(other, x), anatomy.program(sizes)(other, x))
    assert program.at(other) is program.at(other)
    with pytest.raises(ValueError, match="leaf 'w2' has shape"):
        program({**net, "w2": floats(0, 5, 6)}, x)


def test_shapes_that_dont_tell():
    shapes, call = _heads(4)
    net = {name: floats(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    x = floats(9, 3, 3)
    anatomy = gn.trace(net, x, call=call, replay=True)
    program = anatomy.program(any_size=True, allow_drift=True)
    same(program(net, x), call(net, x))
    (heads,) = [w.name for w in anatomy.all_widths if w.size == 4]
    other = gn.resize(net, anatomy, {heads: 6}, key=jr.key(0), allow_drift=True)
    with pytest.raises(ValueError, match=r"axis of \d+ in leaf .* doesn't tell .* and"):
        program(other, x)
    with pytest.raises(ValueError, match="exclude each other"):
        anatomy.program({heads: 6}, any_size=True)


# --- transformations


def test_vmap_over_networks_and_inputs():
    nets = [hard_net(), jtu.tree_map(lambda x: 2 * x, hard_net())]
    xs = floats(9, 5, 3)
    program = gn.trace(nets[0], xs[0], call=hard, replay=True).program()
    stacked = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *nets)
    found = jax.jit(jax.vmap(jax.vmap(program, (None, 0)), (0, None)))(stacked, xs)
    for i, net in enumerate(nets):
        same(found[i], jnp.stack([hard(net, x) for x in xs]))


def test_export():
    pytest.importorskip("flatbuffers")
    net, x = hard_net(), floats(9, 3)
    edit = gn.plan(gn.trace(net, x, call=hard, replay=True), {"w1": 2, "w2": 9})
    pruned, program = edit(net, key=jr.key(0)), edit.after.program()
    exported = jax.export.export(jax.jit(program))(pruned, x)
    loaded = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(loaded.call(pruned, x), program(pruned, x))


def test_one_trace_for_many_calls():
    net, x = hard_net(), floats(9, 3)
    program = gn.trace(net, x, call=hard, replay=True).program()
    count = 0

    @jax.jit
    def counted(net, x):
        nonlocal count
        count += 1
        return program(net, x)

    for scale in (1.0, 2.0, 3.0):
        counted(net, scale * x)
    assert count == 1


# --- networks with state, and several calls


def hard_training(net, xs):
    """Running means of 4 channels, in the code; the new state comes back."""
    model, state = net
    h = xs @ model["w"]
    mean = h.mean(0).reshape(4)
    new = gn.Aux(net=(None, {"mean": 0.9 * state["mean"] + 0.1 * mean}))
    return ((h - mean[None]) @ model["v"], "trained"), new


def hard_inference(net, xs):
    model, state = net
    return (xs @ model["w"] - state["mean"].reshape(1, 4)) @ model["v"]


def test_state_and_several_calls():
    net = ({"w": floats(0, 3, 4), "v": floats(1, 4, 2)}, {"mean": floats(2, 4)})
    xs = floats(3, 5, 3)
    also = [(hard_inference, (xs[:2],))]
    anatomy = gn.trace(net, xs, call=hard_training, also=also, replay=True)
    assert anatomy.widths["[0].w"].growable
    edit = gn.plan(anatomy, {"[0].w": 6})
    grown = edit(net, key=jr.key(0))
    (found, what), new = edit.after.program()(grown, xs)
    (expected, _), aux = hard_training(net, xs)
    same(found, expected)
    assert what == "trained"
    assert new.net[1]["mean"].shape == (6,)
    same(new.net[1]["mean"][:4], aux.net[1]["mean"])
    same(edit.after.program(which=1)(grown, xs[:2]), hard_inference(net, xs[:2]))
    assert (
        gn.trace(
            grown,
            xs,
            call=edit.after.program(),
            also=[(edit.after.program(which=1), (xs[:2],))],
        )
        == edit.after
    )
    with pytest.raises(ValueError, match="which=2, but 2 calls were traced"):
        anatomy.program(which=2)


def test_a_layer_with_state():
    """The module's own code, at other sizes: its `State` comes back as one."""
    model, state = eqx.nn.make_with_state(Stateful)(jr.key(0))
    call = lambda net, xs: jax.vmap(net[0], (0, None), (0, None), axis_name="batch")(
        xs, net[1]
    )
    xs = floats(3, 5, 3)
    anatomy = gn.trace((model, state), xs, call=call)
    (name,) = [w.name for w in anatomy.all_widths if w.growable]
    edit = gn.plan(anatomy, {name: 6}, init="drawn", allow_drift=True)
    grown = edit((model, state), key=jr.key(0))
    (found, new), (expected, other) = edit.after.program()(grown, xs), call(grown, xs)
    same(found, expected)
    same(jtu.tree_leaves(new), jtu.tree_leaves(other))


class Stateful(eqx.Module):
    into: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    out: eqx.nn.Linear

    def __init__(self, key):
        self.into = eqx.nn.Linear(3, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.out = eqx.nn.Linear(4, 2, key=key)

    def __call__(self, x, state):
        h, state = self.norm(self.into(x), state)
        return self.out(jax.nn.relu(h)), state
