"""The buffers of one pass, placed in the arena stage by stage: the code side of specplan/formulas/workspace.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specplan.arch import ModelArch, MoeArch
from specplan.parallelism import Rank
from specplan_runtime.arena import Arena
from specplan_runtime.parameters import Slots
from specplan_runtime.precision import Precision
from specplan_runtime.span import Span


@dataclass(frozen=True, slots=True)
class PassShape:
    """How large a pass may be.

    Attributes:
        phase: ledger phase, prefix of the item names.
        num_rows: T, tokens in the pass, all sequences together.
        batch_size: b, sequences in the pass.
        slots: KV slots per sequence.
        logits_rows: R, rows whose logits exist at one time.
        joins: its layer reads an embedding beside a hidden state.
        in_flight: another pass may be on its way to the next stage.
    """

    phase: str
    num_rows: int
    batch_size: int
    slots: Slots
    logits_rows: int
    joins: bool = False
    in_flight: bool = False


class Workspace:
    """Buffers for passes of up to ``shape`` rows; m = max(T, least rows of a product). Kernels that allocate their
    outputs, those of quantized matrices and packed float32, need no places for them.

    Attributes:
        ids, positions: int64 [m].
        places: where rows belong, None in workspaces for a single sequence.
        mask: bool, T·S flat, None when all layers are windowed.
        slot_positions: int64, b·S_w flat; window_mask, window_spare: bool, T·S_w flat; None without windowed layers.
        angles: float32 [m, rotary_dim/2]; turned: the same, None for float32.
        cos, sin: the same shape, for each set of frequencies.
        hidden: [m, h]; normed: flat, m·max(h, H·d).
        projected: flat, m·h, None where kernels allocate and there are no experts.
        joined: [m, 2h], None unless the pass joins.
        mean_square: float32 [m, 1]; mean: the same, None in RMS norms; float_rows: float32 [m, h], None for float32.
        qkv: flat, None where kernels allocate; rotated: flat, m·(H+H_k)·rotary_dim/2.
        queries: flat, T·H·d; scores: flat, T·H·S_x.
        kv_cast: flat, b·H_k·S_x·d, None unless the cache has another dtype.
        kv_scales: flat, T·H_k, None unless the cache is quantized to integers; in half precision also
            kv_exact_scales: float32, flat, T·H_k; kv_rows: float32, flat, T·H_k·d.
        head_square, head_rows: float32 statistics and rows of norms of queries and keys, None without them.
        inner: flat, m·2I; where kernels allocate and read contiguous rows m·I; None without dense layers, and where
            nothing but outputs is needed.
        expert: buffers of the experts, None without them.
        logits: flat, R·V, None where kernels allocate; argmax: int64 [R].
        probs, running: float32 [V]; keep: bool [V]; of the whole vocabulary, empty on ranks that do not decide.
        exchange: what ranks give each other, None for whole models.
        in_flight: [m, h], the residual stream that is sent meanwhile, None without stages and in the last one.
    """

    def __init__(
        self, arena: Arena, arch: ModelArch, precision: Precision, shape: PassShape, rank: Rank | None = None
    ) -> None:
        self.shape = shape
        self._rank = rank
        self._arena, self._arch, self._precision = arena, arch, precision
        self.rows = max(shape.num_rows, precision.least_rows)
        self._place_rows()
        self.inner: torch.Tensor | None = None
        self.expert: ExpertBuffers | None = None
        with arena.overlapping(f"{shape.phase}.scratch") as scratch:
            with scratch.alternative():
                self._place_attention()
            with scratch.alternative():
                if "dense" in arch.mlp_types:
                    self.inner = self._take_inner(arch.intermediate_size, arch.gated_mlp)
            with scratch.alternative():
                if arch.moe is not None and "moe" in arch.mlp_types:
                    self.expert = self._place_experts(arch.moe)
            with scratch.alternative():
                self._place_head()
        self.exchange: ExchangeBuffers | None = None
        if rank is not None and rank.tensor_parallel > 1 and rank.has_head:
            whole_row = arch.vocab_size * rank.decides
            self.exchange = place_exchange(
                arena, shape.phase, shape.logits_rows, rank.tensor_parallel, whole_row, precision.compute
            )
        self.in_flight: torch.Tensor | None = None
        if shape.in_flight:
            self.in_flight = self._take("in_flight", (self.rows, arch.hidden_size), precision.compute)

    def _take(self, formula_id: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self._arena.take(f"{self.shape.phase}.{formula_id}", shape, dtype)

    def _take_output(self, num_elements: int) -> torch.Tensor | None:
        """A place for what a matrix kernel writes, None where it allocates its output."""
        if self._precision.allocates:
            return None
        return self._take("scratch", (num_elements,), self._precision.compute)

    def _take_inner(self, size: int, gated: bool) -> torch.Tensor | None:
        """A place for gate and up; for kernels that allocate and read contiguous rows, for their product."""
        if self._precision.contiguous and gated:
            return self._take("scratch", (self.rows * size,), self._precision.compute)
        return self._take_output((1 + gated) * self.rows * size)

    def _place_rows(self) -> None:
        arch, m, compute = self._arch, self.rows, self._precision.compute
        h, half = arch.hidden_size, arch.rotary_dim // 2
        self.ids = self._take("tokens", (m,), torch.int64)
        self.positions = self._take("tokens", (m,), torch.int64)
        self._place_masks()
        self.places = self._take_places() if self.shape.batch_size > 1 else None
        self.angles = self._take("rope", (m, half), torch.float32)
        self.turned = self._take("rope", (m, half), torch.float32) if compute.itemsize < 4 else None
        tables = range(arch.num_rope_tables)
        self.cos = [self._take("rope", (m, half), compute) for _ in tables]
        self.sin = [self._take("rope", (m, half), compute) for _ in tables]
        self.hidden = self._take("hidden", (m, h), compute)
        self.normed = self._take("normed", (m * max(h, arch.num_attention_heads * arch.head_dim),), compute)
        needed = not self._precision.allocates or "moe" in arch.mlp_types  # experts add up, whatever their kernels
        projected = self._take("projected", (needed * m * h,), compute)
        self.projected = projected if needed else None
        self.joined = self._take("joined", (m, 2 * h), compute) if self.shape.joins else None
        self.mean_square = self._take("norm", (m, 1), torch.float32)
        self.mean = self._take("norm", (m, 1), torch.float32) if arch.norm == "layer" else None
        self.float_rows = self._take("norm", (m, h), torch.float32) if compute.itemsize < 4 else None

    @property
    def _sees_all(self) -> bool:
        """Whether some layer sees all slots."""
        return not self.shape.slots.windowed or self._arch.num_sliding_layers < self._arch.num_hidden_layers

    def _take_places(self) -> RowPlaces:
        sequences, columns, full, windowed = (
            self._take("tokens", (needed * self.rows,), torch.int64)
            for needed in (True, True, self._sees_all, self.shape.slots.windowed > 0)
        )
        return RowPlaces(sequences, columns, full, windowed)

    def _place_masks(self) -> None:
        rows, slots = self.shape.num_rows, self.shape.slots
        self.mask = self.slot_positions = self.window_mask = self.window_spare = None
        if self._sees_all:
            self.mask = self._take("mask", (rows * slots.full,), torch.bool)
        if slots.windowed:
            self.slot_positions = self._take("mask", (self.shape.batch_size * slots.windowed,), torch.int64)
            self.window_mask = self._take("mask", (rows * slots.windowed,), torch.bool)
            self.window_spare = self._take("mask", (rows * slots.windowed,), torch.bool)

    def _place_attention(self) -> None:
        arch, m, shape, compute = self._arch, self.rows, self.shape, self._precision.compute
        heads, d = arch.num_attention_heads + arch.num_key_value_heads, arch.head_dim
        row_heads, longest = shape.num_rows * arch.num_attention_heads, shape.slots.longest(arch)
        self.qkv = self._take_output(m * arch.qkv_size)
        self.rotated = self._take("scratch", (m * heads * arch.rotary_dim // 2,), compute)
        self.queries = self._take("scratch", (row_heads * d,), compute)
        self.scores = self._take("scratch", (row_heads * longest,), compute)
        self.kv_cast = None
        if self._precision.kv != compute:
            cast = shape.batch_size * arch.num_key_value_heads * longest * d
            self.kv_cast = self._take("scratch", (cast,), compute)
        self._place_quantizing()
        self.head_square = self.head_rows = None
        if arch.qk_norm is not None:
            num_norms = 1 if arch.qk_norm == "full" else arch.num_attention_heads
            self.head_square = self._take("scratch", (m * num_norms,), torch.float32)
            if compute.itemsize < 4:
                self.head_rows = self._take("scratch", (m * arch.num_attention_heads * d,), torch.float32)

    def _place_quantizing(self) -> None:
        rows, compute = self.shape.num_rows * self._arch.num_key_value_heads, self._precision.compute
        self.kv_scales = self.kv_exact_scales = self.kv_rows = None
        if self._precision.cache.scale_bytes:
            self.kv_scales = self._take("scratch", (rows,), compute)
            if compute.itemsize < 4:
                self.kv_exact_scales = self._take("scratch", (rows,), torch.float32)
                self.kv_rows = self._take("scratch", (rows * self._arch.head_dim,), torch.float32)

    def _place_experts(self, moe: MoeArch) -> ExpertBuffers:
        arch, m, compute = self._arch, self.rows, self._precision.compute
        num_experts, num_chosen = moe.num_experts, moe.num_experts_per_tok
        return ExpertBuffers(
            router=self._take("scratch", (m * num_experts,), compute),
            probs=self._take("scratch", (m, num_experts), torch.float32),
            weights=self._take("scratch", (m, num_chosen), torch.float32),
            chosen=self._take("scratch", (m, num_chosen), torch.int64),
            sums=self._take("scratch", (m,), torch.float32),
            rows=self._take("scratch", (m, arch.hidden_size), compute),
            inner=self._take_inner(moe.moe_intermediate_size, gated=True),
            output=self._take_output(m * arch.hidden_size),
        )

    def _place_head(self) -> None:
        vocab, rows = self._arch.vocab_size, self.shape.logits_rows
        if self._rank is not None:
            rows *= self._rank.has_head
        self.logits = self._take_output(rows * vocab)
        self.argmax = self._take("scratch", (rows,), torch.int64)
        if self._rank is not None:
            vocab = self._rank.vocab_size * self._rank.decides
        self.probs = self._take("scratch", (vocab,), torch.float32)
        self.running = self._take("scratch", (vocab,), torch.float32)
        self.keep = self._take("scratch", (vocab,), torch.bool)

    def write_tokens(self, ids: list[int], positions: list[int]) -> None:
        """Put token ids and positions of a pass on the device; a row fed beyond them is token 0 at position 0."""
        spare = [0] * max(0, self._precision.least_rows - len(ids))
        write_integers(self.ids, ids + spare)
        write_integers(self.positions, positions + spare)


@dataclass(frozen=True, slots=True)
class RowPlaces:
    """Where the rows of a pass over several sequences belong.

    Attributes:
        sequences: int64 [m], which sequence.
        columns: int64 [m], which of its rows; of ragged passes only.
        full_slots, windowed_slots: int64 [m], the slot in caches of that kind; empty where there are none.
    """

    sequences: torch.Tensor
    columns: torch.Tensor
    full_slots: torch.Tensor
    windowed_slots: torch.Tensor

    def write(self, span: Span, num_full: int, num_windowed: int) -> None:
        """Put the places of a span's rows on the device, for caches of so many slots."""
        write_integers(self.sequences, [index for index, count in enumerate(span.lengths) for _ in range(count)])
        if span.is_ragged:
            write_integers(self.columns, [column for count in span.lengths for column in range(count)])
        for place, num_slots in ((self.full_slots, num_full), (self.windowed_slots, num_windowed)):
            if len(place):
                write_integers(place, [slot % num_slots for slot in span.slots])


@dataclass(slots=True)
class ExchangeBuffers:
    """What the tensor ranks of a head give each other.

    Attributes:
        own: float32 [R, 2], this rank's best logit of each row and its token; best: [t_p, R, 2], of all ranks.
        row: [t_p, V'], one row of all logits; empty on ranks that do not decide.
    """

    own: torch.Tensor
    best: torch.Tensor
    row: torch.Tensor


@dataclass(slots=True)
class ExpertBuffers:
    """What a layer with experts needs for m rows.

    Attributes:
        router: flat, m·E; probs: float32 [m, E].
        weights: float32 [m, k]; chosen: int64 [m, k].
        sums: float32 [m], of the chosen weights, then one expert's weights row by row.
        rows: [m, h], the rows that visit one expert.
        inner: flat, m·2I_e, or m·I_e for packed matrices; output: flat, m·h; None where kernels allocate.
    """

    router: torch.Tensor
    probs: torch.Tensor
    weights: torch.Tensor
    chosen: torch.Tensor
    sums: torch.Tensor
    rows: torch.Tensor
    inner: torch.Tensor | None
    output: torch.Tensor | None


def place_exchange(
    arena: Arena, phase: str, num_rows: int, num_parts: int, whole_row: int, dtype: torch.dtype
) -> ExchangeBuffers:
    """Place the buffers of a phase for tiles of ``num_rows``.

    Args:
        arena: where.
        phase: prefix of the item's name.
        num_rows: R.
        num_parts: t_p.
        whole_row: logits of each rank that are gathered, 0 for none.
        dtype: of logits.
    """

    def take(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return arena.take(f"{phase}.gathered", shape, dtype)

    pairs = take((num_rows, 2), torch.float32), take((num_parts, num_rows, 2), torch.float32)
    return ExchangeBuffers(*pairs, take((num_parts, whole_row), dtype))


def write_integers(buffer: torch.Tensor, values: list[int]) -> None:
    """Fill the front of an int64 buffer from the host, without another tensor where it lives on the host."""
    if buffer.device.type == "cpu":
        buffer.numpy()[: len(values)] = values
    else:
        buffer[: len(values)].copy_(torch.tensor(values))
