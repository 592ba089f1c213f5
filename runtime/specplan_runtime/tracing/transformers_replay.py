"""A plan with ``forward: transformers`` on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from specplan.plan import Plan
from specplan_runtime.arena import Arena
from specplan_runtime.assembly import models_of
from specplan_runtime.tracing.traced import Traced
from specplan_runtime.tracing.transformers_pass import trace_decoder
from specplan_runtime.transformers_forward.assemble import meta_decoder, place, resident_bytes
from specplan_runtime.transformers_forward.config import transformers_config

_METHODS = {
    "weights": "parameters of the transformers model",
    "buffers": "buffers of the transformers model",
    "kv_cache": "tensors of the cache",
}


def replay_transformers(plan: Plan, announce: Callable[[str], None]) -> Iterator[Traced]:
    """Weights, buffers, caches and every phase's workspace."""
    decoders = []
    for owner, model in zip(("target", "draft"), models_of(plan), strict=False):
        announce(owner)
        decoders.append(meta_decoder(plan, owner, transformers_config(model.arch)))
    for item, num_bytes in resident_bytes(tuple(decoders)).items():
        yield Traced(item, (item,), num_bytes, _METHODS[item.partition(".")[2]])
    for phase, work in place(plan, Arena()).workspaces.items():
        announce(phase)
        peak = trace_decoder(decoders[-1] if "draft" in phase else decoders[0], work)
        yield Traced(phase, (f"{phase}.forward",), peak, "peak of storages in transformers' forward")
