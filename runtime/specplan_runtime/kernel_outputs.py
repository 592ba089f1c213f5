"""``KernelOutputs``: what kernels hold outside the arena because they cannot write into a given tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class KernelOutputs:
    """Counts for the measured ledger.

    Attributes:
        largest_bytes: the most that were alive at one time.
    """

    largest_bytes: int = 0

    def note(self, *alive: torch.Tensor) -> None:
        """See outputs that are alive together."""
        self.note_bytes(sum(tensor.nbytes for tensor in alive))

    def note_bytes(self, num_bytes: int) -> None:
        """The same, counted already."""
        self.largest_bytes = max(self.largest_bytes, num_bytes)
