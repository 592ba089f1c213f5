"""The protocol of drafters, and the drafter that proposes nothing."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence


class Drafter(Protocol):
    """Proposes tokens that continue sequences."""

    def prefill(self, sequence: Sequence) -> None:
        """Take in the tokens of a sequence but the last; called after the target's prefill."""

    def follow(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        """See that the target has just prefilled tokens of a sequence from ``start`` on; its pass is still in place."""

    def reusable(self, sequence: Sequence, num_shared: int) -> int:
        """Leading tokens, of the first ``num_shared`` ones, that the target need not prefill again for the drafter."""

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """For each cache row, at most ``limits[row]`` tokens; none for rows that are None."""

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """The distribution that a proposal was drawn from, float32 [V']; None when it was proposed with certainty."""

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """See the target's normalized hidden state [h] of the last verified token in a cache row."""

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """Learn which proposals of a sequence were accepted, by rows of the verify pass; called before it grows."""


class NoDrafter:
    """Plain decoding."""

    def prefill(self, sequence: Sequence) -> None:
        """Nothing to take in."""

    def follow(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        """Nothing to see."""

    def reusable(self, sequence: Sequence, num_shared: int) -> int:
        """All of them."""
        return num_shared

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """Nothing."""
        return [[] for _ in rows]

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """Nothing was proposed."""
        return None

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """Nothing to see."""

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """Nothing to learn."""
