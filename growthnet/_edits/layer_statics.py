"""What Equinox's own layers keep beside their arrays.

Each rule gets a layer before the change and with its new arrays, and returns every
integer field that it answers for. Axes are counted from the end, since layers may be
stacked (`eqx.filter_vmap` over their constructor). Fields that only the calling code
can tell, such as the number of groups or heads, are left to the search; rules see them
as found.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx


Rule = Callable[[Any, Any], dict[str, Any]]


def kept(*fields: str) -> Rule:
    """Fields that no width changes, however equal their numbers may be."""
    return lambda old, new: {f: getattr(new, f) for f in fields}


def _convolution(old: Any, new: Any) -> dict[str, Any]:
    """Both kinds of convolution have kernels of `(out, in // groups, *window)`."""
    windows = kept("num_spatial_dims", "kernel_size", "stride", "padding", "dilation")
    out, inner = new.weight.shape[-2 - new.num_spatial_dims :][:2]
    sizes = {"in_channels": inner * new.groups, "out_channels": out}
    if isinstance(new, eqx.nn.ConvTranspose):
        sizes["output_padding"] = new.output_padding
    return {**windows(old, new), **sizes}


def _group_norm(old: Any, new: Any) -> dict[str, Any]:
    """Without a scale nothing but the caller knows how many channels there are."""
    if new.weight is None:
        return {}
    return {"channels": new.weight.shape[-1]}


def _attention(old: Any, new: Any) -> dict[str, Any]:
    heads = new.num_heads
    return {
        "query_size": new.query_proj.weight.shape[-1],
        "key_size": new.key_proj.weight.shape[-1],
        "value_size": new.value_proj.weight.shape[-1],
        "output_size": new.output_proj.weight.shape[-2],
        "qk_size": new.query_proj.weight.shape[-2] // heads,
        "vo_size": new.value_proj.weight.shape[-2] // heads,
    }


def _embedding(old: Any, new: Any) -> dict[str, Any]:
    rows, size = new.weight.shape[-2:]
    return {"num_embeddings": rows, "embedding_size": size}


def _recurrent(old: Any, new: Any) -> dict[str, Any]:
    return {
        "input_size": new.weight_ih.shape[-1],
        "hidden_size": new.weight_hh.shape[-1],
    }


LAYERS: dict[type, Rule] = {
    eqx.nn.Conv: _convolution,
    eqx.nn.ConvTranspose: _convolution,
    eqx.nn.GroupNorm: _group_norm,
    eqx.nn.MultiheadAttention: _attention,
    eqx.nn.Embedding: _embedding,
    eqx.nn.GRUCell: _recurrent,
    eqx.nn.LSTMCell: _recurrent,
    eqx.nn.SpectralNorm: kept("num_power_iterations"),
    eqx.nn.WeightNorm: kept("axis"),
    eqx.nn.Pool: kept("num_spatial_dims", "kernel_size", "stride", "padding"),
    eqx.nn.AdaptivePool: kept("target_shape"),
}
