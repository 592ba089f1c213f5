"""From a plan to decoders and a drafter: check, allocate, load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from specplan.errors import UnsupportedError
from specplan.plan import Eagle3Input, HeadsInput, Plan
from specplan.speculation import Chain, Speculation, Tree
from specplan_runtime import budget
from specplan_runtime.arena import Arena
from specplan_runtime.assembly import Assembly, check_ledger, models_of
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.distributed.split_heads import SplitHeads
from specplan_runtime.distributed.spread import (
    away_draft,
    check_spread,
    cuts_of,
    decoders_of,
    head_rows,
    lead,
    spread_tap,
    together,
)
from specplan_runtime.drafters.autoregressive import AutoregressiveDrafter
from specplan_runtime.drafters.base import Drafter, NoDrafter
from specplan_runtime.drafters.branching import BranchingDrafter
from specplan_runtime.drafters.eagle3 import Eagle3Drafter
from specplan_runtime.drafters.eagle3_branching import Eagle3BranchingDrafter
from specplan_runtime.drafters.medusa import MedusaDrafter
from specplan_runtime.drafters.model import DraftModel
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.eagle import Eagle3Pass
from specplan_runtime.forward import Forward
from specplan_runtime.heads import run_medusa
from specplan_runtime.layout import Layout, num_logits, place
from specplan_runtime.loading.cut import Cut
from specplan_runtime.loading.eagle3 import fill_eagle3_randomly, load_eagle3
from specplan_runtime.loading.heads import load_heads
from specplan_runtime.loading.load import Progress, fill_randomly, load_parameters
from specplan_runtime.loading.sources import TensorSource, open_source
from specplan_runtime.packing import layout_of
from specplan_runtime.span import Span
from specplan_runtime.topology import topology_of
from specplan_runtime.workspace import Workspace


@dataclass(slots=True)
class OwnAssembly(Assembly[Workspace]):
    """The runtime's own decoders over one arena.

    Attributes:
        layout: everything placed.
        decoders: the target's and, with a draft model, the draft's.
        target: the first of them.
        run_heads: fills the candidates of Medusa heads, of this rank's part where they are split.
    """

    layout: Layout
    decoders: tuple[Decoder, ...]
    target: Decoder
    run_heads: Callable[[], None]


def assemble(plan: Plan, progress: Progress, random_weights: bool = False, ranks: Ranks | None = None) -> Assembly[Any]:
    """Check that the plan is runnable here, allocate it, and load the weights.

    Args:
        plan: what to allocate, as seen from this rank where there are several.
        progress: told a fraction while weights load.
        random_weights: noise instead of the model's files, for measurements of memory and speed.
        ranks: this process among the others that run the plan.

    Raises:
        UnsupportedError: a plan that is for reading only, or a device that torch does not see.
        BudgetError: it does not fit, or its ledger is not what this runtime allocates.
        InputError: the model files are not those of the plan.
    """
    if plan.forward == "transformers":
        from specplan_runtime.transformers_forward.assemble import assemble_transformers  # late: transformers is large

        return assemble_transformers(plan, progress, random_weights)
    if plan.forward != "specplan":
        raise UnsupportedError(f"the runtime does not run this plan: {'; '.join(plan.notes) or plan.forward}")
    return assemble_own(plan, progress, random_weights, ranks)


def assemble_own(
    plan: Plan, progress: Progress, random_weights: bool = False, ranks: Ranks | None = None
) -> OwnAssembly:
    """The same for a plan of the runtime's own forward."""
    with together(ranks):
        check_spread(plan, ranks)
        device = budget.torch_device(plan)
        counted = place(plan, Arena())
        check_ledger(plan, counted.arena.bytes_by_item)
        budget.check_before_loading(plan, device)
        sources = [] if random_weights else [open_source(m.reference, m.kind, m.arch) for m in models_of(plan)]
    with together(ranks):
        _learn_layouts(counted)
        layout = place(plan, Arena.allocate(counted.arena.high_water, device))
        _fill(layout, sources, cuts_of(plan, ranks), progress)
        _fill_heads(plan, layout, sources, head_rows(plan, ranks))
    decoders = make_decoders(plan, layout, ranks)
    run_heads, lead_heads = heads_of(plan, layout, ranks)
    warm_up(layout, decoders, plan.speculation, run_heads)
    lead(decoders)
    follows = ranks is not None and not ranks.decides
    draft: Forward[Workspace] = away_draft(plan, layout, ranks) or decoders[-1]
    return OwnAssembly(
        device=device,
        layout=layout,
        target=decoders[0],
        decoders=decoders,
        draft=draft,
        run_heads=run_heads,
        drafter=NoDrafter() if follows else make_drafter(plan, layout, decoders[0], draft, lead_heads),
        workspaces=layout.workspaces,
        prefill_chunk=layout.workspaces["prefill_target"].shape.num_rows,
        topology=topology_of(plan.speculation.shape, layout.tree),
        eos_token_ids=plan.inputs.target.arch.eos_token_ids,
        measured=layout.arena.bytes_by_item,
        # elsewhere kernels cost more than rows; a head that reads the pass's hidden states finds them by cache row
        takes_ragged=device.type == "cpu" and layout.eagle3 is None,
    )


def _fill(layout: Layout, sources: Sequence[TensorSource], cuts: Sequence[Cut], progress: Progress) -> None:
    """Weights from files, or noise without them."""
    parameters = [model for model in (layout.target, layout.draft) if model is not None]
    for number, (model, source) in enumerate(zip(parameters, sources, strict=False)):
        load_parameters(model, source, lambda done, n=number: progress((n + done) / len(sources)), cuts[number])  # type: ignore[misc]
    if not sources:
        for model in parameters:
            fill_randomly(model)


def make_decoders(plan: Plan, layout: Layout, ranks: Ranks | None = None) -> tuple[Decoder, ...]:
    """The target's, which shows its hidden states to a head that reads them, and with a draft model the draft's."""
    decoders = decoders_of(plan, layout, ranks)
    tap = layout.eagle3.tap if layout.eagle3 is not None else None
    decoders[0].tap = tap if ranks is None else spread_tap(plan, tap, ranks)
    return decoders


def heads_of(plan: Plan, layout: Layout, ranks: Ranks | None) -> tuple[Callable[[], None], Callable[[], None]]:
    """What runs this process's Medusa heads, or its part, and what the drafter calls to run all of them."""
    medusa, work = layout.medusa, layout.medusa_work
    if medusa is None or work is None:
        return _nothing, _nothing
    if work.exchange is not None and ranks is not None:
        split = SplitHeads(medusa, work, ranks, plan.inputs.target.arch.vocab_size)
        return split.run, split.lead
    return (partial(run_medusa, medusa, work),) * 2


def _nothing() -> None:
    """No heads here."""


def _fill_heads(plan: Plan, layout: Layout, sources: Sequence[TensorSource], rows: range | None) -> None:
    """Heads from their files, those rows of their output matrices that are here; or noise without the target's."""
    files, arch = plan.inputs.head_files, plan.inputs.target.arch
    if layout.medusa is not None and not sources:
        for tensor in layout.medusa.weight_tensors():
            tensor.normal_(0, 0.02)
    elif layout.medusa is not None and isinstance(files, HeadsInput):
        load_heads(layout.medusa, files, arch, rows)
    if layout.eagle3 is not None and not sources:
        fill_eagle3_randomly(layout.eagle3)
    elif layout.eagle3 is not None and isinstance(files, Eagle3Input):
        load_eagle3(layout.eagle3, files, arch, sources[0])


@torch.inference_mode()
def warm_up(
    layout: Layout, decoders: tuple[Decoder, ...], speculation: Speculation, run_heads: Callable[[], None]
) -> None:
    """Run every phase once at its full shape: libraries then hold all the scratch that they will ever want.

    What the passes leave in the caches is overwritten by the first prompt.
    """
    for phase, work in layout.workspaces.items():
        shape = work.shape
        if layout.eagle3 is not None and shape.joins:
            for _, logits in run_head(layout, decoders[0], work, speculation.shape):
                del logits
            continue
        drafts = phase in ("prefill_draft", "draft")
        early_exit = phase == "draft" and layout.draft is None
        decoder = decoders[-1] if drafts else decoders[0]
        tokens = [[0] * (shape.num_rows // shape.batch_size)] * shape.batch_size
        span = Span(tokens, [0] * shape.batch_size, 0)
        decoder.forward(work, span, speculation.num_exit_layers if early_exit else None)
        if not decoder.has_head:
            continue
        rows = num_logits(phase, shape, speculation.shape)
        decoder.best(work, None, rows)
        for _, logits in decoder.logits(work, None, rows):
            del logits
    run_heads()


def run_head(
    layout: Layout, target: Decoder, work: Workspace, proposed: Chain | Tree, start: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """A pass of an EAGLE-3 head at its full shape, from position ``start`` on; gives its logits in tiles."""
    assert layout.eagle3 is not None
    head, shape = Eagle3Pass(layout.eagle3, target), work.shape
    n, batch = shape.num_rows // shape.batch_size, shape.batch_size
    span = Span([[0] * n] * batch, [start] * batch, 0 if shape.phase.startswith("prefill") else None)
    place = layout.eagle3.tap.places["prefill_target" if span.row is not None else "verify"]
    head.forward(work, span, place[: shape.num_rows].view(batch, n, -1))
    return head.logits(work, None, num_logits(shape.phase, shape, proposed))


def _learn_layouts(counted: Layout) -> None:
    """Learn how matrices are packed before the arena is there: it takes the memory of the largest for a moment."""
    head, models = counted.eagle3, (counted.target, counted.draft)
    packed = [model.weight_tensors() for model in models if model is not None and model.precision.packed]
    if head is not None and head.parameters.precision.packed:
        packed.append(head.weight_tensors())
    for shape in {tuple(tensor.shape) for tensors in packed for tensor in tensors if tensor.dim() == 2}:
        layout_of(*shape)


def make_drafter(
    plan: Plan, layout: Layout, target: Decoder, draft: Forward[Workspace], run_heads: Callable[[], None]
) -> Drafter:
    """The drafter of a plan over loaded models.

    Args:
        plan: with what it drafts.
        layout: of this process.
        target: whose embedding an EAGLE-3 head may share.
        draft: the draft model, or for early exit the target.
        run_heads: runs Medusa heads.
    """
    speculation, works = plan.speculation, layout.workspaces
    if speculation.drafter == "none":
        return NoDrafter()
    if speculation.drafter == "ngram":
        return NgramDrafter(plan.workload.batch_size)
    if layout.medusa is not None:
        return MedusaDrafter(layout.medusa, run_heads, speculation.shape)
    if layout.eagle3 is not None:
        return _head_drafter(plan, layout, Eagle3Pass(layout.eagle3, target))
    early = speculation.drafter == "early_exit"
    step, prompt = ("draft", "prefill_draft") if "draft" in works else ("verify", "prefill_target")  # it is away
    model = DraftModel(
        draft,
        works[step],
        vocab_size=plan.inputs.target.arch.vocab_size,
        prefill_work=None if early else works[prompt],
        prefill_chunk=works["prefill_target"].shape.num_rows,
        num_layers=speculation.num_exit_layers if early else None,
    )
    if layout.branches is not None and isinstance(speculation.shape, Tree):
        return BranchingDrafter(model, speculation.shape, layout.branches)
    assert layout.draft_probs is not None
    return AutoregressiveDrafter(model, layout.draft_probs)


def _head_drafter(plan: Plan, layout: Layout, head: Eagle3Pass) -> Drafter:
    """The drafter over an EAGLE-3 head: of a chain, or of a tree."""
    work, prefill_work = layout.workspaces["draft"], layout.workspaces["prefill_draft"]
    shape = plan.speculation.shape
    if isinstance(shape, Tree):
        assert layout.branches is not None
        return Eagle3BranchingDrafter(head, work, prefill_work, plan.workload.batch_size, shape, layout.branches)
    assert layout.eagle3_chain is not None
    return Eagle3Drafter(head, work, prefill_work, layout.eagle3_chain)
