"""What ``--dtype`` and ``--draft-dtype`` mean for a model: its weight dtype, and how its weights are then stored."""

from __future__ import annotations

import dataclasses

from specplan.device import DeviceSpec
from specplan.dtypes import FLOAT_BYTES, LIBRARY_FORMATS, RUNTIME_FORMATS, STORED, weight_dtype
from specplan.errors import InputError, UnsupportedError
from specplan.plan import ModelInput

AUTO = "auto"


def target_weights(model: ModelInput, name: str, device: DeviceSpec, option: str = "--dtype") -> tuple[ModelInput, str]:
    """The model with its storage settled, and its weight dtype.

    Args:
        model: as read.
        name: what the option says.
        device: where it runs.
        option: for error messages.

    Raises:
        InputError: a dtype that contradicts how the model is stored, or that its shapes do not allow.
        UnsupportedError: no such dtype.
    """
    dtype = _auto(model, device) if name == AUTO else _known(name, option)
    if dtype == "int4" and device.kind != "cpu":
        raise UnsupportedError(f"{option} int4: matrices are packed for CPUs only, and {device.name} is none")
    if dtype in RUNTIME_FORMATS:
        if dtype not in FLOAT_BYTES and _is_checkpoint(model):
            raise _conflict(model, dtype, option)
        return model, dtype
    if dtype == STORED:
        if model.arch.stored is None:
            raise InputError(f"{option} stored: {model.reference} is not quantized: name a dtype")
        return model, dtype
    assert dtype in LIBRARY_FORMATS
    if model.arch.stored is None:
        from specplan.models.storage import named_storage  # late: most weights are stored as published

        stored = named_storage(model.arch, dtype, option)
        return dataclasses.replace(model, arch=dataclasses.replace(model.arch, stored=stored)), dtype
    if model.arch.stored.name == dtype:
        return model, STORED
    raise _conflict(model, dtype, option)


def draft_weights(
    draft: ModelInput, name: str, target: ModelInput, target_dtype: str, device: DeviceSpec
) -> tuple[ModelInput, str]:
    """The same for a draft: auto is as stored where that is quantized, else as the target.

    Raises:
        InputError, UnsupportedError: as ``target_weights``.
    """
    if name == AUTO and not _is_checkpoint(draft):
        if target_dtype == STORED or (target_dtype in LIBRARY_FORMATS and draft.arch.stored is not None):
            return target_weights(draft, AUTO, device)
        name = target_dtype
    return target_weights(draft, name, device, "--draft-dtype")


def _known(name: str, option: str) -> str:
    try:
        return weight_dtype(name)
    except UnsupportedError as error:
        raise UnsupportedError(f"{option}: {error}") from None


def _is_checkpoint(model: ModelInput) -> bool:
    """Quantized by a library, which a GGUF file is not: our runtime loads that into any dtype."""
    return model.arch.stored is not None and model.kind != "gguf"


def _conflict(model: ModelInput, dtype: str, option: str) -> InputError:
    assert model.arch.stored is not None
    also = ", int8, int4" if model.kind == "gguf" else ""
    return InputError(
        f"{option} {dtype}: {model.reference} is stored as {model.arch.stored.name}: stored, "
        f"{', '.join(FLOAT_BYTES)}{also} are possible"
    )


def _auto(model: ModelInput, device: DeviceSpec) -> str:
    """As stored where a library quantized it; float32 on a CPU; elsewhere as published, float16 for GGUF files."""
    if _is_checkpoint(model):
        return STORED
    if device.kind == "cpu":
        return "float32"
    published = model.arch.dtype if model.arch.dtype in FLOAT_BYTES else "float16"
    assert published is not None
    return "float16" if published == "bfloat16" and "bfloat16" not in device.flop_per_s else published
