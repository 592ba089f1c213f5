"""Medusa heads: their tensors in the arena, and their pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from specplan.arch import ModelArch
from specplan.heads import MedusaHeads
from specplan.parallelism import Rank
from specplan_runtime.arena import Arena
from specplan_runtime.distributed.links import Choosing
from specplan_runtime.linear import FloatLinear
from specplan_runtime.parameters import HeadLinear, tensors_in
from specplan_runtime.workspace import ExchangeBuffers, place_exchange

#: Puts the best token of each row of logits [R', V'] in a place [R'], and strikes it out.
TakeBest = Callable[[Choosing, torch.Tensor, torch.Tensor], None]


@dataclass(slots=True)
class MedusaHead:
    """One head: residual blocks, then an output head of its own or the target's."""

    blocks: list[FloatLinear]
    head: HeadLinear


@dataclass(slots=True)
class Medusa:
    """All heads, and what they keep from step to step.

    Attributes:
        heads: head k predicts the token k + 2 places after the last one that the target has seen.
        shares_head: they end in the target's own output head.
        features: [max(B, 2), h], the target's normalized hidden state at each sequence's last certain token but one.
        candidates: int64 [B, K, topk], the best tokens of each head.
    """

    heads: list[MedusaHead]
    shares_head: bool
    features: torch.Tensor
    candidates: torch.Tensor

    def weight_tensors(self) -> Iterator[torch.Tensor]:
        """The weights of the heads themselves, without an output head that is the target's."""
        for head in self.heads:
            yield from tensors_in(head.blocks)
            if not self.shares_head:
                yield from tensors_in(head.head)


@dataclass(slots=True)
class MedusaWorkspace:
    """Buffers of a pass over B sequences.

    Attributes:
        states, products: flat, max(B, 2)·h.
        logits: flat, R·V; argmax: int64 [R].
        exchange: what ranks give each other that have a part of the heads each, None for whole ones.
    """

    states: torch.Tensor
    products: torch.Tensor
    logits: torch.Tensor
    argmax: torch.Tensor
    exchange: ExchangeBuffers | None


def place_medusa(
    arena: Arena, arch: ModelArch, spec: MedusaHeads, compute: torch.dtype, batch_size: int, target_head: HeadLinear
) -> Medusa:
    """Place the heads of a plan; their content is loaded afterwards."""

    def weights(*shape: int) -> torch.Tensor:
        return arena.take("drafter.weights", shape, compute, "drafter.weight_padding")

    h = arch.hidden_size
    heads = []
    for _ in range(spec.num_heads):
        blocks = [FloatLinear(weights(h, h), weights(h)) for _ in range(spec.num_layers)]
        own = target_head if spec.shares_head else FloatLinear(weights(arch.vocab_size, h))
        heads.append(MedusaHead(blocks, own))
    features = arena.take("drafter.features", (max(batch_size, 2), h), compute)
    candidates = arena.take("drafter.candidates", (batch_size, spec.num_heads, spec.topk), torch.int64)
    return Medusa(heads, spec.shares_head, features, candidates)


def place_medusa_workspace(
    arena: Arena, arch: ModelArch, compute: torch.dtype, batch_size: int, logits_rows: int, rank: Rank | None = None
) -> MedusaWorkspace:
    """Place the buffers of the draft phase; ``rank`` where it has a part of the heads."""
    flat = max(batch_size, 2) * arch.hidden_size
    exchange = None
    if rank is not None and rank.tensor_parallel > 1:
        exchange = place_exchange(arena, "draft", logits_rows, rank.tensor_parallel, 0, compute)
    return MedusaWorkspace(
        states=arena.take("draft.medusa_block", (flat,), compute),
        products=arena.take("draft.medusa_block", (flat,), compute),
        logits=arena.take("draft.medusa_head", (logits_rows * arch.vocab_size,), compute),
        argmax=arena.take("draft.medusa_head", (logits_rows,), torch.int64),
        exchange=exchange,
    )


def take_best(work: Choosing, logits: torch.Tensor, place: torch.Tensor) -> None:
    """``TakeBest`` over whole rows."""
    best = torch.argmax(logits, dim=-1, out=work.argmax[: logits.shape[0]])
    place.copy_(best)
    logits.scatter_(1, best[:, None], float("-inf"))


def run_medusa(medusa: Medusa, work: MedusaWorkspace, best: TakeBest = take_best) -> None:
    """Fill ``candidates`` from ``features``.

    The best k tokens are found by k arg-max passes that each strike out their winner: no sort, no second copy of the
    logits.

    Args:
        medusa: heads and features.
        work: of the draft phase.
        best: finds the winners.
    """
    rows, tile = medusa.features.shape[0], work.argmax.shape[0]
    for index, head in enumerate(medusa.heads):
        x = work.states.view(medusa.features.shape).copy_(medusa.features)
        for block in head.blocks:
            x.add_(torch.nn.functional.silu(block(x, work.products), inplace=True))
        for start in range(0, medusa.candidates.shape[0], tile):
            first = max(0, min(start, rows - tile))
            logits = head.head(x[first : first + tile], work.logits)[: medusa.candidates.shape[0] - first]
            for rank in range(medusa.candidates.shape[2]):
                best(work, logits, medusa.candidates[first : first + logits.shape[0], index, rank])
