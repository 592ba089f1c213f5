"""GGUF metadata to ``ModelArch``, and its tensors under their Hugging Face names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from specplan.arch import LayerType, ModelArch, RopeScaling
from specplan.arch_checks import MAX_LAYERS, check_sizes
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family, family_of_gguf
from specplan.models.config_reader import ConfigReader
from specplan.models.gguf_header import ArrayLength, GgufHeader
from specplan.models.gguf_names import ROPE_FACTORS_GGUF, gguf_name
from specplan.models.gguf_storage import gguf_storage
from specplan.models.gguf_tying import head_repeats_embedding
from specplan.models.names import naming_of
from specplan.models.tensors import TensorEntry, check_tensors, expected_tensors

#: In GGUF, these families do not say that they window.
_NO_WINDOWS = ("none", "all", "if_used", "all_if_used")


def read_gguf_arch(header: GgufHeader, path: Path) -> ModelArch:
    """Translate a GGUF header.

    A head of its own is recognized as tied when its first rows repeat the embedding's up to quantization:
    Qwen's official files carry such a copy, and a runtime should keep one of the two.

    Raises:
        InputError: a missing or absurd metadata entry, a missing or misshapen tensor.
        UnsupportedError: an architecture or rope scaling that specplan does not model.
    """
    where = str(path)
    reader = ConfigReader(header.metadata, where)
    name = reader.text("general.architecture")
    family = family_of_gguf(name, where)
    prefix = f"{name}."
    heads = reader.integer(f"{prefix}attention.head_count")
    hidden = reader.integer(f"{prefix}embedding_length")
    head_dim = reader.integer(f"{prefix}attention.key_length", hidden // max(1, heads))
    layers = _layer_types(reader, prefix, family)
    arch = ModelArch(
        model_type=family.model_type,
        num_hidden_layers=len(layers),
        hidden_size=hidden,
        intermediate_size=reader.integer(f"{prefix}feed_forward_length"),
        num_attention_heads=heads,
        num_key_value_heads=reader.integer(f"{prefix}attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=_vocab_size(header, where),
        max_position_embeddings=reader.integer(f"{prefix}context_length"),
        tie_word_embeddings=_tied(header, path),
        layer_types=layers,
        mlp_types=tuple("dense" for _ in layers),
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        output_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
        gated_mlp=True,
        query_gate=False,
        attention_sinks=False,
        qk_norm=family.qk_norm,
        norm="rms",
        norm_offset=False,  # converters store gemma's norms with the one added
        norm_placement=family.norm_placement,
        hidden_act=family.activations[0],
        rms_norm_eps=reader.number(f"{prefix}attention.layer_norm_rms_epsilon", 1e-6),
        rope_theta=reader.number(f"{prefix}rope.freq_base", family.default_rope_theta),
        local_rope_theta=10000.0 if family.model_type == "gemma3_text" else None,
        rotary_dim=reader.integer(f"{prefix}rope.dimension_count", head_dim),
        rope_scaling=_rope_scaling(reader, prefix, header),
        attention_multiplier=_attention_multiplier(family, len(layers), hidden, heads),
        attention_softcap=_softcap(reader, f"{prefix}attn_logit_softcapping", family, 50.0),
        logit_softcap=_softcap(reader, f"{prefix}final_logit_softcapping", family, 30.0),
        embedding_multiplier=float(hidden) ** 0.5 if family.norm_placement == "sandwich" else 1.0,
        sliding_window=None if family.windows in _NO_WINDOWS else reader.integer(f"{prefix}attention.sliding_window"),
        moe=None,
        latent=None,
        linear_attention=None,
        mamba=None,
        dtype=None,
        eos_token_ids=_eos(reader),
    )
    check_sizes(arch, where)
    tensors = tensors_by_name(arch, header)
    check_tensors(arch, tensors, where)
    total = sum(entry.num_bytes for entry in header.tensors.values())
    return dataclasses.replace(arch, stored=gguf_storage(arch, tensors, total))


def tensors_by_name(arch: ModelArch, header: GgufHeader) -> dict[str, TensorEntry]:
    """The file's tensors under Hugging Face names; tensors with no such name keep their own."""
    head = f"{naming_of(arch).head}.weight"
    names = {gguf_name(arch, name): name for name in (*expected_tensors(arch), head)}
    return {names.get(name, name): entry for name, entry in header.tensors.items() if name != ROPE_FACTORS_GGUF}


def embedding_source(arch: ModelArch, tensors: dict[str, TensorEntry]) -> str:
    """Which tensor a tied table is loaded from: the one stored in more bits, when the file has both."""
    head, embedding = (f"{name}.weight" for name in (naming_of(arch).head, naming_of(arch).embedding))
    if arch.tie_word_embeddings and head in tensors and tensors[head].num_bytes > tensors[embedding].num_bytes:
        return head
    return embedding


def _vocab_size(header: GgufHeader, where: str) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"{where}: tensor token_embd.weight is missing")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    length = tokens.length if isinstance(tokens, ArrayLength) else len(tokens) if isinstance(tokens, list) else None
    if length is not None and length > embedding.shape[0]:
        raise InputError(f"{where}: {length} tokens in the vocabulary, {embedding.shape[0]} rows in token_embd.weight")
    return embedding.shape[0]


def _tied(header: GgufHeader, path: Path) -> bool:
    head = header.tensors.get("output.weight")
    return head is None or head_repeats_embedding(path, header.tensors["token_embd.weight"], head)


def _rope_scaling(reader: ConfigReader, prefix: str, header: GgufHeader) -> RopeScaling | None:
    kind = reader.text(f"{prefix}rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", reader.number(f"{prefix}rope.scaling.factor", 1.0))
    if kind != "none":
        raise UnsupportedError(f"{reader.where}: rope scaling {kind!r} is not supported: one of none, linear")
    return RopeScaling("factors") if ROPE_FACTORS_GGUF in header.tensors else None


def _layer_types(reader: ConfigReader, prefix: str, family: Family) -> tuple[LayerType, ...]:
    """Gemma windows every other layer or all but every sixth; the other families window none in GGUF."""
    layers = reader.integer(f"{prefix}block_count")
    if not 1 <= layers <= MAX_LAYERS:
        raise InputError(f"{reader.where}: {prefix}block_count is {layers}, expected 1 to {MAX_LAYERS}")
    period = {"alternate": 2, "five_of_six": 6}.get(family.windows)
    return tuple(
        "sliding_attention" if period and (index + 1) % period else "full_attention" for index in range(layers)
    )


def _attention_multiplier(family: Family, layers: int, hidden: int, heads: int) -> float | None:
    """The files do not say it: gemma's 27B models scale by hidden_size / heads, all others by head_dim."""
    largest = {"gemma2": 46, "gemma3_text": 62}.get(family.model_type)
    return float(hidden / heads) ** -0.5 if layers == largest else None


def _softcap(reader: ConfigReader, field: str, family: Family, default: float) -> float | None:
    return reader.number(field, default) if family.model_type == "gemma2" else None


def _eos(reader: ConfigReader) -> tuple[int, ...]:
    found = [reader.config.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))
