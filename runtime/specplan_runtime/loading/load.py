"""Weights from a checkpoint into the arena, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from specplan.models.names import Naming, naming_of
from specplan_runtime.groups import Groups, grouped
from specplan_runtime.linear import FloatLinear, Int4Linear, Int8Linear, PackedLinear
from specplan_runtime.loading.cut import Cut, Rows
from specplan_runtime.loading.sources import TensorSource
from specplan_runtime.parameters import AnyLinear, Experts, Layer, Norm, Parameters
from specplan_runtime.rope import inverse_frequencies

#: Called with a fraction from 0 to 1 as loading goes on.
Progress = Callable[[float], None]


def load_parameters(parameters: Parameters, source: TensorSource, progress: Progress, cut: Cut | None = None) -> None:
    """Read every tensor, convert it to the plan's precision and store it.

    Args:
        parameters: placed in the arena; overwritten.
        source: the checkpoint.
        progress: told after each layer.
        cut: what of the model this rank holds, None for all of it.
    """
    arch, names = parameters.arch, naming_of(parameters.arch)
    cut = cut or Cut(arch)
    tables = inverse_frequencies(arch, source.rope_factors())
    for place, frequencies in zip(parameters.inverse_frequencies, tables, strict=True):
        place.copy_(frequencies)
    torch.arange(parameters.columns.numel(), out=parameters.columns)
    _load_tables(parameters, source, names, cut)
    for index, layer in enumerate(parameters.layers):
        _LayerLoader(layer, source, names, index, cut).load()
        progress((index + 1) / arch.num_hidden_layers)
    if arch.norm_offset:
        for weight in parameters.norm_vectors:
            weight.add_(1.0)


def _load_tables(parameters: Parameters, source: TensorSource, names: Naming, cut: Cut) -> None:
    """Embedding, head and final norm, where this rank has them."""
    rows = cut.vocabulary()
    tied = parameters.arch.tie_word_embeddings
    if parameters.head.out_features:
        _fill_linear(parameters.head, source, [names.embedding if tied else names.head], rows=[rows])
    if len(parameters.embedding) and not tied:
        _fill(parameters.embedding, source, f"{names.embedding}.weight", rows)
    if parameters.final_norm.weight.numel():
        _fill_norm(parameters.final_norm, source, names.final_norm)


def fill_randomly(parameters: Parameters) -> None:
    """Noise instead of a checkpoint: small enough that nothing overflows, for measurements only."""
    for place, frequencies in zip(parameters.inverse_frequencies, inverse_frequencies(parameters.arch), strict=True):
        place.copy_(frequencies)
    torch.arange(parameters.columns.numel(), out=parameters.columns)
    for tensor in parameters.weight_tensors():
        if tensor.dtype == torch.int8:
            tensor.random_(-127, 128)
        elif tensor.dtype == torch.uint8:
            tensor.random_(0, 256)
        else:
            tensor.normal_(0, 0.02)


class _LayerLoader:
    """Fills one layer."""

    def __init__(self, layer: Layer, source: TensorSource, names: Naming, index: int, cut: Cut) -> None:
        self.layer, self.source, self.names, self.cut = layer, source, names, cut
        self.index = cut.first_layer + index

    def load(self) -> None:
        layer, names, cut, arch = self.layer, self.names, self.cut, self.cut.arch
        rows = cut.qkv(len(names.qkv), names.interleaved_qkv)
        self._linear(layer.qkv, names.qkv, rows, arch.head_dim if names.interleaved_qkv else None)
        self._summed(layer.output, names.output, arch.num_attention_heads * arch.head_dim)
        if layer.gate_up is not None and layer.down is not None:
            size = arch.intermediate_size
            self._linear(layer.gate_up, names.gate_up, cut.gate_up(size, len(names.gate_up), arch.gated_mlp))
            self._summed(layer.down, names.down, size)
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
        queries, keys = (cut.query_norm(), cut.key_norm()) if arch.qk_norm == "full" else (None, None)
        for weight, name, own in (
            (layer.query_norm, "self_attn.q_norm", queries),
            (layer.key_norm, "self_attn.k_norm", keys),
        ):
            if weight is not None:
                _fill(weight, self.source, self._full(name) + ".weight", own)

    def _experts(self, experts: Experts) -> None:
        moe = self.cut.arch.moe
        assert moe is not None
        self._linear(experts.router, (self.names.router,))
        rows = self.cut.gate_up(moe.moe_intermediate_size, len(self.names.expert_gate_up), gated=True)
        for expert, (gate_up, down) in enumerate(zip(experts.gate_up, experts.down, strict=True)):
            self._linear(gate_up, [name.format(expert=expert) for name in self.names.expert_gate_up], rows)
            self._summed(down, self.names.expert_down.format(expert=expert), moe.moe_intermediate_size)

    def _linear(
        self,
        linear: AnyLinear,
        names: Sequence[str],
        rows: Sequence[Rows] | None = None,
        head_rows: int | None = None,
    ) -> None:
        _fill_linear(linear, self.source, [self._full(name) for name in names], rows, head_rows=head_rows)

    def _summed(self, linear: AnyLinear, name: str, size: int) -> None:
        """A matrix of ``size`` columns whose products the tensor ranks add up."""
        columns, biased = self.cut.columns(size), self.cut.adds_bias
        _fill_linear(linear, self.source, [self._full(name)], columns=columns, biased=biased)

    def _full(self, name: str) -> str:
        return self.names.layer(self.index, name)


def _fill_linear(
    linear: AnyLinear,
    source: TensorSource,
    names: Sequence[str],
    rows: Sequence[Rows] | None = None,
    columns: range | None = None,
    head_rows: int | None = None,
    biased: bool = True,
) -> None:
    """Store matrices (and biases) one below the other.

    Args:
        linear: where.
        source: the checkpoint.
        names: without ``.weight``.
        rows: of each matrix, None for all.
        columns: of the matrices, None for all.
        head_rows: d, when the matrix holds query, key and value rows head by head: they are put in three blocks.
        biased: biases are this rank's to add; otherwise they stay zero.
    """
    row = 0
    for name, own in zip(names, rows or [None] * len(names), strict=True):
        end = row
        for first, tile in _matrix_tiles(linear, source, f"{name}.weight", own):
            for start, run in _runs(first, tile.shape[0], linear.out_features, head_rows):
                store(linear, row + start, tile[run], columns)
            end = row + first + tile.shape[0]
        if linear.bias is not None and biased:
            for first, tile in _tiles(source, f"{name}.bias", own):
                for start, run in _runs(first, tile.shape[0], linear.out_features, head_rows):
                    linear.bias[row + start : row + start + run.stop - run.start].copy_(tile[run])
        row = end


def _matrix_tiles(
    linear: AnyLinear, source: TensorSource, name: str, rows: Rows
) -> Iterator[tuple[int, torch.Tensor | Groups]]:
    """Tiles of a matrix: in the file's own groups where they are to be held in groups, else floats."""
    groups = source.groups(name) if isinstance(linear, Int4Linear) and rows is None else None
    yield from _tiles(source, name, rows) if groups is None else groups


def _tiles(source: TensorSource, name: str, rows: Rows) -> Iterator[tuple[int, torch.Tensor]]:
    """Tiles of the wanted rows, which are numbered from 0 without gaps."""
    if rows is None:
        yield from source.tiles(name)
        return
    before = 0
    for wanted in rows:
        for first, tile in source.tiles(name, wanted):
            yield before + first - wanted.start, tile
        before += len(wanted)


def _runs(first: int, count: int, num_rows: int, d: int | None) -> Iterator[tuple[int, slice]]:
    """Where rows of a tile go: (row, which). Head by head, row ``3·d·i + d·j + k`` goes to block j, head i, row k."""
    if d is None:
        yield first, slice(0, count)
        return
    row = first
    while row < first + count:
        head, block, offset = row // (3 * d), row // d % 3, row % d
        end = min(row - offset + d, first + count)
        yield block * (num_rows // 3) + head * d + offset, slice(row - first, end - first)
        row = end


def store(linear: AnyLinear, row: int, rows: torch.Tensor | Groups, columns: range | None = None) -> None:
    """Put rows of a matrix at ``row``, as it is held; only some of their columns may be this rank's."""
    if isinstance(linear, Int4Linear):
        linear.store(row, rows if isinstance(rows, Groups) else grouped(rows.float()))
        return
    assert isinstance(rows, torch.Tensor)
    tile = rows if columns is None else rows[:, columns.start : columns.stop]
    end = row + tile.shape[0]
    if isinstance(linear, FloatLinear):
        linear.weight[row:end].copy_(tile)
    elif isinstance(linear, PackedLinear):
        linear.store(row, tile)
    else:
        _quantize(linear, row, end, tile.float(), None if columns is None else rows.float())


def _quantize(linear: Int8Linear, row: int, end: int, values: torch.Tensor, whole: torch.Tensor | None = None) -> None:
    """Symmetric int8 per row: the scale is rounded to its own dtype first, so that rounding errors do not add up.

    The largest elements are those of ``whole`` rows, so that ranks with parts of them hold what one device would.
    """
    scale, rows = linear.scale[row:end], values if whole is None else whole
    scale.copy_((rows.abs().amax(dim=1) / 127).clamp_min(1e-30))
    divisor = scale.to(device=values.device, dtype=torch.float32)[:, None]
    linear.weight[row:end].copy_((values / divisor).round_().clamp_(-127, 127))


def _fill_norm(norm: Norm, source: TensorSource, name: str) -> None:
    _fill(norm.weight, source, f"{name}.weight")
    if norm.bias is not None:
        _fill(norm.bias, source, f"{name}.bias")


def _fill(place: torch.Tensor, source: TensorSource, name: str, rows: Rows = None) -> None:
    for first, tile in _tiles(source, name, rows):
        place[first : first + tile.shape[0]].copy_(tile)
