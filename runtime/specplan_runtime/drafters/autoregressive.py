"""Drafting token by token with a model: a draft of its own, or the target's own first layers."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan_runtime.decoder import Decoder
from specplan_runtime.prefill import prefill
from specplan_runtime.sampling import RowSampler, SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace

#: Tokens per sequence that a draft pass takes in: the last one, and one more after all proposals were accepted.
_MAX_PENDING = 2


class AutoregressiveDrafter:
    """Runs a decoder γ times per step.

    Args:
        decoder: the draft model, or the target for early exit.
        work: buffers of the draft phase.
        draft_probs: float32 [B, γ, V], the place of the distributions that proposals are drawn from.
        vocab_size: tokens that the target knows; the draft proposes none beyond them.
        prefill_work: buffers of the draft's prefill; None when it shares the target's cache.
        prefill_chunk: tokens per prefill pass.
        num_layers: layers to run; all when None.
    """

    def __init__(
        self,
        decoder: Decoder,
        work: Workspace,
        draft_probs: torch.Tensor,
        vocab_size: int,
        prefill_work: Workspace | None,
        prefill_chunk: int,
        num_layers: int | None,
    ) -> None:
        self._decoder, self._work, self._probs = decoder, work, draft_probs
        self._vocab_size = vocab_size
        self._prefill_work, self._chunk, self._num_layers = prefill_work, prefill_chunk, num_layers

    def prefill(self, sequence: Sequence) -> None:
        """Fill the draft's own cache; the target's shared one is filled already."""
        if self._prefill_work is not None:
            tokens = self._known(sequence.tokens[:-1])
            prefill(
                self._decoder,
                self._prefill_work,
                self._chunk,
                sequence.row,
                tokens,
                sequence.num_draft_cached,
            )
        sequence.num_draft_cached = len(sequence.tokens) - 1

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """Draft as far as the row with the highest limit; rows with lower limits get fewer."""
        for sequence in rows:
            if sequence is not None and len(sequence.tokens) - sequence.num_draft_cached > _MAX_PENDING:
                self.prefill(sequence)  # speculation was off for a while
        proposals: list[list[int]] = [[] for _ in rows]
        for position in range(max(limits)):
            span, last_rows = self._span(rows, proposals)
            self._decoder.forward(self._work, span, self._num_layers)
            drafted = self._choose(last_rows, position, params)
            for proposal, token in zip(proposals, drafted, strict=True):
                proposal.append(token)
        return [
            proposal[:limit] if sequence is not None else []
            for sequence, proposal, limit in zip(rows, proposals, limits, strict=True)
        ]

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """What the proposal was drawn from."""
        return self._probs[row, position, : self._vocab_size]

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """A draft that reads tokens needs no hidden states."""

    def commit(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """The draft has seen all proposals but the last; the accepted ones of them are valid."""
        known = len(sequence.tokens)
        if num_drafted:
            sequence.num_draft_cached = known + min(num_accepted, num_drafted - 1)

    def _span(self, rows: Rows[Sequence | None], proposals: Rows[list[int]]) -> tuple[Span, list[int]]:
        """The next pass, and for each cache row the row of the pass whose logits continue it.

        The first pass of a step feeds what the draft has not seen: one token, or two after a step in which all
        proposals were accepted. A row that needs one when another needs two feeds its last two again.
        """
        idle = frozenset(row for row, sequence in enumerate(rows) if sequence is None)
        if proposals[0]:
            starts = [
                0 if seq is None else len(seq.tokens) - 1 + len(p) for seq, p in zip(rows, proposals, strict=True)
            ]
            tokens = [[p[-1]] for p in proposals]
            return Span(tokens, starts, idle=idle), list(range(len(rows)))
        pending = max(len(seq.tokens) - seq.num_draft_cached for seq in rows if seq is not None)
        fed = [[0] if seq is None else seq.tokens[-pending:] for seq in rows]
        starts = [0 if seq is None else len(seq.tokens) - len(f) for seq, f in zip(rows, fed, strict=True)]
        last = [index * pending + len(f) - 1 for index, f in enumerate(fed)]
        return Span([self._known(f) + [0] * (pending - len(f)) for f in fed], starts, idle=idle), last

    def _known(self, tokens: list[int]) -> list[int]:
        """Tokens of the target's padding that a smaller draft vocabulary lacks become token 0."""
        size = self._decoder.arch.vocab_size
        return [token if token < size else 0 for token in tokens]

    def _choose(self, last_rows: list[int], position: int, params: SamplingParams) -> list[int]:
        chosen: list[int] = []
        sampler = None if params.greedy else RowSampler(self._work, params)
        for _, logits in self._decoder.logits(self._work, last_rows, len(last_rows)):
            known = logits[:, : self._vocab_size]
            if sampler is None:
                chosen += torch.argmax(known, dim=-1, out=self._work.argmax[: len(known)]).tolist()
            else:
                for offset in range(len(known)):
                    self._probs[len(chosen), position].copy_(sampler.load(known[offset]))
                    chosen.append(sampler.draw())
            del logits, known  # an int8 head is about to allocate the next tile
        return chosen
