"""What the symbols of the formulas stand for: a model, a precision, a cache."""

from __future__ import annotations

import numpy as np

from specplan.arch import LatentArch, LinearAttentionArch, MambaArch, ModelArch, MoeArch
from specplan.caches.kv_formats import cache_format
from specplan.dtypes import float_bytes, weight_format
from specplan.formulas.bind import Value
from specplan.heads import Eagle3Head, Heads, MedusaHeads
from specplan.parallelism import Rank
from specplan.quantized.stored import StoredWeights

_NO_MOE = MoeArch(0, 0, 0)
_NO_LATENT = LatentArch(0, 0, 0, 0, 0)
_NO_LINEAR = LinearAttentionArch(0, 0, 0, 0, 0)
_NO_MAMBA = MambaArch(1, 0, 0, 0)
#: A model that is on one device.
_WHOLE: dict[str, Value] = {"x_i": 1, "x_h": 1, "x_p": 1, "t_p": 1, "m_b": 1}


def arch_values(arch: ModelArch) -> dict[str, Value]:
    """Values of the symbols that describe a model; what it does not have is 0."""
    return {
        "L": arch.num_hidden_layers,
        "h": arch.hidden_size,
        "V": arch.vocab_size,
        "t": int(arch.tie_word_embeddings),
        "n_n": arch.num_norms_per_layer,
        "n_b": int(arch.norm == "layer"),
        **_WHOLE,
        "V_p": arch.vocab_size,
        **_attention_values(arch),
        **_latent_values(arch.num_layers_of("latent_attention"), arch.latent or _NO_LATENT),
        **_linear_values(arch.num_layers_of("linear_attention"), arch.linear_attention or _NO_LINEAR),
        **_mamba_values(arch.num_layers_of("mamba", "hybrid"), arch.mamba or _NO_MAMBA),
        "L_d": arch.num_mlps_of("dense"),
        "x_d": int("dense" in arch.mlp_types),
        "I": arch.intermediate_size,
        "g_m": int(arch.gated_mlp),
        "b_m": int(arch.mlp_bias),
        **_moe_values(arch.num_mlps_of("moe"), arch.moe or _NO_MOE),
    }


def rank_values(rank: Rank) -> dict[str, Value]:
    """Values of the symbols that describe one rank's share of the target; of a model spread like it the same."""
    return {
        "x_i": int(rank.has_embedding),
        "x_h": int(rank.has_head),
        "x_p": int(rank.decides),
        "V_p": rank.vocab_size,
        "t_p": rank.tensor_parallel,
        "m_b": 1 + (rank.is_stage and not rank.has_head),
    }


def _attention_values(arch: ModelArch) -> dict[str, Value]:
    layers = arch.num_layers_of("full_attention", "sliding_attention", "hybrid")
    return {
        "L_a": layers,
        "x_a": int(layers > 0),
        "H": arch.num_attention_heads,
        "H_k": arch.num_key_value_heads,
        "d": arch.head_dim,
        "d_o": arch.rotary_dim,
        "n_o": arch.num_rope_tables,
        "g_q": int(arch.query_gate),
        "b_q": int(arch.qkv_bias),
        "b_o": int(arch.output_bias),
        "a_s": int(arch.attention_sinks),
        "q_h": int(arch.qk_norm == "head"),
        "q_f": int(arch.qk_norm == "full"),
    }


def _latent_values(layers: int, latent: LatentArch) -> dict[str, Value]:
    return {
        "L_m": layers,
        "f_q": int(latent.q_lora_rank > 0),
        "r_q": latent.q_lora_rank,
        "r_k": latent.kv_lora_rank,
        "d_n": latent.qk_nope_head_dim,
        "d_r": latent.qk_rope_head_dim,
        "d_v": latent.v_head_dim,
    }


def _linear_values(layers: int, linear: LinearAttentionArch) -> dict[str, Value]:
    return {
        "L_l": layers,
        "K_l": linear.num_key_heads,
        "H_l": linear.num_value_heads,
        "k_l": linear.key_head_dim,
        "v_l": linear.value_head_dim,
        "w_l": linear.conv_kernel,
    }


def _mamba_values(layers: int, mamba: MambaArch) -> dict[str, Value]:
    return {
        "L_s": layers,
        "e_s": mamba.inner_size,
        "n_s": mamba.state_size,
        "w_s": mamba.conv_kernel,
        "r_s": mamba.dt_rank,
        "H_s": mamba.num_heads,
        "G_s": mamba.num_groups,
        "m_1": int(mamba.version == 1),
        "m_2": int(mamba.version == 2),
        "b_c": int(mamba.conv_bias),
        "b_p": int(mamba.proj_bias),
        "n_i": int(mamba.inner_norm),
    }


def _moe_values(layers: int, moe: MoeArch) -> dict[str, Value]:
    return {
        "L_e": layers,
        "x_e": int(layers > 0),
        "E": moe.num_experts,
        "k_e": moe.num_experts_per_tok,
        "I_e": moe.moe_intermediate_size,
        "I_s": moe.shared_intermediate_size,
        "f_s": int(moe.shared_intermediate_size > 0),
        "g_s": int(moe.shared_gate),
        "b_r": int(moe.router_bias),
        "c_r": int(moe.router_correction),
        "b_e": int(moe.expert_bias),
    }


def precision_values(
    dtype: str, kv_dtype: str, stored: StoredWeights | None = None, on_cpu: bool = False
) -> dict[str, Value]:
    """Values of the symbols that describe element sizes, and what the kernels for them need."""
    weights = weight_format(dtype, stored)
    activation_bytes = float_bytes(weights.compute_dtype)
    cache = cache_format(kv_dtype, activation_bytes)
    return {
        "s": activation_bytes,
        "k_w": weights.layers.bits,
        "s_c": weights.layers.scale_bytes,
        "k_o": weights.head.bits,
        "s_o": weights.head.scale_bytes,
        "s_v": weights.stored.vector_bytes if weights.stored is not None else activation_bytes,
        "k_b": cache.bits,
        "k_s": cache.scale_bytes,
        "x_s": int(cache.scale_bytes > 0),
        "f_h": int(activation_bytes < 4),
        "f_k": int(kv_dtype != weights.compute_dtype),
        "f_o": int(weights.allocates_outputs(on_cpu)),
        "f_r": int(weights.reads_contiguous(on_cpu)),
        "m_r": weights.least_rows(on_cpu),
    }


def head_values(heads: Heads) -> dict[str, Value]:
    """Values of the symbols that describe heads; what they do not have is left out."""
    if isinstance(heads, MedusaHeads):
        proposals: dict[str, Value] = {"K_h": heads.num_heads, "k_t": heads.topk}
        return proposals | {"n_r": heads.num_layers, "s_h": int(heads.shares_head), "n_f": 1}
    if isinstance(heads, Eagle3Head):
        return {"V_d": heads.draft_vocab_size, "e_o": int(heads.own_embedding)}
    return {"n_f": 1}


def slot_values(arch: ModelArch, slots: Value, rows: Value) -> dict[str, Value]:
    """Values of the symbols that describe a cache.

    A windowed layer keeps its window and what one pass writes: with window + rows - 1 slots, used in turn, no slot
    that a pass overwrites is one that any of its rows may still see, nor one that a rejected token was written over.

    Args:
        arch: the model.
        slots: S, tokens that a sequence can have, verify rows included.
        rows: tokens of one sequence that the largest pass writes.
    """
    window = arch.sliding_window or 0
    sliding = arch.num_sliding_layers
    everywhere = arch.num_layers_of("full_attention", "latent_attention", "hybrid")
    windowed = np.where(window < np.asarray(slots), sliding, 0)
    full = everywhere + sliding - windowed
    in_window = np.minimum(slots, window + np.asarray(rows) - 1)
    return {
        "S": slots,
        "L_w": _plain(windowed),
        "S_w": _plain(np.where(windowed > 0, in_window, 1)),
        "S_x": _plain(np.where(full > 0, slots, np.where(windowed > 0, in_window, 1))),
        "x_f": _plain((full > 0).astype(np.int64)),
        "x_w": _plain((windowed > 0).astype(np.int64)),
    }


def _plain(value: np.ndarray) -> Value:
    """A Python integer for a single number: formulas of numbers stay exact beyond 64 bits."""
    return int(value) if value.ndim == 0 else value
