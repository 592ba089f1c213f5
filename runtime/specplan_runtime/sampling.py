"""From logits to a token: greedy, or lossless speculative sampling with temperature, top-k and top-p.

Leviathan et al., 2211.17192, algorithm 1: a token drafted with probability q is accepted with probability
min(1, p/q); on rejection the token comes from max(0, p − q), normalized. What is emitted then has the target's
distribution exactly, whatever the draft proposes.

Top-k and top-p cut at a threshold found by bisection over the bit patterns of float32, which are ordered like the
numbers: no sort, so no memory beyond one row. Tokens that tie with the last one kept are kept too.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

from specplan.errors import InputError
from specplan_runtime.forward import SamplingBuffers

#: A source of numbers in [0, 1).
Uniform = Callable[[], float]

_ONE_AS_INT = 0x3F800000  # bit pattern of 1.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the most probable tokens that together reach this share; 1 keeps all.
        seed: of the random numbers.

    Raises:
        InputError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 1e6:
            raise InputError(f"--temperature {self.temperature}: expected 0 (greedy), or 1e-6 to 1e6")
        if self.top_k < 0:
            raise InputError(f"--top-k {self.top_k}: expected 0 or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p}: expected a share above 0, at most 1")

    def source(self, index: int) -> Uniform:
        """The random numbers of a request: they depend on the seed and its number, not on what runs beside it."""
        return random.Random(f"{self.seed}/{index}").random  # noqa: S311 - not cryptography

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


class RowSampler:
    """Works on one row of V probabilities at a time, in the places that a workspace holds for it.

    Args:
        work: gives ``probs``, ``running``, ``keep`` and two scalars.
        params: temperature and cuts.
    """

    def __init__(self, work: SamplingBuffers, params: SamplingParams) -> None:
        self.params = params
        self.probs, self._running, self._keep = work.probs, work.running, work.keep
        self._count = work.argmax[:1]
        self._total = work.argmax[1:2].view(torch.float32)[:1]

    def load(self, logits: torch.Tensor) -> torch.Tensor:
        """Set ``probs`` to the distribution that the parameters make of a row of logits [V]; returns it."""
        probs = self.probs[: logits.shape[0]]
        self.probs[logits.shape[0] :].zero_()
        probs.copy_(logits).div_(self.params.temperature)
        torch.softmax(probs, 0, out=probs)
        if 0 < self.params.top_k < probs.shape[0]:
            self._cut(self._kth_value(self.params.top_k))
        if self.params.top_p < 1:
            self._cut(self._share_value(self.params.top_p))
        return self.probs

    def draw(self, uniform: Uniform) -> int:
        """Draw an index with probability proportional to ``probs``, which need not be normalized."""
        torch.cumsum(self.probs, 0, out=self._running)
        threshold = uniform() * self._running[-1].item()
        index = self._search(threshold, right=True)
        if index < self.probs.shape[0]:
            return index
        return self._search(self._running[-1].item(), right=False)  # rounding reached the total: its last addend

    def accept(self, token: int, draft_probs: torch.Tensor | None, uniform: Uniform) -> bool:
        """Decide on a drafted token; on rejection ``probs`` becomes the normalized residual.

        Args:
            token: the drafted token.
            draft_probs: [V'] distribution it was drawn from; None when it was proposed with certainty.
            uniform: source of the decision.
        """
        target_prob = self.probs[token].item()
        draft_prob = 1.0 if draft_probs is None else draft_probs[token].item()
        if uniform() * draft_prob < target_prob:
            return True
        if draft_probs is None:
            self.probs[token].zero_()
        else:
            shared = min(len(draft_probs), len(self.probs))
            self.probs[:shared].sub_(draft_probs[:shared]).clamp_min_(0.0)
        torch.sum(self.probs, dim=0, keepdim=True, out=self._total)
        if self._total.item() <= 0:  # nothing is left but rounding: the two distributions are one
            return True
        self.probs.div_(self._total)
        return False

    def _search(self, value: float, right: bool) -> int:
        """First place in the running sum that is above ``value``, or with ``right`` false not below it."""
        self._total.fill_(value)
        torch.searchsorted(self._running, self._total, right=right, out=self._count)
        return int(self._count.item())

    def _cut(self, threshold: float) -> None:
        """Zero what is below the threshold and normalize the rest."""
        torch.lt(self.probs, threshold, out=self._keep)
        self.probs.masked_fill_(self._keep, 0.0)
        torch.sum(self.probs, dim=0, keepdim=True, out=self._total)
        self.probs.div_(self._total)

    def _kth_value(self, k: int) -> float:
        """The k-th largest probability."""

        def enough(threshold: float) -> bool:
            torch.ge(self.probs, threshold, out=self._keep)
            self._running.copy_(self._keep)
            torch.sum(self._running, dim=0, keepdim=True, out=self._total)
            return self._total.item() >= k

        return _largest_float(enough)

    def _share_value(self, share: float) -> float:
        """The largest threshold at which the tokens kept reach ``share``."""

        def enough(threshold: float) -> bool:
            torch.lt(self.probs, threshold, out=self._keep)
            self._running.copy_(self.probs).masked_fill_(self._keep, 0.0)
            torch.sum(self._running, dim=0, keepdim=True, out=self._total)
            return self._total.item() >= share

        return _largest_float(enough)


def _largest_float(enough: Callable[[float], bool]) -> float:
    """The largest float32 in [0, 1] for which ``enough`` holds, if it is monotone; 0 when it never does."""
    low, high = 0, _ONE_AS_INT + 1
    while high - low > 1:
        middle = (low + high) // 2
        if enough(_float_of(middle)):
            low = middle
        else:
            high = middle
    return _float_of(low)


def _float_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])
