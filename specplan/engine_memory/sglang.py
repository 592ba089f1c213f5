"""SGLang 0.5.23: KV pool = free memory - (1 - fraction) · memory before loading (kv_cache_configurator.py)."""

from __future__ import annotations

import math
from fractions import Fraction

from specplan.arch import ModelArch
from specplan.caches.kv_pages import sglang_slots
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget
from specplan.engine_memory.kv import Cache
from specplan.engine_memory.models import Models
from specplan.engine_memory.weights import activation_bytes
from specplan.provenance import Figure
from specplan.units import MIB

#: What the default fraction leaves: a floor, and slack for parallel sizes (memory_hook.py, sizing after capture).
_RESERVED, _PER_DEVICE = 1536 * MIB, 128 * MIB
#: Families whose windowed layers have a pool of their own (is_hybrid_swa_model of srt/configs/model_config.py); the
#: windowed layers of others cache whole sequences.
_TWO_POOLS = ("gpt_oss",)


def sglang_budget(serving: Serving, models: Models, device: DeviceSpec) -> EngineBudget:
    """A deployment of SGLang on one device.

    Raises:
        CannotTell: windowed layers in a pool whose size SGLang does not take from a ratio.
    """
    total = int(device.memory_bytes.value)
    free = total - int(device.context_bytes.value)
    limit = _limit(serving, models, total, free)
    static = models.weight_parts
    page = serving.page_size.value if serving.page_size is not None else 1
    steps = serving.num_speculative_tokens.value if serving.num_speculative_tokens is not None else 0
    rows = serving.num_verify_tokens if serving.speculates else 0
    slots = sglang_slots(models.context, max(1, steps), serving.topk, rows, page)
    priced = _priced_draft(serving, models)
    slot_bytes = _token_bytes(serving, models.arch, models.cache) + priced
    drafter = models.drafter.arch
    left = int(limit.value) - sum(part.bytes for part in static)
    sequences = serving.max_sequences.value if serving.max_sequences is not None else 1
    return EngineBudget(
        device_bytes=total,
        static=static,
        limit=limit,
        pool=_pool(serving, left, slot_bytes),
        least_kv_bytes=slots * slot_bytes,
        slots=slots,
        slot_bytes=slot_bytes,
        draft_slot_bytes=0 if drafter is None else _token_bytes(serving, drafter, models.draft_cache),
        priced_draft_slot_bytes=priced,
        verify=_verify(models, sequences, rows),
        headroom=free - int(limit.value),
        num_sequences=sequences,
    )


def _limit(serving: Serving, models: Models, total: int, free: int) -> Figure:
    if serving.fraction is not None:
        fraction = serving.fraction
        return Figure(
            int(fraction.value * free),
            "modelled",
            f"{fraction.value} of the memory that is free before loading ({fraction.origin})",
        )
    fraction_value = round((total - _RESERVED - models.devices * _PER_DEVICE) / total, 3)
    return Figure(
        int(fraction_value * free), "modelled", f"{fraction_value} of free memory, the default of SGLang 0.5.23"
    )


def _token_bytes(serving: Serving, arch: ModelArch, cache: Cache | None) -> int:
    """A token of a model's cache (HybridSWAPoolConfigurator): windowed layers have a share of it, or all of it."""
    if cache is None:
        return 0
    return cache.slot_bytes + math.ceil(cache.window_slot_bytes * _window_share(serving, arch))


def _window_share(serving: Serving, arch: ModelArch) -> Fraction:
    ratio = serving.window_ratio
    if not arch.num_sliding_layers or arch.model_type not in _TWO_POOLS or ratio is None:
        return Fraction(1)
    return Fraction(str(ratio.value))


def _priced_draft(serving: Serving, models: Models) -> int:
    """SGLang prices the draft's layers as the target's: per layer its size, times the draft's layers."""
    drafter, cache = models.drafter.arch, models.cache
    if drafter is None:
        return 0
    each = (cache.slot_bytes + cache.window_slot_bytes) // models.stage.num_layers
    windowed = drafter.num_sliding_layers
    share = math.ceil(each * windowed * _window_share(serving, drafter))
    return each * (drafter.num_hidden_layers - windowed) + share


def _pool(serving: Serving, left: int, slot_bytes: int) -> Figure:
    tokens = serving.kv_tokens
    if tokens is not None and tokens.value * slot_bytes < left:
        return Figure(tokens.value * slot_bytes, "exact", f"{tokens.value} tokens ({tokens.origin})")
    return Figure(left, "modelled", "what the fraction leaves")


def _verify(models: Models, sequences: int, rows: int) -> Figure:
    """Logits of all rows, and twice in float32 when sampling; the pass itself."""
    total = sequences * rows
    logits = models.logits_bytes(total, models.element_bytes + 8)
    workspace = activation_bytes(models.arch, total, models.element_bytes, models.devices)
    return Figure(logits + workspace.value, "modelled", f"{total} rows, logits twice in float32 when sampling")
