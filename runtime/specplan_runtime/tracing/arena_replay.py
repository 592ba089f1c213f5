"""A plan of the runtime's own forward on an arena without memory: what operators touch, and what else they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from specplan.errors import UnsupportedError
from specplan.parallelism import Rank
from specplan.plan import ModelInput, Plan
from specplan.speculation import Chain, Tree
from specplan_runtime.arena import ALIGNMENT, Arena
from specplan_runtime.build import heads_of, make_decoders, run_head
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.layout import Layout, num_logits, place
from specplan_runtime.parameters import Parameters, tensors_in
from specplan_runtime.sampling import RowSampler, SamplingParams
from specplan_runtime.span import Span
from specplan_runtime.topology import topology_of
from specplan_runtime.tracing.traced import Traced
from specplan_runtime.tracing.tracker import StorageTracker
from specplan_runtime.transformers_forward.config import transformers_config
from specplan_runtime.transformers_forward.model import meta_model
from specplan_runtime.workspace import Workspace

_WORKSPACE_ITEMS = (
    "tokens",
    "mask",
    "rope",
    "hidden",
    "normed",
    "projected",
    "joined",
    "norm",
    "scratch",
    "gathered",
    "in_flight",
    "medusa_block",
    "medusa_head",
)
#: Every cut of a distribution, so that all of a sampler's buffers are used.
_SAMPLING = SamplingParams(temperature=1.0, top_k=1, top_p=0.5)


def _half() -> float:
    return 0.5


def replay_arena(plan: Plan, announce: Callable[[str], None], ranks: Ranks | None = None) -> Iterator[Traced]:
    """Resident tensors, every phase's workspace, and what operators allocate beside the arena.

    Args:
        plan: as seen from its rank where there are several.
        announce: told the name of each phase.
        ranks: stand in for the others.
    """
    capacity = _capacity(plan)
    block = torch.empty(capacity, dtype=torch.uint8, device="meta")
    layout = place(plan, Arena(block))
    resident_end = _resident_end(layout)
    yield from _resident(plan, layout, resident_end)
    decoders = list(make_decoders(plan, layout, ranks))
    outside = 0
    for phase, run in _phases(plan, layout, decoders, ranks):
        announce(phase)
        tracker = StorageTracker(("meta",), scalar=lambda _: 0.5, arena=block)
        with torch.no_grad(), tracker, tracker.phase(phase) as seen:
            run()
        outside = max(outside, tracker.peak_bytes)
        items = tuple(f"{phase}.{name}" for name in _WORKSPACE_ITEMS)
        touched = -(-seen.arena_bytes // ALIGNMENT) * ALIGNMENT - resident_end
        yield Traced(phase, items, touched, "bytes of the arena that operators touched")
    counted = max(decoder.largest_output_bytes for decoder in decoders)
    yield Traced("beside the arena", ("kernel_output",), max(outside, counted), "storages that operators created")


def _capacity(plan: Plan) -> int:
    counted = place(plan, Arena())
    return counted.arena.high_water


def _resident_end(layout: Layout) -> int:
    """One past the last byte of the tensors that stay."""
    models = (layout.target, layout.draft, layout.eagle3)
    ends = [
        (tensor.storage_offset() + _span(tensor)) * tensor.itemsize
        for part in (*models, layout.draft_probs, layout.branches, layout.eagle3_chain, layout.medusa, layout.tree)
        for tensor in tensors_in(part)
        if tensor.numel()
    ]
    return -(-max(ends) // ALIGNMENT) * ALIGNMENT


def _span(tensor: torch.Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _resident(plan: Plan, layout: Layout, resident_end: int) -> Iterator[Traced]:
    rank = plan.scenario.rank
    owners = (("target", plan.inputs.target, layout.target), ("draft", plan.inputs.draft, layout.draft))
    for owner, model, parameters in owners:
        if model is not None and parameters is not None:
            yield from resident_of(owner, model, parameters, _is_whole(owner, rank))
    resident = tuple(item.name for item in plan.ledger.owned_items() if item.phase == "resident")
    everything = tuple(name for name in resident if name != "kernel_output")
    yield Traced("all resident tensors", everything, resident_end, "end of the last one in the arena")


def _is_whole(owner: str, rank: Rank | None) -> bool:
    return rank is None or (owner == "draft" and rank.draft_is_whole)


def resident_of(owner: str, model: ModelInput, parameters: Parameters, whole: bool) -> Iterator[Traced]:
    """Weights and caches of a model, or of a share of it; the weights of whole ones as transformers builds them."""
    weights, method = None, "parameters of the transformers model"
    if not whole:
        weights, method = sum(tensor.nbytes for tensor in parameters.weight_tensors()), "tensors of the share"
    elif parameters.precision.quantized is None:
        weights = _counted_weights(model, parameters.precision.compute)
    if weights is not None:
        yield Traced(f"{owner}.weights", (f"{owner}.weights",), weights, method)
    caches = sum(tensor.nbytes for tensor in (*tensors_in(parameters.full), *tensors_in(parameters.windowed)))
    yield Traced(f"{owner}.kv_cache", (f"{owner}.kv_cache",), caches, "tensors of the cache")


def _counted_weights(model: ModelInput, dtype: torch.dtype) -> int | None:
    """Bytes of the parameters of the model that transformers builds; None where its config cannot be derived."""
    try:
        built = meta_model(transformers_config(model.arch), dtype, attention="eager")
    except UnsupportedError:
        return None
    return sum(tensor.nbytes for tensor in {id(t): t for t in built.parameters()}.values())


def _phases(
    plan: Plan, layout: Layout, decoders: list[Decoder], ranks: Ranks | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each phase with what replays it at its full shape, its rows at the end of the context."""
    topology = topology_of(plan.speculation.shape, layout.tree)
    for phase, work in layout.workspaces.items():
        if layout.eagle3 is not None and work.shape.joins:
            yield phase, _head_pass(layout, decoders[0], work, plan.speculation.shape)
            continue
        drafts = phase in ("prefill_draft", "draft")
        decoder = decoders[-1] if drafts else decoders[0]
        layers = plan.speculation.num_exit_layers if phase == "draft" and layout.draft is None else None
        shape = work.shape
        count = shape.num_rows // shape.batch_size
        start = max(0, shape.slots.full - count)
        tree = topology if phase == "verify" and topology.hidden is not None else None
        span = Span([[0] * count] * shape.batch_size, [start] * shape.batch_size, 0, topology=tree)
        yield phase, _pass(decoder, work, span, layers, num_logits(phase, shape, plan.speculation.shape))
    if layout.medusa is not None:
        run_heads, _ = heads_of(plan, layout, ranks)
        yield "draft", run_heads


def _head_pass(layout: Layout, target: Decoder, work: Workspace, shape: Chain | Tree) -> Callable[[], None]:
    def run() -> None:
        start = max(0, work.shape.slots.full - work.shape.num_rows // work.shape.batch_size)
        _sample(work, run_head(layout, target, work, shape, start))

    return run


def _pass(decoder: Decoder, work: Workspace, span: Span, layers: int | None, num_logits: int) -> Callable[[], None]:
    def run() -> None:
        with decoder.working_ahead(work):
            decoder.forward(work, span, layers)
        if not decoder.has_head:
            return
        if work.exchange is not None:
            decoder.best(work, None, num_logits)
        _sample(work, decoder.logits(work, None, num_logits))

    return run


def _sample(work: Workspace, tiles: Iterator[tuple[int, torch.Tensor]]) -> None:
    """Everything that is done with logits: arg-max, and acceptance of the first row; other ranks see empty rows."""
    sampler = RowSampler(work, _SAMPLING)
    for first, logits in tiles:
        if logits.numel():
            torch.argmax(logits, dim=-1, out=work.argmax[: len(logits)])
        if first == 0 and logits.numel():
            sampler.load(logits[0])
            sampler.accept(0, None, _half)
            sampler.draw(_half)
        del logits  # a head that allocates is about to make the next tile
