"""Sizes that no transformer has: refused wherever an architecture enters, from a config, a header or a plan."""

from __future__ import annotations

import dataclasses
import math

from specplan.arch import LatentArch, LinearAttentionArch, MambaArch, ModelArch, MoeArch, RopeScaling
from specplan.dtypes import FLOAT_BYTES, INT4_GROUP, INT4_ROWS
from specplan.errors import InputError, UnsupportedError
from specplan.families import family_of
from specplan.matrices import matrix_shapes
from specplan.quantized.stored import check_stored

#: No device has more; sums stay far from 64 bits.
MAX_BUDGET_BYTES = 1 << 60

#: Padded vocabularies of one family differ by up to this many entries; more means another tokenizer.
MAX_VOCAB_DIFFERENCE = 128

MAX_LAYERS = 4096

_LIMITS = {
    "num_hidden_layers": MAX_LAYERS,
    "hidden_size": 1 << 18,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 28,
}
_MAX_SIZE = 1 << 20
#: What layers of a type need beyond what every model has.
_NEEDS = {
    "latent_attention": "latent",
    "linear_attention": "linear_attention",
    "mamba": "mamba",
    "hybrid": "mamba",
    "sliding_attention": "sliding_window",
    "moe": "moe",
    "dense": "intermediate_size",
}
_MAY_BE_ZERO = ("q_lora_rank", "shared_intermediate_size", "dt_rank", "num_heads", "num_groups")
_POSITIVE_NUMBERS = (
    "rms_norm_eps",
    "rope_theta",
    "local_rope_theta",
    "attention_multiplier",
    "attention_softcap",
    "logit_softcap",
    "embedding_multiplier",
)


def check_sizes(arch: ModelArch, where: str) -> None:
    """Refuse an absurd or contradictory architecture.

    Raises:
        InputError: names the field, its value and what was expected.
    """
    family_of(arch.model_type, where)
    for field, limit in _LIMITS.items():
        value = getattr(arch, field)
        if not 1 <= value <= limit:
            raise InputError(f"{where}: {field} is {value}, expected 1 to {limit}")
    _check_layers(arch, where)
    if arch.num_attention_heads % arch.num_key_value_heads:
        raise InputError(
            f"{where}: num_attention_heads {arch.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {arch.num_key_value_heads}"
        )
    if arch.head_dim % 2 or arch.rotary_dim % 2 or not 1 <= arch.rotary_dim <= arch.head_dim:
        raise InputError(
            f"{where}: head_dim is {arch.head_dim}, rotary_dim {arch.rotary_dim}: expected even numbers above 0"
        )
    for field in _POSITIVE_NUMBERS:
        value = getattr(arch, field)
        if value is not None and not (math.isfinite(value) and 0 < value < 1e15):
            raise InputError(f"{where}: {field} is {value!r}, expected a positive number")
    if arch.sliding_window is not None and not 1 <= arch.sliding_window <= 1 << 28:
        raise InputError(f"{where}: sliding_window is {arch.sliding_window}, expected at least 1")
    if arch.stored is not None:
        check_stored(arch.stored, frozenset(matrix_shapes(arch)), f"{where}: stored")
        if arch.stored.compute_dtype not in FLOAT_BYTES:
            raise InputError(f"{where}: stored.compute_dtype is {arch.stored.compute_dtype!r}, expected a float")
    if arch.rope_scaling is not None:
        _check_rope_scaling(arch.rope_scaling, f"{where}: rope_scaling")


def _check_layers(arch: ModelArch, where: str) -> None:
    """Every layer has a type, and every type its numbers."""
    for field in ("layer_types", "mlp_types"):
        if len(getattr(arch, field)) != arch.num_hidden_layers:
            raise InputError(f"{where}: {field} has {len(getattr(arch, field))} entries, expected one per layer")
    for layer in dict.fromkeys((*arch.layer_types, *arch.mlp_types)):
        need = _NEEDS.get(layer)
        if need is not None and getattr(arch, need) in (None, 0):
            raise InputError(f"{where}: layers of type {layer} need {need}, which is {getattr(arch, need)}")
    if not 0 <= arch.intermediate_size <= _MAX_SIZE:
        raise InputError(f"{where}: intermediate_size is {arch.intermediate_size}, expected up to {_MAX_SIZE}")
    for part in (arch.moe, arch.latent, arch.linear_attention, arch.mamba):
        if part is not None:
            _check_part(part, where)


def _check_part(part: MoeArch | LatentArch | LinearAttentionArch | MambaArch, where: str) -> None:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        least = 0 if field.name in _MAY_BE_ZERO else 1
        if not isinstance(value, bool) and not least <= value <= _MAX_SIZE:
            raise InputError(f"{where}: {field.name} is {value}, expected {least} to {_MAX_SIZE}")
    if isinstance(part, MoeArch) and part.num_experts_per_tok > part.num_experts:
        raise InputError(f"{where}: num_experts_per_tok is {part.num_experts_per_tok}, of {part.num_experts} experts")


def check_vocabularies(target: ModelArch, draft: ModelArch, where: str) -> None:
    """Refuse a draft that cannot propose tokens to the target.

    Raises:
        UnsupportedError: vocabularies of different tokenizers.
    """
    if abs(target.vocab_size - draft.vocab_size) > MAX_VOCAB_DIFFERENCE:
        raise UnsupportedError(
            f"{where}: vocab_size {draft.vocab_size} against the target's {target.vocab_size}: "
            "a draft needs the target's tokenizer"
        )


def check_kernels(arch: ModelArch, dtype: str, where: str) -> None:
    """Refuse shapes that a kernel would read beyond: PyTorch's int8 product takes rows in steps of 16 elements, its
    int4 product whole groups, and 16 rows at a time.

    Raises:
        UnsupportedError: names the dtype.
    """
    experts = arch.moe.moe_intermediate_size if arch.moe is not None else 0
    widths = (arch.hidden_size, arch.intermediate_size, experts, arch.num_attention_heads * arch.head_dim)
    step = {"int8": 16, "int4": INT4_GROUP}.get(dtype, 1)
    if any(width % step for width in widths):
        raise UnsupportedError(f"{where}: dtype {dtype} needs matrices whose rows are multiples of {step} long")
    if dtype == "int4" and arch.qkv_size % INT4_ROWS:
        raise UnsupportedError(
            f"{where}: dtype int4 needs matrices with a multiple of {INT4_ROWS} rows; queries, keys and values have "
            f"{arch.qkv_size}"
        )


def _check_rope_scaling(scaling: RopeScaling, where: str) -> None:
    for field in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        value = getattr(scaling, field)
        if not (math.isfinite(value) and 0 < value < 1e15):
            raise InputError(f"{where}.{field} is {value!r}, expected a positive number")
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise InputError(
            f"{where}.high_freq_factor is {scaling.high_freq_factor}, expected above {scaling.low_freq_factor}"
        )
