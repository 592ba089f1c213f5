"""The kinds of matrices that libraries store, and their shapes [out, in].

Libraries keep query, key and value apart where our own runtime fuses them; some families fuse them too. A kind's part
is what stands before its dot. ``formulas/stored_weights.py`` has the same shapes as expressions.
"""

from __future__ import annotations

from specplan.arch import LatentArch, LinearAttentionArch, MambaArch, ModelArch, MoeArch

Shapes = dict[str, tuple[int, int]]


def matrix_shapes(arch: ModelArch) -> Shapes:
    """Shapes by kind: every kind that a model of this architecture could have, fused or not."""
    h = arch.hidden_size
    shapes: Shapes = {"embedding": (arch.vocab_size, h), "head": (arch.vocab_size, h)}
    q, kv = arch.num_attention_heads * arch.head_dim, arch.num_key_value_heads * arch.head_dim
    if arch.num_layers_of("full_attention", "sliding_attention", "hybrid"):
        shapes |= {"attention.q": (q * (1 + arch.query_gate), h), "attention.k": (kv, h), "attention.v": (kv, h)}
        shapes |= {"attention.qkv": (arch.qkv_size, h), "attention.o": (h, q)}
    if arch.latent is not None:
        shapes |= _latent(arch.latent, arch.num_attention_heads, h)
    if arch.linear_attention is not None:
        shapes |= _linear(arch.linear_attention, h)
    if arch.mamba is not None:
        shapes |= _mamba(arch.mamba, h)
    if arch.num_mlps_of("dense"):
        shapes |= _gated("mlp", arch.intermediate_size, h)
    if arch.moe is not None:
        shapes |= _experts(arch.moe, h)
    return shapes


def _gated(part: str, inner: int, h: int) -> Shapes:
    return {
        f"{part}.gate": (inner, h),
        f"{part}.up": (inner, h),
        f"{part}.gate_up": (2 * inner, h),
        f"{part}.down": (h, inner),
    }


def _experts(moe: MoeArch, h: int) -> Shapes:
    shared = _gated("shared", moe.shared_intermediate_size, h) if moe.shared_intermediate_size else {}
    return _gated("experts", moe.moe_intermediate_size, h) | shared


def _latent(latent: LatentArch, heads: int, h: int) -> Shapes:
    width = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    compressed = {"latent.q_a": (latent.q_lora_rank, h), "latent.q_b": (width, latent.q_lora_rank)}
    return (compressed if latent.q_lora_rank else {"latent.q": (width, h)}) | {
        "latent.kv_a": (latent.kv_lora_rank + latent.qk_rope_head_dim, h),
        "latent.kv_b": (heads * (latent.qk_nope_head_dim + latent.v_head_dim), latent.kv_lora_rank),
        "latent.o": (h, heads * latent.v_head_dim),
    }


def _linear(linear: LinearAttentionArch, h: int) -> Shapes:
    keys, values = linear.num_key_heads * linear.key_head_dim, linear.num_value_heads * linear.value_head_dim
    return {
        "linear.qkvz": (2 * keys + 2 * values, h),
        "linear.ba": (2 * linear.num_value_heads, h),
        "linear.out": (h, values),
    }


def _mamba(mamba: MambaArch, h: int) -> Shapes:
    inner = mamba.inner_size
    if mamba.version == 1:
        step = {"mamba.x": (mamba.dt_rank + 2 * mamba.state_size, inner), "mamba.dt": (inner, mamba.dt_rank)}
        return {"mamba.in": (2 * inner, h), "mamba.out": (h, inner)} | step
    incoming = 2 * inner + 2 * mamba.num_groups * mamba.state_size + mamba.num_heads
    return {"mamba.in": (incoming, h), "mamba.out": (h, inner)}


def num_vector_elements(arch: ModelArch) -> tuple[int, int]:
    """Elements that are no matrix: (norms, biases, routers, convolutions; those that are float32 whatever the rest is).

    ``formulas/weights.py`` has them as expressions.
    """
    h, d, width = arch.hidden_size, arch.head_dim, arch.num_attention_heads * arch.head_dim
    kv_width = arch.num_key_value_heads * d
    attention = arch.qkv_bias * arch.qkv_size + arch.output_bias * h + arch.attention_sinks * arch.num_attention_heads
    attention += {"head": 2 * d, "full": width + kv_width, None: 0}[arch.qk_norm]
    norms = (arch.num_hidden_layers * arch.num_norms_per_layer + 1) * (1 + (arch.norm == "layer")) * h
    dense = arch.mlp_bias * ((1 + arch.gated_mlp) * arch.intermediate_size + h)
    found = norms + attention * arch.num_layers_of("full_attention", "sliding_attention", "hybrid")
    found += dense * arch.num_mlps_of("dense") + _state_elements(arch)
    layers = arch.num_mlps_of("moe")
    if arch.moe is None or not layers:
        return found, 0
    moe = arch.moe
    biases = moe.expert_bias * moe.num_experts * (2 * moe.moe_intermediate_size + h)
    router = moe.num_experts * (h + moe.router_bias) + moe.shared_gate * h
    return found + layers * (router + biases), layers * moe.router_correction * moe.num_experts


def _state_elements(arch: ModelArch) -> int:
    """Vectors of layers with compressed rows or with states."""
    found = 0
    if arch.latent is not None:
        norms = arch.latent.q_lora_rank + arch.latent.kv_lora_rank
        found += arch.num_layers_of("latent_attention") * norms
    if arch.linear_attention is not None:
        linear = arch.linear_attention
        channels = 2 * linear.num_key_heads * linear.key_head_dim + linear.num_value_heads * linear.value_head_dim
        each = channels * linear.conv_kernel + 2 * linear.num_value_heads + linear.value_head_dim
        found += arch.num_layers_of("linear_attention") * each
    if arch.mamba is not None:
        found += arch.num_layers_of("mamba", "hybrid") * _mamba_elements(arch.mamba, arch.hidden_size)
    return found


def _mamba_elements(mamba: MambaArch, h: int) -> int:
    inner, states = mamba.inner_size, mamba.num_groups * mamba.state_size
    channels = inner + (2 * states if mamba.version == 2 else 0)
    incoming = 2 * inner + (2 * states + mamba.num_heads if mamba.version == 2 else 0)
    found = channels * (mamba.conv_kernel + mamba.conv_bias) + mamba.proj_bias * (incoming + h)
    if mamba.version == 1:
        return found + inner * (2 + mamba.state_size) + mamba.inner_norm * (mamba.dt_rank + 2 * mamba.state_size)
    return found + 3 * mamba.num_heads + mamba.inner_norm * inner
