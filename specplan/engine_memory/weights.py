"""Weights and modelled workspace of a model on one device."""

from __future__ import annotations

from functools import lru_cache

from specplan.arch import ModelArch
from specplan.deployments.deployment import CannotTell
from specplan.device import DeviceSpec
from specplan.dtypes import FLOAT_BYTES, LIBRARY_FORMATS, STORED, canonical_dtype, float_bytes
from specplan.engine_memory.stages import Stage
from specplan.errors import InputError
from specplan.plan import ModelInput
from specplan.provenance import Figure
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation
from specplan.workload import Workload

_PLAIN = Speculation("none", Chain(0), 0, 1, 2)


def compute_dtype(model: ModelInput, option: str, device: DeviceSpec) -> str:
    """What ``--dtype`` means: the dtype of activations.

    Raises:
        CannotTell: a dtype that is no float.
    """
    name = canonical_dtype(option)
    name = {"float": "float32"}.get(name, name)
    if name == "auto":
        if model.arch.stored is not None and model.kind != "gguf":
            return model.arch.stored.compute_dtype
        published = model.arch.dtype if model.arch.dtype in FLOAT_BYTES else "float16"
        assert published is not None
        if published == "float32":  # vLLM and SGLang serve float32 checkpoints in half precision
            published = "float16"
        return "float16" if published == "bfloat16" and "bfloat16" not in device.flop_per_s else published
    if name not in FLOAT_BYTES:
        raise CannotTell(f"dtype {option!r} is not one that specplan knows: one of {', '.join(FLOAT_BYTES)}")
    return name


def weight_bytes(
    model: ModelInput, dtype: str, quantization: str | None, devices: int, stage: Stage | None = None
) -> Figure:
    """Weights of a model on one of the devices that share it.

    Args:
        model: as resolved.
        dtype: of activations.
        quantization: the engine's option, None where the checkpoint decides.
        devices: that share the model; every one is taken to hold its equal part.
        stage: the layers of these devices, None for all.

    Raises:
        CannotTell: a quantization while loading that specplan does not know.
    """
    name = _weight_dtype(model, dtype, quantization)
    try:
        total, embedding, head = _bytes_of_parts(model, name)
    except InputError as error:
        raise CannotTell(f"weights of {model.reference}: {error}") from None
    where = "tensor shapes of the architecture" if model.arch.stored is None else "how the checkpoint is stored"
    layers = model.arch.num_hidden_layers
    if stage is not None:
        total = stage.weight_bytes(total, embedding, head, layers)
        if stage.num_layers != layers:
            where += f", layers {stage.start} to {stage.end - 1} as equal parts" if stage.num_layers else ", no layers"
            return Figure(-(-total // devices), "modelled", where)
    if devices == 1:
        return Figure(total, "exact", where)
    return Figure(-(-total // devices), "modelled", f"{where}, in {devices} equal parts")


def _weight_dtype(model: ModelInput, dtype: str, quantization: str | None) -> str:
    if model.arch.stored is not None:
        return STORED
    if quantization is None or quantization in ("auto", "none", "None"):
        return dtype
    for name in LIBRARY_FORMATS:
        if name == quantization:
            return name
    raise CannotTell(
        f"what --quantization {quantization} makes of the plain checkpoint {model.reference} is not known: "
        "name a quantized checkpoint"
    )


@lru_cache(maxsize=256)
def _bytes_of_parts(model: ModelInput, dtype: str) -> tuple[int, int, int]:
    """Everything; the input embedding; the output head, 0 where that is the embedding."""
    from specplan.devices.bundled import device_profile
    from specplan.formulas.memory import MemoryModel  # late: sympy
    from specplan.planner.weights import target_weights

    device = device_profile("cpu-generic")
    model, name = target_weights(model, dtype, device)
    float_name = name if name in FLOAT_BYTES else "float16"
    workload = Workload(1, 1, name, float_name, name, float_name)
    ledger = MemoryModel(Scenario(model.arch, None, device, workload, _PLAIN)).ledger()
    embedding, head = _ends(model.arch, name)
    return ledger.by_name()["target.weights"].bytes, embedding, head


def _ends(arch: ModelArch, dtype: str) -> tuple[int, int]:
    """Bytes of the embedding and of the head."""
    shape = (arch.vocab_size, arch.hidden_size)
    if arch.stored is None:
        size = shape[0] * shape[1] * float_bytes(dtype)
        return size, 0 if arch.tie_word_embeddings else size
    sizes = {"embedding": 0, "head": 0}
    for form, kind, count in arch.stored.counts():
        if kind in sizes:
            sizes[kind] += count * form.matrix_bytes(*shape)
    return sizes["embedding"], sizes["head"]


def activation_bytes(arch: ModelArch, rows: int, element_bytes: int, devices: int) -> Figure:
    """Workspace of a pass of that many rows: hidden states, and the larger of attention's and the MLP's own.

    The gate and up matrices are fused in engines: 2·I columns and their product; q, k, v in one, and the output.
    """
    hidden = 4 * rows * arch.hidden_size
    experts = arch.moe.moe_intermediate_size * arch.moe.num_experts_per_tok if arch.moe is not None else 0
    mlp = 3 * rows * -(-max(arch.intermediate_size, experts) // devices)
    attention = rows * (-(-(arch.qkv_size + arch.num_attention_heads * arch.head_dim) // devices))
    bytes_ = element_bytes * (hidden + max(mlp, attention))
    return Figure(bytes_, "modelled", f"hidden states and the largest stage of a pass of {rows} rows")
