"""Drafters that ride on the target's hidden states: Medusa heads, an EAGLE-3 layer, a multi-token-prediction layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from specplan.arch import ModelArch, RopeScaling
from specplan.errors import InputError
from specplan.speculation import Chain, Tree

#: Tokens that published EAGLE-3 heads propose: the most frequent ones of the target's vocabulary.
EAGLE3_VOCAB_SIZE = 32000
#: Hidden states of the target that an EAGLE-3 head fuses.
NUM_FEATURES = 3
_MAX_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class MedusaHeads:
    """Heads that each predict one position further ahead (Medusa, 2401.10774).

    Attributes:
        num_heads: K.
        num_layers: residual blocks of a head, each one matrix [h, h] with a bias.
        shares_head: the heads end in the target's own output head instead of one each.
        topk: best tokens of each head that a tree may use.
    """

    num_heads: int
    num_layers: int
    shares_head: bool
    topk: int


@dataclass(frozen=True, slots=True)
class Eagle3Head:
    """One decoder layer over low, middle and high features of the target (EAGLE-3, 2503.01840).

    Attributes:
        intermediate_size: of its MLP.
        num_attention_heads: query heads.
        num_key_value_heads: KV heads of its own cache.
        head_dim: of its heads.
        draft_vocab_size: V_d, tokens that it proposes, mapped to the target's.
        own_embedding: it has an input embedding of its own instead of the target's.
        feature_layers: layers of the target whose input is a feature, in the order of the fusion's columns; the
            number of layers itself stands for what leaves the last one.
        norm_before_residual: the normalized feature, and not the feature, is the start of the residual stream.
        rms_norm_eps: epsilon of its norms.
        rope_theta: base of its rotary frequencies.
        rope_scaling: of its rotary frequencies, None for plain ones.
    """

    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    draft_vocab_size: int
    own_embedding: bool
    feature_layers: tuple[int, ...]
    norm_before_residual: bool
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None


@dataclass(frozen=True, slots=True)
class MtpLayer:
    """One more layer of the target's own kind, that reads a hidden state and the next token (DeepSeek-V3, 2412.19437).

    Attributes:
        num_layers: modules; published checkpoints have one.
    """

    num_layers: int


Heads = MedusaHeads | Eagle3Head | MtpLayer


def usual_feature_layers(num_hidden_layers: int) -> tuple[int, ...]:
    """The layers whose inputs published EAGLE-3 heads read unless their config names others.

    Source: eagle/model/modeling_llama_kv.py of SafeAILab/EAGLE; vLLM and SGLang take the same.
    """
    return (2, num_hidden_layers // 2, num_hidden_layers - 3)


def published_heads(drafter: str, arch: ModelArch, shape: Chain | Tree, shares_head: bool) -> Heads | None:
    """The heads that published checkpoints have for a target of this size; None for drafters without heads.

    Args:
        drafter: who proposes.
        arch: the target.
        shape: of the proposals: there is a Medusa head for every depth.
        shares_head: Medusa heads without output heads of their own.
    """
    if drafter == "medusa":
        return MedusaHeads(max(1, shape.depth), 1, shares_head, max(1, shape.topk))
    if drafter == "eagle3":
        layers = arch.num_hidden_layers
        return Eagle3Head(
            arch.intermediate_size,
            arch.num_attention_heads,
            arch.num_key_value_heads,
            arch.head_dim,
            min(EAGLE3_VOCAB_SIZE, arch.vocab_size),
            own_embedding=False,
            feature_layers=tuple(min(max(0, i), arch.num_hidden_layers) for i in usual_feature_layers(layers)),
            norm_before_residual=False,
            rms_norm_eps=arch.rms_norm_eps,
            rope_theta=arch.rope_theta,
            rope_scaling=arch.rope_scaling,
        )
    return MtpLayer(1) if drafter == "mtp" else None


def check_heads(heads: Heads, shape: Chain | Tree, where: str) -> None:
    """Refuse absurd sizes, and Medusa heads that are too few for what they draft.

    Raises:
        InputError: names the field.
    """
    for field in dataclasses.fields(heads):
        value = getattr(heads, field.name)
        if type(value) is int and not 1 <= value <= _MAX_SIZE:
            raise InputError(f"{where}: {field.name} is {value}, expected 1 to {_MAX_SIZE}")
    if isinstance(heads, MedusaHeads) and (heads.num_heads < shape.depth or heads.topk < shape.topk):
        raise InputError(f"{where}: {heads.num_heads} heads with {heads.topk} tokens each are too few for the tree")
    if isinstance(heads, Eagle3Head):
        _check_eagle3(heads, where)


def _check_eagle3(heads: Eagle3Head, where: str) -> None:
    if heads.num_attention_heads % heads.num_key_value_heads or heads.head_dim % 2:
        raise InputError(f"{where}: num_attention_heads, num_key_value_heads or head_dim do not go together")
    if len(heads.feature_layers) != NUM_FEATURES or min(heads.feature_layers) < 0:
        raise InputError(f"{where}: feature_layers is {list(heads.feature_layers)}, expected {NUM_FEATURES} layers")
    for name in ("rms_norm_eps", "rope_theta"):
        if not getattr(heads, name) > 0:
            raise InputError(f"{where}: {name} is {getattr(heads, name)}, expected a number above 0")


def head_layer(heads: Eagle3Head | MtpLayer, target: ModelArch) -> ModelArch:
    """The decoder layer of a head as an architecture of its own; its vocabulary is what it proposes."""
    if isinstance(heads, MtpLayer):
        return dataclasses.replace(
            target,
            num_hidden_layers=heads.num_layers,
            layer_types=target.layer_types[-heads.num_layers :],
            mlp_types=target.mlp_types[-heads.num_layers :],
        )
    return _eagle3_layer(heads, target)


def _eagle3_layer(heads: Eagle3Head, target: ModelArch) -> ModelArch:
    """A llama's layer, whatever the target is; its cache is planned in the target's precision."""
    return ModelArch(
        model_type="llama",
        num_hidden_layers=1,
        hidden_size=target.hidden_size,
        intermediate_size=heads.intermediate_size,
        num_attention_heads=heads.num_attention_heads,
        num_key_value_heads=heads.num_key_value_heads,
        head_dim=heads.head_dim,
        vocab_size=heads.draft_vocab_size,
        max_position_embeddings=target.max_position_embeddings,
        tie_word_embeddings=False,
        layer_types=("full_attention",),
        mlp_types=("dense",),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        gated_mlp=True,
        query_gate=False,
        attention_sinks=False,
        qk_norm=None,
        norm="rms",
        norm_offset=False,
        norm_placement="pre",
        hidden_act="silu",
        rms_norm_eps=heads.rms_norm_eps,
        rope_theta=heads.rope_theta,
        local_rope_theta=None,
        rotary_dim=heads.head_dim,
        rope_scaling=heads.rope_scaling,
        attention_multiplier=None,
        attention_softcap=None,
        logit_softcap=None,
        embedding_multiplier=1.0,
        sliding_window=None,
        moe=None,
        latent=None,
        linear_attention=None,
        mamba=None,
        dtype=None,
        eos_token_ids=(),
    )
