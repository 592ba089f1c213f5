"""Engines that set no part of a device's memory aside: what they place may take all of it."""

from __future__ import annotations

from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.models import Models
from specplan.provenance import Figure


def whole_device_budget(
    models: Models,
    device: DeviceSpec,
    static: tuple[Part, ...],
    *,
    least_kv_bytes: int,
    slots: int,
    verify_is: str,
    num_sequences: int,
) -> EngineBudget:
    """The budget of an engine whose verify pass is among its static parts.

    Args:
        models: that it holds.
        device: that it runs on.
        static: as of ``EngineBudget``.
        least_kv_bytes: the same.
        slots: the same.
        verify_is: where the memory of the verify pass is counted.
        num_sequences: as of ``EngineBudget``.
    """
    total = int(device.memory_bytes.value)
    left = total - sum(part.bytes for part in static)
    return EngineBudget(
        device_bytes=total,
        static=static,
        limit=Figure(total, device.memory_bytes.source, "the memory of the device"),
        pool=Figure(left, "modelled", "what the device has left"),
        least_kv_bytes=least_kv_bytes,
        slots=slots,
        slot_bytes=models.slot_bytes,
        draft_slot_bytes=models.draft_slot_bytes,
        priced_draft_slot_bytes=models.draft_slot_bytes,
        verify=Figure(0, "exact", verify_is),
        headroom=0,
        num_sequences=num_sequences,
    )
