"""The target's hidden states along what it generates: the very rows that heads are fed when they draft."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.sequence import Sequence


@dataclass(slots=True)
class Recorded:
    """One answer.

    Attributes:
        sequence: prompt and answer.
        states: [h] for every token of the answer: the normalized hidden state that this token was chosen from.
    """

    sequence: Sequence
    states: list[torch.Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """The answer."""
        return self.sequence.new_tokens


class Recorder(NoDrafter):
    """Drafts nothing and keeps what it sees.

    The engine shows the hidden state of the last certain token before each emission, then calls ``prefill`` for the
    first token of an answer and ``commit`` for each of the others.
    """

    def __init__(self) -> None:
        self.answers: list[Recorded] = []
        self._by_row: dict[int, Recorded] = {}
        self._seen: dict[int, torch.Tensor] = {}

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """Keep a copy of the state [h] until it is known whose it is."""
        self._seen[row] = hidden.to(device="cpu", dtype=torch.float32, copy=True)

    def prefill(self, sequence: Sequence) -> None:
        """An answer has its first token."""
        answer = self._recorded(sequence)
        self.answers.append(answer)
        self._by_row[sequence.row] = answer
        answer.states.append(self._seen[sequence.row])

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """An answer is about to get its next token."""
        self._by_row[sequence.row].states.append(self._seen[sequence.row])

    def _recorded(self, sequence: Sequence) -> Recorded:
        """An answer without anything yet."""
        return Recorded(sequence)
