"""The tensors that an architecture consists of: names and shapes in checkpoints.

One list serves three readers: the check of headers against the config, the runtime's loader, and tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.families import FAMILIES
from specplan.models.names import naming_of

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in a file.

    Attributes:
        dtype: the file's own name for it (``BF16``, ``Q4_K``).
        shape: outermost dimension first.
        file: index into the list of files.
        offset: of the first byte in that file.
        num_bytes: as stored.
    """

    dtype: str
    shape: Shape
    file: int
    offset: int
    num_bytes: int


def layer_tensors(arch: ModelArch, layer: int) -> dict[str, Shape]:
    """Name within a layer to shape [out, in] or [out], for families whose names are known."""
    names = naming_of(arch)
    h = arch.hidden_size
    shapes = _norms(names.norms, h, arch.norm == "layer")
    q, kv = arch.num_attention_heads * arch.head_dim, arch.num_key_value_heads * arch.head_dim
    shapes |= _matrices(names.qkv, (q, kv, kv), h, arch.qkv_bias)
    shapes |= _matrices((names.output,), (h,), q, arch.output_bias)
    if arch.qk_norm is not None:
        full = arch.qk_norm == "full"
        shapes |= {"self_attn.q_norm.weight": (q if full else arch.head_dim,)}
        shapes |= {"self_attn.k_norm.weight": (kv if full else arch.head_dim,)}
    if arch.mlp_types[layer] == "dense":
        inner = (arch.intermediate_size,) * (1 + arch.gated_mlp)
        shapes |= _matrices(names.gate_up, inner, h, arch.mlp_bias)
        shapes |= _matrices((names.down,), (h,), arch.intermediate_size, arch.mlp_bias)
    elif arch.moe is not None:
        shapes |= _matrices((names.router,), (arch.moe.num_experts,), h, arch.moe.router_bias)
        for expert in range(arch.moe.num_experts):
            size = arch.moe.moe_intermediate_size
            parts = tuple(name.format(expert=expert) for name in names.expert_gate_up)
            shapes |= _matrices(parts, (size, size), h, arch.moe.expert_bias)
            shapes |= _matrices((names.expert_down.format(expert=expert),), (h,), size, arch.moe.expert_bias)
    return shapes


def _norms(names: Iterable[str], size: int, biased: bool) -> dict[str, Shape]:
    kinds = ("weight", "bias") if biased else ("weight",)
    return {f"{name}.{kind}": (size,) for name in names for kind in kinds}


def _matrices(names: tuple[str, ...], rows: tuple[int, ...], columns: int, biased: bool) -> dict[str, Shape]:
    """One matrix per name; a single name holds all rows."""
    if len(names) == 1:
        rows = (sum(rows),)
    shapes: dict[str, Shape] = {}
    for name, count in zip(names, rows, strict=True):
        shapes[f"{name}.weight"] = (count, columns)
        if biased:
            shapes[f"{name}.bias"] = (count,)
    return shapes


def expected_tensors(arch: ModelArch) -> dict[str, Shape]:
    """All tensors of a checkpoint by name; a tied head has no tensor of its own."""
    names = naming_of(arch)
    table = (arch.vocab_size, arch.hidden_size)
    shapes: dict[str, Shape] = {f"{names.embedding}.weight": table}
    shapes |= _norms((names.final_norm,), arch.hidden_size, arch.norm == "layer")
    if not arch.tie_word_embeddings:
        shapes[f"{names.head}.weight"] = table
    for layer in range(arch.num_hidden_layers):
        shapes |= {names.layer(layer, name): shape for name, shape in layer_tensors(arch, layer).items()}
    return shapes


def check_tensors(arch: ModelArch, tensors: Mapping[str, TensorEntry], where: str) -> None:
    """Hold a file's headers against the architecture its config describes.

    Args:
        arch: from the config.
        tensors: by Hugging Face name.
        where: the file or folder, for error messages.

    Raises:
        InputError: a tensor is missing, has another shape, or is not part of the architecture.
    """
    if not FAMILIES[arch.model_type].runnable:
        return _check_layers(arch, tensors, where)
    names = naming_of(arch)
    expected = expected_tensors(arch)
    for name, shape in expected.items():
        entry = tensors.get(name)
        if entry is None:
            raise InputError(f"{where}: tensor {name} is missing")
        if entry.shape != shape:
            raise InputError(f"{where}: tensor {name} has shape {list(entry.shape)}, its config implies {list(shape)}")
    head = f"{names.head}.weight"
    for name in tensors:
        if name not in expected and name != head and not name.endswith(names.ignored):
            raise InputError(f"{where}: tensor {name} is not part of a {arch.model_type} model with this config")
    return None


def _check_layers(arch: ModelArch, tensors: Mapping[str, TensorEntry], where: str) -> None:
    """Families that are planned only: their layers must be there, and one table of the vocabulary."""
    found = {int(match[1]) for name in tensors if (match := re.search(r"\.layers\.(\d+)\.", name))}
    missing = set(range(arch.num_hidden_layers)) - found
    if missing:
        raise InputError(f"{where}: tensors of layer {min(missing)} are missing")
    table = arch.vocab_size * arch.hidden_size
    if not any(math.prod(entry.shape) == table for entry in tensors.values()):
        raise InputError(f"{where}: no tensor of {arch.vocab_size} rows of {arch.hidden_size} for the vocabulary")
