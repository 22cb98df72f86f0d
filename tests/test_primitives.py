"""`register_primitive`: kernels described by a text."""

import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import pytest
from jax.core import ShapedArray
from jax.experimental import pallas as pl
from jax.interpreters import mlir

import growthnet as gn
from growthnet._reading.rules import RULES

from .helpers import check_resizes, cover, normal, roles, sizes


pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def register():
    """Registers for one test only."""
    undone = []

    def register(name, rule):
        undone.append(gn.register_primitive(name, rule))
        return undone[-1]

    yield register
    for undo in reversed(undone):
        undo()


def made(name, function):
    """A primitive of one's own that computes `function`, as a foreign one would."""
    primitive = jexc.Primitive(name)
    primitive.multiple_results = True

    def results(*args):
        out = function(*args)
        return list(out) if isinstance(out, tuple) else [out]

    primitive.def_impl(results)
    primitive.def_abstract_eval(
        lambda *avals: [
            ShapedArray(o.shape, o.dtype) for o in jax.eval_shape(results, *avals)
        ]
    )
    mlir.register_lowering(primitive, mlir.lower_fun(results, multiple_results=True))
    return primitive


# --- real Pallas kernels


def mlp_kernel(x, up, bias, down, out):
    out[...] = jnp.cos(x[...] @ up[...] + bias[...][None]) @ down[...]


def scale_kernel(x, gain, out):
    out[...] = x[...] * gain[...][None]


def kernels(net, x):
    h = x @ net["stem"]
    scaled = pl.pallas_call(
        scale_kernel,
        out_shape=jax.ShapeDtypeStruct(h.shape, h.dtype),
        interpret=True,
        name="scale",
    )(h, net["gain"])
    shape = (h.shape[0], net["mlp"]["down"].shape[1])
    y = pl.pallas_call(
        mlp_kernel,
        out_shape=jax.ShapeDtypeStruct(shape, h.dtype),
        interpret=True,
        name="fused_mlp",
    )(scaled, net["mlp"]["up"], net["mlp"]["bias"], net["mlp"]["down"])
    return y @ net["xread"]


def network():
    return {
        "gain": normal(4),
        "mlp": {"bias": normal(6), "down": normal(6, 5), "up": normal(4, 6)},
        "stem": normal(3, 4),
        "xread": normal(5, 2),
    }


def ours(equation):
    texts = {"fused_mlp": "b i, i h, h, h o -> b o", "scale": "b i, i -> b i"}
    return texts.get(equation.params["name"])


def test_pallas_kernels_are_opaque_until_they_are_described(register):
    net, x = network(), normal(7, 3)
    anatomy = gn.trace(net, x, call=kernels)
    assert sizes(anatomy) == {}
    assert "`pallas_call` (fused_mlp): a kernel that growthnet can't look into" in (
        str(anatomy)
    )
    register("pallas_call", ours)
    anatomy = gn.trace(net, x, call=kernels)
    assert sizes(anatomy) == {"mlp": 5, "mlp.up": 6, "stem": 4}
    assert roles(anatomy, "mlp.up") == {
        "mlp.up:1": {"producer"},
        "mlp.bias:0": {"offset"},
        "mlp.down:0": {"consumer"},
    }
    assert roles(anatomy, "stem") == {
        "stem:1": {"producer"},
        "gain:0": {"scale"},
        "mlp.up:0": {"consumer"},
    }
    assert cover(anatomy, "mlp.up") == {"mlp.down:0"}
    assert cover(anatomy, "stem") == {"mlp.up:0"}
    check_resizes(net, x, call=kernels)


def test_a_function_passes_on_what_is_not_its_own(register):
    """The latest is asked first; what nobody knows stays opaque."""
    asked = []

    def rule(name):
        def choose(equation):
            asked.append(name)
            return ours(equation) if equation.params["name"] == name else None

        return choose

    net, x = network(), normal(7, 3)
    register("pallas_call", rule("scale"))
    assert "mlp.up" not in sizes(gn.trace(net, x, call=kernels))
    undo = register("pallas_call", rule("fused_mlp"))
    asked.clear()
    assert len(sizes(gn.trace(net, x, call=kernels))) == 3
    assert asked[:3] == ["fused_mlp", "scale", "fused_mlp"]
    undo()
    assert sizes(gn.trace(net, x, call=kernels)) == {}
    undo()  # once more does nothing


def test_taking_back_leaves_nothing_behind():
    before = dict(RULES)
    undo = gn.register_primitive("pallas_call", "b i -> b i")
    other = gn.register_primitive("brand_new", "b i -> b i")
    assert RULES != before
    undo()
    other()
    assert RULES == before


# --- what a text says


def with_primitive(name, function, weights):
    """`stem` makes units, the primitive works on them, `xread` reads its result."""
    primitive = made(name, function)

    def call(net, x):
        h = jnp.cos(x @ net["stem"])
        out = primitive.bind(h, *(net[w] for w in weights))
        return out[0] if out[0].ndim == 1 else out[0] @ net["xread"]

    return call


def test_a_foreign_matrix_product(register):
    call = with_primitive("mine_matmul", lambda a, w: a @ w, ["mid"])
    net = {"mid": normal(4, 5), "stem": normal(3, 4), "xread": normal(5, 2)}
    register("mine_matmul", "b i, i o -> b o")
    anatomy = gn.trace(net, normal(7, 3), call=call)
    assert sizes(anatomy) == {"mid": 5, "stem": 4}
    assert cover(anatomy, "stem") == {"mid:0"} and cover(anatomy, "mid") == {"xread:0"}
    check_resizes(net, normal(7, 3), call=call)


def test_sizes_that_coincide_change_nothing(register):
    call = with_primitive("mine_square", lambda a, w: a @ w, ["mid"])
    register("mine_square", "b i, i o -> b o")
    net = {"mid": normal(3, 3), "stem": normal(3, 3), "xread": normal(3, 2)}
    anatomy = gn.trace(net, normal(3, 3), call=call)
    assert sizes(anatomy) == {"mid": 3, "stem": 3}
    assert cover(anatomy, "stem") == {"mid:0"}


def test_every_weight_that_reads_an_axis_is_zeroed(register):
    """A gated unit: two matrices read the stream, the third reads both."""

    def glu(a, gate, up, down):
        return (jnp.cos(a @ gate) * (a @ up)) @ down

    weights = ["gate", "lift", "mid"]
    call = with_primitive("mine_glu", glu, weights)
    net = {
        "gate": normal(4, 6),
        "lift": normal(4, 6),
        "mid": normal(6, 5),
        "stem": normal(3, 4),
        "xread": normal(5, 2),
    }
    register("mine_glu", "b i, i h, i h, h o -> b o")
    anatomy = gn.trace(net, normal(7, 3), call=call)
    assert cover(anatomy, "stem") == {"gate:0", "lift:0"}
    assert cover(anatomy, "gate") == {"mid:0"}
    check_resizes(net, normal(7, 3), call=call)


def test_a_gain_beside_a_matrix_scales_and_a_lone_vector_reads(register):
    call = with_primitive("mine_gained", lambda a, w, g: (a * g[None]) @ w, ["w", "g"])
    net = {
        "g": normal(4),
        "stem": normal(3, 4),
        "w": normal(4, 5),
        "xread": normal(5, 2),
    }
    register("mine_gained", "b d, d o, d -> b o")
    anatomy = gn.trace(net, normal(7, 3), call=call)
    assert cover(anatomy, "stem") == {"w:0"}
    assert roles(anatomy, "stem")["g:0"] == {"scale"}
    check_resizes(net, normal(7, 3), call=call)

    call = with_primitive("mine_dot", lambda a, v: a @ v, ["v"])
    net = {"stem": normal(3, 4), "v": normal(4), "xread": normal(5, 2)}
    register("mine_dot", "b d, d -> b")
    assert cover(gn.trace(net, normal(7, 3), call=call), "stem") == {"v:0"}


def test_an_axis_that_the_kernel_computes_over_does_not_grow_exactly(register):
    def norm(a):
        return a / jnp.sqrt((a * a).sum(-1, keepdims=True) + 1.0)

    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    call = with_primitive("mine_norm", norm, [])
    register("mine_norm", "b d! -> b d")
    width = gn.trace(net, normal(7, 3), call=call).widths["stem"]
    assert width.growable and width.exactness("zero_out")[0] == "not preserving"
    assert "`mine_norm` goes over its units" in width.drift[0]
    check_resizes(net, normal(7, 3), call=call, but=("stem",))


def test_a_word_of_one_input_alone_is_reduced(register):
    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    call = with_primitive("mine_max", lambda a: a.max(-1), [])
    register("mine_max", "b d -> b")
    width = gn.trace(net, normal(7, 3), call=call).widths["stem"]
    assert "`mine_max` goes over its units" in width.drift[0]


def test_activations_that_meet_in_a_kernel(register):
    """Attention scores: what is summed are two activations."""
    primitive = made("mine_scores", lambda q, k: q @ k.T)

    def call(net, x):
        scores = primitive.bind(jnp.cos(x @ net["q"]), jnp.cos(x @ net["k"]))[0]
        return jax.nn.softmax(scores, axis=-1)

    register("mine_scores", "t d, s d -> t s")
    width = gn.trace({"k": normal(3, 4), "q": normal(3, 4)}, normal(7, 3), call=call)
    (width,) = width.all_widths
    assert width.size == 4
    assert "activations are contracted with activations" in width.drift[0]


def tagged(a):
    return a, jnp.zeros((3, *a.shape))


def test_fixed_axes(register):
    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    for name, text in (
        ("mine_free", "b d -> b d, n b d"),
        ("mine_fixed", "b _ -> b _, n b _"),
    ):
        register(name, text)
        call = with_primitive(name, tagged, [])
        width = gn.trace(net, normal(7, 3), call=call).widths["stem"]
        assert width.growable == (name == "mine_free")
    assert "the rule of `mine_fixed` has it fixed" in width.reasons[0]


def test_any_axes_in_front(register):
    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    call = with_primitive("mine_any", jnp.sin, [])
    register("mine_any", "... d -> ... d")
    for x in (normal(7, 3), normal(2, 7, 3)):
        assert sizes(gn.trace(net, x, call=call)) == {"stem": 4}


def test_an_axis_that_the_kernel_makes_is_rigid(register):
    def call(net, x):
        made_here = primitive.bind(x @ net["stem"])[0]
        return made_here @ net["xread"]

    primitive = made("mine_spread", lambda a: jnp.ones((a.shape[0], 4)))
    register("mine_spread", "b d -> b e")
    net = {"stem": normal(3, 5), "xread": normal(4, 2)}
    anatomy = gn.trace(net, normal(7, 3), call=call)
    assert sizes(anatomy) == {"stem": 5}


def test_kernels_of_weights_alone(register):
    """Dequantisation, say: its result is a function of the leaf, unit by unit, of
    which nothing more is known."""
    primitive = made("mine_dequantise", lambda w: jnp.cos(w))

    def call(net, x):
        return jnp.cos(x @ primitive.bind(net["stem"])[0]) @ net["xread"]

    register("mine_dequantise", "i o -> i o")
    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    anatomy = gn.trace(net, normal(7, 3), call=call)
    assert roles(anatomy, "stem")["stem:1"] == {"producer"}
    check_resizes(net, normal(7, 3), call=call)

    def consuming(net, x):
        return jnp.cos(x @ net["stem"]) @ primitive.bind(net["xread"])[0]

    width = gn.trace(net, normal(7, 3), call=consuming).widths["stem"]
    assert width.exactness("zero_out")[0] == "not preserving"


def test_rows_of_a_table_go_into_a_kernel(register):
    primitive = made("mine_embedded", lambda a, w: a @ w)
    register("mine_embedded", "b i, i o -> b o")

    def call(net, i):
        return primitive.bind(net["table"][i], net["up"])[0] @ net["xread"]

    net = {"table": normal(9, 4), "up": normal(4, 5), "xread": normal(5, 2)}
    tokens = jnp.asarray([3, 1, 1])
    anatomy = gn.trace(net, tokens, call=call)
    assert sizes(anatomy) == {"table": 4, "up": 5}
    assert cover(anatomy, "table") == {"up:0"}
    check_resizes(net, tokens, call=call)


# --- errors

MALFORMED = {
    "b i, i o": "needs one `->`",
    "b -> b -> b": "needs one `->`",
    "b i, i-o -> b o": "'i-o' where an axis stands",
    "b i, 2 o -> b o": "'2' where an axis stands",
    "b b -> b": "'b' twice in one array",
    "b ... -> b": "axes before `...`",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_texts_are_refused(text):
    with pytest.raises(ValueError, match="write it like") as caught:
        gn.register_primitive("mine", text)
    assert MALFORMED[text] in str(caught.value) and "mine" not in RULES


def test_what_is_understood_needs_no_rule(register):
    with pytest.raises(ValueError, match="understands `dot_general` already"):
        gn.register_primitive("dot_general", "b i, i o -> b o")
    register("mine", "b i -> b i")
    with pytest.raises(ValueError, match="has the rule 'b i -> b i' already"):
        gn.register_primitive("mine", "b i, i -> b i")


MISFITS = {
    "b i -> b i": r"has 1 inputs, but this call has 2, of shapes \(7, 4\), \(4, 5\)",
    "b i, i o -> b o, b": "has 2 outputs, but this call has 1",
    "b, i o -> b o": r"has 'b' for an array of shape \(7, 4\)",
    "b i, i i2 i3 -> b i3": r"has 'i i2 i3' for an array of shape \(4, 5\)",
    "b i, b o -> b o": "says that 'b' is one axis, but it is 7 and 4",
    "b 1, i o -> b o": "says that '1' is one axis, but it is 1 and 4",
}


@pytest.mark.parametrize("text", MISFITS)
def test_rules_that_do_not_fit_a_call_say_where(register, text):
    call = with_primitive("mine_misfit", lambda a, w: a @ w, ["mid"])
    net = {"mid": normal(4, 5), "stem": normal(3, 4), "xread": normal(5, 2)}
    register("mine_misfit", text)
    with pytest.raises(ValueError, match=MISFITS[text]) as caught:
        gn.trace(net, normal(7, 3), call=call)
    assert "can't be called" not in str(caught.value)


def test_a_function_that_gives_something_else_is_named(register):
    call = with_primitive("mine_odd", lambda a: a, [])
    net = {"stem": normal(3, 4), "xread": normal(4, 2)}
    register("mine_odd", lambda equation: 3)
    with pytest.raises(ValueError, match="the rule of `mine_odd` gave 3"):
        gn.trace(net, normal(7, 3), call=call)
    register("mine_odd", lambda equation: "b d")
    with pytest.raises(ValueError, match="needs one `->`"):
        gn.trace(net, normal(7, 3), call=call)
