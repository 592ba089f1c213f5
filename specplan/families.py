"""The model families that specplan knows, and what each implies beyond its config fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specplan.arch import ModelArch
from specplan.errors import UnsupportedError

#: Rotary scalings that the runtime computes; the others are planned only.
_RUNNABLE_SCALINGS = ("linear", "llama3", "factors")
#: Those whose frequencies change with the longest sequence of a pass: other sequences' caches would no longer fit.
_MOVING_SCALINGS = ("longrope", "dynamic")
#: Families for which transformers has no fused attention: soft caps, attention sinks.
EAGER_FAMILIES = ("gemma2", "gpt_oss")


@dataclass(frozen=True, slots=True)
class Family:
    """What a ``model_type`` fixes, and the defaults of its transformers config class.

    Attributes:
        model_type: as in config.json.
        gguf_name: value of ``general.architecture``, None where GGUF has no name of its own for it or it is not read.
        qkv_bias: True or False where the family fixes it, None where ``attention_bias`` decides.
        output_bias: the same for the attention's output projection.
        attention_bias_default: ``attention_bias`` when the config does not say.
        multi_head: keys and values have as many heads as queries, which share the hidden size: no field says otherwise.
        qk_norm: normalizes queries and keys, per head or over their full width.
        norm: RMS norms or layer norms.
        norm_offset: norm weights are stored as their difference from one.
        norm_placement: where norms stand around a block.
        activations: values of the activation field that the family's published models use.
        gated_mlp: the MLP has a gate matrix.
        tied_by_default: ``tie_word_embeddings`` when the config does not say.
        default_epsilon: ``rms_norm_eps`` when the config does not say.
        default_rope_theta: ``rope_theta`` when the config does not say.
        default_rotary_factor: ``partial_rotary_factor`` when the config does not say.
        default_context: ``max_position_embeddings`` when the config does not say; None: it must.
        default_kv_heads: ``num_key_value_heads`` when the config does not have the field; None: as the attention heads.
        default_head_dim: ``head_dim`` when the config does not have the field; None: hidden_size / heads.
        mlp_bias: True or False where the family fixes it, None where ``mlp_bias`` decides.
        default_window: ``sliding_window`` when the config does not have the field.
        windows: which layers are windowed when ``layer_types`` does not say: none, all, those from
            ``max_window_layers`` on or all when ``use_sliding_window`` is set, every other one, or all but every sixth.
        mixer: where the layers' mixers are read from.
        experts: the naming of the experts' fields, None for families without experts.
        classes: prefix of the classes that published configs name in ``auto_map``: code that was written before
            libraries knew the family. None: a config that names code describes something else.
        permuted_in_gguf: converters interleave the rows of the query and key matrices.
        runnable: the runtime's own decoder computes it.
    """

    model_type: str
    gguf_name: str | None = None
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    attention_bias_default: bool = False
    multi_head: bool = False
    qk_norm: Literal["head", "full"] | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: bool = False
    norm_placement: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    activations: tuple[str, ...] = ("silu",)
    gated_mlp: bool = True
    tied_by_default: bool = False
    default_epsilon: float = 1e-6
    default_rope_theta: float = 10000.0
    default_rotary_factor: float = 1.0
    default_context: int | None = None
    default_kv_heads: int | None = None
    default_head_dim: int | None = None
    mlp_bias: bool | None = False
    default_window: int | None = None
    windows: Literal["none", "all", "if_used", "all_if_used", "alternate", "five_of_six"] = "none"
    mixer: Literal["attention", "latent", "linear", "mamba"] = "attention"
    experts: Literal["mixtral", "qwen", "gpt_oss", "deepseek", "jamba", "granite"] | None = None
    classes: str | None = None
    permuted_in_gguf: bool = False
    runnable: bool = True


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "llama", mlp_bias=None, permuted_in_gguf=True),
        Family(
            "mistral",
            qkv_bias=False,
            output_bias=False,
            default_kv_heads=8,
            default_window=4096,
            windows="all",
            permuted_in_gguf=True,
        ),
        Family(
            "qwen2",
            "qwen2",
            qkv_bias=True,
            output_bias=False,
            default_kv_heads=32,
            default_window=4096,
            windows="if_used",
        ),
        Family(
            "qwen3",
            "qwen3",
            qk_norm="head",
            default_kv_heads=32,
            default_head_dim=128,
            default_window=4096,
            windows="if_used",
        ),
        Family(
            "gemma2",
            "gemma2",
            norm_offset=True,
            norm_placement="sandwich",
            activations=("gelu_pytorch_tanh",),
            tied_by_default=True,
            default_kv_heads=4,
            default_head_dim=256,
            default_window=4096,
            windows="alternate",
        ),
        Family(
            "gemma3_text",
            "gemma3",
            qk_norm="head",
            norm_offset=True,
            norm_placement="sandwich",
            activations=("gelu_pytorch_tanh",),
            tied_by_default=True,
            default_rope_theta=1000000.0,
            default_kv_heads=4,
            default_head_dim=256,
            default_window=4096,
            windows="five_of_six",
        ),
        Family("phi3", qkv_bias=False, output_bias=False, default_epsilon=1e-5, windows="all", classes="Phi3"),
        Family(
            "gpt_neox",
            attention_bias_default=True,
            multi_head=True,
            norm="layer",
            norm_placement="parallel",
            activations=("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"),
            gated_mlp=False,
            default_epsilon=1e-5,
            default_rotary_factor=0.25,
            mlp_bias=True,
        ),
        Family("olmo2", qk_norm="full", norm_placement="post", default_epsilon=1e-5),
        Family(
            "mixtral",
            qkv_bias=False,
            output_bias=False,
            default_epsilon=1e-5,
            default_rope_theta=1000000.0,
            default_kv_heads=8,
            windows="all",
            experts="mixtral",
        ),
        Family(
            "qwen3_moe", qk_norm="head", default_kv_heads=4, default_window=4096, windows="all_if_used", experts="qwen"
        ),
        Family(
            "gpt_oss",
            attention_bias_default=True,
            default_epsilon=1e-5,
            default_rope_theta=150000.0,
            default_kv_heads=8,
            default_head_dim=64,
            default_window=128,
            windows="alternate",
            experts="gpt_oss",
            runnable=False,
        ),
        Family("deepseek_v2", mixer="latent", experts="deepseek", classes="DeepseekV2", runnable=False),
        Family("deepseek_v3", mixer="latent", experts="deepseek", classes="DeepseekV3", runnable=False),
        Family(
            "qwen3_next",
            qk_norm="head",
            norm_offset=True,
            default_rotary_factor=0.25,
            default_kv_heads=2,
            default_head_dim=256,
            mixer="linear",
            experts="qwen",
            runnable=False,
        ),
        Family(
            "jamba",
            qkv_bias=False,
            output_bias=False,
            mixer="mamba",
            experts="jamba",
            default_kv_heads=8,
            runnable=False,
        ),
        Family(
            "bamba",
            default_epsilon=1e-5,
            default_rotary_factor=0.5,
            default_context=262144,
            mixer="mamba",
            mlp_bias=None,
            default_kv_heads=8,
            runnable=False,
        ),
        Family("granitemoehybrid", mixer="mamba", experts="granite", runnable=False),
        Family("falcon_h1", default_epsilon=1e-5, mixer="mamba", mlp_bias=None, default_kv_heads=8, runnable=False),
    )
}


def runnable(arch: ModelArch) -> bool:
    """Whether the runtime's own decoder computes this model: its family, and its rotary scaling."""
    scaling = arch.rope_scaling
    return FAMILIES[arch.model_type].runnable and (scaling is None or scaling.rope_type in _RUNNABLE_SCALINGS)


def transformers_runnable(arch: ModelArch) -> bool:
    """Whether transformers' forward computes this model for every row of a batch alike, whatever the others hold."""
    return arch.rope_scaling is None or arch.rope_scaling.rope_type not in _MOVING_SCALINGS


def family_of(model_type: str, where: str) -> Family:
    """The family called ``model_type``.

    Raises:
        UnsupportedError: specplan does not know its memory layout.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise UnsupportedError(
            f"{where}: architecture {model_type!r} is not supported: one of {', '.join(FAMILIES)}"
        ) from None


def family_of_gguf(name: str, where: str) -> Family:
    """The family that GGUF calls ``name``.

    Raises:
        UnsupportedError: specplan does not know its memory layout.
    """
    for family in FAMILIES.values():
        if family.gguf_name == name:
            return family
    known = ", ".join(family.gguf_name for family in FAMILIES.values() if family.gguf_name)
    raise UnsupportedError(f"{where}: GGUF architecture {name!r} is not supported: one of {known}")
