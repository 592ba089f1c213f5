"""One generated text and when its steps came, counted the same way for every implementation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one prompt.

    Attributes:
        tokens: generated.
        seconds: from the prompt to the last token.
        first_s: of them until the first step had emitted.
        num_first: tokens that it emitted.
        num_steps: that came after it.
    """

    tokens: tuple[int, ...]
    seconds: float
    first_s: float
    num_first: int
    num_steps: int

    @property
    def decode_s(self) -> float:
        """Seconds after the first step."""
        return self.seconds - self.first_s

    @property
    def num_decoded(self) -> int:
        """Tokens after the first step."""
        return len(self.tokens) - self.num_first


class Clock:
    """Started with the prompt, told of every step."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: tuple[float, int] | None = None
        self._num_steps = 0

    def emitted(self, num_tokens: int) -> None:
        """A step has emitted tokens."""
        if self._first is None:
            self._first = time.perf_counter() - self._began, num_tokens
        else:
            self._num_steps += 1

    def answer(self, tokens: Sequence[int]) -> Answer:
        """The text is finished."""
        assert self._first is not None
        return Answer(tuple(tokens), time.perf_counter() - self._began, *self._first, self._num_steps)


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """Of several prompts, prefill included."""
    return sum(len(answer.tokens) for answer in answers) / sum(answer.seconds for answer in answers)


def decode_tokens_per_s(answers: Sequence[Answer]) -> float | None:
    """Of several prompts, from their first steps on; None where nothing came after these."""
    seconds = sum(answer.decode_s for answer in answers if answer.num_steps)
    return sum(answer.num_decoded for answer in answers) / seconds if seconds else None


def mean_accepted_length(answers: Sequence[Answer]) -> float | None:
    """τ: tokens per step after the first; None where there was none."""
    steps = sum(answer.num_steps for answer in answers)
    return sum(answer.num_decoded for answer in answers) / steps if steps else None
