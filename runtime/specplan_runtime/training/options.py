"""What ``specplan train-heads`` is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

#: Drafters that heads are trained for.
Kind = Literal["medusa", "eagle3"]

#: Told what is being done, and the fraction of it that is done.
Told = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Everything that decides the result; a training is resumed with the same values only.

    Attributes:
        kind: whose heads.
        num_heads: K; of an EAGLE-3 head the tokens in a row that it is trained to draft.
        num_layers: residual blocks of a Medusa head.
        num_tokens: of generated answers, at least; whole shards are generated.
        new_tokens: of one answer at most.
        question_tokens: of one question at most, where the target asks itself.
        temperature: of the answers; 0 is greedy.
        num_epochs: passes over the training text.
        batch_tokens: positions of one optimizer step.
        learning_rate: at the start; it falls to a tenth along a cosine.
        loss_tokens: entries of the vocabulary that the loss of Medusa heads looks at, those that occur among them; 0
            for all.
        draft_vocab_size: V_d, tokens that an EAGLE-3 head proposes.
        seed: of questions, order and sampling.
    """

    kind: Kind = "medusa"
    num_heads: int = 3
    num_layers: int = 2
    num_tokens: int = 100_000
    new_tokens: int = 192
    question_tokens: int = 48
    temperature: float = 0.0
    num_epochs: int = 3
    batch_tokens: int = 256
    learning_rate: float = 2e-3
    loss_tokens: int = 8192
    draft_vocab_size: int = 8192
    seed: int = 0
