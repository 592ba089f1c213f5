"""``Share``: what a decoder asks of the other ranks that have a share of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from specplan_runtime.distributed.links import Choosing, best_here
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.workspace import Workspace


class Share:
    """One rank's links for one model.

    Args:
        ranks: this process among the others.
        vocab_size: of the whole model.

    Attributes:
        num_known: this rank's rows of the vocabulary without those that fill the last rank up.
    """

    def __init__(self, ranks: Ranks, vocab_size: int) -> None:
        parallelism = ranks.parallelism
        self._ranks = ranks
        self.vocab_size: int | None = vocab_size
        self.parts = parallelism.tensor_parallel
        width = -(-vocab_size // self.parts)
        self.first_token = ranks.part * width
        self.num_known = max(0, min(width, vocab_size - self.first_token))
        self._aside: torch.Tensor | None = None
        self._wait: Callable[[], None] | None = None
        self.embeds = ranks.stage == 0
        self.has_head = ranks.stage == parallelism.num_stages - 1

    def add_up(self, x: torch.Tensor) -> None:
        """Over the tensor ranks of the stage."""
        self._ranks.add_up(x)

    def receive(self, hidden: torch.Tensor) -> None:
        """From the same part of the stage before."""
        self._ranks.receive(hidden, self._ranks.rank - self.parts)

    def send(self, hidden: torch.Tensor) -> None:
        """To the same part of the next stage."""
        if self.has_head:
            return
        if self._aside is None:
            self._ranks.send(hidden, self._ranks.rank + self.parts)
            return
        self._finish()
        place = self._aside[: len(hidden)].copy_(hidden)
        self._wait = self._ranks.begin_sending(place, self._ranks.rank + self.parts)

    @contextmanager
    def sending_from(self, aside: torch.Tensor | None) -> Iterator[None]:
        """Hidden states [m, h] wait in ``aside`` until the next stage takes them, while the next pass runs."""
        self._aside = aside
        try:
            yield
            self._finish()
        finally:
            self._aside = None

    def _finish(self) -> None:
        if self._wait is not None:
            self._wait()
            self._wait = None

    def best(self, work: Choosing, logits: torch.Tensor) -> list[int]:
        """Pairs of a logit and its token travel, both in float32, which holds every token below 2^24 exactly."""
        buffers, rows = work.exchange, len(logits)
        if buffers is None:
            return best_here(work, logits)
        own = buffers.own
        if logits.shape[1]:
            for row, token in enumerate(best_here(work, logits)):
                own[row, 0].copy_(logits[row, token])
                own[row, 1].fill_(float(self.first_token + token))
        else:
            own[:, 0].fill_(float("-inf"))
        self._ranks.gather_all(own, buffers.best)
        pairs = buffers.best[:, :rows].tolist()
        return [int(max(pairs, key=lambda part: part[row][0])[row][1]) for row in range(rows)]

    def whole_rows(self, work: Workspace, logits: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """One row after the other, in the deciding rank's place for it."""
        buffers = work.exchange
        if buffers is None:
            yield 0, logits
            return
        for row in range(len(logits)):
            self._ranks.gather(logits[row].contiguous(), buffers.row)  # swapped products are not
            yield row, buffers.row.view(1, -1)[:, : self.vocab_size]
