"""``AwayDecoder``: a draft model on another rank, as the deciding rank sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from specplan.arch import ModelArch
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.commands import Choose, Compact, Forward
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace

#: The draft's number among the decoders of a plan.
DRAFT = 1
#: This rank has no workspaces of the draft: it samples in those of the target, which rest while it drafts.
PHASES = {"prefill_target": "prefill_draft", "verify": "draft"}


class AwayDecoder:
    """Tells the other ranks every pass, and hears which tokens were found, or the logits to draw them from.

    Args:
        arch: of the draft.
        ranks: to tell.
        draft_probs: float32 [B, γ, V]; logits of a row arrive in its last place, which is drawn for last.
    """

    def __init__(self, arch: ModelArch, ranks: Ranks, draft_probs: torch.Tensor) -> None:
        self.arch, self.vocab_size = arch, arch.vocab_size
        self.largest_output_bytes = 0
        self._ranks, self._places = ranks, draft_probs
        self._rank = ranks.parallelism.draft_rank

    def forward(self, work: Workspace, span: Span, num_layers: int | None = None) -> None:
        """As any decoder's, over there."""
        self._ranks.tell(Forward(DRAFT, PHASES[work.shape.phase], span, num_layers))

    def expect(self, work: Workspace, spans: Sequence[Span], sampled: bool | None) -> None:
        """The draft has no stages."""

    def best(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """As any decoder's."""
        tokens = torch.empty(num_rows, dtype=torch.int64)
        with self._ranks.interrupts.held():
            self._choose(work, rows, num_rows, vocab_size, sampled=False)
            self._ranks.receive(tokens, self._rank)
        found: list[int] = tokens.tolist()
        return found

    def logits(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """As any decoder's, in float32, of at most a row per sequence; it must be gone through to its end."""
        with self._ranks.interrupts.held():
            self._choose(work, rows, num_rows, None, sampled=True)
            for row in range(num_rows):
                place = self._places[row, -1]
                self._ranks.receive(place, self._rank)
                yield row, place[None]

    def compact(self, row: int, start: int, path: Sequence[int]) -> None:
        """As any decoder's."""
        self._ranks.tell(Compact(DRAFT, row, start, list(path)))

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """As any decoder's; a model with windowed layers starts over: only the other rank knows their slots."""
        kept = min(num_cached, num_shared)
        return 0 if self.arch.sliding_window is not None and kept < num_cached else kept

    def last_normalized(self, work: Workspace, row: int) -> torch.Tensor:
        """Nobody reads hidden states of a draft model.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def _choose(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None, sampled: bool
    ) -> None:
        listed = None if rows is None else list(rows)
        self._ranks.tell(Choose(DRAFT, PHASES[work.shape.phase], listed, num_rows, vocab_size, sampled))


def answer(ranks: Ranks, decoder: Decoder, work: Workspace, command: Choose, draft_probs: torch.Tensor) -> None:
    """On the draft's rank: send what ``AwayDecoder`` waits for.

    Args:
        ranks: with the deciding one.
        decoder: the draft's.
        work: of the pass that it ran.
        command: what is wanted of it.
        draft_probs: float32 [B, γ, V], places for rows on their way.
    """
    decides = ranks.parallelism.deciding_rank
    if not command.sampled:
        tokens = decoder.best(work, command.rows, command.num_rows, command.vocab_size)
        ranks.send(torch.tensor(tokens), decides)
        return
    for start, logits in decoder.logits(work, command.rows, command.num_rows):
        for offset, row in enumerate(logits):
            ranks.send(draft_probs[start + offset, -1].copy_(row), decides)
        del logits
