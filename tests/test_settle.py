"""Which static fields follow widths, which widths are stuck, and at what cost."""

import gc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import growthnet as gn
from growthnet._reading import settle as _settle


class Attention(eqx.Module):
    """Its sizes are fields, one of them a product that nothing else tells."""

    query: jax.Array
    out: jax.Array
    size: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, dim: int):
        self.query = jr.normal(jr.key(0), (heads * dim, width))
        self.out = jr.normal(jr.key(1), (width, heads * dim))
        self.size, self.heads = heads * dim, heads

    def __call__(self, x):
        y = (x @ self.query.T).reshape(-1, self.heads, self.size // self.heads)
        return jax.nn.tanh(y).reshape(-1, self.size) @ self.out.T


def test_a_field_that_is_a_product_of_widths_follows_both(getkey):
    net = Attention(5, 2, 3)
    x = jr.normal(getkey(), (4, 5))
    anatomy = gn.trace(net, x)
    assert anatomy.sizes == {"query": 2, "query/1": 3}
    grown = gn.resize(net, anatomy, {"query": 4, "query/1": 7}, key=getkey())
    assert (grown.heads, grown.size) == (4, 28)
    assert jnp.allclose(grown(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_field_that_equals_a_product_by_chance_stays(getkey):
    # Three units of two and a kernel size of six: only the heads are needed.
    class Odd(Attention):
        kernel: int = eqx.field(static=True, default=6)

        def __init__(self):
            super().__init__(5, 2, 3)
            self.kernel = 6

        def __call__(self, x):
            return super().__call__(x) + jnp.zeros(self.kernel).sum()

    net = Odd()
    x = jr.normal(getkey(), (4, 5))
    grown = gn.resize(net, gn.trace(net, x), {"query/1": 7}, key=getkey())
    assert (grown.kernel, grown.size) == (6, 14)


class Counted:
    """Counts readings at other sizes, and those of them that failed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = self.failed = 0
        read = _settle.Settling._reading

        def reading(*args):
            self.count += 1
            found = read(*args)
            self.failed += isinstance(found, str)
            return found

        monkeypatch.setattr(_settle.Settling, "_reading", reading)


def _layers(n: int, size: int) -> list[dict[str, jax.Array]]:
    shapes = {"up": (5, size), "down": (size, 5)}
    return [{k: jr.normal(jr.key(i), s) for k, s in shapes.items()} for i in range(n)]


def test_what_stops_alike_layers_is_found_in_few_readings(monkeypatch):
    def call(net, x):
        for p in net:
            # The size stands in the code.
            x = x + (x @ p["up"]).reshape(-1, 2, 3).reshape(-1, 6) @ p["down"]
        return x

    counted = Counted(monkeypatch)
    anatomy = gn.trace(_layers(20, 6), jnp.ones((4, 5)), call=call)
    assert len(anatomy.all_widths) == 40 and not any(
        w.growable for w in anatomy.all_widths
    )
    why = "the program doesn't work with another size: TypeError"
    assert all(w.reasons[0].startswith(why) for w in anatomy.all_widths)
    assert counted.count <= 10


def test_readings_that_work_are_few(monkeypatch):
    """Those that fail stop early; those that work go to the end."""

    def call(net, x):
        a, b, c = (x @ net["a"], x @ net["b"], x @ net["c"])
        return a @ net["d"] + b.reshape(-1, 6) @ net["e"] + jnp.tanh(c) @ net["f"]

    counted = Counted(monkeypatch)
    into, out = {"a": 3, "b": 6, "c": 4}, {"d": 3, "e": 6, "f": 4}
    net = {k: jr.normal(jr.key(n), (5, n)) for k, n in into.items()}
    net |= {k: jr.normal(jr.key(n), (n, 2)) for k, n in out.items()}
    anatomy = gn.trace(net, jnp.ones((4, 5)), call=call)
    assert [w.growable for w in anatomy.all_widths] == [True, False, True]
    # `a`, then `a` and `c`; the numbers are accounted for by the second.
    assert counted.count - counted.failed == 2


def test_a_trace_leaves_the_garbage_collector_as_it_was():
    def fails(net, x):
        raise RuntimeError("stop here")

    net = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    asked = [lambda net, x: x @ net["a"] @ net["b"], fails]
    try:
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            gn.trace(net, jnp.ones((1, 3)), call=asked[0])
            with pytest.raises(ValueError, match="stop here"):
                gn.trace(net, jnp.ones((1, 3)), call=asked[1])
            assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_a_layer_that_differs_among_alike_ones_is_told_apart(monkeypatch):
    def call(net, x):
        for i, p in enumerate(net):
            h = x @ p["up"]
            x = x + (h.reshape(-1, 6) if i == 0 else h) @ p["down"]
        return x

    anatomy = gn.trace(_layers(8, 6), jnp.ones((4, 5)), call=call)
    growable = [w.growable for w in anatomy.all_widths]
    assert growable == [False] + 7 * [True]


def test_numbers_are_accounted_for_in_few_readings(monkeypatch):
    # The mean's divisor changes as the others' would: 2 * 3 + 1 is to 3 as 4 * 7 to 12.
    def call(net, x):
        for p in net:
            h = x @ p["up"]
            x = x + (h / jnp.sqrt(p["up"].shape[1])) @ p["down"]
        return x

    counted = Counted(monkeypatch)
    net = [*_layers(6, 12), *_layers(6, 3)]
    anatomy = gn.trace(net, jnp.ones((4, 5)), call=call)
    for width in anatomy.all_widths:
        assert width.exactness("zero_out")[0] == "exact"
        assert len(width.silent.scales) == 1
    assert counted.count <= 2


def test_a_size_that_is_silently_fixed_is_noticed():
    """At the size that is traced nothing is cut off, and nothing fails at others."""
    net = {"in": jr.normal(jr.key(0), (3, 5)), "out": jr.normal(jr.key(1), (5, 2))}

    def call(p, x):
        h = jnp.tanh(x @ p["in"])
        return h @ p["out"] + h[:5].sum()

    anatomy = gn.trace(net, jnp.ones(3), call=call)
    (width,) = [w for w in anatomy.all_widths if w.size == 5]
    assert not width.growable
    assert "a size is fixed in the code" in width.reasons[0]
