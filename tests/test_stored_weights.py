"""Weights as libraries store them: in the ledger to the byte, against checkpoints on disk and published totals."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from specplan import planfile
from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.dtypes import LIBRARY_FORMATS
from specplan.errors import InputError, UnsupportedError
from specplan.formulas.bind import evaluate_expression
from specplan.formulas.explain import explain_items, scenario_of_plan, to_text
from specplan.formulas.head_storage import mtp_storage
from specplan.formulas.memory import MemoryModel
from specplan.formulas.stored_weights import SHAPES, rest, stored_expression
from specplan.formulas.values import arch_values
from specplan.heads import MtpLayer
from specplan.ledger import MemoryItem
from specplan.matrices import matrix_shapes, num_vector_elements
from specplan.models.config import read_config
from specplan.models.modules import linear_modules
from specplan.models.quantization import read_quantization
from specplan.models.resolve import resolve_model
from specplan.models.storage import named_storage, stored_weights
from specplan.models.tensors import expected_tensors
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.profiles import profile_names, read_profile
from specplan.quantized.format_tensors import num_scales, tensor_bytes, tensors
from specplan.quantized.formats import STORED_FORMATS, StoredFormat
from specplan.quantized.quantization import Quantization
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation
from specplan.workload import Workload
from tests.conftest import gguf_tensors, llama_config, write_config, write_gguf

MODELS = profile_names("models")
TORCH = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U8": torch.uint8,
    "I8": torch.int8, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@cache
def profile_arch(name: str) -> ModelArch:
    return read_config(read_profile("models", name)["config"], name)


def plan_of(**options: Any) -> Plan:
    result = analyze(ask(**{"gpu": "h200", "context": 64, **options}))
    assert isinstance(result, Plan)
    return result


def item(plan: Plan, name: str = "target.weights") -> int:
    return plan.ledger.by_name()[name].bytes


def listed_bytes(arch: ModelArch, form: StoredFormat, parts: tuple[str, ...], plain: int = 2) -> int:
    """The sum over the library's own tensors: ``form`` for modules whose kind starts with one of ``parts``."""
    shapes = matrix_shapes(arch)
    vectors, floats = num_vector_elements(arch)
    total = plain * (vectors + math.prod(shapes["embedding"])) + 4 * floats
    for module in linear_modules(arch):
        rows, columns = shapes[module.kind]
        if module.kind.startswith(parts):
            total += module.count * sum(tensor_bytes(form, tensor) for tensor in tensors(form, rows, columns))
        else:
            total += module.count * plain * rows * columns
    return total


# --- the shapes, twice written down, and what they add up to ---


@pytest.mark.parametrize("name", MODELS)
def test_expressions_and_numbers_agree_with_published_parameters(name: str) -> None:
    arch = profile_arch(name)
    values, shapes = arch_values(arch), matrix_shapes(arch)
    for kind, shape in shapes.items():
        assert tuple(evaluate_expression(side, values) for side in SHAPES[kind]) == shape
    vectors, floats = num_vector_elements(arch)
    assert evaluate_expression(rest(), values | {"s_v": 2}) == 2 * vectors + 4 * floats
    modules = sum(module.count * math.prod(shapes[module.kind]) for module in linear_modules(arch))
    total = modules + math.prod(shapes["embedding"]) + vectors
    assert total == read_profile("models", name)["num_parameters"]


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b",
        "mixtral-8x7b",
        "phi-4",
        "gpt-oss-20b",
        "falcon-h1-0.5b",
        "deepseek-v3",
        "qwen3-coder-next",
        "jamba-v0.1",
        "bamba-9b",
        "granite-4.0-h-tiny",
        "pythia-160m",
        "qwen3-30b-a3b",
        "gemma-2-2b",
    ],
)
def test_names_of_modules_are_those_of_transformers(name: str) -> None:
    from tests.conftest import random_model

    config = {
        key: value for key, value in read_profile("models", name)["config"].items() if key != "quantization_config"
    }
    with torch.device("meta"):
        model = random_model(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = {module.name for module in linear_modules(profile_arch(name)) if not module.kind.startswith("experts.")}
    found = {name.replace("embed_out", "lm_head") for name in found}  # the checkpoint's name, and the class's
    assert found <= linear
    others = {name for name in linear - found if not name.endswith(("router", "router.layer", "_gate", ".gate"))}
    assert others <= ({"lm_head"} if profile_arch(name).tie_word_embeddings else set())


# --- checkpoints whose total is published ---


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt-oss-20b", 13_761_264_768),  # total_size of openai/gpt-oss-20b's model.safetensors.index.json
        ("gpt-oss-120b", 65_248_815_744),  # of openai/gpt-oss-120b's
    ],
)
def test_mxfp4_equals_the_published_total(name: str, published: int) -> None:
    plan = plan_of(model=name, gpu="h200")
    assert plan.workload.dtype == "stored"
    assert item(plan) == published == listed_bytes(profile_arch(name), STORED_FORMATS["mxfp4"], ("experts.",))
    assert plan.forward == "unsupported"


def test_deepseek_v3_in_blocks_of_float8() -> None:
    arch = profile_arch("deepseek-v3")
    assert arch.stored is not None
    found = evaluate_expression(stored_expression(arch.stored), arch_values(arch) | {"s_v": 2})
    parts = ("latent.", "mlp.", "experts.", "shared.")
    assert found == listed_bytes(arch, STORED_FORMATS["fp8-block"], parts) == 673_150_611_808
    assert 642e9 < found < 689e9  # 688.6 GB are published, multi-token prediction included


def test_qwen3_next_in_blocks_of_float8() -> None:
    """Of Qwen3-Coder-Next, which has the same shape, the hub counts both releases: they differ by the scales."""
    arch = profile_arch("qwen3-next-80b-a3b-instruct-fp8")
    assert arch.stored is not None
    found = evaluate_expression(stored_expression(arch.stored), arch_values(arch) | {"s_v": 2})
    form, shapes = STORED_FORMATS["fp8-block"], matrix_shapes(arch)
    parts = ("linear.qkvz", "linear.out", "attention.", "experts.", "shared.")
    assert found == listed_bytes(arch, form, parts) == 80_372_547_072
    blocks, _ = arch.stored.formats
    scales = sum(entry.count * num_scales(form, *shapes[entry.kind]) for entry in blocks.kinds)
    assert scales == 79_679_212_800 - 79_674_391_296


def test_bamba_with_one_scale_for_every_matrix() -> None:
    """compressed-tensors keeps scales in the model's dtype; the head is ignored."""
    arch = profile_arch("bamba-9b-fp8")
    assert arch.stored is not None
    found = evaluate_expression(stored_expression(arch.stored), arch_values(arch) | {"s_v": 2})
    form = dataclasses.replace(STORED_FORMATS["fp8"], constants=(("weight_scale", "BF16", (1,)),))
    assert found == listed_bytes(arch, form, ("mamba.", "attention.", "mlp.")) == 10_832_648_780


def with_mtp(name: str, dtype: str) -> dict[str, MemoryItem]:
    """Items of a target with one multi-token-prediction layer, however large."""
    arch = profile_arch(name)
    if dtype != "stored" and dtype != arch.dtype:
        arch = dataclasses.replace(arch, stored=named_storage(arch, dtype, "--dtype"))
    workload = Workload(64, 1, dtype, "bfloat16", dtype, "bfloat16")
    speculation = Speculation("mtp", Chain(1), 0, 16, 2)
    return MemoryModel(
        Scenario(arch, None, device_profile("b200"), workload, speculation, MtpLayer(1))
    ).ledger().by_name()  # fmt: skip


def test_deepseek_v3_with_its_multi_token_prediction_layer() -> None:
    """The headers of the published checkpoint sum to 688 574 839 360 bytes, embedding and head twice.

    Source: the listing in the README of simpx/model-inspect.
    """
    items = with_mtp("deepseek-v3", "stored")
    drafter = items["drafter.weights"]
    table = 2 * 129280 * 7168
    assert items["target.weights"].bytes + drafter.bytes + 2 * table == 688_574_839_360
    assert drafter.bytes == 11_717_511_392
    assert (drafter.source, drafter.formula_id) == ("exact", "stored_mtp_weights")


def test_a_multi_token_prediction_layer_of_other_formats_is_modelled() -> None:
    dtypes = ("gptq-int4", "int8-channel", "bfloat16")
    drafters = [with_mtp("deepseek-v2-lite", dtype)["drafter.weights"] for dtype in dtypes]
    assert [drafter.source for drafter in drafters] == ["modelled", "modelled", "exact"]
    assert len({drafter.bytes for drafter in drafters}) == 1  # 16 bits in all of them


def test_the_layer_of_a_mixed_target_is_modelled() -> None:
    """Which of the layers are in which format is not kept."""
    arch = profile_arch("deepseek-v3")
    assert arch.stored is not None
    block, plain = arch.stored.formats
    halves = tuple(dataclasses.replace(entry, count=entry.count // 2) for entry in block.kinds)
    stored = dataclasses.replace(
        arch.stored,
        formats=(
            dataclasses.replace(block, kinds=halves),
            dataclasses.replace(plain, kinds=(*plain.kinds, *halves)),
        ),
    )
    assert mtp_storage(MtpLayer(1), arch) is not None
    assert mtp_storage(MtpLayer(1), dataclasses.replace(arch, stored=stored)) is None


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "gptq-int4", "awq-int4", "fp8-channel", "int8-channel"])
def test_llama_3_1_8b_keeps_embedding_and_head_in_16_bits(name: str) -> None:
    arch = profile_arch("llama-3.1-8b")
    plan = plan_of(model="llama-3.1-8b", dtype=name)
    assert item(plan) == listed_bytes(arch, STORED_FORMATS[name], ("attention.", "mlp."))
    assert (plan.workload.dtype, plan.workload.draft_dtype) == (name, name)


def test_llama_3_1_8b_in_nf4_by_hand() -> None:
    matrices = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    kept = 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert item(plan_of(model="llama-3.1-8b", dtype="nf4")) == matrices * 9 // 16 + 64 * 7 * 32 + kept


def test_every_format_by_name() -> None:
    arch = profile_arch("llama-3.1-8b")
    for name in LIBRARY_FORMATS:
        if name != "mxfp4":
            stored = named_storage(arch, name, "--dtype")
            found = evaluate_expression(stored_expression(stored), arch_values(arch) | {"s_v": 2})
            assert found == listed_bytes(arch, STORED_FORMATS[name], ("attention.", "mlp.")), name


# --- checkpoints on disk ---

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "num_hidden_layers": 3,
}
W4A16 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*layers.1.*self_attn.*", "model.layers.2.mlp.up_proj"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
SECTIONS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "gptq-3bit": {"quant_method": "gptq", "bits": 3, "group_size": 64, "lm_head": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"},
    "awq-ignored": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 64,
        "modules_to_not_convert": ["layers.1.self_attn"],
    },
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [64, 32], "scale_fmt": "ue8m0"},
    "packed": W4A16,
}


def write_checkpoint(
    folder: Path, section: dict[str, Any], tied: bool = False, changes: dict[str, Any] | None = None
) -> Path:
    """A llama as its library would write it; ``changes`` replace tensors by name, None leaves one out."""
    config = llama_config(
        **SIZES, torch_dtype="float16", tie_word_embeddings=tied, quantization_config=section
    )  # fmt: skip
    arch = read_config(llama_config(**SIZES, torch_dtype="float16", tie_word_embeddings=tied), "config.json")
    quantization = read_quantization(config, "config.json")
    assert quantization is not None
    form, held = quantization.form, {}
    for name, shape in expected_tensors(arch).items():
        module = name.removesuffix(".weight")
        if len(shape) == 2 and quantization.quantizes(module, tied):
            for suffix, dtype, dims in tensors(form, *shape):
                held[f"{module}.{suffix}"] = torch.zeros(dims, dtype=TORCH[dtype])
            held |= {f"{module}.{suffix}": torch.zeros(8, dtype=torch.uint8) for suffix in form.only_in_file}
        else:
            held[name] = torch.zeros(shape, dtype=torch.float16)
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(16)
    held = {name: tensor for name, tensor in (held | (changes or {})).items() if tensor is not None}
    write_config(folder, config)
    save_file(held, folder / "model.safetensors")
    return folder


def stored_bytes(folder: Path) -> int:
    """Bytes of the file's tensors, without buffers and what loading drops."""
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    dropped = ("__metadata__", "inv_freq", "bitsandbytes__nf4")
    kept = (info["data_offsets"] for name, info in header.items() if not name.endswith(dropped))
    return sum(end - begin for begin, end in kept)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", SECTIONS)
def test_a_checkpoint_weighs_what_its_file_holds(tmp_path: Path, method: str, tied: bool) -> None:
    folder = write_checkpoint(tmp_path, SECTIONS[method], tied)
    plan = plan_of(model=str(folder))
    assert item(plan) == stored_bytes(folder)
    assert plan.ledger.by_name()["target.weights"].source == "exact"
    assert (plan.workload.dtype, plan.workload.kv_dtype, plan.forward) == ("stored", "float16", "unsupported")
    assert any("no kernel for the target as stored" in note for note in plan.notes)


def test_ignored_layers_are_counted_one_by_one(tmp_path: Path) -> None:
    plan = plan_of(model=str(write_checkpoint(tmp_path, W4A16)))
    stored = plan.inputs.target.arch.stored
    assert stored is not None
    counts = {(form.name, kind): count for form, kind, count in stored.counts()}
    assert counts["int4-packed", "attention.q"] == counts["int4-packed", "mlp.up"] == 2
    assert counts["float16", "attention.q"] == counts["float16", "mlp.up"] == counts["float16", "head"] == 1
    assert counts["int4-packed", "mlp.down"] == 3
    assert ("float16", "mlp.down") not in counts


def test_experts_that_a_pattern_numbers_are_told_apart() -> None:
    config = read_profile("models", "qwen3-30b-a3b")["config"]
    arch = read_config(config, "config.json")
    ignored = ("model.layers.0.mlp.experts.3.up_proj",)
    quantization = Quantization("fp8", STORED_FORMATS["fp8-block"], ignored=ignored)
    counts = {(form.name, kind): count for form, kind, count in stored_weights(arch, quantization).counts()}
    assert counts["bfloat16", "experts.up"] == 1
    assert counts["fp8-block", "experts.up"] == 48 * 128 - 1
    assert counts["fp8-block", "experts.gate"] == 48 * 128


@pytest.mark.parametrize(
    ("method", "name", "tensor", "what"),
    [
        ("gptq", "model.layers.1.mlp.up_proj.qzeros", torch.zeros((4, 33), dtype=torch.int32), ("528 bytes", "512")),
        ("gptq", "model.layers.0.self_attn.q_proj.g_idx", None, ("missing", "512")),
        ("awq", "model.layers.2.mlp.down_proj.scales", torch.zeros((8, 128)), ("4096 bytes", "1024")),
        ("awq", "model.layers.0.mlp.gate_proj.qweight", torch.zeros((128, 256)), ("131072 bytes", "16384")),
        ("nf4", "model.layers.0.input_layernorm.weight", torch.zeros(128), ("512 bytes", "256")),
        ("fp8", "model.layers.0.self_attn.o_proj.weight_scale_inv", torch.zeros((2, 4)), ("32 bytes", "8")),
        ("packed", "model.layers.1.self_attn.q_proj.weight_packed", torch.zeros(3), ("hold 12 bytes", "implies 0")),
    ],
)
def test_a_tensor_that_differs_is_refused_with_both_figures(
    tmp_path: Path, method: str, name: str, tensor: torch.Tensor | None, what: tuple[str, str]
) -> None:
    folder = write_checkpoint(tmp_path, SECTIONS[method], changes={name: tensor})
    with pytest.raises(InputError) as caught:
        resolve_model(str(folder))
    assert name in str(caught.value)
    assert all(figure in str(caught.value) for figure in what)


def test_scales_in_16_bits_and_layers_of_multi_token_prediction_are_known(tmp_path: Path) -> None:
    """Qwen's releases have both: transformers loads such scales as float32, and drops the layers."""
    section = {"quant_method": "fp8", "weight_block_size": [64, 32]}
    whole = write_checkpoint(tmp_path / "float32", section)
    held = load_file(whole / "model.safetensors")
    changes = {name: scales.bfloat16() for name, scales in held.items() if name.endswith("weight_scale_inv")}
    assert changes
    changes["mtp.layers.0.input_layernorm.weight"] = torch.zeros(128)
    halved = write_checkpoint(tmp_path / "bfloat16", section, changes=changes)
    assert item(plan_of(model=str(halved))) == item(plan_of(model=str(whole))) == stored_bytes(whole)


def test_a_tied_head_that_is_stored_twice_counts_once(tmp_path: Path) -> None:
    head = torch.zeros((96, 128), dtype=torch.float16)
    once = write_checkpoint(tmp_path / "once", SECTIONS["gptq"], tied=True)
    twice = write_checkpoint(tmp_path / "twice", SECTIONS["gptq"], tied=True, changes={"lm_head.weight": head})
    assert item(plan_of(model=str(once))) == item(plan_of(model=str(twice)))


# --- what --dtype means for a quantized model ---


def test_a_floating_dtype_is_dequantized_at_load(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, SECTIONS["awq"])
    plan = plan_of(model=str(folder), dtype="bfloat16")
    arch = plan.inputs.target.arch
    elements = sum(math.prod(shape) for shape in expected_tensors(arch).values())
    assert item(plan) == 2 * elements
    assert plan.forward == "unsupported"
    assert any("dequantized at load" in note for note in plan.notes)


@pytest.mark.parametrize("dtype", ["nf4", "int8", "gptq-int4", "fp8"])
def test_another_quantized_dtype_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    folder = write_checkpoint(tmp_path, SECTIONS["awq"])
    plain = write_config(tmp_path / "plain", llama_config(**SIZES))
    with pytest.raises(InputError, match=f"--dtype {dtype}: .* is stored as awq-int4"):
        ask(model=str(folder), gpu="h200", dtype=dtype)
    with pytest.raises(InputError, match=f"--draft-dtype {dtype}: .* is stored as awq-int4"):
        ask(model=str(plain), draft=str(folder), gpu="h200", draft_dtype=dtype)


def test_naming_the_format_that_it_is_stored_in(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, SECTIONS["awq"])
    assert ask(model=str(folder), gpu="h200", dtype="awq-int4").workload.dtype == "stored"


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        ("hqq", "--dtype: dtype 'hqq' is not supported: one of .*nf4"),
        ("stored", "--dtype stored: llama-3.2-1b is not quantized"),
        ("mxfp4", "--dtype mxfp4: is for experts"),
    ],
)
def test_names_that_mean_nothing_here(dtype: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        ask(model="llama-3.2-1b", gpu="h200", dtype=dtype)
    with pytest.raises(InputError, match=what.replace("--dtype", "--draft-dtype")):
        ask(model="llama-3.1-8b", draft="llama-3.2-1b", gpu="h200", draft_dtype=dtype)


def test_a_shape_that_the_library_refuses(tmp_path: Path) -> None:
    write_config(tmp_path, llama_config(hidden_size=20, head_dim=4))
    with pytest.raises(InputError, match=r"--dtype awq-int4: model.layers.0.self_attn.q_proj: .* 20 input features"):
        ask(model=str(tmp_path), gpu="h200", dtype="awq-int4")


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("llama-3.1-8b", {"dtype": "nf4"}, ("nf4", "nf4")),
        ("llama-3.1-8b", {"dtype": "nf4", "draft_dtype": "bf16"}, ("nf4", "bfloat16")),
        ("llama-3.1-8b", {"draft_dtype": "gptq-int4"}, ("bfloat16", "gptq-int4")),
        ("llama-3.1-8b", {"dtype": "int8"}, ("int8", "int8")),
    ],
)
def test_the_draft_follows_the_target(target: str, options: dict[str, str], expected: tuple[str, str]) -> None:
    workload = ask(model=target, draft="llama-3.2-1b", gpu="h200", **options).workload  # type: ignore[arg-type]
    assert (workload.dtype, workload.draft_dtype) == expected


def test_a_draft_beside_a_quantized_checkpoint(tmp_path: Path) -> None:
    stored = write_checkpoint(tmp_path / "stored", SECTIONS["awq"])
    plain = write_config(tmp_path / "plain", llama_config(**SIZES, torch_dtype="float16"))
    asked = ask(model=str(stored), draft=str(plain), gpu="h200").workload
    assert (asked.dtype, asked.draft_dtype) == ("stored", "float16")
    asked = ask(model=str(plain), draft=str(stored), gpu="h200").workload
    assert (asked.dtype, asked.draft_dtype) == ("float16", "stored")


# --- GGUF ---


def test_a_gguf_file_weighs_the_sum_of_its_tensors(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {name: np.resize(array, (32, 64)) if array.ndim == 2 else np.resize(array, 64)
                              for name, array in gguf_tensors().items()}  # fmt: skip
    shapes = {"attn_k": (32, 64), "attn_v": (32, 64), "attn_q": (64, 64), "attn_output": (64, 64),
              "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96), "token_embd": (32, 64)}  # fmt: skip
    kinds = {"attn_v": "Q8_0", "ffn_down": "Q8_0", "attn_q": "Q4_0", "token_embd": "Q4_0", "ffn_up": "F16"}
    random = np.random.default_rng(1)
    total = 0
    for name in arrays:
        short = name.split(".")[-2]
        if short in shapes:
            arrays[name] = random.standard_normal(shapes[short], dtype=np.float32)
        if short in kinds:
            kind = gguf.GGMLQuantizationType[kinds[short]]
            arrays[name] = (gguf.quantize(arrays[name], kind), kind)
        total += (arrays[name][0] if isinstance(arrays[name], tuple) else arrays[name]).nbytes
    arrays["rope_freqs.weight"] = np.ones(16, dtype=np.float32)
    path = write_gguf(tmp_path / "mixed.gguf", arrays, embedding_length=64, feed_forward_length=96)
    plan = plan_of(model=str(path), dtype="stored")
    assert item(plan) == total + 64
    assert plan.inputs.target.arch.stored is not None
    assert plan.inputs.target.arch.stored.name == "mixed"
    assert plan.forward == "unsupported"
    assert plan_of(model=str(path)).workload.dtype == "float16"
    assert plan_of(model=str(path), dtype="int8").forward == "specplan"
    with pytest.raises(InputError, match=r"--dtype nf4: .* is stored as mixed: stored, .*int8"):
        ask(model=str(path), gpu="h200", dtype="nf4")


# --- transients, plans, explanations ---


def test_dequantized_matrices_of_bitsandbytes() -> None:
    plan = plan_of(model="llama-3.1-8b", dtype="nf4", drafter="none", context=4096)
    items = plan.ledger.by_name()
    assert items["prefill_target.dequantized"].bytes == 2 * 14336 * 4096
    assert items["verify.dequantized"].bytes == 0  # one row is fused
    assert items["verify.dequantized"].source == "published"
    assert any("bitsandbytes-4bit (bitsandbytes 0.50.2" in note for note in plan.notes)
    assert items["prefill_target.scratch"].source == "modelled"


def test_fused_kernels_write_nothing_out() -> None:
    plan = plan_of(model="llama-3.1-8b", dtype="gptq-int4")
    assert not [name for name in plan.ledger.by_name() if name.endswith("dequantized")]
    assert any("marlin" in note for note in plan.notes)


def test_plans_carry_the_storage_and_explain_it(tmp_path: Path) -> None:
    plan = plan_of(model="llama-3.1-8b", dtype="nf4")
    planfile.save(plan, tmp_path / "plan.json")
    loaded = planfile.load(tmp_path / "plan.json")
    assert loaded == plan
    (explanation,) = explain_items(scenario_of_plan(loaded), "target.weights")
    assert explanation.bytes == item(plan)
    parts = {name: num_bytes for name, num_bytes, _ in explanation.stages}
    assert sum(num_bytes or 0 for num_bytes in parts.values()) == item(plan)
    assert parts["head in bfloat16"] == 2 * 128256 * 4096
    text = to_text(explanation)
    assert "part mlp in nf4" in text
    assert "⌈" in text
    assert "*0*" not in text


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [("pack", 0, "nf4.pack is 0"), ("group", -1, "format.group is -1"), ("pack_bytes", 1 << 30, "pack_bytes is")],
)
def test_a_plan_with_an_impossible_format_is_refused(tmp_path: Path, field: str, value: int, what: str) -> None:
    planfile.save(plan_of(model="llama-3.1-8b", dtype="nf4"), tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["inputs"]["target"]["arch"]["stored"]["formats"][0]["format"][field] = value
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=what):
        planfile.load(tmp_path / "plan.json")


def test_a_plan_whose_dtype_contradicts_its_storage(tmp_path: Path) -> None:
    planfile.save(plan_of(model="llama-3.1-8b", dtype="nf4"), tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["workload"]["dtype"] = "awq-int4"
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(
        InputError, match=r"workload.dtype: dtype 'awq-int4' contradicts how the model is stored \(nf4\)"
    ):
        planfile.load(tmp_path / "plan.json")


def test_fewer_bytes_decode_faster() -> None:
    speeds = [
        plan_of(model="llama-3.1-8b", dtype=dtype, drafter="none").estimate.tokens_per_s.value
        for dtype in ("bfloat16", "fp8", "gptq-int4")
    ]
    assert speeds == sorted(speeds)
    assert speeds[2] > 1.5 * speeds[0]


def test_unknown_methods_stay_refused(tmp_path: Path) -> None:
    write_config(tmp_path, llama_config(quantization_config={"quant_method": "hqq"}))
    with pytest.raises(UnsupportedError, match="quant_method 'hqq' is not supported"):
        resolve_model(str(tmp_path))
