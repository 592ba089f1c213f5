"""Weights from a checkpoint into the arena, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from specplan.models.names import Naming, naming_of
from specplan_runtime.linear import FloatLinear, Int8Linear, PackedLinear
from specplan_runtime.loading.sources import TensorSource
from specplan_runtime.parameters import AnyLinear, Experts, Layer, Norm, Parameters
from specplan_runtime.rope import inverse_frequencies

#: Called with a fraction from 0 to 1 as loading goes on.
Progress = Callable[[float], None]


def load_parameters(parameters: Parameters, source: TensorSource, progress: Progress) -> None:
    """Read every tensor, convert it to the plan's precision and store it.

    Args:
        parameters: placed in the arena; overwritten.
        source: the checkpoint.
        progress: told after each layer.
    """
    arch, names = parameters.arch, naming_of(parameters.arch)
    tables = inverse_frequencies(arch, source.rope_factors())
    for place, frequencies in zip(parameters.inverse_frequencies, tables, strict=True):
        place.copy_(frequencies)
    torch.arange(parameters.columns.numel(), out=parameters.columns)
    if arch.tie_word_embeddings:
        _fill_linear(parameters.head, source, [names.embedding])
    else:
        _fill_linear(parameters.head, source, [names.head])
        _fill(parameters.embedding, source, f"{names.embedding}.weight")
    _fill_norm(parameters.final_norm, source, names.final_norm)
    for index, layer in enumerate(parameters.layers):
        _LayerLoader(layer, source, names, index, arch.head_dim).load()
        progress((index + 1) / arch.num_hidden_layers)
    if arch.norm_offset:
        for weight in parameters.norm_vectors:
            weight.add_(1.0)


def fill_randomly(parameters: Parameters) -> None:
    """Noise instead of a checkpoint: small enough that nothing overflows, for measurements only."""
    for place, frequencies in zip(parameters.inverse_frequencies, inverse_frequencies(parameters.arch), strict=True):
        place.copy_(frequencies)
    torch.arange(parameters.columns.numel(), out=parameters.columns)
    for tensor in parameters.weight_tensors():
        if tensor.dtype == torch.int8:
            tensor.random_(-127, 128)
        else:
            tensor.normal_(0, 0.02)


class _LayerLoader:
    """Fills one layer."""

    def __init__(self, layer: Layer, source: TensorSource, names: Naming, index: int, head_dim: int) -> None:
        self.layer, self.source, self.names, self.index = layer, source, names, index
        self._head_rows = head_dim if names.interleaved_qkv else None

    def load(self) -> None:
        layer, names = self.layer, self.names
        self._linear(layer.qkv, *names.qkv, head_rows=self._head_rows)
        self._linear(layer.output, names.output)
        if layer.gate_up is not None and layer.down is not None:
            self._linear(layer.gate_up, *names.gate_up)
            self._linear(layer.down, names.down)
        if layer.experts is not None:
            self._experts(layer.experts)
        for norm, name in (
            (layer.attention_in, names.attention_in),
            (layer.attention_out, names.attention_out),
            (layer.mlp_in, names.mlp_in),
            (layer.mlp_out, names.mlp_out),
        ):
            if norm is not None and name is not None:
                _fill_norm(norm, self.source, self._full(name))
        for weight, name in ((layer.query_norm, "self_attn.q_norm"), (layer.key_norm, "self_attn.k_norm")):
            if weight is not None:
                _fill(weight, self.source, self._full(name) + ".weight")

    def _experts(self, experts: Experts) -> None:
        self._linear(experts.router, self.names.router)
        for expert, (gate_up, down) in enumerate(zip(experts.gate_up, experts.down, strict=True)):
            self._linear(gate_up, *(name.format(expert=expert) for name in self.names.expert_gate_up))
            self._linear(down, self.names.expert_down.format(expert=expert))

    def _linear(self, linear: AnyLinear, *names: str, head_rows: int | None = None) -> None:
        _fill_linear(linear, self.source, [self._full(name) for name in names], head_rows)

    def _full(self, name: str) -> str:
        return self.names.layer(self.index, name)


def _fill_linear(linear: AnyLinear, source: TensorSource, names: list[str], head_rows: int | None = None) -> None:
    """Store matrices (and biases) one below the other.

    Args:
        linear: where.
        source: the checkpoint.
        names: without ``.weight``.
        head_rows: d, when the matrix holds query, key and value rows head by head: they are put in three blocks.
    """
    row = 0
    for name in names:
        end = row
        for first, tile in source.tiles(f"{name}.weight"):
            for start, rows in _runs(first, tile, linear.out_features, head_rows):
                _store(linear, row + start, rows)
            end = row + first + tile.shape[0]
        if linear.bias is not None:
            for first, tile in source.tiles(f"{name}.bias"):
                for start, rows in _runs(first, tile, linear.out_features, head_rows):
                    linear.bias[row + start : row + start + rows.shape[0]].copy_(rows)
        row = end


def _runs(first: int, tile: torch.Tensor, num_rows: int, d: int | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Where rows of a tile go: (row, rows). Head by head, row ``3·d·i + d·j + k`` goes to block j, head i, row k."""
    if d is None:
        yield first, tile
        return
    row = first
    while row < first + tile.shape[0]:
        head, block, offset = row // (3 * d), row // d % 3, row % d
        end = min(row - offset + d, first + tile.shape[0])
        yield block * (num_rows // 3) + head * d + offset, tile[row - first : end - first]
        row = end


def _store(linear: AnyLinear, row: int, tile: torch.Tensor) -> None:
    end = row + tile.shape[0]
    if isinstance(linear, FloatLinear):
        linear.weight[row:end].copy_(tile)
    elif isinstance(linear, PackedLinear):
        linear.store(row, tile)
    else:
        _quantize(linear, row, end, tile.float())


def _quantize(linear: Int8Linear, row: int, end: int, values: torch.Tensor) -> None:
    """Symmetric int8 per row: the scale is rounded to its own dtype first, so that rounding errors do not add up."""
    scale = linear.scale[row:end]
    scale.copy_((values.abs().amax(dim=1) / 127).clamp_min(1e-30))
    divisor = scale.to(device=values.device, dtype=torch.float32)[:, None]
    linear.weight[row:end].copy_((values / divisor).round_().clamp_(-127, 127))


def _fill_norm(norm: Norm, source: TensorSource, name: str) -> None:
    _fill(norm.weight, source, f"{name}.weight")
    if norm.bias is not None:
        _fill(norm.bias, source, f"{name}.bias")


def _fill(place: torch.Tensor, source: TensorSource, name: str) -> None:
    for first, tile in source.tiles(name):
        place[first : first + tile.shape[0]].copy_(tile)
