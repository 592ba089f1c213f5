"""The config that a transformers model is built from: a checkpoint's own, or one derived from an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specplan.arch import ModelArch, RopeScaling
from specplan.errors import InputError, UnsupportedError
from specplan.json_input import read_json
from specplan.plan import ModelInput
from specplan.profiles import read_profile

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
_MAX_CONFIG_BYTES = 16 << 20
#: What a checkpoint says about code, precision and kernels: the plan decides these, and no code but transformers' runs.
_NOT_TAKEN = ("auto_map", "architectures", "quantization_config", "torch_dtype", "dtype", "model_type")
#: Families whose config these fields describe; the others are counted from their own tensors only.
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "mixtral", "qwen3_moe")


def config_of(model: ModelInput) -> dict[str, Any]:
    """Fields of config.json of a plan's model: its own where there are any, else from its architecture.

    Raises:
        InputError: a config that describes another family than the plan.
        UnsupportedError: a GGUF file of a family that this module does not spell.
    """
    if model.kind == "folder":
        config = read_json(Path(model.reference) / "config.json", "config", _MAX_CONFIG_BYTES)
    elif model.kind == "profile":
        config = read_profile("models", model.reference)["config"]
    else:
        return transformers_config(model.arch)
    model_type = model.arch.model_type
    if not isinstance(config, dict) or config.get("model_type") != model_type:
        raise InputError(f"{model.reference}: its config does not describe a {model_type} model by itself")
    kept = {name: value for name, value in config.items() if name not in _NOT_TAKEN and not name.startswith("_")}
    return {"model_type": model_type, **kept}


def transformers_config(arch: ModelArch) -> dict[str, Any]:
    """Fields of config.json for an architecture.

    Raises:
        UnsupportedError: a family that this module does not spell.
    """
    if arch.model_type not in KNOWN:
        raise UnsupportedError(f"no transformers config is derived for {arch.model_type}")
    config: dict[str, Any] = {"model_type": arch.model_type, **{name: getattr(arch, name) for name in _FIELDS}}
    config |= {"attention_bias": arch.qkv_bias, "mlp_bias": arch.mlp_bias, "pad_token_id": 0, "eos_token_id": None}
    config |= {"rms_norm_eps": arch.rms_norm_eps}
    config["rope_parameters"] = _rope(arch.rope_theta, arch.rope_scaling)
    if arch.rotary_dim != arch.head_dim:
        config["rope_parameters"]["partial_rotary_factor"] = arch.rotary_dim / arch.head_dim
    if arch.model_type == "gemma3_text":
        full = config.pop("rope_parameters")
        local = _rope(arch.local_rope_theta or arch.rope_theta, None)
        config["rope_parameters"] = {"full_attention": full, "sliding_attention": local}
    if arch.model_type in ("gemma2", "gemma3_text"):
        config |= {"attn_logit_softcapping": arch.attention_softcap, "final_logit_softcapping": arch.logit_softcap}
        multiplier = arch.attention_multiplier
        config["query_pre_attn_scalar"] = arch.head_dim if multiplier is None else round(multiplier**-2)
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


def _rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Rotary parameters; divisors that a GGUF file carries are applied to the frequencies after loading."""
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling is None or scaling.rope_type == "factors":
        return plain
    scaled = plain | {"rope_type": scaling.rope_type, "factor": scaling.factor}
    if scaling.rope_type != "llama3":
        return scaled
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return scaled | {name: getattr(scaling, name) for name in names}
