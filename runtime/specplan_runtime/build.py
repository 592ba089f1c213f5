"""From a plan to decoders and a drafter: check, allocate, load."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specplan.errors import InputError, UnsupportedError
from specplan.plan import ModelInput, Plan
from specplan.speculation import Speculation, Tree
from specplan_runtime import budget
from specplan_runtime.arena import Arena
from specplan_runtime.decoder import Decoder
from specplan_runtime.drafters.autoregressive import AutoregressiveDrafter
from specplan_runtime.drafters.base import Drafter, NoDrafter
from specplan_runtime.drafters.branching import BranchingDrafter
from specplan_runtime.drafters.medusa import MedusaDrafter
from specplan_runtime.drafters.model import DraftModel
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.heads import run_medusa
from specplan_runtime.layout import Layout, num_logits, place
from specplan_runtime.loading.heads import load_heads
from specplan_runtime.loading.load import Progress, fill_randomly, load_parameters
from specplan_runtime.loading.sources import open_source
from specplan_runtime.packing import layout_of
from specplan_runtime.span import Span
from specplan_runtime.topology import Topology, topology_of
from specplan_runtime.workspace import Workspace


@dataclass(slots=True)
class Assembly:
    """What an engine works with.

    Attributes:
        layout: everything placed.
        target: the verified model.
        decoders: the target's and, with a draft model, the draft's.
        drafter: of the plan.
        workspaces: by phase.
        prefill_chunk: tokens per prefill pass.
        topology: rows of the verify pass.
        eos_token_ids: tokens that end generation.
    """

    layout: Layout
    target: Decoder
    decoders: tuple[Decoder, ...]
    drafter: Drafter
    workspaces: dict[str, Workspace]
    prefill_chunk: int
    topology: Topology
    eos_token_ids: tuple[int, ...]

    def largest_kernel_output(self) -> int:
        """The most that int8 kernels held outside the arena at one time, as counted by the decoders."""
        return max(decoder.largest_output_bytes for decoder in self.decoders)


def assemble(plan: Plan, progress: Progress, random_weights: bool = False) -> Assembly:
    """Check that the plan is runnable here, allocate it, and load the weights.

    Args:
        plan: what to allocate.
        progress: told a fraction while weights load.
        random_weights: fill the arena with noise instead, for measurements of memory and speed.

    Raises:
        UnsupportedError: a plan that is for reading only, or a device that torch does not see.
        BudgetError: it does not fit, or its ledger is not what this runtime allocates.
        InputError: the model files are not those of the plan.
    """
    if plan.forward != "specplan":
        raise UnsupportedError(f"the runtime does not run this plan: {'; '.join(plan.notes) or plan.forward}")
    device = budget.torch_device(plan)
    counted = place(plan, Arena())
    _check_ledger(plan, counted.arena)
    budget.check_before_loading(plan, device)
    sources = [] if random_weights else [open_source(m.reference, m.kind, m.arch) for m in _models(plan)]
    _learn_layouts(counted)
    layout = place(plan, Arena.allocate(counted.arena.high_water, device))
    parameters = [layout.target, *([layout.draft] if layout.draft is not None else [])]
    for number, (model, source) in enumerate(zip(parameters, sources, strict=not random_weights)):
        load_parameters(model, source, lambda done, n=number: progress((n + done) / len(sources)))  # type: ignore[misc]
    if random_weights:
        for model in parameters:
            fill_randomly(model)
        for tensor in () if layout.medusa is None else layout.medusa.weight_tensors():
            tensor.normal_(0, 0.02)
    elif layout.medusa is not None and plan.inputs.head_files is not None:
        load_heads(layout.medusa, plan.inputs.head_files, plan.inputs.target.arch)
    decoders = tuple(Decoder(model) for model in parameters)
    warm_up(layout, decoders, speculation=plan.speculation)
    return Assembly(
        layout=layout,
        target=decoders[0],
        decoders=decoders,
        drafter=make_drafter(plan, layout, decoders),
        workspaces=layout.workspaces,
        prefill_chunk=layout.workspaces["prefill_target"].shape.num_rows,
        topology=topology_of(plan.speculation.shape, layout.tree),
        eos_token_ids=plan.inputs.target.arch.eos_token_ids,
    )


@torch.inference_mode()
def warm_up(layout: Layout, decoders: tuple[Decoder, ...], speculation: Speculation) -> None:
    """Run every phase once at its full shape: libraries then hold all the scratch that they will ever want.

    What the passes leave in the caches is overwritten by the first prompt.
    """
    for phase, work in layout.workspaces.items():
        shape = work.shape
        drafts = phase in ("prefill_draft", "draft")
        early_exit = phase == "draft" and layout.draft is None
        decoder = decoders[-1] if drafts else decoders[0]
        tokens = [[0] * (shape.num_rows // shape.batch_size)] * shape.batch_size
        row = 0 if phase.startswith("prefill") else None
        span = Span(tokens, [0] * shape.batch_size, row)
        decoder.forward(work, span, speculation.num_exit_layers if early_exit else None)
        rows = num_logits(phase, shape, speculation.shape)
        for _, logits in decoder.logits(work, None, rows):
            del logits
    if layout.medusa is not None and layout.medusa_work is not None:
        run_medusa(layout.medusa, layout.medusa_work)


def _models(plan: Plan) -> list[ModelInput]:
    return [model for model in (plan.inputs.target, plan.inputs.draft) if model is not None]


def _check_ledger(plan: Plan, arena: Arena) -> None:
    """Hold the plan's ledger against what the runtime is about to place, item by item."""
    planned = {item.name: item.bytes for item in plan.ledger.owned_items() if item.name != "kernel_output"}
    for name in planned.keys() | arena.bytes_by_item.keys():
        mine = arena.bytes_by_item.get(name, 0)
        if planned.get(name, 0) != mine:
            raise InputError(
                f"plan: {name} is {planned.get(name, 0)} bytes in its ledger, this runtime places {mine}: analyze again"
            )


def _learn_layouts(counted: Layout) -> None:
    """Learn how matrices are packed before the arena is there: it takes the memory of the largest for a moment."""
    for model in (counted.target, counted.draft):
        if model is not None and model.precision.packed:
            for shape in {tuple(tensor.shape) for tensor in model.weight_tensors() if tensor.dim() == 2}:
                layout_of(*shape)


def make_drafter(plan: Plan, layout: Layout, decoders: tuple[Decoder, ...]) -> Drafter:
    """The drafter of a plan over loaded decoders."""
    speculation = plan.speculation
    if speculation.drafter == "none":
        return NoDrafter()
    if speculation.drafter == "ngram":
        return NgramDrafter(plan.workload.batch_size)
    if layout.medusa is not None and layout.medusa_work is not None:
        return MedusaDrafter(layout.medusa, layout.medusa_work, speculation.shape)
    early = speculation.drafter == "early_exit"
    model = DraftModel(
        decoders[-1],  # the draft's, or the target's own for early exit
        layout.workspaces["draft"],
        vocab_size=plan.inputs.target.arch.vocab_size,
        prefill_work=None if early else layout.workspaces["prefill_draft"],
        prefill_chunk=layout.workspaces["prefill_target"].shape.num_rows,
        num_layers=speculation.num_exit_layers if early else None,
    )
    if layout.branches is not None and isinstance(speculation.shape, Tree):
        return BranchingDrafter(model, speculation.shape, layout.branches)
    assert layout.draft_probs is not None
    return AutoregressiveDrafter(model, layout.draft_probs)
