"""TensorRT-LLM: the KV pool is a fraction of what is free after weights and a pass at full size."""

from __future__ import annotations

import dataclasses

from specplan.caches.kv_pages import tensorrt_llm_slots
from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.kv import Cache
from specplan.engine_memory.models import Models
from specplan.engine_memory.weights import activation_bytes
from specplan.provenance import Figure


def tensorrt_llm_budget(serving: Serving, models: Models, device: DeviceSpec) -> EngineBudget:
    """A deployment of TensorRT-LLM on one device.

    Raises:
        CannotTell: pools by window, which it makes where it is asked to.
    """
    if serving.windows is not None:
        message = f"pools by window are not modelled: check without {serving.windows.origin}, which needs more"
        raise CannotTell(message, serving.windows.location)
    draft = models.draft_cache
    models = dataclasses.replace(
        models, cache=_without_windows(models.cache), draft_cache=None if draft is None else _without_windows(draft)
    )
    total = int(device.memory_bytes.value)
    sequences = serving.max_sequences.value if serving.max_sequences is not None else 1
    rows = serving.batch_tokens.value if serving.batch_tokens is not None else 8192
    workspace = activation_bytes(models.arch, rows, models.element_bytes, models.devices)
    static = (*models.weight_parts, Part("CUDA context", device.context_bytes), Part("largest pass", workspace))
    left = total - sum(part.bytes for part in static)
    block = serving.page_size.value if serving.page_size is not None else 32
    drafted = serving.num_verify_tokens - 1
    one_model = serving.method is not None and serving.method.value in ("eagle3", "mtp")
    slots = tensorrt_llm_slots(models.context, drafted, block, one_model, serving.overlap)
    pool = _pool(serving, left, models.slot_bytes)
    asked = serving.max_sequences is not None and not serving.max_sequences.is_default
    verified = min(sequences * serving.num_verify_tokens, rows) if drafted and asked else 0
    verify = models.logits_bytes(verified, models.element_bytes + 4)
    return EngineBudget(
        device_bytes=total,
        static=static,
        limit=Figure(total, device.memory_bytes.source, "the memory of the device"),
        pool=pool,
        least_kv_bytes=slots * models.slot_bytes,
        slots=slots,
        slot_bytes=models.slot_bytes,
        draft_slot_bytes=models.draft_slot_bytes,
        priced_draft_slot_bytes=models.draft_slot_bytes,
        verify=Figure(verify, "modelled", f"logits of {verified} rows"),
        headroom=left - int(pool.value),
        num_sequences=sequences,
    )


def _without_windows(cache: Cache) -> Cache:
    """Windowed layers cache whole sequences where ``max_attention_window`` is not set (KVCacheManager)."""
    return Cache(cache.slot_bytes + cache.window_slot_bytes, 0)


def _pool(serving: Serving, left: int, slot_bytes: int) -> Figure:
    fixed, tokens, fraction = serving.kv_bytes, serving.kv_tokens, serving.fraction
    assert fraction is not None
    free = int(fraction.value * max(0, left))
    sizes = [Figure(free, "modelled", f"{fraction.value} of the memory that is free then ({fraction.origin})")]
    if fixed is not None:
        sizes = [Figure(fixed.value, "exact", fixed.origin)]
    if tokens is not None:
        sizes.append(Figure(tokens.value * slot_bytes, "exact", f"{tokens.value} tokens ({tokens.origin})"))
    return min(sizes, key=lambda size: size.value)
