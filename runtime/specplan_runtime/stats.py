"""Counters of speculation, with the names that vLLM reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class SpecStats:
    """What was drafted and accepted.

    Attributes:
        num_drafts: verify passes with at least one drafted token.
        num_passes: verify passes in all, one per sequence and step.
        num_draft_tokens: tokens drafted.
        num_accepted_tokens: drafted tokens accepted.
        num_accepted_tokens_per_pos: accepted tokens by position in the chain.
        num_drafts_per_pos: drafts that reached each position.
        num_emitted_tokens: tokens emitted by verify passes, bonus tokens included.
    """

    num_drafts: int = 0
    num_passes: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list)
    num_drafts_per_pos: list[int] = field(default_factory=list)
    num_emitted_tokens: int = 0

    def record(self, num_drafted: int, num_accepted: int, num_emitted: int, depth: int) -> None:
        """Count one sequence's verify pass; an end of the text may cut what it emits.

        Args:
            num_drafted: tokens proposed.
            num_accepted: of them.
            num_emitted: accepted ones and the target's own.
            depth: positions that the proposals reach: as many as tokens on a chain.
        """
        self.num_passes += 1
        self.num_drafts += num_drafted > 0
        self.num_draft_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        self.num_emitted_tokens += num_emitted
        for counts, reached in (
            (self.num_drafts_per_pos, depth),
            (self.num_accepted_tokens_per_pos, num_accepted),
        ):
            counts.extend([0] * (depth - len(counts)))
            for position in range(reached):
                counts[position] += 1

    @property
    def mean_accepted_length(self) -> float | None:
        """τ: tokens emitted per verify pass, bonus included; None before the first pass."""
        return self.num_emitted_tokens / self.num_passes if self.num_passes else None

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Accepted / drafted; None when nothing was drafted."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else None

    def acceptance_per_pos(self) -> list[float]:
        """Share of drafts accepted at each position, given that they reached it (unconditional on the prefix)."""
        pairs = zip(self.num_accepted_tokens_per_pos, self.num_drafts_per_pos, strict=True)
        return [accepted / drafted for accepted, drafted in pairs]


@dataclass(slots=True)
class Timings:
    """Wall-clock times of generation.

    Attributes:
        ttft_s: time to the first token, of each prompt.
        prefill_s: prefill of target and draft together, all prompts.
        decode_s: all steps.
        num_decoded_tokens: tokens that steps emitted (the first token of a prompt comes from its prefill).
    """

    ttft_s: list[float] = field(default_factory=list)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_decoded_tokens: int = 0

    def record_prefill(self, first_token_s: float, total_s: float) -> None:
        """Count one prompt."""
        self.ttft_s.append(first_token_s)
        self.prefill_s += total_s

    def record_step(self, seconds: float, num_tokens: int) -> None:
        """Count one step."""
        self.decode_s += seconds
        self.num_decoded_tokens += num_tokens

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding speed without prefill; None before the first step."""
        return self.num_decoded_tokens / self.decode_s if self.decode_s else None
