"""``Share``: what a decoder asks of the other ranks that have a share of its model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.workspace import Workspace


class Share:
    """One rank's links for one model.

    Args:
        ranks: this process among the others.
        vocab_size: of the whole model.
    """

    def __init__(self, ranks: Ranks, vocab_size: int) -> None:
        parallelism = ranks.parallelism
        self._ranks = ranks
        self.vocab_size: int | None = vocab_size
        self.parts = parallelism.tensor_parallel
        self.first_token = ranks.part * -(-vocab_size // self.parts)
        self.embeds = ranks.stage == 0
        self.has_head = ranks.stage == parallelism.num_stages - 1

    def add_up(self, x: torch.Tensor) -> None:
        """Over the tensor ranks of the stage."""
        self._ranks.add_up(x)

    def receive(self, hidden: torch.Tensor) -> None:
        """From the stage before."""
        self._ranks.receive(hidden)

    def send(self, hidden: torch.Tensor) -> None:
        """To the next stage."""
        if not self.has_head:
            self._ranks.send(hidden)

    def best(self, work: Workspace, logits: torch.Tensor) -> list[int]:
        """Pairs of a logit and its token travel, both in float32, which holds every token below 2^24 exactly."""
        buffers, rows = work.exchange, len(logits)
        if buffers is None:
            best: list[int] = torch.argmax(logits, dim=-1, out=work.argmax[:rows]).tolist()
            return best
        own = buffers.own
        if logits.shape[1]:
            tokens = torch.argmax(logits, dim=-1, out=work.argmax[:rows]).tolist()
            for row, token in enumerate(tokens):
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
