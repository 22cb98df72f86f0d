"""Other people's models at the sizes that they were published in, traced abstractly.

    pip install -e ".[real]" && python -m benchmarks.published_models

No weights are made or downloaded: the constructors run abstractly.
"""

import importlib.metadata
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import growthnet as gn


KEY = jr.key(0)
IMAGE = jax.ShapeDtypeStruct((3, 224, 224), jnp.float32)
Parts = tuple[Any, Any, Callable[..., Any]]


def vit_b() -> Parts:
    from equimo.models import VisionTransformer

    def make(key: Any) -> Any:
        return VisionTransformer(
            img_size=224,
            in_channels=3,
            dim=768,
            patch_size=16,
            num_heads=12,
            depths=[12],
            num_classes=1000,
            key=key,
        )

    net = eqx.filter_eval_shape(make, KEY)
    return net, IMAGE, lambda net, x: net(x, key=KEY, inference=True)


def convnext_t() -> Parts:
    from equimo.models import ConvNeXt

    net = eqx.filter_eval_shape(lambda key: ConvNeXt(3, num_classes=1000, key=key), KEY)
    return net, IMAGE, lambda net, x: net(x, key=KEY, inference=True)


def esm2_650m() -> Parts:
    import esm2quinox

    def make(key: Any) -> Any:
        return esm2quinox.ESM2(
            num_layers=33, embed_size=1280, num_heads=20, token_dropout=True, key=key
        )

    net = eqx.filter_eval_shape(make, KEY)
    tokens = jax.ShapeDtypeStruct((256,), jnp.int32)
    return net, tokens, lambda net, tokens: net(tokens).logits


def mamba2_130m() -> Parts:
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    net = nnx.eval_shape(lambda: Mamba2ForCausalLM(Mamba2Config(), rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    return net, tokens, lambda net, tokens: net(tokens)["logits"]


MODELS = {
    "ViT-B/16 (equimo)": vit_b,
    "ConvNeXt-T (equimo)": convnext_t,
    "ESM2 650M (esm2quinox)": esm2_650m,
    "Mamba2 130M (mamba2-jax)": mamba2_130m,
}


def main() -> None:
    warnings.simplefilter("ignore")
    print("| model | parameters | widths | growable | of these exactly | CPU s |")
    print("|---|---|---|---|---|---|")
    for name, make in MODELS.items():
        net, x, call = make()
        start = time.process_time()
        anatomy = gn.trace(net, x, call=call)
        seconds = time.process_time() - start
        growable = [w for w in anatomy.all_widths if w.growable]
        inits = [[w.exactness(i)[0] for i in ("zero_out", "clone")] for w in growable]
        exact = sum("exact" in found for found in inits)
        cells = len(anatomy.all_widths), len(growable), exact, f"{seconds:.2f}"
        text = " | ".join(map(str, cells))
        print(f"| {name} | {anatomy.params():,} | {text} |", flush=True)
    version = importlib.metadata.version("flax")
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"equinox {eqx.__version__}, flax {version}, CPU"
    )


if __name__ == "__main__":
    main()
