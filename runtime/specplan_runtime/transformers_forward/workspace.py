"""What a phase of transformers' forward keeps between its pass and the tokens that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from specplan_runtime.arena import Arena
from specplan_runtime.workspace import PassShape


@dataclass(slots=True)
class PassOutput:
    """Normalized hidden states of the pass that ran last, of whichever model; the pass after it frees them.

    Attributes:
        hidden: [T, h], None before any pass.
        asked: rows whose logits were asked for, None for the first ones in order.
    """

    hidden: torch.Tensor | None = None
    asked: list[int] | None = None


@dataclass(slots=True)
class TransformersWorkspace:
    """Buffers of one phase.

    Attributes:
        shape: how large its passes may be.
        output: of the last pass; all phases share it.
        argmax: int64 [R]; probs, running: float32 [V]; keep: bool [V].
    """

    shape: PassShape
    output: PassOutput
    argmax: torch.Tensor = field(repr=False)
    probs: torch.Tensor = field(repr=False)
    running: torch.Tensor = field(repr=False)
    keep: torch.Tensor = field(repr=False)


def place_workspace(
    arena: Arena, shape: PassShape, output: PassOutput, num_argmax: int, vocab_size: int, own_vocab_size: int
) -> TransformersWorkspace:
    """Place the buffers of a phase: every phase takes the same bytes, so that they can be the same bytes.

    Args:
        arena: where.
        shape: of the phase's passes.
        output: shared by all phases.
        num_argmax: rows of the largest tile of logits over all phases.
        vocab_size: of the model with the larger vocabulary.
        own_vocab_size: of the phase's model.
    """
    item = f"{shape.phase}.sampling"
    argmax = arena.take(item, (num_argmax,), torch.int64)
    probs, running = (arena.take(item, (vocab_size,), torch.float32)[:own_vocab_size] for _ in range(2))
    keep = arena.take(item, (vocab_size,), torch.bool)[:own_vocab_size]
    return TransformersWorkspace(shape, output, argmax, probs, running, keep)
