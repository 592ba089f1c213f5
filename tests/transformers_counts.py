"""What transformers models and their caches hold, counted without specplan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import StaticCache

from tests.conftest import random_model

#: What mixes tokens in a decoder layer, by attribute: only these write to a cache.
MIXERS = ("self_attn", "attention", "linear_attn", "mamba")
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class LayerCache:
    """What one token of one sequence writes in a layer; None and empty where it writes nothing.

    Attributes:
        keys: [1, heads, 1, width].
        values: the same; in latent attention its width is another.
        states: (elements, whether they are float32 whatever the model is).
    """

    keys: torch.Tensor | None
    values: torch.Tensor | None
    states: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, eq=False)
class Counts:
    """Elements of a model that transformers builds from a config, tied ones once.

    Attributes:
        config: transformers' own.
        parameters: elements of parameters.
        buffers: elements of buffers that checkpoints store.
        float32: those of both that transformers keeps in float32 whatever the checkpoint says.
        matrices: elements of linear layers, the head and experts.
        rows: rows of those.
        head: elements of the head.
        layers: what each writes to a cache.
    """

    config: Any
    parameters: int
    buffers: int
    float32: int
    matrices: int
    rows: int
    head: int
    layers: tuple[LayerCache, ...]

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of a checkpoint loaded in a dtype."""
        return (self.parameters + self.buffers - self.float32) * _DTYPES[dtype].itemsize + 4 * self.float32

    def int8_bytes(self) -> int:
        """The same with matrices of one byte per element, a bfloat16 scale per row, and bfloat16 for the rest."""
        rest = self.parameters + self.buffers - self.float32 - self.matrices
        return self.matrices + 2 * self.rows + 2 * rest + 4 * self.float32

    def int4_bytes(self, vocab_size: int) -> int:
        """The same with 20 bytes for 32 elements of every matrix but the head."""
        rest = self.parameters + self.buffers - self.float32 - self.matrices
        return (self.matrices - self.head) // 32 * 20 + self.head + 2 * vocab_size + 2 * rest + 4 * self.float32

    def state_bytes(self, batch_size: int, dtype: str) -> int:
        """Bytes of the states that do not grow with the context."""
        size = _DTYPES[dtype].itemsize
        states = [state for layer in self.layers for state in layer.states]
        return batch_size * sum(elements * (4 if fixed else size) for elements, fixed in states)

    def cache_bytes(self, max_cache_len: int, batch_size: int, dtype: str, spare: int = 0) -> int:
        """Bytes of the keys and values of a ``StaticCache``.

        Args:
            max_cache_len: tokens of a sequence.
            batch_size: sequences.
            dtype: of keys and values.
            spare: slots that windowed layers have beyond their window, while a sequence has more tokens.
        """
        elements = 0
        for slots, width, windowed in _static_layers(self, max_cache_len):
            elements += width * (slots + (min(spare, max_cache_len - slots) if windowed else 0))
        return batch_size * elements * _DTYPES[dtype].itemsize


@cache
def _static_layers(counts: Counts, max_cache_len: int) -> tuple[tuple[int, int, bool], ...]:
    """Slots, elements per slot and whether it is windowed, for each layer that keeps keys and values."""
    found = []
    for layer, written in zip(_static_cache(counts.config, max_cache_len).layers, counts.layers, strict=True):
        if written.keys is not None:
            layer.lazy_initialization(written.keys, written.values)
            slots = layer.max_cache_len
            found.append((slots, (layer.keys.numel() + layer.values.numel()) // slots, layer.is_sliding))
    return tuple(found)


def _static_cache(config: Any, max_cache_len: int) -> Any:
    return StaticCache(config=config, max_cache_len=max_cache_len)


def count(config: dict[str, Any], device: str = "meta") -> Counts:
    """Count the model of a config and what one token leaves in its cache.

    Args:
        config: of any size; without its weights' storage format.
        device: tiny models are counted faster on the CPU.

    Raises:
        Exception: whatever transformers raises for a config that it builds no model from.
    """
    with torch.device(device):
        model = random_model(config, dtype=torch.bfloat16)
    stored = {id(tensor): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    parameters = [(name, tensor) for name, tensor in stored.values() if isinstance(tensor, torch.nn.Parameter)]
    buffers = [(name, tensor) for name, tensor in stored.values() if not isinstance(tensor, torch.nn.Parameter)]
    float32 = re.compile("|".join(map(re.escape, model._keep_in_fp32_modules_strict or ())) or r"\Z.")
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    matrices = [p for name, p in parameters if id(p) in linear or (".experts." in name and p.dim() == 3)]
    return Counts(
        config=model.config,
        parameters=sum(tensor.numel() for _, tensor in parameters),
        buffers=sum(tensor.numel() for _, tensor in buffers),
        float32=sum(tensor.numel() for name, tensor in stored.values() if float32.search(name)),
        matrices=sum(matrix.numel() for matrix in matrices),
        rows=sum(matrix.shape[:-1].numel() for matrix in matrices),
        head=model.get_output_embeddings().weight.numel(),
        layers=_caches(model),
    )


def _caches(model: Any) -> tuple[LayerCache, ...]:
    """What a forward of one token leaves in each layer of a cache."""
    for parent in [*model.base_model.layers, *model.base_model.layers.modules()]:
        is_layer = parent in model.base_model.layers
        for name, child in parent.named_children():
            if (is_layer and name not in MIXERS) or "Norm" in type(child).__name__:
                setattr(parent, name, _PassThrough(pair=model.config.model_type == "gpt_oss" and name == "mlp"))
    written = _static_cache(model.config, 1)
    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    with torch.device(model.device), torch.no_grad():
        model.base_model(input_ids=ids, past_key_values=written, use_cache=True)
    return tuple(_layer_cache(layer) for layer in written.layers)


def _layer_cache(layer: Any) -> LayerCache:
    states = [
        state
        for kind in ("conv_states", "recurrent_states")
        for state in getattr(layer, kind, {}).values()
        if state is not None
    ]
    return LayerCache(
        getattr(layer, "keys", None),
        getattr(layer, "values", None),
        tuple((state.numel(), state.dtype == torch.float32) for state in states),
    )


class _PassThrough(torch.nn.Module):
    """Stands for what writes to no cache: norms, MLPs, experts."""

    def __init__(self, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: torch.Tensor, *_: Any) -> Any:
        return (x, None) if self.pair else x
