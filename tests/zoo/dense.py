"""Dense layers: gated, modulated, shared, generated, differentiated inside."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._model import free, Model, register, rigid


@register(a=4, b=4)
def mlp(a: int = 5, b: int = 7) -> Model:
    """Layers in a row, one of them without a bias, with a slope per unit."""

    def make(key):
        keys = jr.split(key, 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, a, use_bias=False, key=keys[0]),
                eqx.nn.Lambda(eqx.nn.PReLU(jnp.full(a, 0.1))),
                eqx.nn.Linear(a, b, key=keys[1]),
                eqx.nn.Lambda(jnn.silu),
                eqx.nn.Dropout(0.3, inference=True),
                eqx.nn.Linear(b, "scalar", key=keys[2]),
            ]
        )

    return Model(make, ((3,),), {"layers[0]": free(a), "layers[2]": free(b)})


class GatedBlock(eqx.Module):
    gate: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, d, h, *, key):
        keys = jr.split(key, 3)
        self.gate = eqx.nn.Linear(d, h, use_bias=False, key=keys[0])
        self.up = eqx.nn.Linear(d, h, use_bias=False, key=keys[1])
        self.down = eqx.nn.Linear(h, d, use_bias=False, key=keys[2])

    def __call__(self, x):
        return x + self.down(jnn.silu(self.gate(x)) * self.up(x))


@register(d=4, h=4)
def gated_stream(d: int = 5, h: int = 7) -> Model:
    """SwiGLU blocks on a residual stream."""

    def make(key):
        keys = jr.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, d, key=keys[0]),
                eqx.nn.Lambda(GatedBlock(d, h, key=keys[1])),
                eqx.nn.Lambda(GatedBlock(d, h, key=keys[2])),
                eqx.nn.Linear(d, 2, key=keys[3]),
            ]
        )

    widths = {
        "layers[0]": free(d),
        "layers[1].fn.gate": free(h),
        "layers[2].fn.gate": free(h),
    }
    return Model(make, ((3,),), widths)


class FusedGate(eqx.Module):
    both: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, h, *, key):
        first, last = jr.split(key)
        self.both = eqx.nn.Linear(3, 2 * h, key=first)
        self.out = eqx.nn.Linear(h, 2, key=last)

    def __call__(self, x):
        return self.out(jnn.glu(self.both(x)))


@register(h=3)
def fused_gate(h: int = 5) -> Model:
    """A gated linear unit whose halves are cut apart by `jax.nn.glu`."""
    return Model(lambda key: FusedGate(h, key=key), ((3,),), {"both": free(h)})


class Siamese(eqx.Module):
    encoder: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, h, d, *, key):
        first, last = jr.split(key)
        self.encoder = eqx.nn.MLP(3, d, h, 1, activation=jnp.tanh, key=first)
        self.head = eqx.nn.Linear(d, 1, key=last)

    def __call__(self, x, y):
        return self.head(jnp.abs(self.encoder(x) - self.encoder(y)))


@register(h=4, d=4)
def siamese(h: int = 5, d: int = 7) -> Model:
    """One encoder for two inputs."""
    widths = {"encoder.layers[0]": free(h), "encoder.layers[1]": free(d)}
    return Model(lambda key: Siamese(h, d, key=key), ((3,), (3,)), widths)


class TwoTowers(eqx.Module):
    query: eqx.nn.MLP
    item: eqx.nn.MLP

    def __init__(self, h, d, *, key):
        first, last = jr.split(key)
        self.query = eqx.nn.MLP(3, d, h, 1, activation=jnp.tanh, key=first)
        self.item = eqx.nn.MLP(2, d, h + 1, 1, activation=jnp.tanh, key=last)

    def __call__(self, x, y):
        return jnp.dot(self.query(x), self.item(y))


@register(h=3, d=4)
def two_towers(h: int = 5, d: int = 7) -> Model:
    """A score that is an inner product: it's enough that one side is silent."""
    widths = {
        "query.layers[0]": free(h),
        "query.layers[1]": free(d),
        "item.layers[0]": free(h + 1),
    }
    return Model(lambda key: TwoTowers(h, d, key=key), ((3,), (2,)), widths)


class FiLM(eqx.Module):
    stem: eqx.nn.Linear
    modulation: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, h, *, key):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Linear(3, h, key=keys[0])
        self.modulation = eqx.nn.Linear(2, 2 * h, key=keys[1])
        self.head = eqx.nn.Linear(h, 2, key=keys[2])

    def __call__(self, x, condition):
        scale, shift = jnp.split(self.modulation(condition), 2)
        return self.head(jnn.gelu((1 + scale) * self.stem(x) + shift))


@register(h=2)
def film(h: int = 5) -> Model:
    """Conditioning that scales and shifts features."""
    return Model(lambda key: FiLM(h, key=key), ((3,), (2,)), {"stem": free(h)})


class Siren(eqx.Module):
    layers: list[eqx.nn.Linear]
    omega: float = eqx.field(static=True)

    def __init__(self, a, b, *, key):
        keys = jr.split(key, 3)
        sizes = [(2, a), (a, b), (b, 3)]
        self.layers = [
            eqx.nn.Linear(n, m, key=k) for (n, m), k in zip(sizes, keys, strict=True)
        ]
        self.omega = 3.0

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.sin(self.omega * layer(x))
        return self.layers[-1](x)


@register(a=3, b=3)
def siren(a: int = 5, b: int = 7) -> Model:
    """Sines as activations."""
    widths = {"layers[0]": free(a), "layers[1]": free(b)}
    return Model(lambda key: Siren(a, b, key=key), ((2,),), widths)


class FourierFeatures(eqx.Module):
    frequencies: jax.Array
    mlp: eqx.nn.MLP

    def __init__(self, m, h, *, key):
        first, last = jr.split(key)
        self.frequencies = jr.normal(first, (m, 3))
        self.mlp = eqx.nn.MLP(2 * m, 2, h, 1, key=last)

    def __call__(self, x):
        angles = 2 * jnp.pi * self.frequencies @ x
        return self.mlp(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))


@register(m=4, h=4)
def fourier_features(m: int = 5, h: int = 7) -> Model:
    """Frequencies that are not trained, twice in the features."""
    widths = {"frequencies": free(m), "mlp.layers[0]": free(h)}
    return Model(lambda key: FourierFeatures(m, h, key=key), ((3,),), widths)


class DeepSets(eqx.Module):
    each: eqx.nn.MLP
    all: eqx.nn.MLP

    def __init__(self, h, d, m, *, key):
        first, last = jr.split(key)
        self.each = eqx.nn.MLP(3, d, h, 1, key=first)
        self.all = eqx.nn.MLP(2 * d, 2, m, 1, key=last)

    def __call__(self, xs):
        features = jax.vmap(self.each)(xs)
        pooled = jnp.concatenate([jnp.mean(features, 0), jnp.max(features, 0)])
        return self.all(pooled)


@register(h=4, d=4, m=4)
def deep_sets(h: int = 5, d: int = 7, m: int = 11) -> Model:
    """Features of a set's elements, pooled twice."""
    widths = {
        "each.layers[0]": free(h),
        "each.layers[1]": free(d),
        "all.layers[0]": free(m),
    }
    return Model(lambda key: DeepSets(h, d, m, key=key), ((4, 3),), widths)


class Hypernetwork(eqx.Module):
    hyper: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, g, h, *, key):
        first, last = jr.split(key)
        self.hyper = eqx.nn.MLP(2, 3 * h, g, 1, activation=jnp.tanh, key=first)
        self.head = eqx.nn.Linear(h, 2, key=last)

    def __call__(self, x, task):
        weight = self.hyper(task).reshape(-1, 3)
        return self.head(jnp.tanh(weight @ x))


@register(g=3, h=3)
def hypernetwork(g: int = 5, h: int = 7) -> Model:
    """A network that makes another one's weights."""
    widths = {"hyper.layers[0]": free(g), "hyper.layers[1]": free(h)}
    return Model(lambda key: Hypernetwork(g, h, key=key), ((3,), (2,)), widths)


def _residual(net, x):
    """Value and gradient of a solution, and the trace of its second derivatives."""
    u = lambda x: net(x)[0]
    return u(x), jax.grad(u)(x), jnp.trace(jax.hessian(u)(x))


@register(a=4, b=4)
def physics_informed(a: int = 5, b: int = 7) -> Model:
    """First and second derivatives in the forward pass."""

    def make(key):
        keys = jr.split(key, 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(2, a, key=keys[0]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(a, b, key=keys[1]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(b, 1, key=keys[2]),
            ]
        )

    # The one output is picked by its index.
    one = rigid(1, "another size")
    widths = {"layers[0]": free(a), "layers[2]": free(b), "layers[4]": one}
    return Model(make, ((2,),), widths, _residual)


class Hamiltonian(eqx.Module):
    energy: eqx.nn.MLP

    def __call__(self, q, p):
        dq, dp = jax.grad(lambda q, p: self.energy(jnp.stack([q, p])), (0, 1))(q, p)
        return dp, -dq


@register(h=2)
def hamiltonian(h: int = 5) -> Model:
    """A vector field that is the gradient of a network."""

    def make(key):
        mlp = eqx.nn.MLP(2, "scalar", h, 1, activation=jnn.softplus, key=key)
        return Hamiltonian(mlp)

    widths = {
        "energy.layers[0]": free(h),
        "energy.layers[0]/1": rigid(2, "it counts stacked arrays"),
        "energy.layers[1]": rigid(1, "another size"),
    }
    return Model(make, ((), ()), widths)


class Mixed(eqx.Module):
    stem: eqx.nn.Linear
    middle: eqx.nn.Linear
    scale: jax.Array
    head: eqx.nn.Linear

    def __init__(self, a, b, *, key):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Linear(3, a, dtype=jnp.bfloat16, key=keys[0])
        self.middle = eqx.nn.Linear(a, b, dtype=jnp.bfloat16, key=keys[1])
        self.scale = jnp.ones(a, jnp.float32)
        self.head = eqx.nn.Linear(b, 2, dtype=jnp.float32, key=keys[2])

    def __call__(self, x):
        h = self.stem(x.astype(jnp.bfloat16)).astype(self.scale.dtype)
        h = jnn.gelu(h) * self.scale
        h = self.middle(h.astype(jnp.bfloat16))
        return self.head(h.astype(self.scale.dtype))


@register(a=4, b=4)
def mixed_precision(a: int = 5, b: int = 7) -> Model:
    """Weights in half precision, scales and the last layer in single."""
    widths = {"stem": free(a), "middle": free(b)}
    return Model(lambda key: Mixed(a, b, key=key), ((3,),), widths)


class LowRank(eqx.Module):
    base: eqx.nn.Linear
    down: jax.Array
    up: jax.Array
    head: eqx.nn.Linear

    def __init__(self, h, r, *, key):
        keys = jr.split(key, 4)
        self.base = eqx.nn.Linear(3, h, key=keys[0])
        self.down = jr.normal(keys[1], (r, 3))
        self.up = jr.normal(keys[2], (h, r))
        self.head = eqx.nn.Linear(h, 2, key=keys[3])

    def __call__(self, x):
        frozen = jax.lax.stop_gradient(self.base.weight) @ x + self.base.bias
        return self.head(jnp.tanh(frozen + self.up @ (self.down @ x)))


@register(h=2, r=2)
def low_rank(h: int = 5, r: int = 2) -> Model:
    """A frozen weight with a trained correction of low rank."""
    widths = {"base": free(h), "down": free(r)}
    return Model(lambda key: LowRank(h, r, key=key), ((3,),), widths)
