"""The parts of a config.json's layers that need numbers of their own: experts, compressed rows, states."""

from __future__ import annotations

from specplan.arch import LatentArch, LinearAttentionArch, MambaArch, MoeArch
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family
from specplan.models.config_reader import ConfigReader

#: More experts than any model has, and more copies of the hidden size than any state space.
_MAX_EXPERTS = 1 << 14
_MAX_EXPAND = 64


def moe_of(reader: ConfigReader, family: Family) -> MoeArch | None:
    """The experts, None for families and configs without any.

    Raises:
        InputError: a missing, mistyped or absurd field.
    """
    if family.experts in ("mixtral", "gpt_oss"):
        biased = family.experts == "gpt_oss"
        return MoeArch(
            num_experts=_num_experts(reader, "num_local_experts", "num_experts"),
            num_experts_per_tok=_per_token(reader, reader.integer("experts_per_token", 4 if biased else 2)),
            moe_intermediate_size=reader.size("intermediate_size"),
            router_bias=biased,
            expert_bias=biased,
        )
    if family.experts == "qwen":
        return _qwen(reader, family)
    if family.experts == "deepseek":
        return _deepseek(reader, family)
    if family.experts == "jamba":
        num_experts = _num_experts(reader, "num_experts", "num_local_experts", default=16, least=0)
        size = reader.size("intermediate_size")
        return MoeArch(num_experts, _per_token(reader, 2), size) if num_experts > 1 else None
    if family.experts == "granite" and reader.size("num_local_experts", least=0, most=_MAX_EXPERTS) > 0:
        return MoeArch(
            num_experts=reader.size("num_local_experts", most=_MAX_EXPERTS),
            num_experts_per_tok=_per_token(reader),
            moe_intermediate_size=reader.size("intermediate_size"),
            shared_intermediate_size=reader.size("shared_intermediate_size"),
        )
    return None


def _num_experts(reader: ConfigReader, *names: str, default: int | None = None, least: int = 1) -> int:
    """Under any of its names: transformers 5 writes one for the other."""
    given = [name for name in names if reader.config.get(name) is not None] or [names[0]]
    counts = [reader.size(name, default, least=least, most=_MAX_EXPERTS) for name in given]
    if len(set(counts)) > 1:
        raise InputError(f"{reader.where}: {given[0]} is {counts[0]} and {given[1]} {counts[1]}")
    return counts[0]


def _per_token(reader: ConfigReader, default: int | None = None) -> int:
    return reader.size("num_experts_per_tok", default, most=_MAX_EXPERTS)


def _qwen(reader: ConfigReader, family: Family) -> MoeArch:
    """The shared expert and its gate exist in Qwen3-Next only."""
    shared = family.mixer == "linear"
    return MoeArch(
        num_experts=_num_experts(reader, "num_experts", "num_local_experts"),
        num_experts_per_tok=_per_token(reader),
        moe_intermediate_size=reader.size("moe_intermediate_size"),
        shared_intermediate_size=reader.size("shared_expert_intermediate_size", 512, least=0) if shared else 0,
        shared_gate=shared,
        norm_topk_prob=reader.flag("norm_topk_prob", shared),
    )


def _deepseek(reader: ConfigReader, family: Family) -> MoeArch:
    third = family.model_type == "deepseek_v3"
    size = reader.size("moe_intermediate_size")
    return MoeArch(
        num_experts=_num_experts(reader, "n_routed_experts", "num_experts", "num_local_experts"),
        num_experts_per_tok=_per_token(reader),
        moe_intermediate_size=size,
        shared_intermediate_size=size * reader.size("n_shared_experts", least=0, most=_MAX_EXPERTS),
        router_correction=third,
        norm_topk_prob=reader.flag("norm_topk_prob", third),
    )


def latent_of(reader: ConfigReader, family: Family) -> LatentArch | None:
    """Latent attention, None for other families."""
    if family.mixer != "latent":
        return None
    if reader.flag("mlp_bias", False):
        raise UnsupportedError(f"{reader.where}: mlp_bias is not supported for {family.model_type}")
    direct = "q_lora_rank" in reader.config and reader.config["q_lora_rank"] is None
    return LatentArch(
        q_lora_rank=0 if direct else reader.size("q_lora_rank", 1536),
        kv_lora_rank=reader.size("kv_lora_rank"),
        qk_nope_head_dim=reader.size("qk_nope_head_dim"),
        qk_rope_head_dim=reader.size("qk_rope_head_dim"),
        v_head_dim=reader.size("v_head_dim"),
    )


def linear_of(reader: ConfigReader, family: Family) -> LinearAttentionArch | None:
    """Linear attention, None for other families."""
    if family.mixer != "linear":
        return None
    keys, values = reader.size("linear_num_key_heads", 16), reader.size("linear_num_value_heads", 32)
    if values % keys:
        raise InputError(
            f"{reader.where}: linear_num_value_heads {values} is not a multiple of linear_num_key_heads {keys}"
        )
    return LinearAttentionArch(
        num_key_heads=keys,
        num_value_heads=values,
        key_head_dim=reader.size("linear_key_head_dim", 128),
        value_head_dim=reader.size("linear_value_head_dim", 128),
        conv_kernel=reader.size("linear_conv_kernel_dim", 4),
    )


def mamba_of(reader: ConfigReader, family: Family) -> MambaArch | None:
    """State-space layers, None for other families."""
    if family.mixer != "mamba":
        return None
    inner, kernel = _inner_size(reader, family), reader.size("mamba_d_conv", 4)
    conv_bias, proj_bias = reader.flag("mamba_conv_bias", True), reader.flag("mamba_proj_bias", False)
    if family.model_type == "jamba":
        auto = reader.config.get("mamba_dt_rank", "auto") == "auto"
        rank = -(-reader.size("hidden_size") // 16) if auto else reader.size("mamba_dt_rank")
        state = reader.size("mamba_d_state", 16)
        return MambaArch(1, inner, state, kernel, dt_rank=rank, conv_bias=conv_bias, proj_bias=proj_bias)
    falcon = family.model_type == "falcon_h1"
    if falcon and reader.flag("projectors_bias", False) != proj_bias:
        raise UnsupportedError(f"{reader.where}: projectors_bias and mamba_proj_bias differ, which is not supported")
    return MambaArch(
        2,
        inner,
        reader.size("mamba_d_state", 256),
        kernel,
        num_heads=_heads(reader, inner),
        num_groups=_groups(reader),
        conv_bias=conv_bias,
        proj_bias=proj_bias,
        inner_norm=reader.flag("mamba_rms_norm", False) if falcon else True,
    )


def _inner_size(reader: ConfigReader, family: Family) -> int:
    """Channels: a multiple of the hidden size, in Falcon-H1 a number of their own unless it is null."""
    expanded = reader.size("mamba_expand", 2, most=_MAX_EXPAND) * reader.size("hidden_size")
    if family.model_type != "falcon_h1":
        return expanded
    return reader.size("mamba_d_ssm", expanded if "mamba_d_ssm" in reader.config else 1024)


def _heads(reader: ConfigReader, inner: int) -> int:
    """Heads, whose width is the channels' share unless it is given."""
    heads = reader.size("mamba_n_heads", 128)
    auto = reader.config.get("mamba_d_head", "auto") == "auto"
    width = inner // heads if auto else reader.size("mamba_d_head")
    if heads * width != inner:
        raise InputError(f"{reader.where}: mamba_n_heads {heads} of mamba_d_head {width} are not {inner} channels")
    return heads


def _groups(reader: ConfigReader) -> int:
    heads, groups = reader.size("mamba_n_heads", 128), reader.size("mamba_n_groups", 1)
    if heads % groups:
        raise InputError(f"{reader.where}: mamba_n_heads {heads} is not a multiple of mamba_n_groups {groups}")
    return groups
