"""A plan with ``forward: transformers`` on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from specplan.ledger import Phase
from specplan.plan import ModelInput, Plan
from specplan_runtime.precision import draft_precision, target_precision
from specplan_runtime.tracing.meta_config import transformers_config
from specplan_runtime.tracing.plan_cache import PlanCache
from specplan_runtime.tracing.traced import Traced
from specplan_runtime.tracing.transformers_pass import ForwardShape, meta_model, trace_pass


def replay_transformers(plan: Plan, announce: Callable[[str], None]) -> Iterator[Traced]:
    """Weights, buffers, caches and every phase's workspace."""
    workload, speculation = plan.workload, plan.speculation
    batch, drafted = workload.batch_size, speculation.num_draft_nodes
    chunk = min(speculation.prefill_chunk, workload.context)
    slots = workload.context + drafted + 1
    announce("target")
    target = _model(plan.inputs.target, target_precision(plan).compute)
    yield from _resident("target", target, batch, slots)
    draft = None
    if plan.inputs.draft is not None:
        announce("draft")
        draft = _model(plan.inputs.draft, draft_precision(plan).compute)
        yield from _resident("draft", draft, batch, slots - 1)
    passes: list[tuple[Phase, PreTrainedModel, ForwardShape]]
    passes = [("prefill_target", target, ForwardShape.prefill(chunk, slots))]
    if draft is not None:
        passes.append(("prefill_draft", draft, ForwardShape.prefill(chunk, slots - 1)))
        passes.append(("draft", draft, ForwardShape.draft(batch, slots - 1)))
    passes.append(("verify", target, ForwardShape.verify(batch, drafted + 1, slots, drafted + 1)))
    for phase, model, shape in passes:
        announce(phase)
        peak = trace_pass(model, shape).peak_bytes
        yield Traced(phase, (f"{phase}.forward",), peak, "peak of storages in transformers' forward")


def _model(model: ModelInput, dtype: torch.dtype) -> PreTrainedModel:
    return meta_model(transformers_config(model.arch), dtype)


def _resident(owner: str, model: PreTrainedModel, batch: int, slots: int) -> Iterator[Traced]:
    weights = {id(tensor): tensor for tensor in model.parameters()}
    total = sum(tensor.nbytes for tensor in weights.values())
    yield Traced(f"{owner}.weights", (f"{owner}.weights",), total, "parameters of the transformers model")
    buffers = sum(tensor.nbytes for name, tensor in model.named_buffers() if name.endswith("inv_freq"))
    yield Traced(f"{owner}.buffers", (f"{owner}.buffers",), buffers, "buffers of the transformers model")
    cache = PlanCache.allocate(model.config, batch, slots, model.dtype, torch.device("meta"))
    held = sum(block.nbytes for block in cache.blocks)
    yield Traced(f"{owner}.kv_cache", (f"{owner}.kv_cache",), held, "tensors of the cache")
