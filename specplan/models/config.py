"""config.json to ``ModelArch``, without transformers (its AutoConfig imports torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from specplan.arch import ModelArch, RopeScaling
from specplan.arch_checks import check_sizes
from specplan.dtypes import canonical_dtype
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family, family_of
from specplan.models.config_layers import latent_of, layer_types, linear_of, mamba_of, mlp_types, moe_of
from specplan.models.config_reader import ConfigReader
from specplan.models.quantization import read_quantization
from specplan.models.storage import stored_weights

#: Scalings that size nothing: planned, not run. ``su`` is longrope's first name.
_PLANNED_SCALINGS: dict[Any, Literal["yarn", "longrope", "dynamic"]] = {
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "dynamic": "dynamic",
}


def read_config(config: Any, where: str) -> ModelArch:
    """Translate the content of a config.json.

    Args:
        config: what ``json.loads`` gave.
        where: the file, for error messages.

    Raises:
        InputError: a missing, mistyped or absurd field.
        UnsupportedError: an architecture, activation, rope or quantization that specplan does not model.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"{where}: expected a JSON object with a model's configuration")
    reader = ConfigReader(config, where)
    family = family_of(reader.text("model_type"), where)
    _refuse_unmodelled(config, where)
    heads = reader.integer("num_attention_heads")
    hidden = reader.integer("hidden_size")
    rope = _rope_parameters(reader)
    head_dim = _or_default(reader, "head_dim", family.default_head_dim, _divide(hidden, heads, where))
    layers = layer_types(reader, family)
    arch = ModelArch(
        model_type=family.model_type,
        num_hidden_layers=reader.integer("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=_intermediate_size(reader, family),
        num_attention_heads=heads,
        num_key_value_heads=_or_default(reader, "num_key_value_heads", family.default_kv_heads, heads),
        head_dim=head_dim,
        vocab_size=reader.integer("vocab_size"),
        max_position_embeddings=reader.integer("max_position_embeddings"),
        tie_word_embeddings=reader.flag("tie_word_embeddings", family.tied_by_default),
        layer_types=layers,
        mlp_types=mlp_types(reader, family),
        qkv_bias=_bias(reader, family, family.qkv_bias),
        output_bias=_bias(reader, family, family.output_bias),
        mlp_bias=reader.flag("mlp_bias", False) if family.mlp_bias is None else family.mlp_bias,
        gated_mlp=family.gated_mlp,
        query_gate=family.mixer == "linear",
        attention_sinks=family.experts == "gpt_oss",
        qk_norm=family.qk_norm,
        norm=family.norm,
        norm_offset=family.norm_offset,
        norm_placement=_norm_placement(reader, family),
        hidden_act=_activation(reader, family),
        rms_norm_eps=reader.number("rms_norm_eps", reader.number("layer_norm_eps", _default_epsilon(family))),
        rope_theta=_rope_theta(reader, rope, family),
        local_rope_theta=_local_rope_theta(reader, family),
        rotary_dim=_rotary_dim(reader, rope, head_dim),
        rope_scaling=_rope_scaling(rope, where),
        attention_multiplier=_attention_multiplier(reader),
        attention_softcap=_softcap(reader, "attn_logit_softcapping", family, 50.0),
        logit_softcap=_softcap(reader, "final_logit_softcapping", family, 30.0),
        embedding_multiplier=float(hidden) ** 0.5 if family.norm_placement == "sandwich" else 1.0,
        sliding_window=_window(reader, family) if "sliding_attention" in layers else None,
        moe=moe_of(reader, family),
        latent=latent_of(reader, family),
        linear_attention=linear_of(reader, family),
        mamba=mamba_of(reader, family),
        dtype=_dtype(config),
        eos_token_ids=_token_ids(config.get("eos_token_id"), where),
    )
    check_sizes(arch, where)
    quantization = read_quantization(config, where)
    return arch if quantization is None else dataclasses.replace(arch, stored=stored_weights(arch, quantization))


def _refuse_unmodelled(config: Mapping[str, Any], where: str) -> None:
    if config.get("auto_map"):
        raise UnsupportedError(f"{where}: auto_map names remote code, which specplan never runs")


def _or_default(reader: ConfigReader, field: str, absent: int | None, null: int) -> int:
    """Transformers' rule: an absent field takes the family's default, an explicit null follows from other fields."""
    if field not in reader.config and absent is not None:
        return absent
    return reader.integer(field, null)


def _divide(hidden: int, heads: int, where: str) -> int:
    if heads < 1:
        raise InputError(f"{where}: num_attention_heads is {heads}, expected at least 1")
    return hidden // heads


def _bias(reader: ConfigReader, family: Family, fixed: bool | None) -> bool:
    return reader.flag("attention_bias", family.attention_bias_default) if fixed is None else fixed


def _intermediate_size(reader: ConfigReader, family: Family) -> int:
    """Of the dense layers; in some families of experts the field speaks of the experts or of the shared one."""
    if family.experts in ("mixtral", "gpt_oss"):
        return 0
    return reader.integer("shared_intermediate_size" if family.experts == "granite" else "intermediate_size")


def _norm_placement(reader: ConfigReader, family: Family) -> Literal["pre", "post", "sandwich", "parallel"]:
    if family.norm_placement == "parallel" and not reader.flag("use_parallel_residual", True):
        return "pre"
    return family.norm_placement


def _default_epsilon(family: Family) -> float:
    return 1e-5 if family.model_type in ("gpt_neox", "phi3", "olmo2", "mixtral", "bamba", "falcon_h1") else 1e-6


def _attention_multiplier(reader: ConfigReader) -> float | None:
    if reader.config.get("attention_multiplier") is not None:
        return reader.number("attention_multiplier", 1.0)
    if reader.config.get("query_pre_attn_scalar") is None:
        return None
    scalar = reader.number("query_pre_attn_scalar", 256.0)
    if not 0 < scalar < 1e6:
        raise InputError(f"{reader.where}: query_pre_attn_scalar is {scalar!r}, expected a positive number")
    return float(scalar**-0.5)


def _softcap(reader: ConfigReader, field: str, family: Family, default: float) -> float | None:
    """Gemma 2 bounds scores and logits unless its config says null; in other families the field is absent or null."""
    if reader.config.get(field) is None and (field in reader.config or family.model_type != "gemma2"):
        return None
    return reader.number(field, default)


def _window(reader: ConfigReader, family: Family) -> int:
    return reader.integer("sliding_window", family.default_window)


def _local_rope_theta(reader: ConfigReader, family: Family) -> float | None:
    """Gemma 3's windowed layers have a base of their own."""
    if family.model_type != "gemma3_text":
        return None
    local = reader.number("rope_local_base_freq", 10000.0)
    rope = reader.config.get("rope_parameters")
    sliding = rope.get("sliding_attention") if isinstance(rope, Mapping) else None
    if isinstance(sliding, Mapping):
        local = ConfigReader(sliding, f"{reader.where}: rope_parameters.sliding_attention").number("rope_theta", local)
    return local


def _rope_theta(reader: ConfigReader, rope: Mapping[str, Any], family: Family) -> float:
    named = reader.number("rope_theta", reader.number("rotary_emb_base", family.default_rope_theta))
    return ConfigReader(rope, reader.where).number("rope_theta", named)


def _rotary_dim(reader: ConfigReader, rope: Mapping[str, Any], head_dim: int) -> int:
    """Some families rotate only the front of each head."""
    share = reader.number("partial_rotary_factor", reader.number("rotary_pct", 1.0))
    share = ConfigReader(rope, reader.where).number("partial_rotary_factor", share)
    if not 0 < share <= 1:
        raise InputError(f"{reader.where}: partial_rotary_factor is {share!r}, expected a share above 0, at most 1")
    return int(head_dim * share)


def _activation(reader: ConfigReader, family: Family) -> str:
    name = reader.text("hidden_activation", reader.text("hidden_act", family.activations[0]))
    if name not in family.activations:
        raise UnsupportedError(f"{reader.where}: activation {name!r} is not supported for {family.model_type}")
    return name


def _rope_parameters(reader: ConfigReader) -> Mapping[str, Any]:
    """The rope fields, under their name before transformers 5 (rope_scaling) or since (rope_parameters)."""
    rope = reader.config.get("rope_parameters") or reader.config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise InputError(f"{reader.where}: rope_scaling is {rope!r}, expected an object")
    if "full_attention" in rope:  # one set per layer type; global layers decide theta
        rope = rope["full_attention"]
    if not isinstance(rope, Mapping):
        raise InputError(f"{reader.where}: rope_parameters.full_attention is {rope!r}, expected an object")
    return rope


def _rope_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    reader = ConfigReader(rope, f"{where}: rope_scaling")
    if kind == "linear":
        return RopeScaling("linear", reader.number("factor", 1.0))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            reader.number("factor", 8.0),
            reader.number("low_freq_factor", 1.0),
            reader.number("high_freq_factor", 4.0),
            reader.integer("original_max_position_embeddings", 8192),
        )
    if kind in _PLANNED_SCALINGS:
        return RopeScaling(_PLANNED_SCALINGS[kind], reader.number("factor", 1.0))
    known = ", ".join(("default", "linear", "llama3", *_PLANNED_SCALINGS))
    raise UnsupportedError(f"{where}: rope type {kind!r} is not supported: one of {known}")


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype", config.get("torch_dtype"))
    return canonical_dtype(name) if isinstance(name, str) else None


def _token_ids(value: Any, where: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise InputError(f"{where}: eos_token_id is {value!r}, expected integers")
    return tuple(ids)
