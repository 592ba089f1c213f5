"""``Sequence``: the tokens of one conversation and how much of them each cache holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from specplan_runtime.sampling import Uniform


@dataclass(slots=True)
class Sequence:
    """One row of the batch.

    Attributes:
        row: cache row.
        tokens: prompt and everything emitted; the last token is not in the target's cache yet.
        num_prompt_tokens: of the current turn's prompt, earlier turns included.
        max_new_tokens: limit of the current turn.
        num_target_cached: leading tokens whose K and V the target's cache holds.
        num_draft_cached: the same for the draft's cache.
        finish_reason: why generation ended; None while it goes on.
        index: the caller's number of the prompt.
        uniform: its own random numbers.
    """

    row: int
    tokens: list[int]
    num_prompt_tokens: int
    max_new_tokens: int
    num_target_cached: int = 0
    num_draft_cached: int = 0
    finish_reason: str | None = None
    index: int = 0
    uniform: Uniform = field(default=random.random, repr=False, compare=False)

    @property
    def new_tokens(self) -> list[int]:
        """What the current turn has emitted."""
        return self.tokens[self.num_prompt_tokens :]

    def emit(self, tokens: list[int], eos_token_ids: tuple[int, ...], context: int) -> list[int]:
        """Append tokens up to the first one that ends generation; returns those appended."""
        emitted = []
        for token in tokens:
            self.tokens.append(token)
            emitted.append(token)
            if token in eos_token_ids:
                self.finish_reason = "stop"
            elif len(self.new_tokens) >= self.max_new_tokens or len(self.tokens) >= context:
                self.finish_reason = "length"
            if self.finish_reason is not None:
                break
        return emitted
