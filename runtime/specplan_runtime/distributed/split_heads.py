"""``SplitHeads``: Medusa heads whose output matrices are spread over the tensor ranks of the last stage."""

from __future__ import annotations

import torch

from specplan_runtime.distributed.commands import RunHeads
from specplan_runtime.distributed.links import Choosing
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.distributed.share import Share
from specplan_runtime.heads import Medusa, MedusaWorkspace, run_medusa


class SplitHeads:
    """One rank's part: whole blocks, and the rows of the output matrices that it has of the target's, too.

    Args:
        medusa: this rank's part.
        work: of the draft phase.
        ranks: this process among the others.
        vocab_size: of the whole target.
    """

    def __init__(self, medusa: Medusa, work: MedusaWorkspace, ranks: Ranks, vocab_size: int) -> None:
        self._medusa, self._work, self._ranks = medusa, work, ranks
        self._share = Share(ranks, vocab_size)

    def lead(self) -> None:
        """On the deciding rank: run all parts."""
        with self._ranks.interrupts.held():
            self._ranks.tell(RunHeads())
            self.run()

    def run(self) -> None:
        """Run this part with the features of the deciding rank; all parts have the same candidates afterwards."""
        self._ranks.share(self._medusa.features)
        run_medusa(self._medusa, self._work, self._take_best)

    def _take_best(self, work: Choosing, logits: torch.Tensor, place: torch.Tensor) -> None:
        """The best token of each row over all tensor ranks, struck out where it is."""
        first = self._share.first_token
        known = logits[:, : self._share.num_known]  # the last rows of a head may fill the vocabulary up
        for row, token in enumerate(self._share.best(work, known)):
            place[row].fill_(token)
            if first <= token < first + known.shape[1]:
                known[row, token - first].fill_(float("-inf"))
