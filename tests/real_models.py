"""Models from PyPI that nobody wrote for growthnet: how each is made and called.

Packages are imported where they are used, so that whoever lacks one can use the rest.
Weights are random and sizes small; nothing is downloaded.
"""
# pyright: reportMissingImports=false

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


KEY = jr.key(0)

Parts = tuple[Any, tuple[Any, ...], Callable[..., Any]]
"""A network, what it is called with, and how."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One model.

    - `title`: what it is, for the table.
    - `packages`: on PyPI; the first one wrote the model.
    - `modules`: what to import to see whether they are there.
    - `make`: builds it.
    - `replay`: its code has sizes written into it; the traced program is run instead.
    """

    title: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    make: Callable[[], Parts]
    replay: bool = False


MODELS: dict[str, Model] = {}


def model(title: str, packages: str, modules: str, **options: Any) -> Any:
    def register(make: Callable[[], Parts]) -> Callable[[], Parts]:
        MODELS[make.__name__] = Model(
            title, tuple(packages.split()), tuple(modules.split()), make, **options
        )
        return make

    return register


# --- Equinox


@model("neural ODE, adaptive Tsit5", "diffrax", "diffrax")
def neural_ode() -> Parts:
    import diffrax

    field = eqx.nn.MLP(2, 2, 16, 2, activation=jax.nn.softplus, key=KEY)
    times = jnp.linspace(0, 1, 5)

    def call(field: Any, start: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y)),
            diffrax.Tsit5(),
            t0=0.0,
            t1=1.0,
            dt0=0.1,
            y0=start,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
        ).ys

    return field, (jnp.array([1.0, -0.5]),), call


@model("masked autoregressive flow", "flowjax", "flowjax")
def autoregressive_flow() -> Parts:
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(
        KEY, base_dist=Normal(jnp.zeros(3)), flow_layers=2, nn_width=12
    )
    return flow, (jnp.ones(3),), lambda flow, x: flow.log_prob(x)


@model("coupling flow, rational-quadratic splines", "flowjax", "flowjax")
def spline_flow() -> Parts:
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow

    flow = coupling_flow(
        KEY,
        base_dist=Normal(jnp.zeros(3)),
        transformer=RationalQuadraticSpline(knots=5, interval=3),
        flow_layers=2,
        nn_width=12,
    )
    return flow, (jnp.ones(3),), lambda flow, x: flow.log_prob(x)


@model("ESM2 protein language model", "esm2quinox", "esm2quinox")
def esm2() -> Parts:
    import esm2quinox

    net = esm2quinox.ESM2(
        num_layers=2, embed_size=16, num_heads=2, token_dropout=True, key=KEY
    )
    tokens = jnp.asarray(esm2quinox.tokenise(["SPIDERMAN"])[0])
    return net, (tokens,), lambda net, tokens: net(tokens).logits


@model("vision transformer", "equimo", "equimo")
def vision_transformer() -> Parts:
    from equimo.models import VisionTransformer

    net = VisionTransformer(
        img_size=16,
        in_channels=3,
        dim=24,
        patch_size=8,
        num_heads=4,
        depths=[2],
        num_classes=5,
        key=KEY,
    )
    image = jr.normal(KEY, (3, 16, 16))
    return net, (image,), lambda net, x: net(x, key=KEY, inference=True)


@model("ConvNeXt", "equimo", "equimo")
def convnext() -> Parts:
    from equimo.models import ConvNeXt

    net = ConvNeXt(3, depths=[1, 1, 1, 1], dims=[8, 12, 16, 20], num_classes=5, key=KEY)
    image = jr.normal(KEY, (3, 32, 32))
    return net, (image,), lambda net, x: net(x, key=KEY, inference=True)


@model("U-Net with group norms", "pdequinox", "pdequinox")
def unet() -> Parts:
    from pdequinox.arch import ClassicUNet

    net = ClassicUNet(2, 2, 1, hidden_channels=6, num_levels=2, key=KEY)
    return net, (jr.normal(KEY, (2, 16, 16)),), lambda net, x: net(x)


@model("residual network, circular padding", "pdequinox", "pdequinox")
def resnet_1d() -> Parts:
    from pdequinox.arch import ClassicResNet

    net = ClassicResNet(1, 1, 1, hidden_channels=6, num_blocks=2, key=KEY)
    return net, (jr.normal(KEY, (1, 32)),), lambda net, x: net(x)


@model("Fourier neural operator", "pdequinox", "pdequinox")
def fourier_operator() -> Parts:
    from pdequinox.arch import ClassicFNO

    net = ClassicFNO(1, 1, 1, hidden_channels=6, num_modes=5, num_blocks=2, key=KEY)
    return net, (jr.normal(KEY, (1, 32)),), lambda net, x: net(x)


# --- Flax NNX


@model("Mamba2 language model", "mamba2-jax flax", "mamba2_jax flax")
def mamba2() -> Parts:
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=50,
        hidden_size=16,
        state_size=6,
        head_dim=8,
        chunk_size=8,
        num_hidden_layers=2,
    )
    net = Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    tokens = jnp.arange(12)[None] * 7 % 50
    return net, (tokens,), lambda net, tokens: net(tokens)["logits"]


@model("Kolmogorov-Arnold network, Fourier", "jaxkan flax", "jaxkan flax")
def kan() -> Parts:
    from jaxkan.models.KAN import KAN

    net = KAN([2, 7, 1], layer_type="fourier", required_parameters={"D": 4})
    return net, (jr.normal(KEY, (4, 2)),), lambda net, x: net(x)


@model("RealNVP", "bijx flax", "bijx flax")
def real_nvp() -> Parts:
    import bijx
    from flax import nnx

    net = bijx.realnvp_flow(4, rngs=nnx.Rngs(0))
    x = jr.normal(KEY, (5, 4))
    return net, (x,), lambda net, x: net.forward(x, jnp.zeros(5))


# --- Flax Linen and Haiku: sizes stand in the code


@model(
    "mixture-of-experts language model",
    "nano-moe-jax flax",
    "nano_moe flax",
    replay=True,
)
def mixture_of_experts() -> Parts:
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    config = NanoMoEConfig(
        vocab_size=30,
        n_layers=2,
        n_heads=2,
        d_model=12,
        d_ff=20,
        n_experts=3,
        top_k=2,
        block_size=16,
    )
    module = NanoMoE(config)
    tokens = jnp.arange(10)[None] * 7 % 30
    params = module.init(KEY, tokens)
    return params, (tokens,), lambda params, tokens: module.apply(params, tokens)


@model("MobileNet with batch norms", "dm-haiku", "haiku", replay=True)
def mobilenet() -> Parts:
    import haiku

    def forward(x: Any, train: bool) -> Any:
        net = haiku.nets.MobileNetV1(strides=(1, 2), channels=(8, 12), num_classes=5)
        return net(x, is_training=train)

    transformed = haiku.transform_with_state(forward)
    image = jr.normal(KEY, (2, 16, 16, 3))
    net = transformed.init(KEY, image, True)

    def call(net: Any, x: Any) -> Any:
        return transformed.apply(*net, None, x, False)[0]

    return net, (image,), call


@model("graph network", "jraph dm-haiku", "jraph haiku", replay=True)
def graph_network() -> Parts:
    import haiku
    import jraph

    def update(name: str, *sizes: int) -> Any:
        return jraph.concatenated_args(lambda x: haiku.nets.MLP(sizes, name=name)(x))

    def forward(graph: Any) -> Any:
        return jraph.GraphNetwork(
            update("edges", 10, 6), update("nodes", 11, 7), update("globals", 9, 2)
        )(graph)

    transformed = haiku.without_apply_rng(haiku.transform(forward))

    def graph(nodes: Any, edges: Any) -> Any:
        return jraph.GraphsTuple(
            nodes=nodes,
            edges=edges,
            senders=jnp.array([0, 1, 2]),
            receivers=jnp.array([1, 2, 3]),
            n_node=jnp.array([4]),
            n_edge=jnp.array([3]),
            globals=jnp.ones((1, 1)),
        )

    nodes, edges = jr.normal(KEY, (4, 3)), jr.normal(KEY, (3, 2))
    params = transformed.init(KEY, graph(nodes, edges))

    def call(params: Any, nodes: Any, edges: Any) -> Any:
        return transformed.apply(params, graph(nodes, edges)).globals

    return params, (nodes, edges), call
