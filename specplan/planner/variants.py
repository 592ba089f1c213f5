"""``Variant``: one choice of everything that is not searched as arrays; and all of them for a drafter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from specplan.caches.draft_window import windowed
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import InputError
from specplan.heads import Heads, MedusaHeads, published_heads
from specplan.parallel.checks import can_spread
from specplan.parallelism import Parallelism
from specplan.plan import Eagle3Input
from specplan.planner.acceptance import acceptance_of
from specplan.planner.question import Question
from specplan.planner.splits import micro_batches, placements
from specplan.planner.topology import best_tree
from specplan.scenario import Scenario
from specplan.speculation import Chain, DraftDevice, Drafter, Speculation, Tree
from specplan.workload import Workload

#: Shares of the target's layers after which an early_exit drafter may leave.
_EXIT_SHARES = 8
#: Trees that are searched: depth where no profile says how many there are, and ranks.
_MOST_DEPTH, _MOST_RANKS = 5, 10


@dataclass(frozen=True, slots=True)
class Variant:
    """A drafter with its arrangement, and the workload with its batch and precision.

    Attributes:
        drafter: who proposes.
        workload: batch and precision of this variant.
        tree: whose first nodes are drafted, None for chains.
        num_exit_layers: of an early_exit drafter, else 0.
        draft_context: tokens that a draft model sees, 0 for all.
        draft_device: where a draft model lives.
        parallelism: how models are spread over devices, None on one.
    """

    drafter: Drafter
    workload: Workload
    tree: Tree | None = None
    num_exit_layers: int = 0
    draft_context: int = 0
    draft_device: DraftDevice = "device"
    parallelism: Parallelism | None = None

    @property
    def axes(self) -> dict[str, int | str]:
        """The value of every knob that tells variants of one drafter apart."""
        found: dict[str, int | str] = {
            "dtype": self.workload.dtype,
            "kv_dtype": self.workload.kv_dtype,
            "batch_size": self.workload.batch_size,
        }
        if self.tree is not None:
            found["depth"] = self.tree.depth
        if self.drafter == "early_exit":
            found["num_exit_layers"] = self.num_exit_layers
        if self.drafter == "draft_model":
            found["draft_kv_dtype"] = self.workload.draft_kv_dtype
            found["draft_context"] = self.draft_context or self.workload.context
            found["draft_device"] = self.draft_device
        return found | ({} if self.parallelism is None else self._spread_axes(self.parallelism))

    def _spread_axes(self, parallelism: Parallelism) -> dict[str, int | str]:
        layers = "+".join(map(str, parallelism.stage_layers))
        found: dict[str, int | str] = {
            "split": f"tensor parallel {parallelism.tensor_parallel}, layers {layers}",
            "num_micro_batches": parallelism.num_micro_batches,
        }
        if self.drafter in ("draft_model", "medusa"):
            placement = parallelism.draft_placement
            decides = parallelism.draft_rank == parallelism.deciding_rank
            where = "the deciding rank" if decides else f"rank {parallelism.draft_rank}"
            found["draft_placement"] = where if placement == "rank" else placement
        return found

    def speculation(self, num_draft_nodes: int, prefill_chunk: int, logits_rows: int) -> Speculation:
        """A configuration of this variant."""
        shape = Chain(num_draft_nodes) if self.tree is None else self.tree.pruned(num_draft_nodes)
        return Speculation(
            self.drafter,
            shape,
            self.num_exit_layers,
            prefill_chunk,
            logits_rows,
            self.draft_context,
            self.draft_device,
        )


def variants(question: Question, drafter: Drafter) -> tuple[Variant, ...]:
    """All variants of one drafter in the declared space, the plainest first.

    Raises:
        InputError: more nodes of a tree than can be right.
    """
    return tuple(spread for variant in _variants(question, drafter) for spread in _spread(question, variant))


def parallelisms(question: Question, drafter: Drafter) -> tuple[Parallelism, ...]:
    """Every way to spread a drafter's plainest variant over the question's devices."""
    found = variants(question, drafter)
    plainest = dataclasses.replace(found[0], parallelism=None)
    alike = (each for each in found if dataclasses.replace(each, parallelism=None) == plainest)
    return tuple(each.parallelism for each in alike if each.parallelism is not None)


def _spread(question: Question, variant: Variant) -> Iterator[Variant]:
    """A variant in every way to spread it; as it is on one device."""
    if not question.cards:
        yield variant
        return
    whole = scenario_of(question, variant)
    for parts, stage_layers in question.space.splits:
        for count in micro_batches(variant.workload.batch_size, len(stage_layers)):
            base = Parallelism(parts, stage_layers, count)
            for placement, rank in placements(variant.drafter, question.heads_share_output, base, question.cards):
                parallelism = dataclasses.replace(base, draft_placement=placement, draft_rank=rank)
                if can_spread(whole, parallelism):
                    yield dataclasses.replace(variant, parallelism=parallelism)


def _variants(question: Question, drafter: Drafter) -> Iterator[Variant]:
    space, given = question.space, question.workload
    precisions = space.precisions or ((given.dtype, given.kv_dtype),)
    for (dtype, kv_dtype), batch_size in product(precisions, space.batch_sizes or (given.batch_size,)):
        workload = dataclasses.replace(given, dtype=dtype, kv_dtype=kv_dtype, batch_size=batch_size)
        if drafter == "draft_model":
            yield from _draft_variants(question, workload)
        elif drafter == "early_exit":
            for layers in space.num_exit_layers or _exit_layers(question):
                for tree in _trees(question, drafter, layers):
                    yield Variant(drafter, workload, tree=tree, num_exit_layers=layers)
        else:
            if drafter == "medusa" and question.heads_share_output and dtype not in FLOAT_BYTES:
                continue  # quantized products cannot write into a given place
            for tree in _trees(question, drafter):
                yield Variant(drafter, workload, tree=tree)


def _draft_variants(question: Question, workload: Workload) -> Iterator[Variant]:
    """What tells draft models apart: a tree is drafted beside the target, over the whole context."""
    space = question.space
    caches = space.draft_kv_dtypes or (workload.draft_kv_dtype,)
    for tree, draft_kv in product(_trees(question, "draft_model"), caches):
        own = dataclasses.replace(workload, draft_kv_dtype=draft_kv)
        if tree is not None:
            yield Variant("draft_model", own, tree)
            continue
        for context, device in product(space.draft_contexts, space.draft_devices):
            yield Variant("draft_model", own, draft_context=context, draft_device=device)


def _trees(question: Question, drafter: Drafter, num_exit_layers: int = 0) -> tuple[Tree | None, ...]:
    """The given tree; else for every number of heads, or depth, the tree whose first n nodes are the best n."""
    if not question.drafts_trees(drafter):
        return (None,)
    windowed_layers = question.inputs.target.arch.windowed_layers(
        question.workload.context + question.most_draft_nodes + 1
    )
    if question.tree is not None:
        nodes = question.num_draft_nodes or question.tree.num_draft_nodes
        return (question.tree.pruned(nodes),)
    if windowed_layers:
        return (None,)  # trees are refused there
    acceptance = acceptance_of(question, drafter, num_exit_layers)
    depths = min(len(acceptance.rank_rates) or _MOST_DEPTH, question.most_heads(drafter))
    ranks = acceptance.ranks(depths, _MOST_RANKS)
    fixed = question.num_draft_nodes
    found = [best_tree(ranks, fixed or question.most_draft_nodes, depth) for depth in range(1, depths + 1)]
    most = max(tree.num_draft_nodes for tree in found)
    if fixed is not None and fixed > most:
        raise InputError(f"--num-draft-nodes {fixed}: at these rates of acceptance {most} nodes can ever be right")
    if most == 0:
        return (Tree(((0,),)),)  # never right, and still a configuration
    distinct = dict.fromkeys(found)  # one more head may change nothing
    return tuple(tree for tree in distinct if tree.nodes and (fixed or 0) <= tree.num_draft_nodes)


def _exit_layers(question: Question) -> tuple[int, ...]:
    """Eighths of the layers; with one acceptance rate for all of them only the middle."""
    layers = question.inputs.target.arch.num_hidden_layers
    if question.alpha_of("early_exit") is not None:
        return (max(1, layers // 2),)
    return tuple(sorted({max(1, share * layers // _EXIT_SHARES) for share in range(1, _EXIT_SHARES)}))


def scenario_of(question: Question, variant: Variant, speculation: Speculation | None = None) -> Scenario:
    """The scenario of one configuration.

    Args:
        question: models and device.
        variant: drafter, arrangement and workload; there are as many heads as its whole tree needs.
        speculation: of this variant, with every knob set; None where knobs are given as arrays.
    """
    inputs, drafter = question.inputs, variant.drafter
    draft = None
    if drafter == "draft_model" and inputs.draft is not None:
        draft = windowed(inputs.draft.arch, variant.draft_context)
    shape = variant.tree or Chain(question.longest_chain(drafter))
    return Scenario(
        inputs.target.arch,
        draft,
        inputs.device,
        variant.workload,
        speculation or variant.speculation(shape.num_draft_nodes, 1, 2),
        _heads(question, drafter, shape),
        inputs.transformers_version,
        inputs.host if variant.draft_device == "host" else None,
    )


def _heads(question: Question, drafter: Drafter, shape: Chain | Tree) -> Heads | None:
    """The heads that a shape needs: as the checkpoint has them, or as published ones do."""
    found = published_heads(drafter, question.inputs.target.arch, shape, question.shares_head)
    files = question.inputs.head_files_for(drafter)
    if isinstance(files, Eagle3Input):
        return files.head
    if files is None or not isinstance(found, MedusaHeads):
        return found
    return dataclasses.replace(found, num_layers=files.num_layers, shares_head=files.shares_head)
