"""Models of other people's packages: traced unchanged, grown, shrunk, trained on.

    pip install -e ".[dev,real]"
    python -m pytest -m real tests/test_real_models.py

A model whose package isn't there is skipped. The table of docs/real_models.md comes
from the same proofs: `python -m benchmarks.real_models`.
"""

import collections
import importlib.util
import re
from collections.abc import Iterator

import jax
import pytest

from .real_models import Model, MODELS
from .real_proof import prove


# Other people's packages warn, and promote types and ranks, as they please.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

FLOW = "bijection.bijection.bijection.bijections[*]."

# Widths that have to grow exactly, and how many there are of each kind; the rest of a
# model's widths are rigid, or change its function.
GROWS: dict[str, dict[str, int]] = {
    "neural_ode": {"layers[*]": 2},
    "autoregressive_flow": {
        f"{FLOW}masked_autoregressive_mlp.layers[*].weight.args[*]": 1
    },
    "spline_flow": {f"{FLOW}conditioner.layers[*]": 1},
    "esm2": {
        "layers.depth": 1,
        "layers.attn.query_proj": 1,
        "layers.attn.value_proj": 1,
        "layers.linear*": 1,
        "layers.attn.output_proj": 1,
    },
    "vision_transformer": {
        "patch_embed.proj": 1,
        "blocks[*].blocks[*].attn.qkv": 2,
        "blocks[*].blocks[*].attn.qkv/*": 2,
        "blocks[*].blocks[*].mlp.fc*": 2,
    },
    "convnext": {"blocks[*].blocks[*].pwconv*": 8},
    "unet": {
        "lifting.conv_*": 2,
        "left_arc_blocks[*][*].conv_*": 4,
        "right_arc_blocks[*][*].conv_*": 4,
        "down_sampling_blocks[*]": 2,
        "up_sampling_blocks[*]": 2,
    },
    "resnet_1d": {"lifting": 1, "blocks[*].conv_*": 2},
    "fourier_operator": {"lifting": 1, "blocks[*].spectral_conv": 2},
    "mamba2": {
        "backbone.embedder": 1,
        "backbone.layers[*].mixer.in_proj": 2,
        "backbone.layers[*].mixer.in_proj/*": 4,
    },
    "kan": {"layers[*]": 1},
    "real_nvp": {"bijections[*].embedding_net.layers[*].first_layer": 8},
    "mixture_of_experts": {
        "params.Embed_*": 1,
        "params.block_*.MoELayer_*.expert_*.Dense_*": 6,
        "params.block_*.MultiHeadAttention_*.Dense_*": 2,
        "params.block_*.MultiHeadAttention_*.Dense_*/*": 4,
    },
    "mobilenet": {
        "[*]['mobile_net_v*/conv*_d']": 1,
        "[*]['mobile_net_v*/mobile_net_v*_block/pointwise_conv']": 1,
        "[*]['mobile_net_v*/mobile_net_v*_block_*/pointwise_conv']": 1,
    },
    "graph_network": {
        "['edges/~/linear_*']": 2,
        "['globals/~/linear_*']": 1,
        "['nodes/~/linear_*']": 2,
    },
}


@pytest.fixture(autouse=True)
def plain_jax() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _present(model: Model) -> bool:
    return all(importlib.util.find_spec(name) for name in model.modules)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_grows_and_shrinks(name):
    model = MODELS[name]
    if not _present(model):
        pytest.skip(f"needs {', '.join(model.packages)}")
    proof = prove(model)
    grown = [re.sub(r"\d+", "*", n) for sizes in proof.growth.values() for n in sizes]
    assert collections.Counter(grown) == GROWS[name]
    assert proof.difference < 1e-5
    # Bit for bit, but where survivors were scaled or shared out.
    recipes = [
        proof.anatomy.widths[width].recipe(init)
        for init, sizes in proof.growth.items()
        for width in sizes
    ]
    touched = "clone" in proof.growth or any(r.scales for r in recipes)
    assert proof.round_trip <= (1e-6 if touched else 0)
    assert proof.shrunk and proof.true and proof.finite
    assert proof.losses[0] != proof.losses[1]
    assert proof.reset == 0
