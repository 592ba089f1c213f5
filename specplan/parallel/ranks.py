"""What each rank of a model that is spread over devices has: a scenario of its own, for the same formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from specplan.arch import ModelArch
from specplan.device import DeviceSpec
from specplan.heads import Eagle3Head, MedusaHeads
from specplan.parallelism import Parallelism, Rank
from specplan.scenario import Scenario


def rank_scenario(whole: Scenario, parallelism: Parallelism, rank: int, device: DeviceSpec | None = None) -> Scenario:
    """One rank's share of a scenario of whole models.

    Args:
        whole: models and workload; ``specplan.parallel.checks`` says which can be spread.
        parallelism: how.
        rank: which.
        device: of the rank, where it is not the scenario's.
    """
    return dataclasses.replace(
        whole,
        target=rank_arch(whole.target, parallelism, rank),
        draft=_rank_draft(whole, parallelism, rank),
        device=device or whole.device,
        rank=rank_of(whole, parallelism, rank),
    )


def rank_scenarios(whole: Scenario, parallelism: Parallelism, devices: Sequence[DeviceSpec]) -> tuple[Scenario, ...]:
    """Every rank's share, ``devices`` by rank."""
    ranks = range(parallelism.num_ranks)
    return tuple(rank_scenario(whole, parallelism, rank, devices[rank]) for rank in ranks)


def rank_arch(arch: ModelArch, parallelism: Parallelism, rank: int) -> ModelArch:
    """One rank's share of a model: its stage's layers, and of those its heads, MLP columns and vocabulary rows.

    Where there are more tensor ranks than KV heads, several ranks hold the same one, as engines do. The vocabulary is
    padded to a multiple of the tensor ranks, so that all gather as many rows; engines pad to multiples of 64, which
    nothing here needs.
    """
    parts, stage = parallelism.tensor_parallel, parallelism.stage_of(rank)
    first = parallelism.first_layer(stage)
    layers = slice(first, first + parallelism.stage_layers[stage])
    moe = arch.moe
    if moe is not None:
        moe = dataclasses.replace(
            moe,
            moe_intermediate_size=moe.moe_intermediate_size // parts,
            shared_intermediate_size=moe.shared_intermediate_size // parts,
        )
    return dataclasses.replace(
        arch,
        num_hidden_layers=parallelism.stage_layers[stage],
        layer_types=arch.layer_types[layers],
        mlp_types=arch.mlp_types[layers],
        num_attention_heads=arch.num_attention_heads // parts,
        num_key_value_heads=max(1, arch.num_key_value_heads // parts),
        intermediate_size=arch.intermediate_size // parts,
        vocab_size=-(-arch.vocab_size // parts),
        moe=moe,
    )


def rank_of(whole: Scenario, parallelism: Parallelism, rank: int) -> Rank:
    """What a rank has beside the sizes of its share."""
    stage, last = parallelism.stage_of(rank), parallelism.num_stages - 1
    return Rank(
        tensor_parallel=parallelism.tensor_parallel,
        num_neighbors=len(_neighbors(whole, parallelism, rank)),
        is_stage=last > 0,
        num_micro_batches=parallelism.num_micro_batches,
        has_embedding=stage == 0,
        has_head=stage == last,
        decides=rank == parallelism.deciding_rank,
        vocab_size=whole.target.vocab_size,
        draft_vocab_size=whole.draft.vocab_size if whole.draft is not None else 0,
        draft_is_whole=parallelism.draft_placement != "split",
        has_drafter=_has_drafter(whole, parallelism, rank),
    )


def draft_parallelism(draft: ModelArch, parallelism: Parallelism) -> Parallelism:
    """How a draft model is spread that is split like the target: over the same stages, evenly."""
    return dataclasses.replace(parallelism, stage_layers=even_layers(draft.num_hidden_layers, parallelism.num_stages))


def even_layers(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Layers of each stage, as even as they can be, the longer stages in the middle: the ends have tables and heads."""
    each, rest = divmod(num_layers, num_stages)
    order = sorted(range(num_stages), key=lambda stage: (stage in (0, num_stages - 1), stage == num_stages - 1, stage))
    longer = set(order[:rest])
    return tuple(each + (stage in longer) for stage in range(num_stages))


def _neighbors(whole: Scenario, parallelism: Parallelism, rank: int) -> set[int]:
    """Ranks that this one sends to or receives from: beside it in the pipeline, or what the drafter reads or says."""
    parts, drafts, decides = parallelism.tensor_parallel, parallelism.draft_rank, parallelism.deciding_rank
    found = {rank - parts, rank + parts} & set(range(parallelism.num_ranks))
    if whole.draft is not None and parallelism.draft_placement == "rank" and rank in (drafts, decides):
        found |= {drafts, decides} - {rank}
    if isinstance(whole.heads, Eagle3Head):
        layers, before = whole.heads.feature_layers, range(parallelism.num_stages - 1)
        senders = {stage * parts for stage in before if any(parallelism.has_input_of(stage, i) for i in layers)}
        if rank == decides:
            found |= senders
        elif rank in senders:
            found.add(decides)
    return found


def _has_drafter(whole: Scenario, parallelism: Parallelism, rank: int) -> bool:
    placement = parallelism.draft_placement
    if isinstance(whole.heads, Eagle3Head):
        return rank == parallelism.draft_rank
    if isinstance(whole.heads, MedusaHeads):
        last = parallelism.stage_of(rank) == parallelism.num_stages - 1
        return last if placement == "split" else rank == parallelism.draft_rank
    if whole.draft is None:
        return False
    return placement != "rank" or rank == parallelism.draft_rank


def _rank_draft(whole: Scenario, parallelism: Parallelism, rank: int) -> ModelArch | None:
    if whole.draft is None or not _has_drafter(whole, parallelism, rank):
        return None
    if parallelism.draft_placement == "split":
        return rank_arch(whole.draft, draft_parallelism(whole.draft, parallelism), rank)
    return whole.draft
