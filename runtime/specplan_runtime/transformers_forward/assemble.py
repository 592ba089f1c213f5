"""From a plan with ``forward: transformers`` to decoders and a drafter: check, allocate, load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import transformers

from specplan.errors import InputError
from specplan.plan import Plan
from specplan_runtime import budget
from specplan_runtime.arena import Arena
from specplan_runtime.assembly import Assembly, check_ledger, models_of
from specplan_runtime.drafters.autoregressive import AutoregressiveDrafter
from specplan_runtime.drafters.base import Drafter, NoDrafter
from specplan_runtime.drafters.model import DraftModel
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.layout import pass_shapes
from specplan_runtime.loading.load import Progress
from specplan_runtime.loading.sources import open_source
from specplan_runtime.precision import draft_precision, target_precision
from specplan_runtime.topology import topology_of
from specplan_runtime.transformers_forward.cache import PlanCache, cache_rows
from specplan_runtime.transformers_forward.config import config_of
from specplan_runtime.transformers_forward.decoder import TransformersDecoder
from specplan_runtime.transformers_forward.model import constant_tensors, materialize, meta_model, weight_tensors
from specplan_runtime.transformers_forward.packing import packed
from specplan_runtime.transformers_forward.warm_up import warm_up
from specplan_runtime.transformers_forward.weights import fill_randomly, load_weights
from specplan_runtime.transformers_forward.workspace import PassOutput, TransformersWorkspace, place_workspace

_META = torch.device("meta")


@dataclass(slots=True)
class Places:
    """What the runtime places itself, besides models and caches.

    Attributes:
        draft_probs: float32 [B, γ, V], None when no model drafts.
        workspaces: by phase; they share their bytes.
    """

    draft_probs: torch.Tensor | None
    workspaces: dict[str, TransformersWorkspace]


def assemble_transformers(plan: Plan, progress: Progress, random_weights: bool) -> Assembly[TransformersWorkspace]:
    """Check that the plan is runnable here, allocate it, load the weights, and run every phase once.

    Raises:
        UnsupportedError: a device that torch does not see, or a model that transformers does not have.
        BudgetError: it does not fit.
        InputError: another release of transformers, a ledger that is not what is allocated, or files of other models.
    """
    _check_version(plan)
    device = budget.torch_device(plan)
    decoders = tuple(_decoders(plan))
    counted = Arena()
    place(plan, counted)
    check_ledger(plan, resident_bytes(decoders) | counted.bytes_by_item)
    budget.check_before_loading(plan, device)
    sources = [] if random_weights else [open_source(m.reference, m.kind, m.arch) for m in models_of(plan)]
    kept = [tensor for decoder in decoders for tensor in _tensors(decoder)]
    arena = Arena.allocate(counted.high_water + sum(tensor.nbytes for tensor in kept), device)
    places = place(plan, arena)
    assert arena.block is not None
    memory = packed(arena.block[arena.high_water :], kept)
    decoders = tuple(_with_memory(decoder, memory) for decoder in decoders)
    for number, (decoder, source) in enumerate(zip(decoders, sources, strict=not random_weights)):
        share: Progress = lambda done, n=number: progress((n + done) / len(sources))  # type: ignore[misc] # noqa: E731
        load_weights(decoder.model, decoder.arch, source, share)
    if random_weights:
        for decoder in decoders:
            fill_randomly(decoder.model)
    forwards = warm_up(places.workspaces, decoders)
    return Assembly(
        device=device,
        target=decoders[0],
        decoders=decoders,
        draft=decoders[-1],
        drafter=_drafter(plan, places, decoders),
        workspaces=places.workspaces,
        prefill_chunk=places.workspaces["prefill_target"].shape.num_rows,
        topology=topology_of(plan.speculation.shape, None),
        eos_token_ids=plan.inputs.target.arch.eos_token_ids,
        measured=resident_bytes(decoders) | arena.bytes_by_item | forwards,
        takes_ragged=False,
    )


def meta_decoder(plan: Plan, owner: str, config: dict[str, object]) -> TransformersDecoder:
    """The target or the draft of a plan, without memory."""
    draft = plan.inputs.draft
    batch, slots = plan.workload.batch_size, plan.workload.context + plan.speculation.num_draft_nodes
    if owner == "draft" and draft is not None:
        arch, dtype = draft.arch, draft_precision(plan).compute
    else:
        arch, dtype, slots = plan.inputs.target.arch, target_precision(plan).compute, slots + 1
    cache = PlanCache.allocate(cache_rows(arch), batch, slots, dtype, _META)
    return TransformersDecoder(meta_model(config, dtype), arch, cache)


def place(plan: Plan, arena: Arena) -> Places:
    """Place draft probabilities and the buffers of all phases."""
    batch, gamma = plan.workload.batch_size, plan.speculation.num_draft_nodes
    target, draft = plan.inputs.target.arch, plan.inputs.draft
    vocab = target.vocab_size if draft is None else max(target.vocab_size, draft.arch.vocab_size)
    draft_probs = None
    if draft is not None:
        draft_probs = arena.take("draft_probs", (batch, gamma, draft.arch.vocab_size), torch.float32)
    shapes, output, workspaces = pass_shapes(plan), PassOutput(), {}
    most = max(shape.logits_rows for shape in shapes)
    with arena.overlapping() as phases:
        for shape in shapes:
            own = draft.arch if draft is not None and "draft" in shape.phase else target
            with phases.alternative():
                workspaces[shape.phase] = place_workspace(arena, shape, output, most, vocab, own.vocab_size)
    return Places(draft_probs, workspaces)


def resident_bytes(decoders: tuple[TransformersDecoder, ...]) -> dict[str, int]:
    """Bytes of models and caches by ledger item."""
    found = {}
    for owner, decoder in zip(("target", "draft"), decoders, strict=False):
        found[f"{owner}.weights"] = sum(tensor.nbytes for tensor in weight_tensors(decoder.model).values())
        found[f"{owner}.kv_cache"] = decoder.cache.num_bytes
        found[f"{owner}.buffers"] = sum(tensor.nbytes for tensor in constant_tensors(decoder.model).values())
    return found


def _check_version(plan: Plan) -> None:
    planned, here = plan.inputs.transformers_version or "", transformers.__version__
    if planned.split(".")[:2] != here.split(".")[:2]:
        raise InputError(f"the plan is for transformers {planned}, {here} is installed: analyze again")


def _decoders(plan: Plan) -> Iterator[TransformersDecoder]:
    for owner, model in zip(("target", "draft"), models_of(plan), strict=False):
        yield meta_decoder(plan, owner, config_of(model))


def _tensors(decoder: TransformersDecoder) -> Iterator[torch.Tensor]:
    """Everything of one model that stays, tied tensors once."""
    yield from weight_tensors(decoder.model).values()
    yield from constant_tensors(decoder.model).values()
    for block in decoder.cache.blocks:
        yield from block


def _with_memory(decoder: TransformersDecoder, memory: Mapping[int, torch.Tensor]) -> TransformersDecoder:
    """The same decoder over memory of its own."""
    materialize(decoder.model, memory)
    cache = PlanCache([(memory[id(keys)], memory[id(values)]) for keys, values in decoder.cache.blocks])
    return TransformersDecoder(decoder.model, decoder.arch, cache)


def _drafter(plan: Plan, places: Places, decoders: tuple[TransformersDecoder, ...]) -> Drafter:
    drafter, workspaces = plan.speculation.drafter, places.workspaces
    if drafter == "none":
        return NoDrafter()
    if drafter == "ngram":
        return NgramDrafter(plan.workload.batch_size)
    assert places.draft_probs is not None
    model = DraftModel(
        decoders[-1],
        workspaces["draft"],
        vocab_size=plan.inputs.target.arch.vocab_size,
        prefill_work=workspaces["prefill_draft"],
        prefill_chunk=workspaces["prefill_target"].shape.num_rows,
        num_layers=None,
    )
    return AutoregressiveDrafter(model, places.draft_probs)
