"""A tiny config.json of every family, with every field that sizes it written out, and odd values for each field."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.conftest import LLAMA

_COMMON = {key: value for key, value in LLAMA.items() if key not in ("torch_dtype", "eos_token_id")} | {
    "attention_bias": False,
    "head_dim": 4,
    "num_hidden_layers": 4,
    "pad_token_id": None,
}
_GEMMA: dict[str, Any] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 8,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_QWEN: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
_EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_SPARSE: dict[str, Any] = {"decoder_sparse_step": 2, "mlp_only_layers": [1], "norm_topk_prob": True}
_LATENT: dict[str, Any] = {
    "head_dim": ...,
    "num_key_value_heads": 4,
    "q_lora_rank": 10,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
}
_MAMBA: dict[str, Any] = {
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
_MAMBA_2: dict[str, Any] = _MAMBA | {"mamba_n_heads": 8, "mamba_d_head": 4, "mamba_n_groups": 2, "mamba_chunk_size": 4}

_FIELDS: dict[str, dict[str, Any]] = {
    "llama": {"mlp_bias": False},
    "mistral": {"sliding_window": 6},
    "qwen2": _QWEN | {"head_dim": ...},
    "qwen3": _QWEN,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA | {"sliding_window_pattern": 2, "layer_types": ...},
    "phi3": {"sliding_window": 6},
    "gpt_neox": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "num_key_value_heads": ...,
        "head_dim": ...,
        "rms_norm_eps": ...,
        "rope_theta": ...,
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
    },
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": _EXPERTS | _SPARSE | {"use_sliding_window": False, "sliding_window": 6},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "qwen3_next": _EXPERTS
    | _SPARSE
    | {
        "shared_expert_intermediate_size": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 6,
        "linear_value_head_dim": 3,
        "linear_conv_kernel_dim": 3,
        "full_attention_interval": 2,
        "partial_rotary_factor": 0.5,
    },
    "jamba": _MAMBA
    | {
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 0,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_dt_rank": 3,
    },
    "bamba": _MAMBA_2 | {"attn_layer_indices": [1, 3], "mlp_bias": False},
    "granitemoehybrid": _MAMBA_2
    | {
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 20,
    },
    "falcon_h1": _MAMBA_2
    | {"mamba_d_ssm": 24, "mamba_d_head": 3, "mamba_rms_norm": True, "mlp_bias": False, "projectors_bias": False},
}

#: Config by family.
TINY: dict[str, dict[str, Any]] = {
    family: {key: value for key, value in (_COMMON | {"model_type": family} | fields).items() if value is not ...}
    for family, fields in _FIELDS.items()
}

#: Fields that decide no tensor's size.
_SIZELESS = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "rotary_pct", "rotary_emb_base", "partial_rotary_factor")
_IGNORED = ("model_type", "pad_token_id")
#: Fields of other families, that a config may carry all the same. Not sliding_window: where attention sees everything,
#: transformers' static cache drops what lies beyond it all the same.
_FOREIGN: dict[str, list[Any]] = {
    "attention_bias": [True],
    "mlp_bias": [True],
    "projectors_bias": [True],
    "head_dim": [8, None],
    "num_key_value_heads": [1, 4, None],
    "use_sliding_window": [True],
    "layer_types": [["sliding_attention"] * 4, ["full_attention"] * 4],
    "layers_block_type": [["attention"] * 4],
    "attn_layer_indices": [[0]],
    "num_local_experts": [3],
    "n_shared_experts": [1],
}


def tiny_config(family: str, **changes: Any) -> dict[str, Any]:
    """The family's config, changed; a field set to ``...`` is left out."""
    config = copy.deepcopy(TINY[family]) | changes
    return {key: value for key, value in config.items() if value is not ...}


def odd_changes(family: str) -> Iterator[tuple[str, Any]]:
    """Every field that sizes the family, absent, null, or with another value that a config may have."""
    for field, value in TINY[family].items():
        if field not in (*_SIZELESS, *_IGNORED):
            yield from ((field, odd) for odd in (..., None, *_odd(value)))
    for field, values in _FOREIGN.items():
        yield from ((field, value) for value in values if field not in TINY[family])


def _odd(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return tuple(dict.fromkeys(odd for odd in (0, 1, 2, 3, 2 * value) if odd != value))
    if isinstance(value, list):
        return (value[::-1], [], value[:-1])
    return ("auto",)
