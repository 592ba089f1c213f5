"""Attention over the static caches: rotary tables and masks once per pass, then layer by layer.

Shapes: b sequences of at most n tokens, T rows of a pass = the tokens of all, fed = max(T, least rows of a product),
L_c = slots in use, G = H / H_k query heads per KV head. Queries and masks are grids of b × n; what they have behind the
tokens of a shorter sequence is computed and not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from specplan_runtime.distributed.links import Alone, Links
from specplan_runtime.kv_codec import dequantize, quantize
from specplan_runtime.norms import normalize_heads
from specplan_runtime.parameters import Layer, Parameters
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace, write_integers


@dataclass(frozen=True, slots=True)
class Held:
    """Keys or values of one layer: ``cells`` and, where there are any, ``scales``, [b·H_k, L_c, width]."""

    cells: torch.Tensor
    scales: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Mask:
    """What rows must not see.

    Attributes:
        first: the first column of the cache that it speaks of; everything before is seen by all rows.
        hidden: bool [b, n, columns], True where a row must not look.
    """

    first: int
    hidden: torch.Tensor


class Attention:
    """The attention of one model. Holds no tensors of its own.

    Args:
        parameters: weights, caches, constants.
        links: to the other ranks, for norms over all heads.
    """

    def __init__(self, parameters: Parameters, links: Links | None = None) -> None:
        self._parameters, self._arch = parameters, parameters.arch
        self._links: Links = links or Alone()
        d = self._arch.head_dim
        self._multiplier = self._arch.attention_multiplier or d**-0.5
        self._full_mask: Mask | None = None
        self._window_mask: Mask | None = None

    def prepare(self, work: Workspace, span: Span, fed: int) -> None:
        """Rotary tables and masks of a pass; ``work.positions`` must be there."""
        angles = work.angles[:fed]
        for table, frequencies in enumerate(self._parameters.inverse_frequencies):
            torch.mul(work.positions[:fed, None], frequencies, out=angles)
            for function, place in ((torch.cos, work.cos[table][:fed]), (torch.sin, work.sin[table][:fed])):
                if work.turned is None:
                    function(angles, out=place)
                else:  # an out of another dtype would make PyTorch allocate
                    place.copy_(function(angles, out=work.turned[:fed]))
        if span.is_ragged:  # masks are grids; nobody needs positions after the masks
            write_integers(work.positions, span.grid_positions)
        if work.places is not None and len(span.tokens) > 1:
            work.places.write(span, self._parameters.full.num_slots, self._parameters.windowed.num_slots)
        self._full_mask = self._causal(work, span)
        self._window_mask = self._windowed(work, span)

    def __call__(self, work: Workspace, span: Span, layer: Layer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend, writing the pass's keys and values into the cache.

        Args:
            work: buffers of the pass's phase.
            span: tokens and where they go.
            layer: weights.
            x: [fed, h], already normalized where the model does so.

        Returns:
            the heads' outputs in token order [fed, H·d], and the fused projection that a kernel may have allocated.
        """
        fed, width = x.shape[0], self._arch.num_attention_heads * self._arch.head_dim
        qkv = layer.qkv(x, work.qkv).view(fed, -1, self._arch.head_dim)
        self._rotate(work, layer, qkv, fed)
        cache = self._parameters.windowed if layer.windowed else self._parameters.full
        keys = self._write(work, span, layer, self._fresh(span, qkv, 0), cache.keys, cache.key_scales)
        values = self._write(work, span, layer, self._fresh(span, qkv, 1), cache.values, cache.value_scales)
        queries = self._pack_queries(work, span, qkv)
        self._attend(work, span, queries, keys, values, self._window_mask if layer.windowed else self._full_mask)
        heads = work.normed[: fed * width].view(fed, width)
        by_token, grid = self._by_token(span, heads), self._grid(span, queries)
        if span.is_ragged:
            torch.ops.aten.index.Tensor_out(grid, self._in_grid(work, span), out=by_token)
        else:
            by_token.view(grid.shape).copy_(grid)
        return heads, qkv

    def _causal(self, work: Workspace, span: Span) -> Mask | None:
        """From the first column where any row is limited; None when all rows see all."""
        first, length = min(span.starts) + 1, span.length
        if work.mask is None or first >= length:
            return None
        shape = (len(span.starts), span.num_tokens, length - first)
        hidden = work.mask[: math.prod(shape)].view(shape)
        if span.topology is None or span.topology.hidden is None:
            torch.gt(self._parameters.columns[first:length], self._row_positions(work, span), out=hidden)
        else:
            self._fill_tree(hidden, span, span.topology.hidden, first)
        return Mask(first, hidden)

    @staticmethod
    def _fill_tree(hidden: torch.Tensor, span: Span, tree: torch.Tensor, first: int) -> None:
        """All of the context is seen, of the tree only ancestors, nothing beyond."""
        for sequence, start in enumerate(span.starts):
            begin = start + 1 - first
            end = begin + span.end_row - 1
            hidden[sequence, :, :begin].fill_(False)
            hidden[sequence, :, begin:end].copy_(tree[span.first_row : span.end_row, 1 : span.end_row])
            hidden[sequence, :, end:].fill_(True)

    def _windowed(self, work: Workspace, span: Span) -> Mask | None:
        """Slots are used in turn: slot j holds the last position p ≤ e with p ≡ j, where e is the pass's last one."""
        if work.slot_positions is None or work.window_mask is None or work.window_spare is None:
            return None
        b, n, slots = len(span.starts), span.num_tokens, self._parameters.windowed.num_slots
        used, window = min(slots, span.length), self._arch.sliding_window
        assert window is not None
        rows = self._row_positions(work, span)
        last = rows[:, -1]
        held = work.slot_positions[: b * used].view(b, used)
        torch.sub(last, self._parameters.columns[:used], out=held)
        torch.sub(last, held.remainder_(slots), out=held)
        unused = work.window_spare[: b * used].view(b, used)
        held.masked_fill_(torch.lt(held, 0, out=unused), 1 << 40)
        hidden = work.window_mask[: b * n * used].view(b, n, used)
        too_old = work.window_spare[: b * n * used].view(b, n, used)
        torch.gt(held[:, None], rows, out=hidden)
        torch.le(held.add_(window)[:, None], rows, out=too_old)
        return Mask(0, hidden.logical_or_(too_old))

    @staticmethod
    def _row_positions(work: Workspace, span: Span) -> torch.Tensor:
        b, n = len(span.starts), span.num_tokens
        return work.positions[: b * n].view(b, n, 1)

    def _rotate(self, work: Workspace, layer: Layer, qkv: torch.Tensor, fed: int) -> None:
        """Normalize heads where the model does, then rotate queries and keys in place."""
        arch = self._arch
        heads, half = arch.num_attention_heads, arch.rotary_dim // 2
        rotating = heads + arch.num_key_value_heads
        if layer.query_norm is not None and layer.key_norm is not None:
            over = self._links if arch.qk_norm == "full" else None
            normalize_heads(qkv[:, :heads], layer.query_norm, arch.rms_norm_eps, over, work)
            normalize_heads(qkv[:, heads:rotating], layer.key_norm, arch.rms_norm_eps, over, work)
        table = 1 if arch.local_rope_theta is not None and layer.slides else 0
        cos, sin = work.cos[table][:fed, None], work.sin[table][:fed, None]
        first, second = qkv[:, :rotating, :half], qkv[:, :rotating, half : 2 * half]
        spare = work.rotated[: fed * rotating * half].view(fed, rotating, half)
        torch.mul(second, sin, out=spare)
        second.mul_(cos).addcmul_(first, sin)
        first.mul_(cos).sub_(spare)

    def _fresh(self, span: Span, qkv: torch.Tensor, which: int) -> torch.Tensor:
        """The pass's keys (0) or values (1), [T, H_k, d]."""
        kv_heads = self._arch.num_key_value_heads
        begin = self._arch.num_attention_heads + which * kv_heads
        return qkv[: span.num_rows, begin : begin + kv_heads]

    def _write(
        self,
        work: Workspace,
        span: Span,
        layer: Layer,
        rows: torch.Tensor,
        cells: torch.Tensor,
        scales: torch.Tensor | None,
    ) -> Held:
        """Store rows [T, H_k, d] in a layer of a cache; give what the pass reads."""
        fresh, fresh_scales = quantize(rows, self._parameters.precision, work)
        held = self._store(work, span, layer, fresh, cells)
        if scales is None or fresh_scales is None:
            return Held(held, None)
        return Held(held, self._store(work, span, layer, fresh_scales, scales))

    @staticmethod
    def _store(work: Workspace, span: Span, layer: Layer, rows: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Put rows [T, H_k, w] in a layer of a cache's cells; what the pass reads of it, [b·H_k, L_c, w]."""
        cache = cells[layer.cache_index]
        slots = cache.shape[2]
        place = cache if span.row is None else cache[span.row : span.row + len(span.starts)]
        if len(span.starts) > 1 and rows.dtype == cache.dtype:
            assert work.places is not None
            of_rows = work.places.windowed_slots if layer.windowed else work.places.full_slots
            for kept in span.kept_rows:
                place.transpose(1, 2).index_put_((work.places.sequences[kept], of_rows[kept]), rows[kept])
        else:
            Attention._copy(span, rows, place)
        return place.view(-1, slots, cache.shape[3])[:, : min(slots, span.length)]

    @staticmethod
    def _copy(span: Span, rows: torch.Tensor, place: torch.Tensor) -> None:
        """Put rows there one sequence after the other: faster for a single one, and converts where dtypes differ."""
        slots = place.shape[2]
        for sequence, (start, n) in enumerate(zip(span.starts, span.lengths, strict=True)):
            if sequence in span.idle or not n:
                continue
            fresh = rows[span.rows_of(sequence)].transpose(0, 1)
            slot = (start + span.first_row) % slots
            before_end = min(n, slots - slot)
            place[sequence, :, slot : slot + before_end].copy_(fresh[:, :before_end])
            if before_end < n:
                place[sequence, :, : n - before_end].copy_(fresh[:, before_end:])

    def _pack_queries(self, work: Workspace, span: Span, qkv: torch.Tensor) -> torch.Tensor:
        """[b·H_k, G·n, d], scaled: the query heads of a KV head lie together, so K and V are never repeated."""
        b, heads, d = len(span.tokens), self._arch.num_attention_heads, self._arch.head_dim
        queries = work.queries[: b * span.num_tokens * heads * d]
        packed = queries.view(b * self._arch.num_key_value_heads, -1, d)
        by_token, grid = self._by_token(span, qkv[:, :heads]), self._grid(span, packed)
        if span.is_ragged:
            grid.index_put_(self._in_grid(work, span), by_token.mul_(self._multiplier))
        else:
            torch.mul(by_token.view(grid.shape), self._multiplier, out=grid)
        return packed

    def _by_token(self, span: Span, rows: torch.Tensor) -> torch.Tensor:
        """The query heads of all rows, [T, H_k, G, d], of [fed, H·d] or [fed, H, d]."""
        return rows[: span.num_rows].view(span.num_rows, self._arch.num_key_value_heads, -1, self._arch.head_dim)

    def _grid(self, span: Span, packed: torch.Tensor) -> torch.Tensor:
        """Packed queries in token order, [b, n, H_k, G, d]."""
        b, n = len(span.tokens), span.num_tokens
        return packed.view(b, self._arch.num_key_value_heads, -1, n, self._arch.head_dim).permute(0, 3, 1, 2, 4)

    @staticmethod
    def _in_grid(work: Workspace, span: Span) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a ragged pass has its rows in a grid of b × n."""
        assert work.places is not None
        return work.places.sequences[: span.num_rows], work.places.columns[: span.num_rows]

    def _attend(
        self,
        work: Workspace,
        span: Span,
        queries: torch.Tensor,
        keys: Held,
        values: Held,
        mask: Mask | None,
    ) -> None:
        """Attention of the packed queries; the result replaces them."""
        length = keys.cells.shape[1]
        scores = work.scores[: queries.shape[0] * queries.shape[1] * length].view(*queries.shape[:2], length)
        torch.bmm(queries, self._read(work, keys).transpose(1, 2), out=scores)
        if self._arch.attention_softcap is not None:
            scores.div_(self._arch.attention_softcap).tanh_().mul_(self._arch.attention_softcap)
        if mask is not None:
            by_head = scores.view(len(span.tokens), self._arch.num_key_value_heads, -1, span.num_tokens, length)
            by_head[..., mask.first :].masked_fill_(mask.hidden[:, None, None], float("-inf"))
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores, self._read(work, values), out=queries)

    def _read(self, work: Workspace, held: Held) -> torch.Tensor:
        """Keys or values in the compute dtype, [b·H_k, L_c, d]: in place, or converted."""
        if work.kv_cast is None:
            return held.cells
        rows, length, d = *held.cells.shape[:2], self._arch.head_dim
        converted = work.kv_cast[: rows * length * d].view(rows, length, d)
        dequantize(held.cells, held.scales, self._parameters.precision, converted)
        return converted
