"""The target's features along prompts and answers: hidden states of some layers, for every token that it has read."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from specplan_runtime.engine import Engine
from specplan_runtime.sequence import Sequence
from specplan_runtime.training.recorder import Recorded, Recorder

#: What features are kept in: half the bytes, and the range of residual streams.
FEATURE_DTYPE = torch.bfloat16


@dataclass(slots=True)
class FeatureView:
    """Sees hidden states of the target as they come by, as ``FeatureTap`` does, and keeps those of the last pass.

    Attributes:
        layers: of the target, whose inputs are the features.
        places: by phase of the target, [rows, features, h].
    """

    layers: tuple[int, ...]
    places: Mapping[str, torch.Tensor]

    def begin(self, phase: str, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """All layers are here."""

    def take(self, phase: str, index: int, hidden: torch.Tensor, spare: torch.Tensor) -> None:
        """See the residual stream [fed, h] at the entry of layer ``index``."""
        place = self.places.get(phase)
        for number, layer in enumerate(self.layers):
            if place is not None and layer == index:
                place[: len(hidden), number].copy_(hidden)


@dataclass(slots=True)
class RecordedFeatures(Recorded):
    """One answer, and what the target was while it read.

    Attributes:
        features: [n, features, h] by pass, for every token of prompt and answer but the last.
    """

    features: list[torch.Tensor] = field(default_factory=list)


class FeatureRecorder(Recorder):
    """Keeps features besides the states that tokens were chosen from.

    Args:
        engine: that decodes plainly; shows this recorder its layers from now on.
        layers: whose inputs are the features.
    """

    def __init__(self, engine: Engine, layers: tuple[int, ...]) -> None:
        super().__init__()
        h, own = engine.plan.inputs.target.arch.hidden_size, engine.own
        shape = (len(layers), h)
        self._places = {
            phase: torch.zeros(own.workspaces[phase].rows, *shape, dtype=FEATURE_DTYPE, device=own.device)
            for phase in ("prefill_target", "verify")
        }
        own.target.tap = FeatureView(layers, self._places)
        own.takes_ragged = False  # rows are found by sequence
        self._prompts: dict[int, list[torch.Tensor]] = {}

    def follow(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        """A part of a prompt was read."""
        if not start:
            self._prompts[sequence.row] = []
        self._prompts[sequence.row].append(self._places["prefill_target"][:num_tokens].to("cpu", copy=True))

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """The last token was read, one row of the pass for each sequence."""
        super().commit(sequence, num_drafted, path)
        answer = self._by_row[sequence.row]
        assert isinstance(answer, RecordedFeatures)
        row = sequence.row
        answer.features.append(self._places["verify"][row : row + 1].to("cpu", copy=True))

    def _recorded(self, sequence: Sequence) -> Recorded:
        """An answer with the features of its prompt."""
        return RecordedFeatures(sequence, features=self._prompts.pop(sequence.row))
