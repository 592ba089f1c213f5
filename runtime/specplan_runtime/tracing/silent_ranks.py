"""``SilentRanks``: one rank without the others, for a replay."""

from __future__ import annotations

from collections.abc import Callable

import torch

from specplan.parallelism import Parallelism
from specplan_runtime.distributed.interrupts import Interrupts
from specplan_runtime.distributed.ranks import Ranks


class SilentRanks(Ranks):
    """Nothing is sent: what others would give or take is read and written in the buffers that it has its place in.

    Args:
        parallelism: of the plan.
        rank: which of its ranks.
    """

    def __init__(self, parallelism: Parallelism, rank: int) -> None:  # no processes to meet
        self.parallelism, self.rank = parallelism, rank
        self.stage, self.part = parallelism.stage_of(rank), rank % parallelism.tensor_parallel
        self.interrupts = Interrupts()

    def add_up(self, x: torch.Tensor) -> None:
        """A sum that stays as it is."""
        if self.parallelism.tensor_parallel > 1:
            x.add_(0)

    def gather_all(self, own: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """As if all ranks had found the same."""
        all_of_them.copy_(own)

    def gather(self, own: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """The same, on the deciding rank."""
        if self.decides:
            all_of_them.copy_(own)

    def share(self, x: torch.Tensor) -> None:
        """Values that stay as they are."""
        x.add_(0)

    def send(self, x: torch.Tensor, rank: int) -> None:
        """Read by nobody."""
        x.add_(0)

    def begin_sending(self, x: torch.Tensor, rank: int) -> Callable[[], None]:
        """The same, and done at once."""
        x.add_(0)
        return _done

    def receive(self, x: torch.Tensor, rank: int) -> None:
        """Zeros."""
        x.zero_()


def _done() -> None:
    """Nothing to wait for."""
