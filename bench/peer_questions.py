"""The questions that ``bench.peers`` puts to every tool, their exact answers, and the files that tools read.

Dimensions are spelled out from the models' published config.json; nothing here uses specplan. A question's exact bytes
are the sum over its tensors, listed by name and shape as in the published checkpoint, and K and V of every layer.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = 4096
GIB = 1 << 30
_FP16_BYTES = 2
_REVISION = "0" * 40


@dataclass(frozen=True, slots=True)
class Question:
    """Weights and KV in float16, context 4096, batch 1, of one model.

    Attributes:
        title: for people.
        hub_id: what tools call it.
        profile: specplan's bundled profile of the same architecture.
        gpu: specplan's smallest bundled device that holds it.
        num_parameters: as published, tied head counted once.
        config: the fields of config.json that decide memory.
    """

    title: str
    hub_id: str
    profile: str
    gpu: str
    num_parameters: int
    config: dict[str, Any]

    def tensors(self) -> dict[str, list[int]]:
        """Name and shape of every tensor of the checkpoint."""
        c = self.config
        h, I, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]  # noqa: E741 - the field's own names
        q = h
        kv = h // c["num_attention_heads"] * c["num_key_value_heads"]
        layer = {"self_attn.q_proj.weight": [q, h], "self_attn.k_proj.weight": [kv, h],
                 "self_attn.v_proj.weight": [kv, h], "self_attn.o_proj.weight": [h, q],
                 "mlp.gate_proj.weight": [I, h], "mlp.up_proj.weight": [I, h], "mlp.down_proj.weight": [h, I],
                 "input_layernorm.weight": [h], "post_attention_layernorm.weight": [h]}  # fmt: skip
        if c["model_type"] == "qwen2":
            layer |= {"self_attn.q_proj.bias": [q], "self_attn.k_proj.bias": [kv], "self_attn.v_proj.bias": [kv]}
        shapes = {"model.embed_tokens.weight": [V, h], "model.norm.weight": [h]}
        for index in range(c["num_hidden_layers"]):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        return shapes if c["tie_word_embeddings"] else shapes | {"lm_head.weight": [V, h]}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors in float16."""
        return _FP16_BYTES * sum(math.prod(shape) for shape in self.tensors().values())

    @property
    def kv_bytes(self) -> int:
        """K and V of every layer and position, in float16."""
        c = self.config
        row_elements: int = c["hidden_size"] // c["num_attention_heads"] * c["num_key_value_heads"]
        return 2 * int(c["num_hidden_layers"]) * row_elements * CONTEXT * _FP16_BYTES

    @property
    def exact_gib(self) -> float:
        """Weights and KV in GiB."""
        return (self.weight_bytes + self.kv_bytes) / GIB


def _llama(**fields: int) -> dict[str, Any]:
    common = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000}
    fixed = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    return common | fixed | {"torch_dtype": "float16"} | fields


LLAMA_2_7B = Question(
    "Llama-2-7B", "meta-llama/Llama-2-7b-hf", "llama-2-7b-chat", "rtx-4090", 6738415616,
    _llama(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
           num_key_value_heads=32),
)  # fmt: skip
LLAMA_2_70B = Question(
    "Llama-2-70B", "meta-llama/Llama-2-70b-hf", "llama-2-70b-chat", "h200", 68976648192,
    _llama(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
           num_key_value_heads=8),
)  # fmt: skip
QWEN_2_5_500M = Question(
    "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b", "rtx-4060", 494032768,
    {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "vocab_size": 151936,
     "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True,
     "torch_dtype": "float16", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
     "num_attention_heads": 14, "num_key_value_heads": 2, "use_sliding_window": False, "sliding_window": 32768,
     "max_window_layers": 21},
)  # fmt: skip
#: The drafter of the pair question.
LLAMA_68M = Question(
    "Llama-68M", "JackFram/llama-68m", "llama-68m", "rtx-4090", 68030208,
    _llama(hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12,
           num_key_value_heads=12),
)  # fmt: skip
QUESTIONS = (LLAMA_2_7B, LLAMA_2_70B, QWEN_2_5_500M)


def model_folder(question: Question, home: Path) -> Path:
    """Where the model lies under a hub cache at ``home``."""
    return home / "hub" / ("models--" + question.hub_id.replace("/", "--")) / "snapshots" / _REVISION


def write_model(question: Question, home: Path) -> None:
    """Lay the model into a hub cache: config.json, and a safetensors file whose header is real and whose data a hole.

    The file has its true length but takes no space, on file systems with sparse files.
    """
    folder = model_folder(question, home)
    folder.mkdir(parents=True)
    refs = folder.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(_REVISION)
    (folder / "config.json").write_text(json.dumps(question.config))
    offset, header = 0, {}
    for name, shape in question.tensors().items():
        end = offset + _FP16_BYTES * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    index = {"metadata": {"total_size": offset}, "weight_map": dict.fromkeys(header, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
