"""``HeadDrafter``: what chains and trees that an EAGLE-3 head drafts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Rows

from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.eagle import Eagle3Pass
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


class HeadDrafter(NoDrafter, ABC):
    """Runs the head once over what the target has verified; ``draft`` then goes on from there.

    ``Sequence.num_draft_cached`` counts the head's entries that read the target's own features. Entry i needs token
    i + 1, so the features of the last verified tokens wait until the next step: those of a prompt's last token, or of
    the accepted rows of a verify pass.

    Args:
        head: with its weights.
        work: buffers of the draft phase.
        prefill_work: buffers of the head's prefill.
        num_rows: cache rows.
    """

    def __init__(self, head: Eagle3Pass, work: Workspace, prefill_work: Workspace, num_rows: int) -> None:
        self._pass, self._head = head, head.head
        self._work, self._prefill_work = work, prefill_work
        self._num_rows = num_rows
        self._width = 1  # features of a cache row that the last verify pass left, side by side
        self._num_pending = [0] * num_rows

    @abstractmethod
    def draft(
        self,
        rows: Rows[Sequence | None],
        ready: Rows[bool],
        limits: Rows[int],
        last_rows: list[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """Proposals for each cache row, after a pass over what was verified.

        Args:
            rows: sequences.
            ready: those that the head has followed; the others get nothing.
            limits: tokens that each can use, 0 where the head has not followed.
            last_rows: for each cache row the row of the pass that knows its last token.
            params: how to choose.
        """

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
        """Take in what was verified, and draft; also where nothing may be drafted, so that nothing is missed."""
        ready = [sequence is not None and self._follows(sequence) for sequence in rows]
        proposals: list[list[int]] = [[] for _ in rows]
        if any(ready):
            last_rows = self._take_in(rows, ready)
            usable = [limit if follows else 0 for limit, follows in zip(limits, ready, strict=True)]
            if any(usable):
                proposals = self.draft(rows, ready, usable, last_rows, params)
        self._width = 1 + max(len(proposal) for proposal in proposals)
        return proposals

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """The features of the accepted rows are the target's own: the head takes them in with the next step."""
        followed = sequence.num_draft_cached == len(sequence.tokens) - 1
        self._num_pending[sequence.row] = len(path) + 1 if followed else 0
        first, pending = sequence.row * self._width, self._head.pending
        for depth, row in enumerate(path, start=1):  # those of a tree move to the front, in order
            if row != depth:
                pending[first + depth].copy_(pending[first + row])

    def _follows(self, sequence: Sequence) -> bool:
        """Whether no feature was missed, as it is while another drafter steps."""
        pending = self._num_pending[sequence.row]
        return pending > 0 and sequence.num_draft_cached + pending == len(sequence.tokens) - 1

    def _take_in(self, rows: Rows[Sequence | None], ready: Rows[bool]) -> list[int]:
        """Feed what was verified; for each cache row the row of the pass that knows its last token."""
        pending = [count if follows else 0 for count, follows in zip(self._num_pending, ready, strict=True)]
        width, h = max(pending), self._head.pending.shape[1]
        tokens, starts = [], []
        for sequence, count in zip(rows, pending, strict=True):
            start = 0 if sequence is None or not count else sequence.num_draft_cached
            fed = [] if sequence is None else sequence.tokens[start + 1 : start + 1 + count]
            tokens.append(fed + [0] * (width - len(fed)))
            starts.append(start)
        features = self._head.pending[: self._num_rows * self._width].view(self._num_rows, self._width, h)[:, :width]
        self._pass.forward(self._work, Span(tokens, starts, idle=idle_rows(ready)), features)
        for sequence, count in zip(rows, pending, strict=True):
            if sequence is not None and count:
                sequence.num_draft_cached += count
                self._num_pending[sequence.row] = 0
        return [row * width + max(count, 1) - 1 for row, count in enumerate(pending)]


def idle_rows(ready: Rows[bool]) -> frozenset[int]:
    """Cache rows that nothing is drafted for."""
    return frozenset(row for row, follows in enumerate(ready) if not follows)
