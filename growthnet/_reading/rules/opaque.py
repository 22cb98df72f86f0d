"""What growthnet can't look into, and what it needn't."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..events import Value
from ..reader import opaque, Reader, Rule


_KERNEL = "a kernel that growthnet can't look into; register a rule with "
_KERNEL += "`growthnet.register_primitive`"
_HOST = "a function on the host that growthnet can't look into; register a rule with "
_HOST += "`growthnet.register_primitive`"
_REFERENCE = "it works on a mutable array; growthnet reads programs of values"
_SPARSE = "it works on a sparse array, whose entries are found by index"
_QUEUE = "a collective in two steps, of which neither alone can be read"
_LAYOUT = "a product with scales for blocks of units"

_REASONS = {
    _KERNEL: "pallas_call ffi_call tpu_custom_call mosaic_gpu_p core_map mpmd_map "
    "cudnn_fusion custom_fusion fusible call_exported call_hi_primitive "
    "call_hi_primitive_linearized dot_product_attention_fwd "
    "dot_product_attention_fwd_wrapper dot_product_attention_bwd "
    "dot_product_attention_bwd_wrapper dot_product_attention_fp8_fwd "
    "dot_product_attention_fp8_fwd_wrapper dot_product_attention_fp8_bwd "
    "dot_product_attention_fp8_bwd_wrapper rnn_fwd rnn_bwd spsolve noinline vprim",
    _HOST: "pure_callback io_callback buffer_callback",
    _REFERENCE: "new_ref empty_ref get swap addupdate freeze accum_grad_in_ref "
    "run_state run_scoped pin unpin create_linear new_box box_get box_set new_log "
    "log_read log_extend maybe_set",
    _SPARSE: "bcoo_dot_general bcoo_dot_general_sampled bcoo_extract bcoo_fromdense "
    "bcoo_sort_indices bcoo_spdot_general bcoo_sum_duplicates bcoo_todense "
    "bcoo_transpose bcsr_dot_general bcsr_extract bcsr_fromdense bcsr_todense "
    "coo_fromdense coo_matmat coo_matvec coo_spmm coo_spmv coo_todense csr_fromdense "
    "csr_matmat csr_matvec csr_spmm csr_spmv csr_todense todense",
    _QUEUE: "psum_start psum_done psum_invariant_start unreduced_psum_start "
    "all_gather_start all_gather_done all_gather_reduced_start all_to_all_start "
    "all_to_all_done reduce_scatter_start reduce_scatter_done ppermute_start "
    "ppermute_done pbroadcast_start pbroadcast_done unreduced_reduce_scatter_start "
    "psend precv",
    _LAYOUT: "scaled_dot scaled_matmul scaled_matmul_wrapper",
    "pieces of unequal sizes go to other devices": "ragged_all_to_all",
    "its shape depends on how many processes there are": "global_array_to_host_local_"
    "array host_local_array_to_global_array",
    "it is a stand-in for a derivative that isn't there": "unreachable",
    "its type is one of the caller's own": "to_edtype from_edtype",
    "it turns a size into a number": "dimension_size",
}

OPAQUE: Mapping[str, str] = MappingProxyType(
    {name: reason for reason, names in _REASONS.items() for name in names.split()}
)
"""Primitives whose axes are all rigid, with the reason that users see."""


def _rigid(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    name = eqn.primitive.name
    given = eqn.params.get("target_name") or eqn.params.get("name")
    of = f" ({given})" if isinstance(given, str) and given else ""
    return opaque(reader, values, f"`{name}`{of}: {OPAQUE[name]}")


def nothing(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Looks at its arguments, as a print does, and gives nothing back."""
    del reader, values
    assert not eqn.outvars, eqn.primitive.name
    return []


def io_callback(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Harmless if nothing comes back."""
    if not eqn.outvars:
        return []
    return _rigid(reader, eqn, values)


def token(reader: Reader, eqn: Any, values: tuple[Value, ...]) -> list[Value]:
    """Tokens order side effects; they hold no numbers."""
    return opaque(reader, values[:0], "") if eqn.outvars else []


OPAQUES: dict[str, Rule] = {
    **dict.fromkeys(OPAQUE, _rigid),
    **dict.fromkeys(
        "debug_callback debug_print inspect_sharding check dce_sink shape_assertion "
        "assert_consumed_value consume free_ref".split(),
        nothing,
    ),
    "io_callback": io_callback,
    **dict.fromkeys("create_token after_all".split(), token),
}
