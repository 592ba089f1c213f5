"""The whole arena of a plan: both models and the workspaces of all phases."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from specplan.draft_passes import DraftPasses, draft_passes
from specplan.heads import Eagle3Head, MedusaHeads
from specplan.parallelism import Rank
from specplan.plan import Plan
from specplan.speculation import MODEL_DRAFTERS, Chain, Speculation, Tree
from specplan_runtime.arena import Arena
from specplan_runtime.drafters.branches import BranchBuffers
from specplan_runtime.eagle import ChainBuffers, Eagle3, Eagle3Sizes, place_chain, place_eagle3
from specplan_runtime.heads import Medusa, MedusaWorkspace, place_medusa, place_medusa_workspace
from specplan_runtime.parameters import Parameters, Slots, place_parameters, slots_of
from specplan_runtime.precision import Precision, draft_precision, head_precision, target_precision
from specplan_runtime.workspace import PassShape, Workspace


@dataclass(slots=True)
class Layout:
    """Everything that was placed.

    Attributes:
        arena: where.
        target: the verified model.
        draft: the proposing model, None without one.
        draft_probs: float32 [B, γ, V], None when no model drafts a chain.
        branches: what drafting a tree depth by depth keeps, None otherwise.
        medusa: heads, None without.
        medusa_work: their buffers in the draft phase.
        eagle3: a head that feeds itself what it drafts, None without.
        eagle3_chain: what it keeps of a chain, None otherwise.
        tree: bool [n, n], place of the tree's mask, None on chains.
        workspaces: by phase; they share one region.
    """

    arena: Arena
    target: Parameters
    draft: Parameters | None
    draft_probs: torch.Tensor | None
    branches: BranchBuffers | None
    medusa: Medusa | None
    medusa_work: MedusaWorkspace | None
    eagle3: Eagle3 | None
    eagle3_chain: ChainBuffers | None
    tree: torch.Tensor | None
    workspaces: dict[str, Workspace]


def place(plan: Plan, arena: Arena) -> Layout:
    """Place everything that a plan needs, in the same order as its ledger."""
    workload, speculation, scenario = plan.workload, plan.speculation, plan.scenario
    gamma, batch = speculation.num_draft_nodes, workload.batch_size
    target_arch, rank = scenario.target, scenario.rank
    draft_rank = _draft_rank(rank)
    target = place_parameters(
        arena,
        "target",
        target_arch,
        target_precision(plan),
        batch,
        target_slots(plan),
        rank,
    )
    draft = None
    if scenario.draft is not None:
        precision, slots = draft_precision(plan), draft_slots(plan)
        draft = place_parameters(arena, "draft", scenario.draft, precision, batch, slots, draft_rank)
    draft_probs = branches = None
    drafts = speculation.drafter in MODEL_DRAFTERS and _has_proposals(rank)
    if drafts and isinstance(speculation.shape, Tree):
        branches = _place_branches(arena, speculation.shape, batch)
    elif drafts:
        vocab = (plan.draft_arch or plan.inputs.target.arch).vocab_size
        draft_probs = arena.take("draft_probs", (batch, gamma, vocab), torch.float32)
    tree = None
    if isinstance(speculation.shape, Tree):
        rows = speculation.shape.num_verify_tokens
        tree = arena.take("tree", (rows, rows), torch.bool)
    medusa, medusa_work, heads = None, None, plan.inputs.heads
    compute = target.precision.compute
    has_drafter = rank is None or rank.has_drafter
    if isinstance(heads, MedusaHeads) and has_drafter:
        if rank is not None and rank.draft_is_whole:
            target_arch = plan.inputs.target.arch
        medusa = place_medusa(arena, target_arch, heads, compute, batch, target.head)
    eagle3 = eagle3_chain = None
    if isinstance(heads, Eagle3Head) and has_drafter:
        vocab, owns = plan.inputs.target.arch.vocab_size, heads.own_embedding or rank is not None
        rows = speculation.shape.num_verify_tokens
        sizes = Eagle3Sizes(batch, rows, _chunk(plan), _head_slots(plan), vocab, owns)
        eagle3 = place_eagle3(arena, target, heads, head_precision(plan), sizes)
        if isinstance(speculation.shape, Tree):
            branches = _place_branches(arena, speculation.shape, batch)
        else:
            eagle3_chain = place_chain(arena, heads, batch, gamma, vocab)
    workspaces = {}
    with arena.overlapping() as phases:
        for shape in pass_shapes(plan):
            drafting = shape.phase in ("prefill_draft", "draft")
            model = (draft or (eagle3.parameters if eagle3 is not None else target)) if drafting else target
            model_rank = draft_rank if model is not target else rank
            with phases.alternative():
                workspaces[shape.phase] = Workspace(arena, model.arch, model.precision, shape, model_rank)
        if medusa is not None:
            with phases.alternative():
                tile = max(2, min(speculation.logits_rows, batch))
                medusa_work = place_medusa_workspace(arena, target_arch, compute, batch, tile, draft_rank)
    return Layout(
        arena, target, draft, draft_probs, branches, medusa, medusa_work, eagle3, eagle3_chain, tree, workspaces
    )


def pass_shapes(plan: Plan) -> list[PassShape]:
    """The passes of the plan's phases."""
    workload, speculation, scenario = plan.workload, plan.speculation, plan.scenario
    batch, chunk = workload.batch_size, _chunk(plan)
    target, precision, rank = target_slots(plan), target_precision(plan), scenario.rank
    staged, parts = (False, 1) if rank is None else (rank.is_stage and not rank.has_head, rank.num_micro_batches)

    def tile(rows: int, model: Precision) -> int:
        return max(model.least_tile, min(speculation.logits_rows, rows))

    shapes = [PassShape("prefill_target", chunk, 1, target, tile(1, precision), in_flight=staged)]
    if scenario.draft is not None:
        shapes.append(PassShape("prefill_draft", chunk, 1, draft_slots(plan), tile(1, draft_precision(plan))))
    if scenario.draft is not None or speculation.drafter == "early_exit":
        early = speculation.drafter == "early_exit"
        draft, own = (target, precision) if early else (draft_slots(plan), draft_precision(plan))
        widest = int(_draft_passes(speculation).widest)
        shapes.append(PassShape("draft", batch * max(2, widest), batch, draft, tile(batch * widest, own)))
    if speculation.drafter == "eagle3" and (rank is None or rank.has_drafter):
        slots, own, passes = _head_slots(plan), head_precision(plan), _draft_passes(speculation)
        # what was accepted is taken in again, with the target's own features: a whole path at most
        rows, drawn = batch * max(int(passes.widest), int(passes.depth) + 1), batch * int(passes.widest)
        shapes.append(PassShape("prefill_draft", chunk, 1, slots, tile(1, own), joins=True))
        shapes.append(PassShape("draft", rows, batch, slots, tile(drawn, own), joins=True))
    sequences = -(-batch // parts)
    rows, flies = sequences * speculation.shape.num_verify_tokens, staged and sequences < batch
    return [*shapes, PassShape("verify", rows, sequences, target, tile(rows, precision), in_flight=flies)]


def _draft_rank(rank: Rank | None) -> Rank | None:
    """What a rank has of the draft model: of a whole one everything."""
    if rank is None or rank.draft_is_whole:
        return None
    return dataclasses.replace(rank, vocab_size=rank.draft_vocab_size)


def _has_proposals(rank: Rank | None) -> bool:
    """Proposals and their probabilities are where they are drafted, and where it is decided."""
    return rank is None or rank.decides or (rank.has_drafter and rank.draft_is_whole)


def num_logits(phase: str, shape: PassShape, proposed: Chain | Tree) -> int:
    """Rows of a phase's largest pass that need logits, where all of its rows are fed."""
    if phase == "draft":
        return shape.batch_size * int(draft_passes(proposed, proposed.num_draft_nodes).widest)
    return shape.num_rows if phase == "verify" else shape.batch_size


def _place_branches(arena: Arena, shape: Tree, batch_size: int) -> BranchBuffers:
    passes = draft_passes(shape, shape.num_draft_nodes)
    rows = int(passes.num_rows)
    hidden = arena.take("draft_tree", (rows, rows), torch.bool)
    shape_of_best = (batch_size * int(passes.widest), int(passes.topk))
    return BranchBuffers(hidden, arena.take("drafter.candidates", shape_of_best, torch.int64))


def target_slots(plan: Plan) -> Slots:
    """KV slots per sequence of the target: its context and the rows of a verify pass."""
    tokens = plan.workload.context + plan.speculation.shape.num_verify_tokens
    return slots_of(plan.scenario.target, tokens, _most_rows(plan))


def draft_slots(plan: Plan) -> Slots:
    """KV slots per sequence of the draft: drafted tokens that nothing was drafted after are never fed to it."""
    draft = plan.scenario.draft
    assert draft is not None
    tokens = plan.workload.context + int(_draft_passes(plan.speculation).num_rows)
    return slots_of(draft, tokens, _most_rows(plan))


def _head_slots(plan: Plan) -> Slots:
    """KV slots per sequence of an EAGLE-3 head: drafted tokens that nothing was drafted after are never fed to it."""
    return Slots(plan.workload.context + int(_draft_passes(plan.speculation).num_rows), 0)


def _draft_passes(speculation: Speculation) -> DraftPasses:
    return draft_passes(speculation.shape, speculation.num_draft_nodes)


def _chunk(plan: Plan) -> int:
    return min(plan.speculation.prefill_chunk, plan.workload.context)


def _most_rows(plan: Plan) -> int:
    """Tokens of one sequence that the largest pass writes, or that a step takes back."""
    return max(_chunk(plan), plan.speculation.shape.num_verify_tokens)
