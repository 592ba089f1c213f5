"""``Parallelism``: how one model is spread over devices; ``Rank``: what one of them has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Where a draft model lives: whole on one rank, whole on every rank, or spread like the target. Heads are whole on the
#: rank that decides, or their output matrices are spread over the tensor ranks of the last stage.
DraftPlacement = Literal["rank", "replicated", "split"]


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How a model is spread: stages one after the other, each shared by so many tensor ranks.

    Rank ``stage · tensor_parallel + i`` is the i-th tensor rank of its stage, as vLLM and Megatron-LM number them.

    Attributes:
        tensor_parallel: ranks that share every layer of a stage.
        stage_layers: layers of each stage, in order.
        num_micro_batches: parts of a batch that follow one another through the stages, as chunks of a prompt do.
        draft_placement: where the drafter lives.
        draft_rank: the rank that has it, where one has it.
    """

    tensor_parallel: int
    stage_layers: tuple[int, ...]
    num_micro_batches: int = 1
    draft_placement: DraftPlacement = "rank"
    draft_rank: int = 0

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return len(self.stage_layers)

    @property
    def num_ranks(self) -> int:
        """Devices."""
        return self.tensor_parallel * self.num_stages

    @property
    def deciding_rank(self) -> int:
        """The rank that accepts tokens: the first of the last stage, where the logits are."""
        return self.num_ranks - self.tensor_parallel

    def stage_of(self, rank: int) -> int:
        """The stage of a rank."""
        return rank // self.tensor_parallel

    def first_layer(self, stage: int) -> int:
        """The first layer of a stage."""
        return sum(self.stage_layers[:stage])

    def has_input_of(self, stage: int, layer: int) -> bool:
        """Whether what enters a layer is in a stage; what leaves the last layer is in the last stage."""
        end = self.first_layer(stage + 1) + (stage == self.num_stages - 1)
        return self.first_layer(stage) <= layer < end

    def describe(self) -> str:
        """For people: ``tensor parallel 2, 2 stages of 16 layers``, ``3 stages (2 of 11 and 1 of 10 layers)``."""
        parts = [f"tensor parallel {self.tensor_parallel}"] if self.tensor_parallel > 1 else []
        if self.num_stages > 1:
            counts = dict.fromkeys(self.stage_layers)
            sizes = " and ".join(f"{self.stage_layers.count(layers)} of {layers}" for layers in counts)
            equal = f"of {self.stage_layers[0]} layers"
            parts.append(f"{self.num_stages} stages {equal if len(counts) == 1 else f'({sizes} layers)'}")
        if self.num_micro_batches > 1:
            parts.append(f"{self.num_micro_batches} micro-batches")
        return ", ".join(parts) or "one device"


@dataclass(frozen=True, slots=True)
class Rank:
    """What one rank has, beside the sizes of its share of the models.

    Attributes:
        tensor_parallel: ranks that share its layers.
        num_neighbors: ranks that it sends to or receives from one at a time.
        is_stage: there are other stages.
        num_micro_batches: parts that a verify pass is cut into.
        has_embedding: it is in the first stage.
        has_head: it is in the last stage.
        decides: it accepts tokens, and samples over the whole vocabulary.
        vocab_size: of the whole target.
        draft_vocab_size: of the whole draft model, 0 without one.
        draft_is_whole: a draft model or heads on this rank are not spread over ranks.
        has_drafter: a draft model or heads are on this rank, whole or in part.
    """

    tensor_parallel: int
    num_neighbors: int
    is_stage: bool
    num_micro_batches: int
    has_embedding: bool
    has_head: bool
    decides: bool
    vocab_size: int
    draft_vocab_size: int
    draft_is_whole: bool
    has_drafter: bool
