"""What the tests share: small models on disk, and small questions to the planner."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.models.config import read_config
from specplan.plan import ModelInput, Plan, PlanInputs
from specplan.planner.analyze import analyze
from specplan.planner.question import Question
from specplan.workload import Workload

# what this machine's user has measured is no part of the tests
os.environ["SPECPLAN_PROFILES"] = str(Path(__file__).parent / "data" / "no-user-profiles")

settings.register_profile(
    "specplan",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("specplan")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": 2,
}


def llama_config(**changes: Any) -> dict[str, Any]:
    """A tiny llama's config.json, changed; a field set to ``...`` is left out."""
    config = copy.deepcopy(LLAMA) | changes
    return {key: value for key, value in config.items() if value is not ...}


def write_config(folder: Path, config: Any) -> Path:
    """Write config.json into a folder and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiny_arch(**changes: Any) -> ModelArch:
    """The arch of ``llama_config(**changes)``."""
    return read_config(llama_config(**changes), "config.json")


def model_input(arch: ModelArch, reference: str = "tiny") -> ModelInput:
    """An arch as if it had been read from a profile."""
    return ModelInput(reference, "profile", "0" * 64, arch)


def tiny_question(**changes: Any) -> Question:
    """A question about tiny models that fits easily; ``changes`` are fields of Question, PlanInputs or Workload."""
    fields: dict[str, Any] = {
        "target": model_input(tiny_arch()),
        "draft": model_input(tiny_arch(num_hidden_layers=1), "tinier"),
        "device": device_profile("cpu-generic"),
        "budget_bytes": 4 << 30,
        "keep": 0.96,
        "heads": None,
        "transformers_version": None,
        "context": 256,
        "batch_size": 1,
        "dtype": "float32",
        "kv_dtype": "float32",
        "draft_dtype": "float32",
        "draft_kv_dtype": "float32",
        "drafters": ("none", "ngram", "draft_model", "early_exit"),
        "alpha": None,
        "num_speculative_tokens": None,
        "max_speculative_tokens": 6,
        "must_speculate": False,
    } | changes
    inputs = PlanInputs(**{name: fields.pop(name) for name in PlanInputs.__slots__ if name in fields})
    workload = Workload(**{name: fields.pop(name) for name in Workload.__slots__ if name in fields})
    return Question(inputs=inputs, workload=workload, **fields)


def tiny_plan(**changes: Any) -> Plan:
    """The answer to ``tiny_question(**changes)``, which must fit."""
    result = analyze(tiny_question(**changes))
    assert isinstance(result, Plan)
    return result


def unquantized(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config without the storage format of its weights."""
    return {key: copy.deepcopy(value) for key, value in config.items() if key != "quantization_config"}


def random_model(config: dict[str, Any], **options: Any) -> Any:
    """A transformers model with random weights on CPU, or on the device of a ``with`` around the call."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**unquantized(config)), **options)


@pytest.fixture(scope="module")
def uncapped() -> Iterator[None]:
    """``run`` caps its process's memory for good: not one that goes on to other tests."""
    from specplan_runtime import budget

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "cap_process", lambda plan, device: None)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model; read it, never write to it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    random_model(llama_config()).save_pretrained(folder)
    return folder


GGUF_SHAPES = {
    "token_embd.weight": (32, 8),
    "output_norm.weight": (8,),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.ffn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (4, 8),
    "blk.0.attn_v.weight": (4, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_gate.weight": (16, 8),
    "blk.0.ffn_up.weight": (16, 8),
    "blk.0.ffn_down.weight": (8, 16),
}


def gguf_tensors() -> dict[str, np.typing.NDArray[np.float32]]:
    """Random tensors of a one-layer llama whose head is its embedding; every size is a multiple of 32 bytes."""
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in GGUF_SHAPES.items()}


def write_gguf(path: Path, tensors: dict[str, Any], **metadata: Any) -> Path:
    """A llama as GGUF; ``tensors`` hold arrays, or pairs of quantized bytes and their ggml type."""
    import gguf

    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    writer.add_block_count(metadata.pop("block_count", 1))
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_eos_token_id(2)
    for name, add in metadata.items():
        getattr(writer, f"add_{name}")(add)
    for name, value in tensors.items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GGUF file; read it, never write to it."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", gguf_tensors())
