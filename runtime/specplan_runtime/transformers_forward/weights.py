"""Weights from a checkpoint into a transformers model, tile by tile: never a second copy of a tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.families import FAMILIES
from specplan.models.names import Naming, naming_of
from specplan_runtime.loading.load import Progress
from specplan_runtime.loading.sources import TensorSource
from specplan_runtime.transformers_forward.model import constant_tensors, weight_tensors

#: Experts that a checkpoint keeps one by one and transformers in one tensor.
_FUSED = re.compile(r"\.layers\.(\d+)\..*experts\.(gate_up_proj|down_proj)$")


@torch.no_grad()
def load_weights(model: PreTrainedModel, arch: ModelArch, source: TensorSource, progress: Progress) -> None:
    """Read every tensor and convert it to the model's precision.

    Args:
        model: materialized; overwritten.
        arch: the architecture.
        source: the checkpoint.
        progress: told after each tensor.

    Raises:
        InputError: a tensor that the checkpoint does not have, or of another shape.
    """
    tensors = weight_tensors(model)
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        for stored, place in _sources(name, tensor, arch, source):
            _fill(place, source, stored)
        progress(number / len(tensors))
    if FAMILIES[arch.model_type].norm_offset and not arch.norm_offset:  # GGUF files have the one added
        for name, tensor in tensors.items():
            if name.endswith("norm.weight"):
                tensor.sub_(1.0)
    factors = source.rope_factors()
    if factors is not None:
        for name, tensor in constant_tensors(model).items():
            if name.endswith("inv_freq"):
                tensor.div_(factors.to(tensor.device))


@torch.no_grad()
def fill_randomly(model: PreTrainedModel) -> None:
    """Noise instead of a checkpoint, for measurements of memory and speed."""
    for tensor in weight_tensors(model).values():
        tensor.normal_(0, 0.02)


def _sources(
    name: str, tensor: torch.Tensor, arch: ModelArch, source: TensorSource
) -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint calls the parts of a tensor, each with its place in it.

    Raises:
        InputError: the checkpoint does not have it.
    """
    names = naming_of(arch)
    if source.has(name):
        yield name, tensor
        return
    renamed = _stored_name(name, names)
    if source.has(renamed):
        yield renamed, tensor
        return
    match = _FUSED.search(name)
    if match is None:
        raise InputError(f"the checkpoint has no tensor {name}")
    layer = int(match[1])
    parts = names.expert_gate_up if match[2] == "gate_up_proj" else (names.expert_down,)
    for expert, whole in enumerate(tensor):
        for part, place in zip(parts, whole.chunk(len(parts)), strict=True):
            yield f"{names.layer(layer, part.format(expert=expert))}.weight", place


def _stored_name(name: str, names: Naming) -> str:
    """The name of a head or a router where checkpoints know it by another than transformers 5."""
    if name == "lm_head.weight":
        return f"{names.head}.weight"
    match = re.match(r"(.*\.layers\.\d+)\.mlp\.gate\.(\w+)$", name)
    return name if match is None else f"{match[1]}.{names.router}.{match[2]}"


def _fill(place: torch.Tensor, source: TensorSource, name: str) -> None:
    """Copy a tensor row by row.

    Raises:
        InputError: it is missing, or has another shape.
    """
    if not source.has(name):
        raise InputError(f"the checkpoint has no tensor {name}")
    end = 0
    for first, tile in source.tiles(name):
        end = first + tile.shape[0]
        if tile.shape[1:] != place.shape[1:] or end > place.shape[0]:
            raise InputError(f"the checkpoint's tensor {name} has another shape than its config implies")
        place[first:end].copy_(tile)
    if end != place.shape[0]:
        raise InputError(f"the checkpoint's tensor {name} has {end} rows, its config implies {place.shape[0]}")
