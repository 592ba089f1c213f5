"""An EAGLE-3 head on disk: config.json and safetensors, as its authors or the speculators library write them.

Sources: eagle/model/cnets.py of SafeAILab/EAGLE; src/speculators/models/eagle3 of vllm-project/speculators;
llama_eagle3.py of vLLM and of SGLang.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specplan.arch import ModelArch
from specplan.errors import InputError, UnsupportedError
from specplan.families import runnable
from specplan.heads import NUM_FEATURES, Eagle3Head, usual_feature_layers
from specplan.models.config import read_config
from specplan.models.config_reader import ConfigReader
from specplan.models.eagle3_names import check_eagle3_tensors, eagle3_names
from specplan.models.safetensors_header import read_headers, safetensors_files
from specplan.plan import Eagle3Input

_LAYER_IDS = "eagle_aux_hidden_state_layer_ids"
#: Variants of the fusion and of what is fed back, which the runtime does not compute.
_UNKNOWN_VARIANTS = ("norm_before_fc", "fc_norm", "norm_output", "parallel_drafting")


def is_eagle3(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that it describes an EAGLE-3 head: the authors' own only adds a draft vocabulary."""
    architectures = config.get("architectures")
    names = [str(name).lower() for name in architectures] if isinstance(architectures, list) else []
    if config.get("speculators_model_type") is not None:
        return bool(config["speculators_model_type"] == "eagle3")
    return "draft_vocab_size" in config or any("eagle3" in name for name in names)


def eagle3_input(folder: Path, config: Mapping[str, Any], config_path: Path, target: ModelArch) -> Eagle3Input:
    """Read what a folder holds, without reading any weight.

    Raises:
        InputError: a damaged file, or a head of another target's sizes.
        UnsupportedError: a head that is built in a way that specplan does not know.
    """
    files = safetensors_files(folder)
    if not files:
        raise InputError(f"{folder}: no model.safetensors in this folder; a pytorch_model.bin is not read: convert it")
    entries = read_headers(files)
    names = eagle3_names(entries, str(folder))
    heads = _read_head(config, str(config_path), target, names.own_embedding)
    check_eagle3_tensors(entries, heads, target, str(folder))
    digest = hashlib.sha256(config_path.read_bytes())
    digest.update(repr(sorted(entries.items())).encode())
    return Eagle3Input(str(folder.resolve()), digest.hexdigest(), heads)


def _read_head(config: Mapping[str, Any], where: str, target: ModelArch, own_embedding: bool) -> Eagle3Head:
    reader = ConfigReader(config, where)
    reader.refuse(*_UNKNOWN_VARIANTS)
    nested = reader.section("eagle_config")
    if nested is not None:
        nested.refuse(*_UNKNOWN_VARIANTS)
        if not nested.flag("use_aux_hidden_state", True):
            raise UnsupportedError(f"{nested.where}: use_aux_hidden_state False is not supported")
    section = config.get("transformer_layer_config") if "speculators_model_type" in config else config
    layer = read_config(section, where)
    _check_layer(layer, where)
    for field, found, needed in (
        ("hidden_size", layer.hidden_size, target.hidden_size),
        ("vocab_size", layer.vocab_size, target.vocab_size),
        ("target_hidden_size", reader.integer("target_hidden_size", target.hidden_size), target.hidden_size),
    ):
        if found != needed:
            raise InputError(f"{where}: {field} is {found}, this target's is {needed}")
    return Eagle3Head(
        intermediate_size=layer.intermediate_size,
        num_attention_heads=layer.num_attention_heads,
        num_key_value_heads=layer.num_key_value_heads,
        head_dim=layer.head_dim,
        draft_vocab_size=reader.size("draft_vocab_size", target.vocab_size, most=target.vocab_size),
        own_embedding=own_embedding,
        feature_layers=_feature_layers(reader, nested, target),
        norm_before_residual=reader.flag("norm_before_residual", False),
        rms_norm_eps=layer.rms_norm_eps,
        rope_theta=layer.rope_theta,
        rope_scaling=layer.rope_scaling,
    )


def _check_layer(layer: ModelArch, where: str) -> None:
    """One llama's layer without biases: the only one whose tensors are known."""
    refused = {
        f"model_type {layer.model_type!r}": layer.model_type != "llama",
        f"num_hidden_layers {layer.num_hidden_layers}": layer.num_hidden_layers != 1,
        "attention_bias": layer.qkv_bias or layer.output_bias,
        "mlp_bias": layer.mlp_bias,
        "a sliding window": layer.layer_types[0] != "full_attention",
        f"rope type {layer.rope_scaling.rope_type!r}" if layer.rope_scaling else "": not runnable(layer),
        "quantization": layer.stored is not None,
        "tie_word_embeddings": layer.tie_word_embeddings,
        f"partial rotary embeddings ({layer.rotary_dim} of {layer.head_dim})": layer.rotary_dim != layer.head_dim,
    }
    for what, present in refused.items():
        if present:
            raise UnsupportedError(f"{where}: {what} in an EAGLE-3 head is not supported")


def _feature_layers(reader: ConfigReader, nested: ConfigReader | None, target: ModelArch) -> tuple[int, ...]:
    """Layers of the target by their inputs.

    Speculators and vLLM number the layer that a feature enters; inside ``eagle_config`` it is the layer that it leaves
    (SGLang's set_eagle3_layers_to_capture adds one).
    """
    layers = reader.layers(_LAYER_IDS)
    if not layers and nested is not None:
        layers = tuple(layer + 1 for layer in nested.layers(_LAYER_IDS))
    layers = layers or usual_feature_layers(target.num_hidden_layers)
    if len(layers) != NUM_FEATURES or not all(0 <= layer <= target.num_hidden_layers for layer in layers):
        raise UnsupportedError(
            f"{reader.where}: features of layers {list(layers)}: expected {NUM_FEATURES} of the target's "
            f"{target.num_hidden_layers} layers"
        )
    return layers
