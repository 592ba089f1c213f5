"""Checkpoints as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tests.runtime_helpers import reference_model

_GGUF_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GGUF_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_GGUF_GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GGUF_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_tensor_name(name: str, gemma: bool) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in _GGUF_WHOLE:
        return f"{_GGUF_WHOLE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{(_GGUF_PARTS | (_GGUF_GEMMA_NORMS if gemma else _GGUF_NORMS))[part]}.{kind}"


def permute(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def write_gguf(folder: Path, path: Path, *, dtype: str = "float32", copy_head: bool = False) -> Path:
    """Convert a checkpoint as llama.cpp's converter does."""
    model = reference_model(folder)
    config = model.config
    rope = config.rope_parameters
    writer = gguf.GGUFWriter(path, config.model_type.removesuffix("_text"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if "gemma" in config.model_type:
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings or copy_head:
            add_tensor(writer, config, name, tensor.numpy(), dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer: Any, config: Any, name: str, values: np.ndarray[Any, Any], dtype: str) -> None:
    if config.model_type == "llama" and ".q_proj." in name:
        values = permute(values, config.num_attention_heads)
    if config.model_type == "llama" and ".k_proj." in name:
        values = permute(values, config.num_key_value_heads)
    gemma = config.model_type in ("gemma2", "gemma3_text")
    if gemma and "norm" in name:
        values = values + 1  # as the converter does
    if dtype == "float16" and values.ndim > 1:
        values = values.astype(np.float16)
    if dtype.startswith("Q") and values.ndim > 1:
        kind = gguf.GGMLQuantizationType[dtype]
        writer.add_tensor(gguf_tensor_name(name, gemma), gguf.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(gguf_tensor_name(name, gemma), values)
