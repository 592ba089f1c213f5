"""What each family's config.json means: layers, flags, defaults; and fields that contradict each other."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from transformers import AutoConfig

from specplan.arch import LatentArch, LinearAttentionArch, MambaArch, ModelArch, MoeArch
from specplan.errors import InputError, UnsupportedError
from specplan.models.config import read_config
from specplan.profiles import read_profile
from tests.conftest import unquantized
from tests.family_configs import TINY, tiny_config

FULL, SLIDING = "full_attention", "sliding_attention"
LATENT = LatentArch(q_lora_rank=10, kv_lora_rank=6, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10)
MAMBA_2 = MambaArch(2, inner_size=32, state_size=5, conv_kernel=3, num_heads=8, num_groups=2)

#: What the tiny configs say, beyond what a llama is.
MEANINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"layer_types": (SLIDING,) * 4, "sliding_window": 6},
    "qwen2": {"layer_types": (FULL, SLIDING, SLIDING, SLIDING), "sliding_window": 6, "qkv_bias": True},
    "qwen3": {"layer_types": (FULL, SLIDING, SLIDING, SLIDING), "sliding_window": 6, "qk_norm": "head"},
    "gemma2": {
        "layer_types": (SLIDING, FULL, SLIDING, FULL),
        "sliding_window": 6,
        "norm_offset": True,
        "norm_placement": "sandwich",
        "hidden_act": "gelu_pytorch_tanh",
        "attention_multiplier": 8**-0.5,
        "attention_softcap": 50.0,
        "logit_softcap": 30.0,
        "embedding_multiplier": 4.0,
    },
    "gemma3_text": {
        "layer_types": (SLIDING, FULL, SLIDING, FULL),
        "sliding_window": 6,
        "qk_norm": "head",
        "norm_offset": True,
        "norm_placement": "sandwich",
        "hidden_act": "gelu_pytorch_tanh",
        "attention_multiplier": 8**-0.5,
        "embedding_multiplier": 4.0,
        "local_rope_theta": 10000.0,
    },
    "phi3": {"layer_types": (SLIDING,) * 4, "sliding_window": 6},
    "gpt_neox": {
        "num_key_value_heads": 4,
        "qkv_bias": False,
        "mlp_bias": True,
        "gated_mlp": False,
        "norm": "layer",
        "norm_placement": "parallel",
        "hidden_act": "gelu",
        "rotary_dim": 2,
    },
    "olmo2": {"qk_norm": "full", "norm_placement": "post"},
    "mixtral": {"mlp_types": ("moe",) * 4, "intermediate_size": 0, "moe": MoeArch(4, 2, 24)},
    "qwen3_moe": {
        "mlp_types": ("dense", "dense", "dense", "moe"),
        "qk_norm": "head",
        "moe": MoeArch(5, 2, 12, norm_topk_prob=True),
    },
    "gpt_oss": {
        "layer_types": (SLIDING, FULL, SLIDING, FULL),
        "sliding_window": 6,
        "mlp_types": ("moe",) * 4,
        "intermediate_size": 0,
        "attention_sinks": True,
        "moe": MoeArch(4, 2, 24, router_bias=True, expert_bias=True),
    },
    "deepseek_v2": {
        "layer_types": ("latent_attention",) * 4,
        "mlp_types": ("dense", "moe", "moe", "moe"),
        "num_key_value_heads": 4,
        "latent": LATENT,
        "moe": MoeArch(4, 2, 12, shared_intermediate_size=24, norm_topk_prob=False),
    },
    "deepseek_v3": {
        "layer_types": ("latent_attention",) * 4,
        "mlp_types": ("dense", "moe", "moe", "moe"),
        "num_key_value_heads": 4,
        "latent": LATENT,
        "moe": MoeArch(4, 2, 12, shared_intermediate_size=24, router_correction=True),
    },
    "qwen3_next": {
        "layer_types": ("linear_attention", FULL) * 2,
        "mlp_types": ("dense", "dense", "dense", "moe"),
        "query_gate": True,
        "qk_norm": "head",
        "norm_offset": True,
        "rotary_dim": 2,
        "moe": MoeArch(5, 2, 12, shared_intermediate_size=12, shared_gate=True),
        "linear_attention": LinearAttentionArch(2, 4, 6, 3, 3),
    },
    "jamba": {
        "layer_types": ("mamba", FULL, "mamba", "mamba"),
        "mlp_types": ("moe", "dense", "moe", "dense"),
        "moe": MoeArch(4, 2, 24),
        "mamba": MambaArch(1, inner_size=32, state_size=5, conv_kernel=3, dt_rank=3),
    },
    "bamba": {"layer_types": ("mamba", FULL, "mamba", FULL), "rotary_dim": 2, "mamba": MAMBA_2},
    "granitemoehybrid": {
        "layer_types": ("mamba", FULL, "mamba", "mamba"),
        "mlp_types": ("moe",) * 4,
        "intermediate_size": 20,
        "attention_multiplier": 1.0,
        "moe": MoeArch(4, 2, 24, shared_intermediate_size=20),
        "mamba": MAMBA_2,
    },
    "falcon_h1": {"layer_types": ("hybrid",) * 4, "mamba": dataclasses.replace(MAMBA_2, inner_size=24)},
}


def read(config: Any) -> ModelArch:
    return read_config(config, "config.json")


@pytest.mark.parametrize("family", sorted(TINY))
def test_what_each_family_means(family: str) -> None:
    plain = read(tiny_config("llama"))
    assert read(tiny_config(family)) == dataclasses.replace(plain, model_type=family, **MEANINGS[family])


@pytest.mark.parametrize(
    ("name", "layers", "mlps"),
    [
        ("gpt-oss-20b", {FULL: 12, SLIDING: 12}, {"moe": 24}),
        ("gemma-3-27b-text", {FULL: 10, SLIDING: 52}, {"dense": 62}),
        ("deepseek-v3", {"latent_attention": 61}, {"dense": 3, "moe": 58}),
        ("qwen3-next-80b-a3b", {FULL: 12, "linear_attention": 36}, {"moe": 48}),
        ("jamba-v0.1", {FULL: 4, "mamba": 28}, {"dense": 16, "moe": 16}),
        ("bamba-9b", {FULL: 3, "mamba": 29}, {"dense": 32}),
        ("granite-4.0-h-micro", {FULL: 4, "mamba": 36}, {"dense": 40}),
        ("granite-4.0-h-small", {FULL: 4, "mamba": 36}, {"moe": 40}),
        ("falcon-h1-34b", {"hybrid": 72}, {"dense": 72}),
    ],
)
def test_layers_of_published_models(name: str, layers: dict[str, int], mlps: dict[str, int]) -> None:
    arch = read(unquantized(read_profile("models", name)["config"]))
    assert {kind: arch.layer_types.count(kind) for kind in arch.layer_types} == layers
    assert {kind: arch.mlp_types.count(kind) for kind in arch.mlp_types} == mlps


#: Fields that specplan insists on although transformers has a default for them.
REQUIRED = {
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_local_experts",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "shared_intermediate_size",
    "v_head_dim",
    "vocab_size",
}


@pytest.mark.parametrize("family", sorted(TINY))
def test_defaults_are_those_of_transformers(family: str) -> None:
    config = {key: value for key, value in tiny_config(family).items() if key in REQUIRED}
    config |= {"hidden_size": 512, "num_attention_heads": 32, "num_hidden_layers": 40}
    config |= {"mamba_n_heads": 8} if "mamba_d_state" in TINY[family] else {}
    arch, theirs = read(config), AutoConfig.for_model(**config)
    rope = getattr(theirs, "rope_parameters", None) or {"rope_theta": 10000.0}
    rope = rope.get("full_attention", rope)
    eps = getattr(theirs, "rms_norm_eps", None) or theirs.layer_norm_eps
    assert (arch.rms_norm_eps, arch.rope_theta) == (eps, rope["rope_theta"])
    assert arch.rotary_dim == arch.head_dim * rope.get("partial_rotary_factor", 1.0)
    assert arch.tie_word_embeddings == theirs.tie_word_embeddings
    assert arch.hidden_act == getattr(theirs, "hidden_activation", None) or theirs.hidden_act
    types = {"attention": FULL, "latent_attention": FULL, "mamba": "linear_attention"}
    if getattr(theirs, "layer_types", None) is not None:
        assert [types.get(kind, kind) for kind in arch.layer_types] == theirs.layer_types
    assert arch.sliding_window == (theirs.sliding_window if SLIDING in arch.layer_types else None)
    softcap = getattr(theirs, "attn_logit_softcapping", None), getattr(theirs, "final_logit_softcapping", None)
    assert (arch.attention_softcap, arch.logit_softcap) == softcap
    if arch.moe is not None and hasattr(theirs, "norm_topk_prob"):
        assert arch.moe.norm_topk_prob == theirs.norm_topk_prob


def test_releases_of_bamba_that_say_no_context() -> None:
    config = read_profile("models", "bamba-9b-2t")["config"]
    assert "max_position_embeddings" not in config
    assert read(config).max_position_embeddings == AutoConfig.for_model(**config).max_position_embeddings


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("deepseek_v3", {"q_lora_rank": None}, 0),
        ("deepseek_v3", {"q_lora_rank": ...}, 1536),
        ("deepseek_v2", {"first_k_dense_replace": ...}, ("moe",) * 4),
        ("deepseek_v3", {"first_k_dense_replace": ...}, ("dense", "dense", "dense", "moe")),
        ("deepseek_v3", {"first_k_dense_replace": 9}, ("dense",) * 4),
        ("jamba", {"mamba_dt_rank": "auto"}, 1),
        ("jamba", {"mamba_dt_rank": "auto", "hidden_size": 20}, 2),
        ("jamba", {"mamba_dt_rank": ..., "hidden_size": 48}, 3),
        ("jamba", {"num_experts": 1}, ("dense",) * 4),
        ("jamba", {"num_experts": 1, "num_experts_per_tok": 2}, ("dense",) * 4),
        ("falcon_h1", {"mamba_d_ssm": None, "mamba_d_head": "auto"}, 32),
        ("falcon_h1", {"mamba_d_ssm": ..., "mamba_d_head": ...}, 1024),
        ("granitemoehybrid", {"num_local_experts": 0}, ("dense",) * 4),
        ("qwen3_moe", {"mlp_only_layers": [3, 1], "decoder_sparse_step": 1}, ("moe", "dense", "moe", "dense")),
        ("qwen3_moe", {"mlp_only_layers": None, "decoder_sparse_step": 3}, ("dense", "dense", "moe", "dense")),
    ],
    ids=str,
)
def test_what_absent_and_null_fields_mean(family: str, changes: dict[str, Any], expected: Any) -> None:
    arch = read(tiny_config(family, **changes))
    if isinstance(expected, tuple):
        assert arch.mlp_types == expected
        assert (arch.moe is not None) or "moe" not in expected
    elif arch.latent is not None:
        assert arch.latent.q_lora_rank == expected
    else:
        assert arch.mamba is not None
        assert expected == (arch.mamba.dt_rank if family == "jamba" else arch.mamba.inner_size)


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next", "jamba", "mixtral", "gpt_oss"])
def test_both_names_of_the_number_of_experts(family: str) -> None:
    """transformers 5 takes one for the other in these families."""
    names = {"num_experts", "num_local_experts"}
    (name,) = names & set(TINY[family])
    (other,) = names - {name}
    number = TINY[family][name]
    assert read(tiny_config(family, **{name: ..., other: number})) == read(tiny_config(family))
    assert read(tiny_config(family, **{other: number})) == read(tiny_config(family))
    with pytest.raises(InputError, match=f"{other} {number + 1}|{other} is {number + 1}"):
        read(tiny_config(family, **{other: number + 1}))


@pytest.mark.parametrize("spelling", ["mamba", "linear_attention"])
def test_both_spellings_of_state_space_layers(spelling: str) -> None:
    types = [spelling if kind == "mamba" else kind for kind in TINY["granitemoehybrid"]["layer_types"]]
    assert read(tiny_config("granitemoehybrid", layer_types=types)) == read(tiny_config("granitemoehybrid"))
    moved = tiny_config("granitemoehybrid", layer_types=..., layers_block_type=types)
    assert read(moved) == read(tiny_config("granitemoehybrid"))


@pytest.mark.parametrize("kind", ["yarn", "longrope", "su", "dynamic"])
def test_scalings_that_are_planned_and_not_run(kind: str) -> None:
    scaling = read(
        tiny_config("phi3", rope_scaling={"type": kind, "factor": 4, "short_factor": [1.0] * 2})
    ).rope_scaling
    assert scaling is not None
    assert (scaling.rope_type, scaling.factor) == ({"su": "longrope"}.get(kind, kind), 4.0)


@pytest.mark.parametrize(
    ("family", "auto_map"),
    [
        ("phi3", {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "m.Phi3ForCausalLM"}),
        ("deepseek_v2", {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM"}),
        ("deepseek_v3", {"AutoModelForCausalLM": "owner/name--modeling_deepseek.DeepseekV3ForCausalLM"}),
    ],
)
def test_code_from_before_libraries_knew_the_family(family: str, auto_map: dict[str, str]) -> None:
    """It is never run; the family's own layout is planned."""
    assert read(tiny_config(family, auto_map=auto_map)) == read(tiny_config(family))
    with pytest.raises(UnsupportedError, match="auto_map"):
        read(tiny_config(family, auto_map=auto_map | {"AutoModel": "modeling.OtherModel"}))
    with pytest.raises(UnsupportedError, match="auto_map"):
        read(tiny_config(family, auto_map=auto_map | {"AutoModel": None}))


#: Field values that no other check would stop, by family.
CONTRADICTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
    ("qwen3_moe", {"num_experts_per_tok": 6}, "num_experts_per_tok"),
    ("gpt_oss", {"num_experts_per_tok": 0}, "num_experts_per_tok"),
    ("gpt_oss", {"layer_types": [SLIDING] * 3}, "layer_types"),
    ("gpt_oss", {"layer_types": [SLIDING] * 5}, "layer_types"),
    ("gpt_oss", {"layer_types": [SLIDING] * 3 + ["mamba"]}, "layer_types has 'mamba'"),
    ("gpt_oss", {"layer_types": [SLIDING] * 3 + ["chunked_attention"]}, "layer_types has 'chunked_attention'"),
    ("gpt_oss", {"layer_types": [SLIDING] * 3 + [None]}, "layer_types has None"),
    ("gpt_oss", {"layer_types": [SLIDING] * 3 + [[]]}, "layer_types has"),
    ("gpt_oss", {"layer_types": SLIDING}, "layer_types"),
    ("qwen3_next", {"layer_types": [SLIDING] * 4}, "layer_types has 'sliding_attention'"),
    ("qwen3_next", {"full_attention_interval": 0}, "full_attention_interval"),
    ("qwen3_next", {"full_attention_interval": -4}, "full_attention_interval"),
    ("qwen3_next", {"linear_num_value_heads": 3}, "linear_num_key_heads"),
    ("qwen3_next", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
    ("qwen3_moe", {"mlp_only_layers": [True]}, "mlp_only_layers"),
    ("qwen3_moe", {"mlp_only_layers": [-1]}, "mlp_only_layers"),
    ("qwen3_moe", {"mlp_only_layers": "1"}, "mlp_only_layers"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    ("gemma3_text", {"sliding_window_pattern": -6}, "sliding_window_pattern"),
    ("gemma2", {"sliding_window": 0}, "sliding_window"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
    ("gemma2", {"query_pre_attn_scalar": -1.0}, "query_pre_attn_scalar"),
    ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("qwen3", {"max_window_layers": -1}, "max_window_layers"),
    ("gpt_neox", {"hidden_size": 18}, "num_attention_heads"),
    ("gpt_neox", {"rotary_pct": 0}, "rotary_pct"),
    ("gpt_neox", {"rotary_pct": 1.5}, "rotary_pct"),
    ("phi3", {"partial_rotary_factor": -0.5}, "partial_rotary_factor"),
    ("phi3", {"partial_rotary_factor": math.nan}, "partial_rotary_factor"),
    ("jamba", {"attn_layer_period": 0}, "attn_layer_period"),
    ("jamba", {"attn_layer_offset": 3}, "attn_layer_offset"),
    ("jamba", {"expert_layer_period": -1}, "expert_layer_period"),
    ("jamba", {"expert_layer_offset": -1}, "expert_layer_offset"),
    ("jamba", {"num_experts": -3}, "num_experts"),
    ("jamba", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
    ("jamba", {"mamba_dt_rank": None}, "mamba_dt_rank"),
    ("jamba", {"mamba_dt_rank": "large"}, "mamba_dt_rank"),
    ("jamba", {"mamba_dt_rank": 0}, "mamba_dt_rank"),
    ("bamba", {"attn_layer_indices": [1.0]}, "attn_layer_indices"),
    ("bamba", {"attn_layer_indices": {"1": True}}, "attn_layer_indices"),
    ("bamba", {"attn_layer_indices": [-1]}, "attn_layer_indices"),
    ("bamba", {"mamba_n_heads": 5}, "mamba_n_heads"),
    ("bamba", {"mamba_d_head": 5}, "mamba_d_head"),
    ("bamba", {"mamba_n_groups": 3}, "mamba_n_groups"),
    ("bamba", {"mamba_conv_bias": None}, "mamba_conv_bias"),
    ("bamba", {"mamba_expand": 1 << 30}, "mamba_expand"),
    ("falcon_h1", {"mamba_d_ssm": 25}, "mamba_n_heads"),
    ("falcon_h1", {"projectors_bias": True}, "projectors_bias"),
    ("granitemoehybrid", {"layer_types": ["mamba"]}, "layer_types"),
    ("granitemoehybrid", {"layers_block_type": ["attention"] * 4}, "layers_block_type"),
    ("granitemoehybrid", {"num_local_experts": ...}, "num_local_experts"),
    ("granitemoehybrid", {"shared_intermediate_size": ...}, "shared_intermediate_size"),
    ("granitemoehybrid", {"num_local_experts": 0, "shared_intermediate_size": 0}, "intermediate_size"),
    ("deepseek_v2", {"n_routed_experts": None}, "n_routed_experts"),
    ("deepseek_v2", {"n_shared_experts": -1}, "n_shared_experts"),
    ("deepseek_v2", {"n_shared_experts": ...}, "n_shared_experts"),
    ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq"),
    ("deepseek_v2", {"mlp_bias": True}, "mlp_bias"),
    ("deepseek_v3", {"first_k_dense_replace": -1}, "first_k_dense_replace"),
    ("deepseek_v3", {"q_lora_rank": 0}, "q_lora_rank"),
    ("deepseek_v3", {"q_lora_rank": "auto"}, "q_lora_rank"),
    ("deepseek_v3", {"qk_rope_head_dim": 3}, "head_dim"),
    ("deepseek_v3", {"kv_lora_rank": ...}, "kv_lora_rank"),
]


@pytest.mark.parametrize(("family", "changes", "named"), CONTRADICTIONS, ids=str)
def test_contradictions_are_named(family: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tiny_config(family, **changes))
    assert str(caught.value).startswith("config.json: ")
    assert named in str(caught.value)
