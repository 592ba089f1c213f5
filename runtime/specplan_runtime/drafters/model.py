"""``DraftModel``: a model that drafts, and its cache, which follows the sequences."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Generic

import torch

from specplan_runtime.forward import Forward, Work
from specplan_runtime.prefill import prefill
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span

#: Tokens per sequence that a first pass takes in: the last one, and one more if the draft never saw it as a proposal.
_MAX_PENDING = 2


@dataclass(frozen=True, slots=True)
class DraftModel(Generic[Work]):
    """What chains and trees that a model drafts have in common.

    Attributes:
        decoder: the draft model, or the target for early exit.
        work: buffers of the draft phase.
        vocab_size: tokens that the target knows; the draft proposes none beyond them.
        prefill_work: buffers of the draft's prefill; None when it shares the target's cache.
        prefill_chunk: tokens per prefill pass.
        num_layers: layers to run; all when None.
    """

    decoder: Forward[Work]
    work: Work
    vocab_size: int
    prefill_work: Work | None
    prefill_chunk: int
    num_layers: int | None

    @property
    def owns_cache(self) -> bool:
        """Whether the draft's cache is not the target's."""
        return self.prefill_work is not None

    def prefill(self, sequence: Sequence) -> None:
        """Fill the draft's own cache; the target's shared one is filled already."""
        if self.prefill_work is not None:
            tokens, cached = self.known(sequence.tokens[:-1]), sequence.num_draft_cached
            prefill(self.decoder, self.prefill_work, self.prefill_chunk, sequence.row, tokens, cached)
        sequence.num_draft_cached = len(sequence.tokens) - 1

    def catch_up(self, rows: Rows[Sequence | None]) -> None:
        """Take in what was decoded while speculation was off."""
        for sequence in rows:
            if sequence is not None and len(sequence.tokens) - sequence.num_draft_cached > _MAX_PENDING:
                self.prefill(sequence)

    def first_span(self, rows: Rows[Sequence | None]) -> tuple[Span, list[int]]:
        """The first pass of a step, and for each cache row the row of the pass whose logits continue it.

        It feeds what the draft has not seen: one token, or two after a step whose last accepted proposal was never fed
        to it. A row that needs one when another needs two feeds its last two again.
        """
        pending = max(len(seq.tokens) - seq.num_draft_cached for seq in rows if seq is not None)
        fed = [[0] if seq is None else seq.tokens[-pending:] for seq in rows]
        starts = [0 if seq is None else len(seq.tokens) - len(f) for seq, f in zip(rows, fed, strict=True)]
        last = [index * pending + len(f) - 1 for index, f in enumerate(fed)]
        return Span([self.known(f) + [0] * (pending - len(f)) for f in fed], starts, idle=idle_rows(rows)), last

    def known(self, tokens: list[int]) -> list[int]:
        """Tokens of the target's padding that a smaller draft vocabulary lacks become token 0."""
        size = self.decoder.vocab_size
        return [token if token < size else 0 for token in tokens]


class ModelDrafter(Generic[Work]):
    """What every drafter with a model says to the engine.

    Args:
        model: that drafts.
    """

    def __init__(self, model: DraftModel[Work]) -> None:
        self._model = model

    def prefill(self, sequence: Sequence) -> None:
        """Take in the prompt."""
        self._model.prefill(sequence)

    def follow(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        """A draft that reads tokens prefills them by itself."""

    def reusable(self, sequence: Sequence, num_shared: int) -> int:
        """All of them: the draft's own cache is rewound with the target's."""
        return num_shared

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """A draft that reads tokens needs no hidden states."""


def idle_rows(rows: Rows[Sequence | None]) -> frozenset[int]:
    """Cache rows without a sequence."""
    return frozenset(row for row, sequence in enumerate(rows) if sequence is None)
