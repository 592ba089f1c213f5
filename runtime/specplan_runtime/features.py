"""``FeatureTap``: hidden states of some of the target's layers, fused as they come by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from specplan_runtime.linear import PackedLinear
from specplan_runtime.parameters import AnyLinear


class Tap(Protocol):
    """Takes hidden states of a decoder along."""

    def begin(self, phase: str, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """Called before a pass; ``hidden`` and ``spare`` are free."""

    def take(self, phase: str, index: int, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """See the residual stream [fed, h] at the entry of the decoder's layer ``index``; ``spare`` is free."""


@dataclass(slots=True)
class FeatureTap:
    """The fusion of an EAGLE-3 head, layer by layer: what is kept of a row is its fused feature alone.

    The product with three features side by side is the sum of three products, so the features never lie side by side.

    Attributes:
        layers: of the target, whose inputs are the features.
        fusion: for each of them [h, h]: its columns of ``fc``.
        places: by phase of the target, [rows, h].
    """

    layers: tuple[int, ...]
    fusion: list[AnyLinear]
    places: dict[str, torch.Tensor]

    def begin(self, phase: str, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """All layers are here."""

    def take(self, phase: str, index: int, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """Add the layer's part of the fused features where they are kept."""
        place = self.places.get(phase)
        if place is None or index not in self.layers:
            return
        rows = place[: hidden.shape[0]]
        if index == min(self.layers):
            rows.zero_()
        for layer, part in zip(self.layers, self.fusion, strict=True):
            if layer == index:  # a packed product is never the largest of the pass's kernel outputs
                rows.add_(part(hidden, None if isinstance(part, PackedLinear) else spare))
