"""Records what quantization libraries store into quantized_layouts.json, for tests that run without them.

Needs bitsandbytes, gptqmodel, autoawq, compressed-tensors and nvidia-modelopt; a CPU is enough.
"""

from __future__ import annotations

import copy
import importlib
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
Tensors = dict[str, list[Any]]


def described(tensors: dict[str, torch.Tensor]) -> Tensors:
    return {name: [DTYPES[tensor.dtype], list(tensor.shape)] for name, tensor in tensors.items()}


def entry(module: str, form: str, shape: tuple[int, int], tensors: Tensors, **options: Any) -> dict[str, Any]:
    package = importlib.import_module(module.split(".")[0])
    found = {"library": module, "version": package.__version__, "format": form, "options": options}
    return {**found, "rows": shape[0], "columns": shape[1], "tensors": tensors}


def bitsandbytes() -> Iterator[dict[str, Any]]:
    bnb = importlib.import_module("bitsandbytes")
    for rows, columns in ((96, 64), (3, 37), (65, 100), (1000, 777), (512, 1024)):
        for kind in ("nf4", "fp4"):
            for nested in (False, True):
                weight = bnb.nn.Params4bit(
                    torch.randn(rows, columns), requires_grad=False, compress_statistics=nested, quant_type=kind
                )
                layer = bnb.nn.Linear4bit(columns, rows, bias=False, compress_statistics=nested, quant_type=kind)
                layer.weight = weight._quantize("cpu")
                tensors = described(layer.state_dict())
                if nested:
                    offset = layer.weight.quant_state.offset
                    tensors |= described({"memory:weight.nested_offset": offset})
                yield entry("bitsandbytes.nn.Linear4bit", kind + "-double" * nested, (rows, columns), tensors)
        layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(torch.randn(rows, columns), requires_grad=False)._quantize("cpu")
        yield entry("bitsandbytes.nn.Linear8bitLt", "llm.int8", (rows, columns), described(layer.state_dict()))


def gptq() -> Iterator[dict[str, Any]]:
    linear = importlib.import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    for bits in (2, 3, 4, 8):
        for rows, columns, group in ((256, 384, 128), (512, 256, -1), (96, 160, 64), (100, 130, 32)):
            if bits == 3 and columns % 32:
                continue
            layer = linear(
                bits=bits, group_size=group, sym=True, desc_act=False, in_features=columns, out_features=rows,
                bias=False, register_buffers=True, pack_dtype=torch.int32,
            )  # fmt: skip
            tensors = described(layer.state_dict())
            yield entry(linear.__module__ + ".TorchLinear", f"gptq-int{bits}", (rows, columns), tensors, group=group)


def awq() -> Iterator[dict[str, Any]]:
    linear = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    for rows, columns, group in ((256, 384, 128), (512, 256, -1), (96, 160, 32)):
        tensors = described(linear(4, group, columns, rows, False, "cpu").state_dict())
        yield entry("awq.modules.linear.gemm.WQLinear_GEMM", "awq-int4", (rows, columns), tensors, group=group)


PRESETS = {
    "W4A16": "int4-packed", "W4A16_ASYM": "int4-packed-asymmetric", "W8A16": "int8-packed",
    "W8A16_ASYM": "int8-packed-asymmetric", "W8A8": "int8-channel", "FP8": "fp8-static", "FP8_DYNAMIC": "fp8-channel",
    "FP8_BLOCK": "fp8-block", "NVFP4A16": "nvfp4-weight-only", "NVFP4": "nvfp4", "MXFP4A16": "mxfp4-packed",
    "MXFP8A16": "mxfp8",
}  # fmt: skip


def compressed_tensors() -> Iterator[dict[str, Any]]:
    quantization = importlib.import_module("compressed_tensors.quantization")
    lifecycle = importlib.import_module("compressed_tensors.quantization.lifecycle.initialize")
    compressors = importlib.import_module("compressed_tensors.compressors")
    for preset, form in PRESETS.items():
        for rows, columns in ((256, 384), (104, 128), (100, 130)):
            scheme = quantization.preset_name_to_scheme(preset.replace("W8A16_ASYM", "W8A16"), ["Linear"])
            if preset == "W8A16_ASYM":
                scheme.weights.symmetric = False
            if columns == 130 and scheme.weights.group_size:
                continue
            layer = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
            lifecycle.initialize_module_for_quantization(layer, scheme, force_zero_point=False)
            for name, parameter in layer.named_parameters():
                if name != "weight":
                    parameter.data = torch.ones(parameter.shape).to(parameter.dtype)
            compressors.compress_module(layer)
            tensors = described(dict(layer.named_parameters()) | dict(layer.named_buffers()))
            config = {"config_groups": {"group_0": scheme.model_dump(mode="json")}, "format": scheme.format.value}
            options = {"config": config, "preset": preset}
            yield entry("compressed_tensors.compressors", form, (rows, columns), tensors, **options)


MODELOPT = {
    "FP8_DEFAULT_CFG": "fp8-static", "NVFP4_DEFAULT_CFG": "nvfp4-modelopt", "MXFP8_DEFAULT_CFG": "mxfp8",
    "FP8_PER_CHANNEL_PER_TOKEN_CFG": "fp8-channel", "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG": "fp8-block",
    "NVFP4_MLP_ONLY_CFG": "nvfp4-modelopt",
}  # fmt: skip


def modelopt() -> Iterator[dict[str, Any]]:
    quantize = importlib.import_module("modelopt.torch.quantization")
    export = importlib.import_module("modelopt.torch.export").export_hf_checkpoint
    safetensors = importlib.import_module("safetensors.torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    for preset, form in MODELOPT.items():
        config = LlamaConfig(
            hidden_size=256, intermediate_size=384, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, head_dim=64, dtype="bfloat16", architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        model = LlamaForCausalLM(config).bfloat16().eval()
        quantize.quantize(model, copy.deepcopy(getattr(quantize, preset)), lambda m: m(torch.arange(16)[None]))
        with tempfile.TemporaryDirectory() as folder:
            export(model, export_dir=folder)
            tensors = described(safetensors.load_file(Path(folder) / "model.safetensors"))
            stated = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
        name = "model.layers.0.mlp.down_proj."
        down = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
        plain = sorted(key for key in tensors if key.endswith(".weight") and tensors[key][0] == "BF16")
        options = {"config": stated, "unquantized": plain}
        yield entry("modelopt.torch.export", form, (256, 384), down, **options)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    lines = []
    for library in (bitsandbytes, gptq, awq, compressed_tensors, modelopt):
        lines += [json.dumps(found, sort_keys=True) for found in library()]
    Path(__file__).with_name("quantized_layouts.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
