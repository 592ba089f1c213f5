"""A transformers config from an architecture: what the independent count of weights is built from."""

from __future__ import annotations

from typing import Any

from specplan.arch import ModelArch
from specplan.errors import UnsupportedError

_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
#: Families whose config these fields describe; the others are counted from their own tensors only.
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "mixtral", "qwen3_moe")


def transformers_config(arch: ModelArch) -> dict[str, Any]:
    """Fields of config.json for an architecture, as far as they size anything.

    Raises:
        UnsupportedError: a family that this module does not spell.
    """
    if arch.model_type not in KNOWN:
        raise UnsupportedError(f"no transformers config is derived for {arch.model_type}")
    config: dict[str, Any] = {"model_type": arch.model_type, **{name: getattr(arch, name) for name in _FIELDS}}
    config |= {"attention_bias": arch.qkv_bias, "mlp_bias": arch.mlp_bias, "pad_token_id": 0, "eos_token_id": None}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": arch.rope_theta}
    if arch.rotary_dim != arch.head_dim:
        config["rope_parameters"]["partial_rotary_factor"] = arch.rotary_dim / arch.head_dim
    if arch.model_type == "gemma3_text":
        full = config.pop("rope_parameters")
        local = {"rope_type": "default", "rope_theta": arch.local_rope_theta or arch.rope_theta}
        config["rope_parameters"] = {"full_attention": full, "sliding_attention": local}
    if arch.sliding_window is not None:
        config |= {"sliding_window": arch.sliding_window, "use_sliding_window": True}
    if arch.model_type not in ("mistral", "mixtral", "phi3", "llama", "olmo2"):
        config["layer_types"] = list(arch.layer_types)
    if arch.sliding_window is None and arch.model_type in ("mistral", "mixtral", "phi3"):
        config["sliding_window"] = None
    if arch.model_type == "mixtral" and arch.moe is not None:
        config |= {
            "num_local_experts": arch.moe.num_experts,
            "num_experts_per_tok": arch.moe.num_experts_per_tok,
            "intermediate_size": arch.moe.moe_intermediate_size,
        }
    if arch.model_type == "qwen3_moe" and arch.moe is not None:
        config |= {
            "num_experts": arch.moe.num_experts,
            "num_experts_per_tok": arch.moe.num_experts_per_tok,
            "moe_intermediate_size": arch.moe.moe_intermediate_size,
            "mlp_only_layers": [index for index, mlp in enumerate(arch.mlp_types) if mlp == "dense"],
        }
    return config
