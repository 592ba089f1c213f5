"""Features of an EAGLE-3 head from the stages where their layers are to the rank that decides, which fuses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specplan.parallelism import Parallelism
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.features import FeatureTap


class SentFeatures:
    """On the first tensor rank of a stage before the last: sends the inputs of the wanted layers as they come by.

    Args:
        layers: of the target that are wanted.
        ranks: this process among the others.
    """

    def __init__(self, layers: Sequence[int], ranks: Ranks) -> None:
        self._ranks, self._decides = ranks, ranks.parallelism.deciding_rank
        self._layers = _own(layers, ranks.parallelism, ranks.stage)
        self._first = ranks.parallelism.first_layer(ranks.stage)

    def begin(self, phase: str, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """Nothing comes from elsewhere."""

    def take(self, phase: str, index: int, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """Send the residual stream at the entry of this stage's layer ``index``."""
        if self._first + index in self._layers:
            self._ranks.send(hidden, self._decides)


class ReceivedFeatures:
    """On the deciding rank: fuses features of other stages, which arrive where the residual stream will, then its own.

    Args:
        tap: the fusion.
        ranks: this process among the others.
    """

    def __init__(self, tap: FeatureTap, ranks: Ranks) -> None:
        parallelism = ranks.parallelism
        self._tap, self._ranks = tap, ranks
        self._first = parallelism.first_layer(ranks.stage)
        self._own = _own(tap.layers, parallelism, ranks.stage)
        self._others = [
            (layer, stage * parallelism.tensor_parallel)
            for stage in range(ranks.stage)
            for layer in _own(tap.layers, parallelism, stage)
        ]

    def begin(self, phase: str, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """Before the residual stream [fed, h] is there."""
        for layer, rank in self._others:
            self._ranks.receive(hidden, rank)
            self._tap.take(phase, layer, hidden, spare)

    def take(self, phase: str, index: int, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """See the residual stream at the entry of this stage's layer ``index``."""
        if self._first + index in self._own:
            self._tap.take(phase, self._first + index, hidden, spare)


def _own(layers: Sequence[int], parallelism: Parallelism, stage: int) -> list[int]:
    """Those of the layers whose inputs a stage has, in order."""
    return [layer for layer in sorted(set(layers)) if parallelism.has_input_of(stage, layer)]
