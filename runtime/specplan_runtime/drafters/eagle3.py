"""Drafting token by token with an EAGLE-3 head."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan_runtime.drafters.head import HeadDrafter, idle_rows
from specplan_runtime.eagle import ChainBuffers, Eagle3Pass
from specplan_runtime.sampling import RowSampler, SamplingParams, Uniform
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace, write_integers


class Eagle3Drafter(HeadDrafter):
    """Runs the head once for every further token.

    Args:
        head: with its weights.
        work: buffers of the draft phase.
        prefill_work: buffers of the head's prefill.
        buffers: in the arena.
    """

    def __init__(self, head: Eagle3Pass, work: Workspace, prefill_work: Workspace, buffers: ChainBuffers) -> None:
        super().__init__(head, work, prefill_work, len(buffers.probs))
        self._buffers = buffers

    def draft(
        self,
        rows: Rows[Sequence | None],
        ready: Rows[bool],
        limits: Rows[int],
        last_rows: list[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """Draft as far as the row with the highest limit; rows with lower limits get fewer."""
        proposals: list[list[int]] = [[] for _ in rows]
        for position in range(max(limits)):
            if position:
                last_rows = self._go_on(rows, ready, proposals)
            sources = [
                sequence.uniform if sequence is not None and limit > position else None
                for sequence, limit in zip(rows, limits, strict=True)
            ]
            drafted = self._choose(last_rows, position, params, sources)
            for proposal, token in zip(proposals, drafted, strict=True):
                proposal.append(token)
        return [proposal[:limit] for proposal, limit in zip(proposals, limits, strict=True)]

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """What the proposal was drawn from, over the target's tokens."""
        place = self._buffers.scattered.zero_()
        return place.index_copy_(0, self._head.token_map, self._buffers.probs[row, position])

    def _go_on(self, rows: Rows[Sequence | None], ready: Rows[bool], proposals: list[list[int]]) -> list[int]:
        """Feed the last proposals, the head's own hidden states in the place of features."""
        states = self._head.pending[: self._num_rows].copy_(self._work.hidden[: self._num_rows])
        starts = [
            sequence.num_draft_cached + len(proposal) - 1 if sequence is not None and follows else 0
            for sequence, follows, proposal in zip(rows, ready, proposals, strict=True)
        ]
        span = Span([[proposal[-1]] for proposal in proposals], starts, idle=idle_rows(ready))
        self._pass.forward(self._work, span, states[:, None])
        return list(range(self._num_rows))

    def _choose(
        self, last_rows: list[int], position: int, params: SamplingParams, sources: Rows[Uniform | None]
    ) -> list[int]:
        """A token of the target for each cache row; one without a source draws nothing.

        The hidden states of ``last_rows`` become the first ones.
        """
        chosen: list[int] = []
        sampler = None if params.greedy else RowSampler(self._work, params)
        for _, logits in self._pass.logits(self._work, last_rows, len(last_rows)):
            if sampler is None:
                chosen += torch.argmax(logits, dim=-1, out=self._work.argmax[: len(logits)]).tolist()
            else:
                for offset in range(len(logits)):
                    row = len(chosen)
                    uniform = sources[row]
                    if uniform is not None:
                        self._buffers.probs[row, position].copy_(sampler.load(logits[offset]))
                    chosen.append(0 if uniform is None else sampler.draw(uniform))
            del logits  # a head that allocates is about to make the next tile
        write_integers(self._work.ids, chosen)
        places = self._work.positions[: len(chosen)]
        return torch.index_select(self._head.token_map, 0, self._work.ids[: len(chosen)], out=places).tolist()
