"""Drafting token by token with a model: a draft of its own, or the target's own first layers."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan_runtime.drafters.model import DraftModel, ModelDrafter, idle_rows
from specplan_runtime.forward import Work
from specplan_runtime.sampling import RowSampler, SamplingParams, Uniform
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span


class AutoregressiveDrafter(ModelDrafter[Work]):
    """Runs a model γ times per step.

    Args:
        model: that drafts.
        draft_probs: float32 [B, γ, V], the place of the distributions that proposals are drawn from.
    """

    def __init__(self, model: DraftModel[Work], draft_probs: torch.Tensor) -> None:
        super().__init__(model)
        self._probs = draft_probs

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """Draft as far as the row with the highest limit; rows with lower limits get fewer."""
        self._model.catch_up(rows)
        proposals: list[list[int]] = [[] for _ in rows]
        for position in range(max(limits)):
            span, last_rows = self._span(rows, proposals)
            self._model.decoder.forward(self._model.work, span, self._model.num_layers)
            sources = [
                None if sequence is None or position >= limit else sequence.uniform
                for sequence, limit in zip(rows, limits, strict=True)
            ]
            drafted = self._choose(last_rows, position, params, sources)
            for proposal, token in zip(proposals, drafted, strict=True):
                proposal.append(token)
        return [
            proposal[:limit] if sequence is not None else []
            for sequence, proposal, limit in zip(rows, proposals, limits, strict=True)
        ]

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """What the proposal was drawn from."""
        return self._probs[row, position, : self._model.vocab_size]

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """The draft has seen all proposals but the last; the accepted ones of them are valid."""
        known = len(sequence.tokens)
        if num_drafted:
            sequence.num_draft_cached = known + min(len(path), num_drafted - 1)

    def _span(self, rows: Rows[Sequence | None], proposals: Rows[list[int]]) -> tuple[Span, list[int]]:
        """The next pass, and for each cache row the row of the pass whose logits continue it."""
        if not proposals[0]:
            return self._model.first_span(rows)
        starts = [0 if seq is None else len(seq.tokens) - 1 + len(p) for seq, p in zip(rows, proposals, strict=True)]
        return Span([[p[-1]] for p in proposals], starts, idle=idle_rows(rows)), list(range(len(rows)))

    def _choose(
        self, last_rows: list[int], position: int, params: SamplingParams, sources: Rows[Uniform | None]
    ) -> list[int]:
        """A token for every row; rows without a source draw nothing, so that their numbers stay their own."""
        work, decoder, vocab_size = self._model.work, self._model.decoder, self._model.vocab_size
        if params.greedy:
            return decoder.best(work, last_rows, len(last_rows), vocab_size)
        chosen: list[int] = []
        sampler = RowSampler(work, params)
        for _, logits in decoder.logits(work, last_rows, len(last_rows)):
            known = logits[:, :vocab_size]
            for offset in range(len(known)):
                row = len(chosen)
                uniform = sources[row]
                if uniform is not None:
                    size = known.shape[1]  # the sampler may have room for more
                    self._probs[row, position, :size].copy_(sampler.load(known[offset])[:size])
                chosen.append(0 if uniform is None else sampler.draw(uniform))
            del logits, known  # a head that allocates is about to make the next tile
        return chosen
