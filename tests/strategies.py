"""Random architectures for property tests."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from hypothesis import strategies as st

from specplan.arch import LatentArch, LayerType, LinearAttentionArch, MambaArch, MlpType, ModelArch, MoeArch
from specplan.caches.draft_window import can_window
from specplan.heads import Eagle3Head
from specplan.speculation import Tree
from tests.conftest import tiny_arch

_PLACEMENTS: tuple[Literal["pre", "post", "sandwich", "parallel"], ...] = ("pre", "post", "sandwich", "parallel")
_FAMILIES = {"pre": "llama", "post": "olmo2", "sandwich": "gemma2", "parallel": "gpt_neox"}


@st.composite
def eagle3_heads(draw: st.DrawFn, target: ModelArch) -> Eagle3Head:
    """A head of any size for a target, with few tokens or all."""
    kv_heads, layer = draw(st.integers(1, 4)), st.integers(0, target.num_hidden_layers)
    return Eagle3Head(
        intermediate_size=draw(st.integers(1, 150)),
        num_attention_heads=kv_heads * draw(st.integers(1, 4)),
        num_key_value_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 20)),
        draft_vocab_size=draw(st.integers(1, target.vocab_size)),
        own_embedding=draw(st.booleans()),
        feature_layers=(draw(layer), draw(layer), draw(layer)),
        norm_before_residual=draw(st.booleans()),
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
    )


@st.composite
def runnable_archs(
    draw: st.DrawFn, *, layers: int = 4, hidden: int = 70, inner: int = 150, vocab: int = 400, window: int = 40
) -> ModelArch:
    """A decoder that the runtime computes, with any mixture of features; sizes up to the given ones."""
    kv_heads, num_layers = draw(st.integers(1, 4)), draw(st.integers(1, layers))
    head_dim = 2 * draw(st.integers(1, 20))
    placement = draw(st.sampled_from(_PLACEMENTS))
    types = st.sampled_from(draw(st.sampled_from(_LAYER_MIXES)))
    moe = draw(st.none() | moes())
    mlp_choices: tuple[MlpType, ...] = ("dense",) if moe is None else ("dense", "moe")
    mlps = st.sampled_from(mlp_choices)
    mlp_types = tuple(draw(mlps) for _ in range(num_layers))
    return dataclasses.replace(
        tiny_arch(),
        model_type=_FAMILIES[placement],
        num_hidden_layers=num_layers,
        hidden_size=draw(st.integers(1, hidden)),
        intermediate_size=draw(st.integers(1, inner)),
        num_attention_heads=kv_heads * draw(st.integers(1, 4)),
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=draw(st.integers(1, vocab)),
        tie_word_embeddings=draw(st.booleans()),
        layer_types=tuple(draw(types) for _ in range(num_layers)),
        mlp_types=mlp_types,
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        gated_mlp=draw(st.booleans()) or "moe" in mlp_types,
        qk_norm=draw(st.sampled_from((None, "head", "full"))),
        norm=draw(st.sampled_from(("rms", "layer"))),
        norm_placement=placement,
        hidden_act=draw(st.sampled_from(("silu", "gelu", "gelu_pytorch_tanh"))),
        local_rope_theta=draw(st.sampled_from((None, 100.0))),
        rotary_dim=2 * draw(st.integers(1, head_dim // 2)),
        attention_softcap=draw(st.sampled_from((None, 30.0))),
        logit_softcap=draw(st.sampled_from((None, 30.0))),
        embedding_multiplier=draw(st.sampled_from((1.0, 3.0))),
        sliding_window=draw(st.integers(1, window)),
        moe=moe,
    )


def in_groups(arch: ModelArch, dtype: str) -> ModelArch:
    """The same with sizes that int4 takes, where that is the dtype."""
    if dtype != "int4":
        return arch
    moe, of_32 = arch.moe, lambda size: -(-size // 32) * 32
    if moe is not None:
        moe = dataclasses.replace(moe, moe_intermediate_size=of_32(moe.moe_intermediate_size))
    sizes = {name: of_32(getattr(arch, name)) for name in ("hidden_size", "intermediate_size", "head_dim")}
    return dataclasses.replace(arch, **sizes, moe=moe)


_LAYER_MIXES: tuple[tuple[LayerType, ...], ...] = (
    ("full_attention",),
    ("sliding_attention",),
    ("full_attention", "sliding_attention"),
)


@st.composite
def moes(draw: st.DrawFn) -> MoeArch:
    """Experts that the runtime computes."""
    experts = draw(st.integers(1, 5))
    return MoeArch(
        num_experts=experts,
        num_experts_per_tok=draw(st.integers(1, experts)),
        moe_intermediate_size=draw(st.integers(1, 40)),
        router_bias=draw(st.booleans()),
        expert_bias=draw(st.booleans()),
        norm_topk_prob=draw(st.booleans()),
    )


_PLANNED_ONLY: tuple[LayerType, ...] = ("full_attention", "latent_attention", "linear_attention", "mamba", "hybrid")


@st.composite
def any_archs(draw: st.DrawFn, /, **sizes: Any) -> ModelArch:
    """Any architecture that the ledger knows, those that only it knows too."""
    arch = draw(runnable_archs(**sizes))
    kind = draw(st.sampled_from(_PLANNED_ONLY))
    if kind == "full_attention":
        return arch
    small = st.integers(1, 9)
    mixers: tuple[LayerType, ...] = (kind, "full_attention")
    types = tuple(draw(st.sampled_from(mixers)) for _ in arch.layer_types)
    return dataclasses.replace(
        arch,
        model_type="qwen3_next",
        layer_types=types,
        query_gate=draw(st.booleans()),
        attention_sinks=draw(st.booleans()),
        latent=LatentArch(draw(st.integers(0, 9)), *(draw(small) for _ in range(4))),
        linear_attention=LinearAttentionArch(*(draw(small) for _ in range(5))),
        mamba=MambaArch(
            version=draw(st.sampled_from((1, 2))),
            inner_size=draw(small),
            state_size=draw(small),
            conv_kernel=draw(small),
            dt_rank=draw(small),
            num_heads=draw(small),
            num_groups=draw(small),
            conv_bias=draw(st.booleans()),
            proj_bias=draw(st.booleans()),
            inner_norm=draw(st.booleans()),
        ),
    )


def draft_contexts(draft: ModelArch | None, context: int) -> st.SearchStrategy[int]:
    """Tokens that a draft model sees: all, where it is not there or has windows of its own."""
    if draft is None or not can_window(draft):
        return st.just(0)
    return st.just(0) | st.integers(1, context)


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12) -> Tree:
    """A tree of proposals, parents before children."""
    nodes: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, max_nodes))):
        parent = draw(st.sampled_from([(), *nodes]))
        rank = sum(path[:-1] == parent for path in nodes)
        nodes.append((*parent, rank))
    return Tree(tuple(nodes))


_EXPERTS = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}
_ALL_FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox", "olmo2", "mixtral", "qwen3_moe",
)  # fmt: skip


@st.composite
def family_configs(
    draw: st.DrawFn, families: tuple[str, ...] = _ALL_FAMILIES, head_dims: tuple[int, ...] = (2, 6, 16, 24, 36)
) -> dict[str, Any]:
    """A small config.json of a family that the runtime computes; sizes that are multiples of nothing much."""
    family = draw(st.sampled_from(families))
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from(head_dims))
    heads = kv_heads * draw(st.integers(1, 3))
    whole = heads if family in ("gemma2", "gemma3_text") else 1  # their configs in transformers ask for a multiple
    own_head_dim = family in ("qwen3", "gemma2", "gemma3_text", "qwen3_moe", "mistral", "mixtral")
    layers = draw(st.integers(1, 3))
    config: dict[str, Any] = {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": 16 * whole * draw(st.integers(1, 9)) if own_head_dim else heads * head_dim,
        "intermediate_size": 16 * draw(st.integers(1, 12)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if family == "gpt_neox" else kv_heads,
        "vocab_size": draw(st.integers(3, 500)),
        "max_position_embeddings": 512,
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()) if family in ("llama", "qwen3", "gpt_neox") else False,
        "sliding_window": draw(st.none() | st.integers(1, 60)),
        "use_sliding_window": True,
        "query_pre_attn_scalar": 8,
    }
    if own_head_dim:
        config["head_dim"] = head_dim
    if family == "gpt_neox":
        config["rotary_pct"] = 1.0
    if family == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if family in ("gemma2", "gemma3_text") and config["sliding_window"] is None:
        config["sliding_window"] = 7
    if family in ("qwen2", "qwen3", "qwen3_moe"):
        config["max_window_layers"] = draw(st.integers(0, layers))
    if family in _EXPERTS:
        experts = draw(st.integers(1, 4))
        config |= {_EXPERTS[family]: experts, "num_experts_per_tok": draw(st.integers(1, experts))}
        config["moe_intermediate_size"] = 16 * draw(st.integers(1, 4))
    return config
