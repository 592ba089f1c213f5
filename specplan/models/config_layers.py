"""What each layer of a config.json consists of: attention, windows, compressed rows, states, experts."""

from __future__ import annotations

from typing import Any

from specplan.arch import LatentArch, LayerType, LinearAttentionArch, MambaArch, MlpType, MoeArch
from specplan.arch_checks import MAX_LAYERS
from specplan.errors import InputError
from specplan.families import Family
from specplan.models.config_reader import ConfigReader

#: Names that published configs use, by ours.
_SPELLINGS: dict[Any, LayerType] = {
    "full_attention": "full_attention",
    "attention": "full_attention",
    "sliding_attention": "sliding_attention",
    "linear_attention": "linear_attention",
    "mamba": "mamba",
    "hybrid": "hybrid",
}


def _num_layers(reader: ConfigReader) -> int:
    layers = reader.integer("num_hidden_layers")
    if not 1 <= layers <= MAX_LAYERS:
        raise InputError(f"{reader.where}: num_hidden_layers is {layers}, expected 1 to {MAX_LAYERS}")
    return layers


def layer_types(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    """What mixes tokens, layer by layer.

    Raises:
        InputError: ``layer_types`` of another length or with an unknown entry.
    """
    if family.mixer == "latent":
        return _all(reader, "latent_attention")
    if family.mixer == "linear":
        return _listed(reader) or _every(reader, reader.integer("full_attention_interval", 4), "linear_attention")
    if family.mixer == "mamba":
        return _mamba_layers(reader, family)
    return _windowed_layers(reader, family)


def _all(reader: ConfigReader, layer: LayerType) -> tuple[LayerType, ...]:
    return tuple(layer for _ in range(_num_layers(reader)))


def _listed(reader: ConfigReader) -> tuple[LayerType, ...] | None:
    types = reader.config.get("layer_types") or reader.config.get("layers_block_type")
    if types is None:
        return None
    layers = _num_layers(reader)
    if not isinstance(types, list) or len(types) != layers:
        raise InputError(f"{reader.where}: layer_types must be a list of {layers} entries, one per layer")
    unknown = [entry for entry in types if not isinstance(entry, str) or entry not in _SPELLINGS]
    if unknown:
        raise InputError(f"{reader.where}: layer_types has {unknown[0]!r}, expected one of {', '.join(_SPELLINGS)}")
    return tuple(_SPELLINGS[entry] for entry in types)


def _every(reader: ConfigReader, period: int, others: LayerType) -> tuple[LayerType, ...]:
    """The last of every ``period`` layers sees everything."""
    if period < 1:
        raise InputError(f"{reader.where}: a pattern of every {period} layers, expected at least 1")
    return tuple(others if (index + 1) % period else "full_attention" for index in range(_num_layers(reader)))


def _windowed_layers(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    layers = _num_layers(reader)
    full = _all(reader, "full_attention")
    present = "sliding_window" in reader.config
    window = reader.config.get("sliding_window") if present else family.default_window
    if family.windows == "none" or window is None:
        return full
    if family.windows == "if_used" and not reader.flag("use_sliding_window", False):
        return full
    listed = _listed(reader)
    if listed is not None:
        return listed
    if family.windows == "all":
        return _all(reader, "sliding_attention")
    if family.windows == "if_used":
        first = reader.integer("max_window_layers", layers)
        return tuple("sliding_attention" if index >= first else "full_attention" for index in range(layers))
    if family.windows == "alternate":
        return _every(reader, 2, "sliding_attention")
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", 6))
    return _every(reader, pattern, "sliding_attention")


def _mamba_layers(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    layers = _num_layers(reader)
    if family.model_type == "falcon_h1":
        return _all(reader, "hybrid")
    listed = _listed(reader)
    if listed is not None:
        return listed
    if family.model_type == "jamba":
        period, offset = reader.integer("attn_layer_period", 8), reader.integer("attn_layer_offset", 4)
        return tuple("full_attention" if _hits(reader, i, period, offset) else "mamba" for i in range(layers))
    indices = reader.config.get("attn_layer_indices") or []
    if not isinstance(indices, list):
        raise InputError(f"{reader.where}: attn_layer_indices is {indices!r}, expected a list")
    return tuple("full_attention" if index in indices else "mamba" for index in range(layers))


def _hits(reader: ConfigReader, index: int, period: int, offset: int) -> bool:
    if period < 1:
        raise InputError(f"{reader.where}: a pattern of every {period} layers, expected at least 1")
    return index % period == offset


def mlp_types(reader: ConfigReader, family: Family) -> tuple[MlpType, ...]:
    """Dense or experts, layer by layer."""
    layers = _num_layers(reader)
    moe = moe_of(reader, family)
    only: MlpType = "dense" if moe is None else "moe"
    if moe is None:
        return tuple(only for _ in range(layers))
    if family.experts == "deepseek":
        first = reader.integer("first_k_dense_replace", 0)
        return tuple("dense" if index < first else "moe" for index in range(layers))
    if family.experts == "jamba":
        period, offset = reader.integer("expert_layer_period", 2), reader.integer("expert_layer_offset", 1)
        return tuple("moe" if _hits(reader, i, period, offset) else "dense" for i in range(layers))
    if family.experts == "qwen":
        step, dense = reader.integer("decoder_sparse_step", 1), reader.config.get("mlp_only_layers") or []
        if not isinstance(dense, list) or step < 1:
            raise InputError(f"{reader.where}: mlp_only_layers or decoder_sparse_step is not what it should be")
        return tuple("dense" if i in dense or (i + 1) % step else "moe" for i in range(layers))
    return tuple(only for _ in range(layers))


def moe_of(reader: ConfigReader, family: Family) -> MoeArch | None:
    """The experts, None for families and configs without any."""
    if family.experts in ("mixtral", "gpt_oss"):
        biased = family.experts == "gpt_oss"
        return MoeArch(
            num_experts=reader.integer("num_local_experts"),
            num_experts_per_tok=reader.integer("num_experts_per_tok", reader.integer("experts_per_token", 2)),
            moe_intermediate_size=reader.integer("intermediate_size"),
            router_bias=biased,
            expert_bias=biased,
        )
    if family.experts == "qwen":
        shared = reader.integer("shared_expert_intermediate_size", 0)
        return _moe(reader, shared, reader.flag("norm_topk_prob", family.mixer == "linear"))
    if family.experts == "deepseek":
        return _deepseek(reader, family)
    if family.experts == "jamba":
        num_experts = reader.integer("num_experts", 16)
        size = reader.integer("intermediate_size")
        return MoeArch(num_experts, reader.integer("num_experts_per_tok", 2), size) if num_experts > 1 else None
    if family.experts == "granite" and reader.integer("num_local_experts", 0) > 0:
        return MoeArch(
            num_experts=reader.integer("num_local_experts"),
            num_experts_per_tok=reader.integer("num_experts_per_tok"),
            moe_intermediate_size=reader.integer("intermediate_size"),
            shared_intermediate_size=reader.integer("shared_intermediate_size"),
        )
    return None


def _moe(reader: ConfigReader, shared: int, norm_topk_prob: bool) -> MoeArch:
    return MoeArch(
        num_experts=_num_experts(reader),
        num_experts_per_tok=reader.integer("num_experts_per_tok"),
        moe_intermediate_size=reader.integer("moe_intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=shared > 0,
        norm_topk_prob=norm_topk_prob,
    )


def _num_experts(reader: ConfigReader) -> int:
    """Under the published name, or the one that transformers 5 writes."""
    return reader.integer("num_experts" if "num_experts" in reader.config else "num_local_experts")


def _deepseek(reader: ConfigReader, family: Family) -> MoeArch | None:
    if reader.config.get("n_routed_experts") is None:
        return None
    size = reader.integer("moe_intermediate_size")
    return MoeArch(
        num_experts=reader.integer("n_routed_experts"),
        num_experts_per_tok=reader.integer("num_experts_per_tok"),
        moe_intermediate_size=size,
        shared_intermediate_size=size * reader.integer("n_shared_experts", 0),
        router_correction=family.model_type == "deepseek_v3",
        norm_topk_prob=reader.flag("norm_topk_prob", False),
    )


def latent_of(reader: ConfigReader, family: Family) -> LatentArch | None:
    """Latent attention, None for other families."""
    if family.mixer != "latent":
        return None
    return LatentArch(
        q_lora_rank=reader.integer("q_lora_rank", 0),
        kv_lora_rank=reader.integer("kv_lora_rank"),
        qk_nope_head_dim=reader.integer("qk_nope_head_dim"),
        qk_rope_head_dim=reader.integer("qk_rope_head_dim"),
        v_head_dim=reader.integer("v_head_dim"),
    )


def linear_of(reader: ConfigReader, family: Family) -> LinearAttentionArch | None:
    """Linear attention, None for other families."""
    if family.mixer != "linear":
        return None
    return LinearAttentionArch(
        num_key_heads=reader.integer("linear_num_key_heads", 16),
        num_value_heads=reader.integer("linear_num_value_heads", 32),
        key_head_dim=reader.integer("linear_key_head_dim", 128),
        value_head_dim=reader.integer("linear_value_head_dim", 128),
        conv_kernel=reader.integer("linear_conv_kernel_dim", 4),
    )


def mamba_of(reader: ConfigReader, family: Family) -> MambaArch | None:
    """State-space layers, None for other families."""
    if family.mixer != "mamba":
        return None
    hidden = reader.integer("hidden_size")
    inner = reader.integer("mamba_expand", 2) * hidden
    bias, projections = reader.flag("mamba_conv_bias", True), reader.flag("mamba_proj_bias", False)
    kernel = reader.integer("mamba_d_conv", 4)
    if family.model_type == "jamba":
        rank = reader.config.get("mamba_dt_rank", "auto")
        dt_rank = -(-hidden // 16) if rank == "auto" else reader.integer("mamba_dt_rank")
        state = reader.integer("mamba_d_state", 16)
        return MambaArch(1, inner, state, kernel, dt_rank=dt_rank, conv_bias=bias, proj_bias=projections)
    gated_norm = True
    if family.model_type == "falcon_h1":
        inner = reader.integer("mamba_d_ssm", inner)
        gated_norm = reader.flag("mamba_rms_norm", False)
    return MambaArch(
        2,
        inner,
        reader.integer("mamba_d_state", 256),
        kernel,
        num_heads=reader.integer("mamba_n_heads", 128),
        num_groups=reader.integer("mamba_n_groups", 1),
        conv_bias=bias,
        proj_bias=projections,
        inner_norm=gated_norm,
    )
