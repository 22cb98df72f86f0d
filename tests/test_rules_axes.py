"""Windows, orders, matrices, devices: which axes pass through and which are rigid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec as P

import growthnet as gn

from .helpers import check_resizes, normal, sizes


pytestmark = pytest.mark.usefixtures("x64")


def reasons(anatomy):
    return {w.name: w.reasons for w in anatomy.all_widths if not w.growable}


def between(function):
    """Rows of units go through `function`, along the axis of rows or of units."""

    def call(net, x):
        return function(jax.nn.softplus(x @ net["up"])) @ net["xread"]

    return call


def network(units, size=None):
    return {"up": normal(3, units), "xread": normal(size or units, 2)}


# --- along the rows: the units are left alone


def pooled(reducer, start):
    return lambda h: lax.reduce_window(h, start, reducer, (2, 1), (2, 1), "VALID")


def gradient(h):
    result, back = jax.vjp(pooled(lax.max, -jnp.inf), h)
    return back(result * result)[0]


def tangent(h):
    return jax.jvp(pooled(lax.max, -jnp.inf), (h,), (h * h,))[1]


def overlapping(h):
    """Padded, strided and dilated along the rows."""
    return lax.reduce_window(
        h, 0.0, lax.add, (3, 1), (1, 1), ((1, 2), (0, 0)), window_dilation=(2, 1)
    )


def solved(h):
    a = jnp.eye(4) * 2 + 0.1
    return jnp.linalg.solve(a, h)


def stacked_matrices(h):
    """One matrix for each unit: the stack is the units' axis."""
    grams = jnp.einsum("ru,su->urs", h, h) + 20 * jnp.eye(4)[None]
    return jnp.linalg.cholesky(grams)[:, 1:, 0].T


ALONG_ROWS = {
    "max pool": pooled(lax.max, -jnp.inf),
    "sum pool": pooled(lax.add, 0.0),
    "product pool": pooled(lambda a, b: a * b, 1.0),
    "overlapping pool": overlapping,
    "gradient of a pool": gradient,
    "tangent of a pool": tangent,
    "sort": lambda h: jnp.sort(h, axis=0),
    "sort by a key": lambda h: lax.sort((h * h, h), dimension=0, num_keys=1)[1],
    "cumulative sum": lambda h: jnp.cumsum(h, axis=0),
    "running maximum": lambda h: lax.cummax(h, axis=0, reverse=True),
    "log of running sums": lambda h: lax.cumlogsumexp(h, axis=0),
    "mirrored": lambda h: jnp.flip(h, axis=0),
    "largest": lambda h: lax.top_k(h.T, 2)[0].T,
    "nearly largest": lambda h: lax.approx_max_k(h, 2, reduction_dimension=0)[0],
    "fourier": lambda h: jnp.abs(jnp.fft.fft(h, axis=0)),
    "real fourier": lambda h: jnp.fft.rfft(h, axis=0).real,
    "stacked matrices": stacked_matrices,
    "barrier": lambda h: lax.optimization_barrier((h.mean(0), h))[1],
    "bits": lambda h: lax.bitcast_convert_type(
        lax.bitcast_convert_type(h, "uint32"), "float64"
    ),
    "random": lambda h: h + 0 * jr.gamma(jr.key(0), h),
    "composite": lax.composite(jnp.tanh, "my.tanh"),
    "linear call": lambda h: jax.custom_derivatives.linear_call(
        lambda r, a: a * r, lambda r, ct: ct * r, 2.0, h
    ),
}
RUN = ("overlapping pool", "gradient of a pool", "sort by a key", "largest", "bits")


@pytest.mark.parametrize("name", ALONG_ROWS)
@pytest.mark.parametrize("units", [6, 4])
def test_what_goes_along_the_rows_leaves_units_alone(name, units):
    call, net = between(ALONG_ROWS[name]), network(units)
    anatomy = gn.trace(net, normal(4, 3), call=call)
    assert sizes(anatomy) == {"up": units}
    assert anatomy.widths["up"].exactness("zero_out")[0] == "exact"
    if name in RUN and units == 6:
        check_resizes(net, normal(4, 3), call=call)


# --- along the units: rigid, with a reason


def transposed(function):
    return lambda h: function(h.T).T


ALONG_UNITS = {
    "max pool": ("`reduce_window_max` slides a window along it", 3),
    "sum pool": ("`reduce_window_sum` slides a window along it", 3),
    "product pool": ("`reduce_window` slides a window along it", 3),
    "overlapping pool": ("`reduce_window_sum` slides a window along it", 5),
    "gradient of a pool": ("slides a window along it", 6),
    "tangent of a pool": ("`select_and_gather_add` slides a window along it", 3),
    "sort": ("`sort` uses the order of its units", 6),
    "sort by a key": ("`sort` uses the order of its units", 6),
    "cumulative sum": ("`cumsum` uses the order of its units", 6),
    "running maximum": ("`cummax` uses the order of its units", 6),
    "log of running sums": ("`cumlogsumexp` uses the order of its units", 6),
    "mirrored": ("`rev` uses the order of its units", 6),
    "largest": ("`top_k` uses the order of its units", 2),
    "nearly largest": ("`approx_top_k` uses the order of its units", 2),
    "fourier": ("`fft` uses the order of its units", 6),
    "real fourier": ("`fft` uses the order of its units", 4),
}


@pytest.mark.parametrize("name", ALONG_UNITS)
def test_what_goes_along_the_units_is_rigid(name):
    text, size = ALONG_UNITS[name]
    net = network(6, size)
    anatomy = gn.trace(net, normal(4, 3), call=between(transposed(ALONG_ROWS[name])))
    assert sizes(anatomy) == {}
    (found,) = reasons(anatomy).values()
    assert any(text in r and "test_rules_axes.py" in r for r in found)


DECOMPOSED = {
    "cholesky": jnp.linalg.cholesky,
    "qr": lambda a: jnp.linalg.qr(a)[0],
    "svd": lambda a: jnp.linalg.svd(a)[0],
    "eigh": lambda a: jnp.linalg.eigh(a)[1],
    "lu": lambda a: lax.linalg.lu(a)[0],
    "triangular_solve": lambda a: lax.linalg.triangular_solve(a, a),
    "schur": lambda a: lax.linalg.schur(a)[0],
    "hessenberg": lambda a: lax.linalg.hessenberg(a)[0],
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_a_matrix_is_taken_as_a_whole(name):
    def call(net, x):
        h = x @ net["up"]
        return DECOMPOSED[name](h.T @ h + jnp.eye(6)) @ net["xread"]

    anatomy = gn.trace(network(6), normal(4, 3), call=call)
    assert sizes(anatomy) == {}
    assert f"`{name}` takes the matrix as a whole" in str(anatomy)


def test_a_linear_solve_over_rows_leaves_units_to_the_matrix():
    """JAX solves all columns at once, and growthnet takes both axes for one matrix."""
    anatomy = gn.trace(network(6), normal(4, 3), call=between(solved))
    assert "takes the matrix as a whole" in reasons(anatomy)["up"][0]


# --- weights that go through them


def test_mirrored_kernels_keep_their_channels():
    def call(net, x):
        kernel = jnp.flip(net["mid"], (2, 3)).transpose(1, 0, 2, 3)
        h = jnp.tanh(lax.conv(x[None], net["up"], (1, 1), "SAME"))
        return lax.conv(h, kernel, (1, 1), "SAME").mean((2, 3))

    net = {"up": normal(4, 3, 3, 3), "mid": normal(4, 2, 3, 3)}
    anatomy = gn.trace(net, normal(3, 5, 5), call=call)
    assert sizes(anatomy) == {"up": 4}
    assert "mid:0" in {f"{m.path}:{m.axis}" for m in anatomy.widths["up"].members}
    check_resizes(net, normal(3, 5, 5), call=call)


@pytest.mark.parametrize(
    "function",
    [
        lambda w: jnp.cumsum(w, axis=1),
        lambda w: jnp.sort(w, axis=1),
        lambda w: lax.reduce_window(w, 0.0, lax.add, (1, 2), (1, 1), "SAME"),
        lambda w: jnp.fft.fft(w, axis=1).real,
    ],
)
def test_weights_that_are_worked_on_along_the_other_axis_still_consume(function):
    def call(net, x):
        return jnp.cos(x @ net["up"]) @ function(net["xread"])

    net = network(6)
    anatomy = gn.trace(net, normal(4, 3), call=call)
    width = anatomy.widths["up"]
    assert [width.members[i].path for i in width.cover] == ["xread"]
    check_resizes(net, normal(4, 3), call=call)


def test_a_weight_mixed_along_its_units_is_no_cover():
    """The consumer of a unit is a sum over its neighbours' entries."""

    def call(net, x):
        return jnp.cos(x @ net["up"]) @ jnp.cumsum(net["xread"], axis=0)

    assert sizes(gn.trace(network(6), normal(4, 3), call=call)) == {}


def test_a_sum_of_a_reshaped_weight_cannot_be_zeroed_by_half_of_its_leaf():
    """The entries that are summed can't be followed to their leaf; the other summand's
    zeros alone don't make new units silent."""

    def call(net, x):
        h = jnp.cos(x @ net["up"])
        both = net["a"].reshape(2, -1, 2).sum(0) + net["xread"]
        return h @ both

    net = {**network(6), "a": normal(12, 2)}
    width = gn.trace(net, normal(4, 3), call=call).widths["up"]
    assert width.exactness("zero_out")[0] == "not preserving"


# --- an axis name, without devices


def test_collectives_over_a_vmapped_axis():
    def call(net, x):
        def one(row):
            h = jax.nn.softplus(row @ net["up"])
            mean = lax.pmean(h, "rows") + lax.pmax(h, "rows")
            others = lax.all_gather(h, "rows").sum(0) + lax.ppermute(
                h, "rows", [(i, (i + 1) % 4) for i in range(4)]
            )
            place = lax.axis_index("rows").astype(float)
            return (mean + others) @ net["xread"] + place

        return jax.vmap(one, axis_name="rows")(x)

    net = network(6)
    for units in (6, 4):
        anatomy = gn.trace(network(units), normal(4, 3), call=call)
        assert sizes(anatomy) == {"up": units}
    check_resizes(net, normal(4, 3), call=call)


def test_a_sum_over_vmapped_units_goes_over_them():
    """A head for each entry of the named axis: units within a head can be added, heads
    can't, since each divides by what all of them say."""

    def call(net, x):
        def one(up, read):
            h = jnp.exp(x @ up)
            return (h / lax.psum(h, "heads")) @ read

        return jax.vmap(one, (0, 0), axis_name="heads")(net["up"], net["xread"]).sum(0)

    net = {"up": normal(5, 3, 6), "xread": normal(5, 6, 2)}
    anatomy = gn.trace(net, normal(4, 3), call=call)
    assert sizes(anatomy) == {"up": 5, "up/1": 6}
    assert any("`psum` goes over its units" in t for t in anatomy.widths["up"].drift)
    check_resizes(net, normal(4, 3), call=call, but=("up",))


# --- devices

MESH = AbstractMesh((2,), ("devices",))


def sharded(body, ins, outs, **options):
    return jax.shard_map(body, mesh=MESH, in_specs=ins, out_specs=outs, **options)


def test_data_over_devices_leaves_widths_alone():
    def call(net, x):
        def body(net, x):
            y = jnp.tanh(x @ net["up"]) @ net["xread"]
            return lax.pmean(y.mean(0), "devices"), y

        return sharded(body, (P(), P("devices")), (P(), P("devices")))(net, x)

    anatomy = gn.trace(network(6), normal(4, 3), call=call)
    assert sizes(anatomy) == {"up": 6}
    assert anatomy.widths["up"].exactness("zero_out")[0] == "exact"
    assert [m.path for m in anatomy.widths["up"].members] == ["up", "xread"]


def parallel(net, x):
    def body(up, down, x):
        return lax.psum(jnp.tanh(x @ up) @ down, "devices")

    specs = (P(None, "devices"), P("devices", None), P())
    h = sharded(body, specs, P())(net["up"], net["mid"], x)
    return jnp.tanh(h) @ net["xread"]


@pytest.mark.parametrize("units", [6, 4])
def test_units_over_devices_are_rigid(units):
    net = {"mid": normal(units, 5), "up": normal(3, units), "xread": normal(5, 2)}
    anatomy = gn.trace(net, normal(4, 3), call=parallel)
    assert sizes(anatomy) == {"mid": 5}
    texts = [r for w in anatomy.all_widths for r in w.reasons]
    assert any("sharded over mesh axis 'devices'" in t for t in texts)
    assert any("(parallel)" in t for t in texts)
    assert anatomy.widths["mid"].exactness("zero_out")[0] == "exact"


def test_one_device_is_like_none():
    def call(net, x):
        def body(up, down, x):
            return lax.psum(jnp.tanh(x @ up) @ down, "devices")

        mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))
        specs = (P(None, "devices"), P("devices", None), P())
        run = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=P())
        return run(net["up"], net["xread"], x)

    net = network(6)
    assert sizes(gn.trace(net, normal(4, 3), call=call)) == {"up": 6}
    check_resizes(net, normal(4, 3), call=call)


def exchange(collective):
    """The units stay whole, what is exchanged are rows."""

    def call(net, x):
        def body(net, x):
            return collective(jnp.tanh(x @ net["up"])) @ net["xread"]

        return sharded(body, (P(), P("devices")), P("devices"), check_vma=False)(net, x)

    return call


EXCHANGED = {
    "all_gather": lambda h: lax.all_gather(h, "devices", tiled=True),
    "all_gather, a new axis": lambda h: lax.all_gather(h, "devices"),
    "psum_scatter": lambda h: lax.psum_scatter(h, "devices", tiled=True),
    "psum_scatter, an axis less": lambda h: lax.psum_scatter(h, "devices"),
    "all_to_all": lambda h: lax.all_to_all(h[None], "devices", 1, 0, tiled=True),
    "all_to_all, moved": lambda h: lax.all_to_all(h[None], "devices", 1, 0)[:, 0],
    "ppermute": lambda h: lax.ppermute(h, "devices", [(0, 1), (1, 0)]),
    "pmax": lambda h: lax.pmax(h, "devices"),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_rows_exchanged_between_devices_leave_units_alone(name):
    call = exchange(EXCHANGED[name])
    for units in (6, 2):
        anatomy = gn.trace(network(units), normal(4, 3), call=call)
        assert sizes(anatomy) == {"up": units}
        assert anatomy.widths["up"].exactness("zero_out")[0] == "exact"


def test_units_gathered_from_devices_stay_units():
    """Every device brings the same units; the next layer reads all of them."""

    def call(net, x):
        def body(net, x):
            h = lax.all_gather(jnp.tanh(x @ net["up"]), "devices", axis=1, tiled=True)
            return h @ net["xread"]

        return sharded(body, (P(), P("devices")), P("devices"), check_vma=False)(net, x)

    anatomy = gn.trace(network(6, 12), normal(4, 3), call=call)
    assert sizes(anatomy) == {"up": 6}
    widths = anatomy.widths["up"]
    assert [(m.path, m.span) for m in widths.members] == [
        ("up", (0, 6)),
        ("xread", (0, 12)),
    ]


def test_annotations_of_sharding_say_nothing():
    spec = jax.sharding.NamedSharding(jax.make_mesh((1,), ("devices",)), P())

    def call(net, x):
        h = lax.with_sharding_constraint(jnp.tanh(x @ net["up"]), spec)
        return jax.device_put(h) @ net["xread"]

    net = network(6)
    assert sizes(gn.trace(net, normal(4, 3), call=call)) == {"up": 6}
    check_resizes(net, normal(4, 3), call=call)


# --- static fields that a rule keeps


def test_fields_that_equal_a_width_by_chance_stay():
    """Kernel sizes and pools of the size of a width, beside a field that follows it."""
    keys = jr.split(jr.key(0), 3)

    class Net(eqx.Module):
        stem: eqx.nn.Conv1d
        depthwise: eqx.nn.Conv1d
        pool: eqx.nn.AvgPool1d
        mlp: eqx.nn.MLP

        def __call__(self, x):
            h = self.pool(self.depthwise(jnp.tanh(self.stem(x))))
            return self.mlp(h.mean(1))

    net = Net(
        eqx.nn.Conv1d(2, 3, 3, padding=3, key=keys[0]),
        eqx.nn.Conv1d(3, 3, 3, padding=3, groups=3, key=keys[1]),
        eqx.nn.AvgPool1d(3, 3),
        eqx.nn.MLP(3, 3, 4, 3, key=keys[2]),
    )
    anatomy = gn.trace(net, normal(2, 9))
    grown = gn.resize(net, anatomy, {"stem": 5}, key=jr.key(1))
    layer = grown.depthwise
    assert (layer.groups, layer.in_channels, layer.out_channels) == (5, 5, 5)
    assert (layer.kernel_size, layer.padding) == ((3,), ((3, 3),))
    assert (grown.pool.kernel_size, grown.pool.stride) == ((3,), (3,))
    mlp = grown.mlp
    assert (mlp.in_size, mlp.out_size, mlp.width_size, mlp.depth) == (5, 3, 4, 3)
