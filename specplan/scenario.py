"""``Scenario``: everything that the memory and speed models need, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.device import DeviceSpec
from specplan.heads import Heads
from specplan.parallelism import Rank
from specplan.speculation import Speculation
from specplan.workload import Workload


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question with every knob set.

    Attributes:
        target: the verified model.
        draft: the proposing model, when the drafter is ``draft_model``; windowed when it sees a part of the context.
        device: where both run.
        workload: context, batch and precision.
        speculation: drafter and its knobs.
        heads: of a drafter that rides on the target's hidden states, None for others.
        transformers_version: whose forward computes the models; None for the runtime's own decoder.
        host: where a draft model runs that lives in the host's memory; None without one.
        num_cuda_graphs: graphs that are captured; plans have none, today's runtime captures none.
        num_devices: that share a communicator with this one and hold whole models.
        rank: of a model that is spread over devices: target and draft are this rank's share; None for whole models.
    """

    target: ModelArch
    draft: ModelArch | None
    device: DeviceSpec
    workload: Workload
    speculation: Speculation
    heads: Heads | None = None
    transformers_version: str | None = None
    host: DeviceSpec | None = None
    num_cuda_graphs: int = 0
    num_devices: int = 1
    rank: Rank | None = None

    @property
    def drafted_vocab_size(self) -> int:
        """Tokens of a row of draft probabilities: of the whole model that drafts."""
        if self.rank is None:
            return (self.draft or self.target).vocab_size
        return self.rank.draft_vocab_size or self.rank.vocab_size
