"""Drafting token by token with an EAGLE-3 head."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.eagle import Eagle3Pass
from specplan_runtime.sampling import RowSampler, SamplingParams, Uniform
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace, write_integers


class Eagle3Drafter(NoDrafter):
    """Runs the head once over what the target has verified, then once for every further token.

    ``Sequence.num_draft_cached`` counts the head's entries that read the target's own features. Entry i needs token
    i + 1, so the features of the last verified tokens wait until the next step: those of a prompt's last token, or of
    the accepted rows of a verify pass.

    Args:
        head: with its weights.
        work: buffers of the draft phase.
        prefill_work: buffers of the head's prefill.
    """

    def __init__(self, head: Eagle3Pass, work: Workspace, prefill_work: Workspace) -> None:
        self._pass, self._head = head, head.head
        self._work, self._prefill_work = work, prefill_work
        self._num_rows, self._num_planned = self._head.probs.shape[:2]
        self._width = self._num_planned + 1  # features of a cache row that the last verify pass left, side by side
        self._num_pending = [0] * self._num_rows

    def follow(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        """Prefill the head over the tokens that the target has just prefilled; one without successor waits."""
        if sequence.num_draft_cached < start:
            self._num_pending[sequence.row] = 0
            return  # it missed what came before: nothing is drafted for this sequence
        row, tokens = sequence.row, sequence.tokens
        features = self._head.tap.places["prefill_target"]
        known = min(num_tokens, len(tokens) - 1 - start)
        if known > 0:
            span = Span([tokens[start + 1 : start + 1 + known]], [start], row)
            self._pass.forward(self._prefill_work, span, features[None, :known])
        sequence.num_draft_cached = start + max(known, 0)
        self._num_pending[row] = num_tokens - known
        if known < num_tokens:
            self._head.pending[row * self._width].copy_(features[num_tokens - 1])

    def reusable(self, sequence: Sequence, num_shared: int) -> int:
        """The head's entries that still hold; the one before the first changed token had read that one."""
        return min(sequence.num_draft_cached, max(0, num_shared - 1))

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """Draft as far as the row with the highest limit; rows with lower limits get fewer."""
        followed = [sequence is not None and self._follows(sequence) for sequence in rows]
        proposals: list[list[int]] = [[] for _ in rows]
        if any(followed):
            last_rows = self._take_in(rows, followed)
            most = max(limit for limit, ready in zip(limits, followed, strict=True) if ready)
            for position in range(most):
                if position:
                    last_rows = self._go_on(rows, followed, proposals)
                sources = [
                    sequence.uniform if sequence is not None and ready and limit > position else None
                    for sequence, ready, limit in zip(rows, followed, limits, strict=True)
                ]
                drafted = self._choose(last_rows, position, params, sources)
                for proposal, token in zip(proposals, drafted, strict=True):
                    proposal.append(token)
        found = [
            proposal[:limit] if ready else []
            for ready, proposal, limit in zip(followed, proposals, limits, strict=True)
        ]
        self._width = 1 + max(len(proposal) for proposal in found)
        return found

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """What the proposal was drawn from, over the target's tokens."""
        place = self._head.scattered.zero_()
        return place.index_copy_(0, self._head.token_map, self._head.probs[row, position])

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """The features of the accepted rows are the target's own: the head takes them in with the next step."""
        followed = sequence.num_draft_cached == len(sequence.tokens) - 1
        self._num_pending[sequence.row] = len(path) + 1 if followed else 0

    def _follows(self, sequence: Sequence) -> bool:
        """Whether no feature was missed, as it is while another drafter steps."""
        pending = self._num_pending[sequence.row]
        return pending > 0 and sequence.num_draft_cached + pending == len(sequence.tokens) - 1

    def _take_in(self, rows: Rows[Sequence | None], followed: list[bool]) -> list[int]:
        """Feed what was verified; for each cache row the row of the pass that knows its last token."""
        pending = [count if ready else 0 for count, ready in zip(self._num_pending, followed, strict=True)]
        width, h = max(pending), self._head.pending.shape[1]
        tokens, starts = [], []
        for sequence, count in zip(rows, pending, strict=True):
            start = 0 if sequence is None or not count else sequence.num_draft_cached
            fed = [] if sequence is None else sequence.tokens[start + 1 : start + 1 + count]
            tokens.append(fed + [0] * (width - len(fed)))
            starts.append(start)
        features = self._head.pending[: self._num_rows * self._width].view(self._num_rows, self._width, h)[:, :width]
        self._pass.forward(self._work, Span(tokens, starts, idle=_idle(followed)), features)
        for sequence, count in zip(rows, pending, strict=True):
            if sequence is not None and count:
                sequence.num_draft_cached += count
                self._num_pending[sequence.row] = 0
        return [row * width + max(count, 1) - 1 for row, count in enumerate(pending)]

    def _go_on(self, rows: Rows[Sequence | None], followed: list[bool], proposals: list[list[int]]) -> list[int]:
        """Feed the last proposals, the head's own hidden states in the place of features."""
        states = self._head.pending[: self._num_rows].copy_(self._work.hidden[: self._num_rows])
        starts = [
            sequence.num_draft_cached + len(proposal) - 1 if sequence is not None and ready else 0
            for sequence, ready, proposal in zip(rows, followed, proposals, strict=True)
        ]
        span = Span([[proposal[-1]] for proposal in proposals], starts, idle=_idle(followed))
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
                continue
            for offset in range(len(logits)):
                row = len(chosen)
                uniform = sources[row]
                if uniform is not None:
                    self._head.probs[row, position].copy_(sampler.load(logits[offset]))
                chosen.append(0 if uniform is None else sampler.draw(uniform))
        write_integers(self._work.ids, chosen)
        places = self._work.positions[: len(chosen)]
        return torch.index_select(self._head.token_map, 0, self._work.ids[: len(chosen)], out=places).tolist()


def _idle(followed: list[bool]) -> frozenset[int]:
    return frozenset(row for row, ready in enumerate(followed) if not ready)
