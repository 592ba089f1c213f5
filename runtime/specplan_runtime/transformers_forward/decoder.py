"""A decoder whose forward pass is that of transformers' own model, over a cache of the plan's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from specplan.arch import ModelArch
from specplan.errors import UnsupportedError
from specplan_runtime.span import Span
from specplan_runtime.transformers_forward.cache import CachePass, PlanCache
from specplan_runtime.transformers_forward.masks import layer_masks, read_length
from specplan_runtime.transformers_forward.model import output_head
from specplan_runtime.transformers_forward.workspace import TransformersWorkspace
from specplan_runtime.workspace import write_integers


class TransformersDecoder:
    """One model with its cache.

    Shapes: T rows of a pass = b sequences × q tokens.

    Args:
        model: of one of transformers' own classes.
        arch: the model.
        cache: S slots for each of B sequences.
    """

    def __init__(self, model: PreTrainedModel, arch: ModelArch, cache: PlanCache) -> None:
        self.model, self.arch, self.cache = model, arch, cache
        self.vocab_size = arch.vocab_size
        #: No kernel of this forward is int8.
        self.largest_output_bytes = 0
        self._base = model.base_model
        self._head = output_head(model)
        self._adds_masks = model.config._attn_implementation == "eager"

    def forward(self, work: TransformersWorkspace, span: Span, num_layers: int | None = None) -> None:
        """Run all layers over ``span``; leaves normalized hidden states in ``work.output`` and K, V in the cache.

        Raises:
            UnsupportedError: a part of the layers, or a tree.
        """
        if num_layers is not None or span.topology is not None:
            raise UnsupportedError("transformers' forward runs all layers over chains")
        work.output.hidden = work.output.asked = None
        device, b, q = self.model.device, len(span.tokens), span.num_tokens
        columns = ([token for tokens in span.tokens for token in tokens], span.positions, self._slots(span))
        ids, positions, slots = (_integers(column, device).view(b, q) for column in columns)
        length = read_length(span, self.cache.num_slots)
        dtype = self.model.dtype if self._adds_masks else torch.bool
        masks = layer_masks(self.arch, span, length, dtype, device)
        rows = slice(None) if span.row is None else slice(span.row, span.row + 1)
        self.cache.current = CachePass(slots, rows, length)
        output = self._base(
            input_ids=ids, position_ids=positions, attention_mask=masks, past_key_values=self.cache, use_cache=True
        )
        self.cache.current = None
        work.output.hidden = output.last_hidden_state.view(b * q, self.arch.hidden_size)

    def expect(self, work: TransformersWorkspace, spans: Sequence[Span], sampled: bool | None) -> None:
        """Nobody else needs to know."""

    def logits(
        self, work: TransformersWorkspace, rows: Sequence[int] | None, num_rows: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits in tiles of ``work.shape.logits_rows``: (index of the tile's first row, [R', V])."""
        hidden = work.output.hidden
        assert hidden is not None
        work.output.asked = None if rows is None else list(rows)
        tile, softcap = work.shape.logits_rows, self.arch.logit_softcap
        for start in range(0, num_rows, tile):
            wanted = range(num_rows)[start : start + tile]
            logits = self._head(_taken(hidden, wanted if rows is None else rows[start : start + tile]))
            if softcap is not None:
                logits.div_(softcap).tanh_().mul_(softcap)
            yield start, logits
            del logits

    def best(
        self, work: TransformersWorkspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """The most probable token after each row, of the first ``vocab_size``."""
        found: list[int] = []
        for _, logits in self.logits(work, rows, num_rows):
            known = logits[:, :vocab_size]
            found += torch.argmax(known, dim=-1, out=work.argmax[: len(known)]).tolist()
            del logits, known
        return found

    def last_normalized(self, work: TransformersWorkspace, row: int) -> torch.Tensor:
        """The normalized hidden state [h] of a row whose logits were asked for, until the next pass."""
        assert work.output.hidden is not None
        asked = work.output.asked
        return work.output.hidden[row if asked is None else asked[row]]

    def compact(self, row: int, start: int, path: Sequence[int]) -> None:
        """There are no trees: nothing to move."""

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """Every layer keeps every token."""
        return min(num_cached, num_shared)

    def _slots(self, span: Span) -> list[int]:
        """Where each row's keys and values go; idle sequences write behind the context, where nothing is kept."""
        num_slots, q = self.cache.num_slots, span.num_tokens
        found: list[int] = []
        for index, start in enumerate(span.starts):
            first = (index if span.row is None else span.row) * num_slots
            first += num_slots - q if index in span.idle else start
            found += range(first, first + q)
        return found


def _integers(values: list[int], device: torch.device) -> torch.Tensor:
    tensor = torch.empty(len(values), dtype=torch.int64, device=device)
    write_integers(tensor, values)
    return tensor


def _taken(hidden: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Rows of [T, h]: where they lie together without a copy."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return hidden[rows[0] : rows[0] + len(rows)]
    return hidden.index_select(0, _integers(list(rows), hidden.device))
