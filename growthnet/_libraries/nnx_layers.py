"""Flax NNX's classes as the core sees them: how to walk and copy modules, which
variables learn, and which static fields of the layers follow their arrays."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from flax.core import meta

from .._edits.initials import register_initials
from .._edits.statics import axes_rule, register_statics, register_untrue
from .kinds import Kind, register_kind


def _fields(module: Any) -> dict[str, Any]:
    # What Flax keeps there for itself says nothing of the network.
    private = ("_pytree__", "_length")
    return {n: x for n, x in vars(module).items() if not n.startswith(private)}


def _replaced(module: Any, updates: Mapping[str, Any]) -> Any:
    copy = object.__new__(type(module))
    vars(copy).update({**vars(module), **updates})
    return copy


def _alike(old: Any, new: Any) -> Any:
    # JAX sorts them when it builds a tree anew.
    copy = object.__new__(type(new))
    vars(copy).update({name: vars(new)[name] for name in vars(old)})
    return copy


def register_kinds(call: Any) -> None:
    """Modules, with how one is called as a network; variables; Linen's boxes."""
    modules = Kind(
        fields=_fields, replaced=_replaced, alike=_alike, call=call, learns=False
    )
    register_kind(nnx.Pytree, modules)
    register_kind(nnx.Variable, Kind(box=True, learns=False))
    register_kind(nnx.Param, Kind(box=True, learns=True))
    register_kind(meta.AxisMetadata, Kind(box=True))


# --- static fields


def _axes(module: Any, name: str) -> tuple[int, ...]:
    return tuple(getattr(module, name).shape)


def _linear_general(old: Any, new: Any) -> dict[str, Any]:
    # Counted from the end, here as below: layers may be stacked along leading axes.
    ins, outs = len(new.in_features), len(new.out_features)
    axes = _axes(new, "kernel")[-ins - outs :]
    return {"in_features": axes[:ins], "out_features": axes[ins:]}


def _einsum(old: Any, new: Any) -> dict[str, Any]:
    shapes = {"kernel_shape": _axes(new, "kernel")[-len(new.kernel_shape) :]}
    if new.bias is not None:
        shapes["bias_shape"] = _axes(new, "bias")[-len(new.bias_shape) :]
    return shapes


def _conv(old: Any, new: Any) -> dict[str, Any]:
    # The number of groups can't be told from the arrays: it is searched for, and set
    # before this.
    axes = _axes(new, "kernel")[-len(new.kernel_shape) :]
    return {
        "kernel_shape": axes,
        "in_features": axes[-2] * new.feature_group_count,
        "out_features": axes[-1],
    }


def _conv_transpose(old: Any, new: Any) -> dict[str, Any]:
    axes = _axes(new, "kernel")[-len(new.kernel_shape) :]
    inputs, outputs = axes[-2:][::-1] if new.transpose_kernel else axes[-2:]
    return {"kernel_shape": axes, "in_features": inputs, "out_features": outputs}


def _norm(old: Any, new: Any) -> dict[str, Any]:
    for name in ("mean", "scale", "bias"):
        if getattr(new, name, None) is not None and isinstance(old.num_features, int):
            return {"num_features": _axes(new, name)[-1]}
    return {}


def _attention(old: Any, new: Any) -> dict[str, Any]:
    inputs, heads, dim = _axes(new.query, "kernel")[-3:]
    kv_inputs, kv_heads, _ = _axes(new.key, "kernel")[-3:]
    outputs = new.out.out_features
    return {
        "in_features": inputs,
        "in_kv_features": kv_inputs,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": dim,
        "qkv_features": heads * dim,
        "out_features": outputs[0] if isinstance(old.out_features, int) else outputs,
    }


def _unequal_heads(module: Any) -> dict[str, str]:
    dims = [_axes(getattr(module, n), "kernel")[-1] for n in ("query", "value")]
    if dims[0] == dims[1]:
        return {}
    why = f"queries and keys have {dims[0]} per head, values have {dims[1]}"
    return {"head_dim": why, "qkv_features": why}


def _lstm(old: Any, new: Any) -> dict[str, Any]:
    return {
        "in_features": _axes(new.ii, "kernel")[-2],
        "hidden_features": _axes(new.hi, "kernel")[-2],
    }


def _cell(old: Any, new: Any) -> dict[str, Any]:
    return {
        "in_features": _axes(new.dense_i, "kernel")[-2],
        "hidden_features": _axes(new.dense_h, "kernel")[-2],
    }


def register_layers() -> None:
    """The layers of NNX whose sizes stand beside their arrays."""
    rules = {
        nnx.Linear: axes_rule(in_features=("kernel", -2), out_features=("kernel", -1)),
        nnx.LinearGeneral: _linear_general,
        nnx.Einsum: _einsum,
        nnx.Conv: _conv,
        nnx.ConvTranspose: _conv_transpose,
        nnx.Embed: axes_rule(
            num_embeddings=("embedding", -2), features=("embedding", -1)
        ),
        nnx.BatchNorm: _norm,
        nnx.LayerNorm: _norm,
        nnx.RMSNorm: _norm,
        nnx.InstanceNorm: _norm,
        nnx.MultiHeadAttention: _attention,
        nnx.LoRA: axes_rule(in_features=("lora_a", -2), out_features=("lora_b", -1)),
        nnx.LSTMCell: _lstm,
        nnx.OptimizedLSTMCell: _cell,
        nnx.SimpleCell: _cell,
        nnx.GRUCell: _cell,
    }
    for cls, rule in rules.items():
        register_statics(cls, rule)
    register_initials(nnx.BatchNorm, mean=0.0, var=1.0)
    register_untrue(nnx.MultiHeadAttention, _unequal_heads)
