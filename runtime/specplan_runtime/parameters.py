"""A model's tensors, placed in the arena: weights fused as the decoder uses them, KV cache, constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from specplan.arch import ModelArch, MoeArch
from specplan.dtypes import INT4_GROUP
from specplan.parallelism import Rank
from specplan_runtime.arena import Arena
from specplan_runtime.linear import FloatLinear, Int4Linear, Int8Linear, PackedLinear
from specplan_runtime.packing import bind, layout_of
from specplan_runtime.precision import Precision

#: What an output head is held in; the matrices of layers in these or int4.
HeadLinear = FloatLinear | PackedLinear | Int8Linear
AnyLinear = HeadLinear | Int4Linear


@dataclass(slots=True)
class Norm:
    """Weight [h] of a norm, and its bias in layer norms."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(slots=True)
class Experts:
    """A mixture: router [E, h], each expert's fused gate and up, each expert's down."""

    router: FloatLinear
    gate_up: list[AnyLinear]
    down: list[AnyLinear]


@dataclass(slots=True)
class Layer:
    """One decoder layer. ``qkv`` and ``gate_up`` are fused along their rows.

    Attributes:
        attention_in, attention_out, mlp_in, mlp_out: norms before and after each block, None where there is none.
        gate_up, down: the dense MLP, None in layers with experts.
        experts: None in dense layers.
        query_norm, key_norm: [d] or [H·d] and [H_k·d]; None without.
        slides: the architecture windows it, and it may rotate by a base of its own.
        windowed: its keys and values are in the windowed cache, because the window is shorter than the context.
        cache_index: which of its kind's caches it owns.
    """

    qkv: AnyLinear
    output: AnyLinear
    gate_up: AnyLinear | None
    down: AnyLinear | None
    experts: Experts | None
    attention_in: Norm | None
    attention_out: Norm | None
    mlp_in: Norm | None
    mlp_out: Norm | None
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    slides: bool
    windowed: bool
    cache_index: int


@dataclass(slots=True)
class Cache:
    """Keys and values of the layers of one kind.

    Attributes:
        keys, values: [layers, B, H_k, slots, d]; with 4 bits per element [layers, B, H_k, slots, d/2].
        key_scales, value_scales: [layers, B, H_k, slots, 1], None unless the cache is quantized to integers.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None
    value_scales: torch.Tensor | None

    @property
    def num_slots(self) -> int:
        """Slots per sequence."""
        return self.keys.shape[3]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All there are; the first four dimensions are the same."""
        found = (self.keys, self.values, self.key_scales, self.value_scales)
        return tuple(tensor for tensor in found if tensor is not None)


@dataclass(slots=True)
class Parameters:
    """Everything of one model that stays from load to exit.

    Attributes:
        arch: the architecture.
        precision: element types.
        embedding: [V, h]; when tied the head's own memory: int8 with ``head.scale``, or packed, [V/k, h, k]; no rows
            beyond the first stage.
        head: the output head; no rows before the last stage, but for a tied table in the first.
        final_norm: over h; empty before the last stage.
        layers: in order.
        full: cache of the layers that see everything.
        windowed: cache of the layers whose window is shorter than the context; slots are used in turn.
        columns: int64, 0, 1, 2, … up to the most slots that a layer has.
        inverse_frequencies: float32 [rotary_dim/2], for all layers, and for windowed ones where theirs differ.
    """

    arch: ModelArch
    precision: Precision
    embedding: torch.Tensor
    head: HeadLinear
    final_norm: Norm
    layers: list[Layer]
    full: Cache
    windowed: Cache
    columns: torch.Tensor
    inverse_frequencies: list[torch.Tensor]

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.columns.device

    def weight_tensors(self) -> Iterator[torch.Tensor]:
        """All weights, each once."""
        yield from dict.fromkeys(tensors_in((self.embedding, self.head, self.final_norm, self.layers)))

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """Leading tokens that the caches still hold after a conversation changed from its ``num_shared``-th token on.

        A windowed layer uses its slots in turn: going back further than its spare ones means to start over.

        Args:
            num_cached: tokens held before.
            num_shared: leading tokens that stay.
            num_drafted: tokens beyond ``num_cached`` that may have been written.
        """
        kept = min(num_cached, num_shared)
        if self.windowed.num_slots:
            assert self.arch.sliding_window is not None
            spare = self.windowed.num_slots - self.arch.sliding_window + 1
            if num_cached + num_drafted - kept >= spare and num_cached + num_drafted > self.windowed.num_slots:
                return 0
        return kept

    @property
    def norm_vectors(self) -> list[torch.Tensor]:
        """Weights of all norms that a family may store as their difference from one."""
        found = [self.final_norm.weight]
        for layer in self.layers:
            norms = (layer.attention_in, layer.attention_out, layer.mlp_in, layer.mlp_out)
            found += [norm.weight for norm in norms if norm is not None]
            found += [weight for weight in (layer.query_norm, layer.key_norm) if weight is not None]
        return found


class _Placer:
    """Takes the tensors of one owner, counting padding apart."""

    def __init__(self, arena: Arena, owner: str, precision: Precision) -> None:
        self.arena, self.owner, self.precision = arena, owner, precision

    def vector(self, size: int) -> torch.Tensor:
        return self._weights((size,), self.precision.compute)

    def matrix(self, rows: int, columns: int) -> torch.Tensor:
        return self._weights((rows, columns), self.precision.compute)

    def norm(self, size: int, biased: bool) -> Norm:
        return Norm(self.vector(size), self.vector(size) if biased else None)

    def linear(self, rows: int, columns: int, bias: bool) -> AnyLinear:
        offset = self.vector(rows) if bias else None
        if self.precision.quantized == "int4":
            scales = (columns // INT4_GROUP, rows, 2)
            return Int4Linear(self._codes(rows, columns), self._weights(scales, self.precision.compute), offset)
        if self.precision.quantized == "int8":
            return self._int8(rows, columns, offset)
        weight = self.matrix(rows, columns)
        layout = layout_of(rows, columns) if self.precision.packed and weight.device.type == "cpu" else None
        if layout is None:
            return FloatLinear(weight, offset)
        blocks = weight.view(-1, columns, layout.block)
        return PackedLinear(blocks, bind(blocks, layout), offset)

    def head(self, rows: int, columns: int) -> HeadLinear:
        """The output head: nothing below int8, which an embedding that is tied to it is looked up from."""
        linear = self._int8(rows, columns, None) if self.precision.quantized else self.linear(rows, columns, bias=False)
        assert not isinstance(linear, Int4Linear)
        return linear

    def _int8(self, rows: int, columns: int, bias: torch.Tensor | None) -> Int8Linear:
        return Int8Linear(self._weights((rows, columns), torch.int8), self.vector(rows), bias)

    def _codes(self, rows: int, columns: int) -> torch.Tensor:
        return self._weights((rows, columns // 2), torch.uint8)

    def cache(self, rows: tuple[int, ...], head_dim: int) -> Cache:
        def half(width: int, dtype: torch.dtype) -> torch.Tensor:
            return self.arena.take(f"{self.owner}.kv_cache", (*rows, width), dtype, f"{self.owner}.kv_padding")

        precision, scaled = self.precision, self.precision.cache.scale_bytes > 0
        cells = -(-head_dim * precision.cache.bits // (8 * precision.kv.itemsize))
        keys, values = half(cells, precision.kv), half(cells, precision.kv)
        key_scales, value_scales = (half(1, precision.compute) if scaled else None for _ in range(2))
        return Cache(keys, values, key_scales, value_scales)

    def constant(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return self.arena.take(f"{self.owner}.constants", (size,), dtype)

    def _weights(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.arena.take(f"{self.owner}.weights", shape, dtype, f"{self.owner}.weight_padding")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of dataclasses, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors_in(entry)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


@dataclass(frozen=True, slots=True)
class Slots:
    """How many tokens of a sequence a model keeps.

    Attributes:
        full: slots of a layer that sees everything.
        windowed: slots of a layer that is windowed, 0 when no window is shorter than ``full``.
    """

    full: int
    windowed: int

    def longest(self, arch: ModelArch) -> int:
        """Slots of the layer that has most."""
        return self.windowed if self.windowed and arch.num_sliding_layers == arch.num_hidden_layers else self.full


def slots_of(arch: ModelArch, num_tokens: int, num_rows: int) -> Slots:
    """Slots for sequences of ``num_tokens`` when a pass writes at most ``num_rows`` of them at once."""
    if not arch.windowed_layers(num_tokens):
        return Slots(num_tokens, 0)
    assert arch.sliding_window is not None
    return Slots(num_tokens, min(num_tokens, arch.sliding_window + num_rows - 1))


def place_parameters(
    arena: Arena,
    owner: str,
    arch: ModelArch,
    precision: Precision,
    batch_size: int,
    slots: Slots,
    rank: Rank | None = None,
) -> Parameters:
    """Place all tensors of a model; their content is loaded afterwards.

    Args:
        arena: where.
        owner: ``target`` or ``draft``, prefix of the item names.
        arch: the architecture.
        precision: element types.
        batch_size: B, sequences in the cache.
        slots: KV slots per sequence.
        rank: whose share ``arch`` is, None for whole models.
    """
    place = _Placer(arena, owner, precision)
    embeds, decodes = (True, True) if rank is None else (rank.has_embedding, rank.has_head)
    tied = arch.tie_word_embeddings
    head = place.head(arch.vocab_size * (decodes or (tied and embeds)), arch.hidden_size)
    embedding = head.weight if tied else place.matrix(arch.vocab_size * embeds, arch.hidden_size)
    kinds = [layer == "sliding_attention" and slots.windowed > 0 for layer in arch.layer_types]

    def cache(windowed: bool, num_slots: int) -> Cache:
        return place.cache((kinds.count(windowed), batch_size, arch.num_key_value_heads, num_slots), arch.head_dim)

    return Parameters(
        arch=arch,
        precision=precision,
        embedding=embedding,
        head=head,
        final_norm=place.norm(arch.hidden_size * decodes, arch.norm == "layer"),
        layers=[_place_layer(place, arch, i, kinds[i], kinds[:i].count(kinds[i])) for i in range(len(kinds))],
        full=cache(False, slots.full),
        windowed=cache(True, slots.windowed),
        columns=place.constant(slots.longest(arch), torch.int64),
        inverse_frequencies=[place.constant(arch.rotary_dim // 2, torch.float32) for _ in range(arch.num_rope_tables)],
    )


def place_joining_layer(
    arena: Arena, arch: ModelArch, precision: Precision, batch_size: int, slots: Slots, embedding: torch.Tensor
) -> Parameters:
    """Place a drafter's one layer, whose attention reads two rows of h side by side; norms of these are not its own.

    Args:
        arena: where.
        arch: of the layer, its vocabulary is what it proposes.
        precision: element types.
        batch_size: B, sequences in the cache.
        slots: KV slots per sequence.
        embedding: [V, h], placed already.
    """
    place = _Placer(arena, "drafter", precision)
    h, width = arch.hidden_size, arch.num_attention_heads * arch.head_dim
    layer = Layer(
        qkv=place.linear(arch.qkv_size, 2 * h, bias=False),
        output=place.linear(h, width, bias=False),
        gate_up=place.linear(2 * arch.intermediate_size, h, bias=False),
        down=place.linear(h, arch.intermediate_size, bias=False),
        experts=None,
        attention_in=None,
        attention_out=None,
        mlp_in=place.norm(h, biased=False),
        mlp_out=None,
        query_norm=None,
        key_norm=None,
        slides=False,
        windowed=False,
        cache_index=0,
    )
    rows = (batch_size, arch.num_key_value_heads)
    return Parameters(
        arch=arch,
        precision=precision,
        embedding=embedding,
        head=place.head(arch.vocab_size, h),
        final_norm=place.norm(h, biased=False),
        layers=[layer],
        full=place.cache((1, *rows, slots.full), arch.head_dim),
        windowed=place.cache((0, *rows, 0), arch.head_dim),
        columns=place.constant(slots.full, torch.int64),
        inverse_frequencies=[place.constant(arch.rotary_dim // 2, torch.float32)],
    )


def place_fusion(arena: Arena, precision: Precision, hidden_size: int, num_features: int) -> list[AnyLinear]:
    """Place a drafter's matrices [h, h], one for each feature that it fuses."""
    place = _Placer(arena, "drafter", precision)
    return [place.linear(hidden_size, hidden_size, bias=False) for _ in range(num_features)]


def _place_layer(place: _Placer, arch: ModelArch, index: int, windowed: bool, cache_index: int) -> Layer:
    h, d, placement = arch.hidden_size, arch.head_dim, arch.norm_placement
    width, kv_width = arch.num_attention_heads * d, arch.num_key_value_heads * d

    def norm(present: bool) -> Norm | None:
        return place.norm(h, arch.norm == "layer") if present else None

    def qk_norm(full: int) -> torch.Tensor | None:
        return None if arch.qk_norm is None else place.vector(full if arch.qk_norm == "full" else d)

    dense, inner = arch.mlp_types[index] == "dense", (1 + arch.gated_mlp) * arch.intermediate_size
    return Layer(
        qkv=place.linear(arch.qkv_size, h, arch.qkv_bias),
        output=place.linear(h, width, arch.output_bias),
        gate_up=place.linear(inner, h, arch.mlp_bias) if dense else None,
        down=place.linear(h, arch.intermediate_size, arch.mlp_bias) if dense else None,
        experts=None if dense or arch.moe is None else _place_experts(place, h, arch.moe),
        attention_in=norm(placement != "post"),
        attention_out=norm(placement in ("post", "sandwich")),
        mlp_in=norm(placement != "post"),
        mlp_out=norm(placement in ("post", "sandwich")),
        query_norm=qk_norm(width),
        key_norm=qk_norm(kv_width),
        slides=arch.layer_types[index] == "sliding_attention",
        windowed=windowed,
        cache_index=cache_index,
    )


def _place_experts(place: _Placer, h: int, moe: MoeArch) -> Experts:
    size = moe.moe_intermediate_size
    bias = place.vector(moe.num_experts) if moe.router_bias else None
    return Experts(
        router=FloatLinear(place.matrix(moe.num_experts, h), bias),
        gate_up=[place.linear(2 * size, h, moe.expert_bias) for _ in range(moe.num_experts)],
        down=[place.linear(h, size, moe.expert_bias) for _ in range(moe.num_experts)],
    )
