"""``LeadingDecoder``: a decoder on the deciding rank, whose every pass the other ranks run too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.commands import Choose, Compact, Forward, Passes
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.distributed.share import Share
from specplan_runtime.parameters import Parameters
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


class LeadingDecoder(Decoder):
    """Tells the others first.

    Args:
        parameters: this rank's share.
        share: links of the model.
        ranks: to tell.
        number: of the decoder, 0 the target's, 1 the draft's.
    """

    def __init__(self, parameters: Parameters, share: Share, ranks: Ranks, number: int) -> None:
        super().__init__(parameters, share)
        self._ranks, self._number = ranks, number
        #: The others follow; while all warm up, each knows by itself what to do.
        self.leads = False
        self._expected, self._chosen = 0, False

    def expect(self, work: Workspace, spans: Sequence[Span], sampled: bool | None) -> None:
        """Tell all passes at once, so that every stage goes on with the next one as soon as it is done with one.

        Until the last of them is done everything else that is told waits.
        """
        if not self.leads or len(spans) < 2 or self._ranks.parallelism.num_stages == 1:
            return
        phase = work.shape.phase
        with self._ranks.interrupts.held():
            self._ranks.tell(Passes(tuple(Forward(self._number, phase, span, None) for span in spans), sampled))
            self._ranks.postpone()
        self._expected, self._chosen = len(spans), sampled is not None

    def forward(self, work: Workspace, span: Span, num_layers: int | None = None) -> None:
        """As any decoder's."""
        with self._ranks.interrupts.held():
            if self.leads and not self._expected:
                self._ranks.tell(Forward(self._number, work.shape.phase, span, num_layers))
            super().forward(work, span, num_layers)
        if not self._chosen:
            self._done()

    def best(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """As any decoder's."""
        with self._ranks.interrupts.held():
            self._tell(work, rows, num_rows, vocab_size, sampled=False)
            found = super().best(work, rows, num_rows, vocab_size)
        self._done()
        return found

    def logits(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """As any decoder's; it must be gone through to its end."""
        with self._ranks.interrupts.held():
            self._tell(work, rows, num_rows, None, sampled=True)
            yield from super().logits(work, rows, num_rows)
        self._done()

    def compact(self, row: int, start: int, path: Sequence[int]) -> None:
        """As any decoder's."""
        with self._ranks.interrupts.held():
            if self.leads:
                self._ranks.tell(Compact(self._number, row, start, list(path)))
            super().compact(row, start, path)

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """As any decoder's; where only other stages have windowed layers, a text that changed is started over."""
        kept = super().rewound(num_cached, num_shared, num_drafted)
        hidden = self.arch.sliding_window is not None and not self.parameters.windowed.num_slots
        return 0 if hidden and self._ranks.parallelism.num_stages > 1 and kept < num_cached else kept

    def _done(self) -> None:
        """One of the expected passes is done."""
        if self._expected:
            self._expected -= 1
            if not self._expected:
                self._chosen = False
                self._ranks.catch_up()

    def _tell(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None, sampled: bool
    ) -> None:
        if not self.leads or self._expected:
            return
        listed = None if rows is None else list(rows)
        self._ranks.tell(Choose(self._number, work.shape.phase, listed, num_rows, vocab_size, sampled))
