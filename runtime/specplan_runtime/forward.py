"""What the engine asks of whoever computes a model: our own decoder, or transformers' forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from specplan.arch import ModelArch
from specplan_runtime.span import Span


class SamplingBuffers(Protocol):
    """The places of a phase in which logits become tokens.

    Attributes:
        argmax: int64 [R], at least two.
        probs, running: float32 [V]; keep: bool [V].
    """

    argmax: torch.Tensor
    probs: torch.Tensor
    running: torch.Tensor
    keep: torch.Tensor


#: The buffers that a forward works in.
Work = TypeVar("Work", bound=SamplingBuffers)
_Work_contra = TypeVar("_Work_contra", contravariant=True)


class Forward(Protocol[_Work_contra]):
    """Computes one model over its weights and its cache.

    Attributes:
        arch: the model, or this rank's share of it.
        vocab_size: of the whole model.
    """

    arch: ModelArch
    vocab_size: int

    @property
    def largest_output_bytes(self) -> int:
        """The most that kernels held outside the plan's places at one time."""

    def forward(self, work: _Work_contra, span: Span, num_layers: int | None = None) -> None:
        """Run the layers over ``span``; K and V go to the cache, all layers when ``num_layers`` is None."""

    def expect(self, work: _Work_contra, spans: Sequence[Span], sampled: bool | None) -> None:
        """Say what comes next, so that ranks with other stages work on several passes at a time.

        Args:
            work: of all the passes.
            spans: what ``forward`` will be called with, one after the other.
            sampled: after each pass ``logits`` of all its rows (True), ``best`` (False), or neither (None).
        """

    def logits(
        self, work: _Work_contra, rows: Sequence[int] | None, num_rows: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits in tiles: (index of the tile's first row, [R', V]); of ``rows``, or of the first ``num_rows``."""

    def best(
        self, work: _Work_contra, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """The most probable token after each row, of all or of the first ``vocab_size``; rows as for ``logits``."""

    def last_normalized(self, work: _Work_contra, row: int) -> torch.Tensor:
        """The normalized hidden state [h] of the row-th of those whose logits were asked for, until the next pass."""

    def compact(self, row: int, start: int, path: Sequence[int]) -> None:
        """Move the keys and values of a tree's accepted path behind the context."""

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """Leading tokens that the cache still holds after a text changed from its ``num_shared``-th token on."""
