"""How each peer is installed, asked and read: one ``Peer`` each.

A peer that takes a folder or a name gets it on its command line. One whose command line insists on the hub is asked
through the functions of its own package that the command calls, with the files that it would have fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.peer_questions import GIB

MIB_PER_GIB = 1024


def fields(*paths: str, per_gib: float = GIB) -> Callable[[str], float]:
    """Reads a JSON object on stdout, after any log lines, and adds up the fields at dotted paths."""

    def read(text: str) -> float:
        answer = json.loads(text[text.index("{") :])
        total = 0.0
        for path in paths:
            value = answer
            for key in path.split("."):
                value = value[key]
            total += value
        return total / per_gib

    return read


def pattern(expression: str) -> Callable[[str], float]:
    """Reads the GiB that the first group of a regular expression matches."""

    def read(text: str) -> float:
        found = re.search(expression, re.sub(r"\x1b\[[0-9;]*m", "", text))
        if found is None:
            raise ValueError("no total in its output")
        return float(found.group(1))

    return read


_PRINTED = pattern(r"([\d.]+)\s*$")
_READ_CONFIG = "import json, sys\nfolder = sys.argv[1]\nc = json.load(open(folder + '/config.json'))\n"

_ACCELERATE = """
import torch
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
from transformers import AutoConfig, AutoModel
with init_empty_weights():
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
print(calculate_maximum_sizes(model)[0] / 2 / 2**30)
"""
_GGUFIT = """
from ggufit import calculator
from ggufit.models import find_model
names = {4096: "llama2-7b", 8192: "llama2-70b", 896: "qwen2.5-0.5b"}
model = find_model(names[c["hidden_size"]])[1]
weights = calculator.model_size_gb(model["params_billion"], "fp16")
print(calculator.gpu_vram_needed(weights, calculator.kv_cache_gb(model, 4096)))
"""
_HF_MEM = """
import struct
from hf_mem.safetensors.kv_cache import compute_safetensors_kv_cache_size
from hf_mem.safetensors.metadata import parse_safetensors_metadata
with open(folder + "/model.safetensors", "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
weights = parse_safetensors_metadata(raw_metadata={"Transformer": header}).bytes_count
kv = compute_safetensors_kv_cache_size(config=c, cache_dtype="F16", max_model_len=4096, batch_size=1)
print((weights + kv) / 2**30)
"""
_KVFIT = """
import os
from kvfit.architectures import estimate_cache
cache = estimate_cache(c, context_tokens=4096, kv_bytes=2.0)
print(os.path.getsize(folder + "/model.safetensors") / 2**30 + cache.total_gib)
"""
_LLM_ANALYSIS = """
from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import GPUConfig, ModelConfig, ParallelismConfig, get_dtype_config_by_name
heads = {"n_head": c["num_attention_heads"], "num_key_value_heads": c["num_key_value_heads"]}
inner = {"ffn_embed_dim": c["intermediate_size"], "expansion_ratio": c["intermediate_size"] / c["hidden_size"]}
model = ModelConfig(name="m", num_layers=c["num_hidden_layers"], hidden_dim=c["hidden_size"],
                    vocab_size=c["vocab_size"], max_seq_len=4096, model_type=c["model_type"], **heads, **inner)
gpu = GPUConfig(name="g", mem_per_GPU_in_GB=1024, hbm_bandwidth_in_GB_per_sec=2039,
                intra_node_bandwidth_in_GB_per_sec=300, intra_node_min_message_latency=8e-6,
                peak_fp16_TFLOPS=312, peak_i8_TFLOPS=624, peak_i4_TFLOPS=1248, inter_node_bandwidth_in_GB_per_sec=200)
analysis = LLMAnalysis(model, gpu, get_dtype_config_by_name("w16a16e16"), ParallelismConfig())
answer = analysis.inference(batch_size_per_gpu=1, seq_len=4095, num_tokens_to_generate=1)
names = ("weight", "kv_cache", "prefill_activation")
print(sum(answer[name + "_memory_per_gpu"] for name in names) / 2**30)
"""
_ML_MEMGUARD = """
from memory_guard.estimator import ModelSpec, estimate_inference_memory
model = ModelSpec(params=int(sys.argv[2]), hidden_dim=c["hidden_size"], num_heads=c["num_attention_heads"],
                  num_kv_heads=c["num_key_value_heads"], num_layers=c["num_hidden_layers"],
                  intermediate_dim=c["intermediate_size"], bits=16)
print(estimate_inference_memory(model, batch_size=1, seq_length=4096).total_mb / 1024)
"""


def _python(code: str) -> tuple[str, ...]:
    return ("python", "-c", _READ_CONFIG + code, "{folder}", "{num_parameters}")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another tool that says how much memory a model needs.

    Attributes:
        name: of its distribution.
        version: the pinned one.
        asked: what it is given.
        counts: what its total holds; W and KV are weights and KV cache.
        argv: the command, a program of its environment first. ``{folder}``, ``{hub_id}`` and ``{num_parameters}`` are
            filled in.
        read: its stdout to GiB.
        unfit: further arguments that ask whether it fits 80 GiB, None where it has no such question.
        needs: installed beside it, torch first and pinned.
    """

    name: str
    version: str
    asked: str
    counts: str
    argv: tuple[str, ...]
    read: Callable[[str], float]
    unfit: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()


_FOLDER = "folder with config.json"
_HEADER = "safetensors header"
_CACHE = "hub cache, offline"
_FUNCTIONS = "its functions: the command needs the hub"
_TORCH = "torch==2.13.0"
_TRANSFORMERS = "transformers==5.23.0"

PEERS = (
    Peer("accelerate", "1.15.0", _FUNCTIONS, "W without the head", _python(_ACCELERATE), _PRINTED,
         needs=(_TORCH, _TRANSFORMERS)),
    Peer("aiconfigurator", "0.12.0", _FOLDER, "W + KV + activations + engine (vLLM, H200)",
         ("aiconfigurator", "cli", "estimate", "--model-path", "{folder}", "--system", "h200_sxm", "--backend", "vllm",
          "--estimate-mode", "static", "--isl", "4095", "--osl", "2", "--batch-size", "1", "--no-color"),
         pattern(r"Memory \(GPU\):\s+([\d.]+) GB"), unfit=("--system", "h100_sxm")),
    Peer("fitcheck-llm", "0.3.1", _CACHE, "W + KV + overhead",
         ("fitcheck", "infer", "{hub_id}", "--seq-len", "4096", "--json", "--gpu", "b200"),
         fields("memory_mib.total", per_gib=MIB_PER_GIB), unfit=("--gpu", "h100-80")),
    Peer("ggufit", "0.3.0", "its functions and catalogue: the command measures the host first",
         "W + KV + 0.6 GiB + 5 % of W", _python(_GGUFIT), _PRINTED),
    Peer("hf-mem", "0.5.6", _FUNCTIONS, "W + KV", _python(_HF_MEM), _PRINTED),
    Peer("hf-vram-calc", "1.0.9", _FOLDER, "1.2 W, KV apart",
         ("hf-vram-calc", "--model", "{hub_id}", "--model_path", "{folder}", "--dtype", "fp16", "--max_batch_size", "1",
          "--max_seq_len", "4096", "--output_json", "/dev/stdout"),
         pattern(r'"inference_total_gib": ([\d.]+)'), needs=(_TORCH,)),
    Peer("kvfit", "0.3.0", _FUNCTIONS, "W (file size) + KV", _python(_KVFIT), _PRINTED),
    Peer("llm-analysis", "0.2.2", "its functions: the command knows few models", "W + KV + activations",
         _python(_LLM_ANALYSIS), _PRINTED),
    Peer("llm-resource-planner", "0.2.0", _FOLDER, "W + 1.2 KV, context fixed at 4096", ("llm-plan", "{folder}"),
         pattern(r"Total Recommended VRAM: ([\d.]+) GB"), unfit=("--gpu", "80")),
    Peer("llm-x-py", "0.1.5", _HEADER, "W + KV + activations + engine",
         ("llm-x", "--model-src", "{folder}", "--context", "4096", "--kv-dtype", "F16"),
         pattern(r"MAX RAM(?: USE:)?\s+([\d.]+) GiB")),
    Peer("ml-memguard", "0.5.0", "its functions: it has no command", "1.15 (W + KV + activations) + 400 MiB",
         _python(_ML_MEMGUARD), _PRINTED),
    Peer("modelinfo-cli", "1.4.4", _HEADER, "W + KV + 600 MB",
         ("modelinfo", "{folder}/model.safetensors", "--context", "4096"),
         pattern(r"VRAM \(est\):\s+~([\d.]+) GB"), unfit=("--gpu", "H100")),
    Peer("ridgepoint", "0.1.2", _CACHE, "W + KV + vLLM's overhead",
         ("ridgepoint", "fit", "{hub_id}", "--gpu", "h100-80gb", "--ctx", "4096", "--prompt", "4096", "--json"),
         fields("memory.weights_bytes.best", "memory.overhead_bytes.best", "capacity.bytes_per_seq"), unfit=()),
    Peer("torch-kitsune", "0.7.0", _FOLDER, "1.15 (W without the head + KV)",
         ("kitsune", "kv-cache", "--hf", "{folder}", "--seq-len", "4096", "--dtype", "float16", "--format", "json"),
         fields("memory.total_gb", per_gib=1), unfit=("--gpu", "h100-sxm"), needs=(_TORCH, _TRANSFORMERS)),
    Peer("vramcalc", "0.1.2", _FOLDER, "W + KV + activations, 0.7 GiB of overhead apart",
         ("vramcalc", "{folder}", "--dtype", "fp16", "--seq", "4096", "--json"), fields("estimate.total"),
         unfit=("--gpu", "80")),
    Peer("vramscout", "0.7.0", _FOLDER, "W + KV + scratch + runtime + 5 % of the card (80 GiB)",
         ("vramscout", "{folder}", "--dtype", "fp16", "--kv-dtype", "fp16", "--context", "4096", "--json",
          "--vram-gib", "80"), fields("total_gib", per_gib=1), unfit=()),
)  # fmt: skip

#: Why others are not asked.
NOT_ASKED = {
    "aisimulate": "only in an index of its vendor",
    "llm-mem": "needs the hub",
    "llm-mem-planner": "models with latent attention (MLA) only",
    "llm-sizer, iaexplore-llm-profiler": "their lists of models hold none of these",
    "gpu-memory-guard": "asks for the model's size",
    "sparkfit": "counts an operating system's share of unified memory",
}
