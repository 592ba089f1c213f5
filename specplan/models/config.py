"""config.json to ``ModelArch``, without transformers (its AutoConfig imports torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from specplan.arch import ModelArch
from specplan.arch_checks import check_sizes
from specplan.dtypes import canonical_dtype
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family, family_of
from specplan.models.config_layers import layer_types, mlp_types, num_layers_of
from specplan.models.config_parts import latent_of, linear_of, mamba_of, moe_of
from specplan.models.config_reader import ConfigReader
from specplan.models.config_rope import local_rope_theta, rope_parameters, rope_scaling, rope_theta, rotary_dim
from specplan.models.modelopt_file import NAME, quantization_section


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
    _refuse_unmodelled(config, family, where)
    hidden, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    rope, head_dim = rope_parameters(reader), _head_dim(reader, family, hidden, heads)
    layers = layer_types(reader, family)
    arch = ModelArch(
        model_type=family.model_type,
        num_hidden_layers=num_layers_of(reader),
        hidden_size=hidden,
        intermediate_size=_intermediate_size(reader, family),
        num_attention_heads=heads,
        num_key_value_heads=_key_value_heads(reader, family, heads),
        head_dim=head_dim,
        vocab_size=reader.integer("vocab_size"),
        max_position_embeddings=reader.integer("max_position_embeddings", family.default_context),
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
        rms_norm_eps=reader.positive("rms_norm_eps", reader.positive("layer_norm_eps", family.default_epsilon)),
        rope_theta=rope_theta(reader, rope, family),
        local_rope_theta=local_rope_theta(reader, family),
        rotary_dim=rotary_dim(reader, rope, family, head_dim),
        rope_scaling=rope_scaling(rope),
        attention_multiplier=_attention_multiplier(reader, family),
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
    if quantization_section(config) is None and NAME not in config:
        return arch
    from specplan.models.quantization import read_quantization  # late: most models are not quantized
    from specplan.models.storage import stored_weights

    quantization = read_quantization(config, where)
    return arch if quantization is None else dataclasses.replace(arch, stored=stored_weights(arch, quantization))


def _refuse_unmodelled(config: Mapping[str, Any], family: Family, where: str) -> None:
    if config.get("auto_map") and not _names_own_classes(config["auto_map"], family):
        raise UnsupportedError(f"{where}: auto_map names remote code, which specplan never runs")
    if config.get("use_bidirectional_attention"):
        raise UnsupportedError(f"{where}: use_bidirectional_attention is set: this is no decoder")


def _names_own_classes(auto_map: Any, family: Family) -> bool:
    """Whether the code that a config names is that of the family itself, from before libraries had it."""
    if family.classes is None or not isinstance(auto_map, Mapping):
        return False
    names = [name.rpartition(".")[2] if isinstance(name, str) else "" for name in auto_map.values()]
    return all(name.startswith(family.classes) for name in names)


def _or_default(reader: ConfigReader, field: str, absent: int | None, null: int) -> int:
    """Transformers' rule: an absent field takes the family's default, an explicit null follows from other fields."""
    if field not in reader.config and absent is not None:
        return absent
    return reader.size(field, null)


def _head_dim(reader: ConfigReader, family: Family, hidden: int, heads: int) -> int:
    """Of queries and keys; in latent attention of their rotated part, as transformers has it."""
    if family.mixer == "latent":
        return reader.size("qk_rope_head_dim")
    if family.multi_head:
        if hidden % heads:
            raise InputError(f"{reader.where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        return hidden // heads
    return _or_default(reader, "head_dim", family.default_head_dim, hidden // heads)


def _key_value_heads(reader: ConfigReader, family: Family, heads: int) -> int:
    if family.multi_head or family.mixer == "latent":
        return heads
    return _or_default(reader, "num_key_value_heads", family.default_kv_heads, heads)


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


def _attention_multiplier(reader: ConfigReader, family: Family) -> float | None:
    if family.model_type == "granitemoehybrid":
        return reader.positive("attention_multiplier", 1.0)
    if family.norm_placement != "sandwich":
        return None
    return float(reader.positive("query_pre_attn_scalar", 256.0) ** -0.5)


def _softcap(reader: ConfigReader, field: str, family: Family, default: float) -> float | None:
    """Gemma 2 bounds scores and logits unless its config says null, Gemma 3 when it does not; no other family does."""
    absent = default if family.model_type == "gemma2" else None
    if family.norm_placement != "sandwich" or reader.config.get(field, absent) is None:
        return None
    return reader.positive(field, default)


def _window(reader: ConfigReader, family: Family) -> int:
    return reader.integer("sliding_window", family.default_window)


def _activation(reader: ConfigReader, family: Family) -> str:
    field = "hidden_activation" if family.norm_placement == "sandwich" else "hidden_act"
    name = reader.text(field, family.activations[0])
    if name not in family.activations:
        raise UnsupportedError(f"{reader.where}: {field} {name!r} is not supported for {family.model_type}")
    return name


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype", config.get("torch_dtype"))
    return canonical_dtype(name) if isinstance(name, str) else None


def _token_ids(value: Any, where: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and abs(token) < 1 << 31 for token in ids):
        raise InputError(f"{where}: eos_token_id is {value!r}, expected token ids")
    return tuple(ids)
